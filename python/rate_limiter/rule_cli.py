"""The commands rate-limiter rules check, explain, push, pull and schema."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from typing import Any

from rate_limiter.connection import connect
from rate_limiter.governor import run_now
from rate_limiter.identity import Identities
from rate_limiter.proxies import ClientAddress
from rate_limiter.rule_source import RULES_KEY, pull_rules, push_rules
from rate_limiter.rule_table import Rule, RuleTable

EXAMPLES = """\
examples:
  rate-limiter rules check rate_limits.json
  rate-limiter rules explain --path /files/7 --method POST
  rate-limiter rules explain rate_limits.json --path / --header X-Plan=pro --tier header:X-Plan
  rate-limiter rules push rate_limits.json --store redis://localhost:6379/0
  rate-limiter rules pull --store redis://localhost:6379/0
  rate-limiter rules schema > rate_limits.schema.json
"""


DEFAULT_FILE = "rate_limits.json"


def _default_file() -> str:
    named = os.environ.get("RATE_LIMITER_RULES") or os.environ.get("RATE_LIMIT_RULES_PATH")
    return named or DEFAULT_FILE


def add_parser(actions: Any, store_default: str) -> None:
    """Add the command to those of the program."""
    parser = actions.add_parser(
        "rules",
        help="check, explain and push rules",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="check|explain|push|pull|schema"
    )
    check = commands.add_parser("check", help="tell what is wrong with a file of rules")
    explain = commands.add_parser("explain", help="tell which rule a request falls under, and why")
    push = commands.add_parser("push", help="put rules into Redis, for all that use them")
    pull = commands.add_parser("pull", help="show the rules in Redis")
    commands.add_parser("schema", help="print the JSON Schema of a file of rules")
    for command in (check, explain, push):
        command.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            default=_default_file(),
            help=f"JSON, TOML or YAML ({DEFAULT_FILE}, or what RATE_LIMITER_RULES names)",
        )
    for command in (push, pull):
        command.add_argument("--store", metavar="URL", default=store_default, help="of the Redis")
        command.add_argument("--hash", default=RULES_KEY, help=f"its key ({RULES_KEY})")
    explain.add_argument("--path", required=True, metavar="/PATH")
    explain.add_argument("--method", default="GET")
    explain.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE", help="may be given again"
    )
    explain.add_argument("--client", default="127.0.0.1", metavar="ADDRESS", help="the peer")
    explain.add_argument(
        "--key", action="append", metavar="SOURCE", help="as for the middleware (ip)"
    )
    explain.add_argument(
        "--tier", metavar="TIER", help="a tier, or what tells it, such as header:X-Plan"
    )
    explain.add_argument("--trusted-proxy", action="append", default=[], metavar="NETWORK")
    for command in (check, explain, push, pull):
        command.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> int:
    """Run the command; return its exit status.

    Raises:
        ValueError, StoreError: it cannot be done; the message says why.
    """
    from rate_limiter.rules import as_data, json_schema, load_rules

    if given.command == "schema":
        print(json.dumps(json_schema(), indent=2))
        return 0
    if given.command == "pull":
        table, _ = pull_rules(connect(given.store), given.hash)
        print(json.dumps(as_data(table), indent=2))
        return 0
    table = load_rules(given.file)
    if given.command == "check":
        _print_rules(table, as_json=given.json)
    elif given.command == "push":
        version = push_rules(connect(given.store), table, given.hash)
        print(
            json.dumps({"version": version, "rules": len(table.rules)})
            if given.json
            else f"{len(table.rules)} rules pushed, version {version}"
        )
    else:
        _explain(given, table)
    return 0


def _print_rules(table: RuleTable, *, as_json: bool) -> None:
    if as_json:
        from rate_limiter.rules import as_data

        print(json.dumps(as_data(table), indent=2))
        return
    for rule in table.rules.values():
        print(f"{rule.name}: {_asks(rule)}: {_allows(rule)}")


def _explain(given: argparse.Namespace, table: RuleTable) -> None:
    scope = _scope(given)
    identities = Identities(ClientAddress(given.trusted_proxy))
    keys = given.key or ["ip"]
    key = run_now(_awaited(identities.key(keys if len(keys) > 1 else keys[0])(scope)))
    tiers: Iterable[str] = ()
    if given.tier is not None:
        is_source = ":" in given.tier and given.tier not in table.tiers
        tiers = (identities.tier(given.tier)(scope) or ()) if is_source else given.tier.split(",")
    method = given.method.upper()
    found = table.matches(given.path, method, list(tiers), key)
    if given.json:
        print(
            json.dumps(
                {
                    "rule": found[0].name if found else None,
                    "key": key,
                    "tiers": list(tiers),
                    "matches": [rule.name for rule in found],
                },
                indent=2,
            )
        )
        return
    tier = f", tier {' '.join(tiers)}" if tiers else ""
    print(f"{method} {given.path} of {key}{tier}")
    if not found:
        print("no rule asks for it, so it is not limited")
    for i, rule in enumerate(found):
        mark = "=>" if i == 0 else "  "
        print(f"{mark} {rule.name}: {_asks(rule)}: {_allows(rule)}")
    if len(found) > 1:
        print(f"{found[0].name!r} wins over {found[1].name!r}: {_why(found[0], found[1])}")


def _why(first: Rule, second: Rule) -> str:
    if first.keys and not second.keys:
        return "it names the client's key"
    if first.paths != second.paths:
        return "its path is more specific"
    if first.methods and not second.methods:
        return "it names the method"
    return "it names the tier, or a higher one"


def _asks(rule: Rule) -> str:
    parts = [
        f"{name} {' or '.join(values)}"
        for name, values in (
            ("key", rule.keys),
            ("path", rule.paths),
            ("method", rule.methods),
            ("tier", rule.tiers),
        )
        if values
    ]
    return ", ".join(parts) or "everything"


def _allows(rule: Rule) -> str:
    if rule.exempt:
        return "not limited"
    parts = ["; ".join(map(str, rule.limits))]
    if rule.cost is not None:
        parts.append(f"cost {rule.cost:g}")
    if rule.key is not None:
        parts.append(f"by {rule.key if isinstance(rule.key, str) else ' else '.join(rule.key)}")
    if rule.refund:
        parts.append(f"given back for {' '.join(rule.refund)}")
    if rule.shadow:
        parts.append("never denied (shadow)")
    if rule.on_store_error is not None:
        parts.append(f"without a store: {rule.on_store_error}")
    return ", ".join(parts)


def _scope(given: argparse.Namespace) -> dict[str, Any]:
    headers = []
    for text in given.header:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--header must be NAME=VALUE, got {text!r}")
        headers.append((name.strip().lower().encode(), value.encode()))
    return {
        "type": "http",
        "method": given.method.upper(),
        "path": given.path,
        "headers": headers,
        "client": (given.client, 0),
    }


async def _awaited(value: Any) -> Any:
    return value
