"""The commands rate-limiter rules check, explain, push, pull and schema."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rate_limiter.checks.words import ProxyHeader
from rate_limiter.cli.common import (
    DONE,
    UsageError,
    add_header,
    add_json,
    add_store,
    connected,
    epilog,
    print_json,
    printable,
    settings,
    store_of,
)
from rate_limiter.policy.client_address import ClientAddress, network_of
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.lookups import key_of, tiers_of
from rate_limiter.policy.rule_sources import (
    NO_VERSION,
    RULES_KEY,
    pull_rules,
    push_rules,
    version_text,
)
from rate_limiter.policy.rules import Rule, RuleTable

if TYPE_CHECKING:
    from rate_limiter.settings import Settings

EXAMPLES = {
    "check": """\
  rate-limiter rules check rate_limits.json
  rate-limiter rules check limits.yaml --json
""",
    "explain": """\
  rate-limiter rules explain --path /files/7 --method POST
  rate-limiter rules explain rate_limits.json --path / --header X-Plan=pro --tier header:X-Plan
  rate-limiter rules explain --path / --header X-API-Key=p-17 --key header:X-API-Key --key ip
""",
    "push": """\
  rate-limiter rules push rate_limits.json --store redis://localhost:6379/0
  rate-limiter rules push rate_limits.json --if-version "$version"
""",
    "pull": """\
  version=$(rate-limiter rules pull --version)
  rate-limiter rules pull --store redis://localhost:6379/0 > rate_limits.json
""",
    "schema": """\
  rate-limiter rules schema > rate_limits.schema.json
""",
}

DEFAULT_FILE = "rate_limits.json"
SUFFIXES = (".json", ".toml", ".yaml", ".yml")


def add_parser(actions: Any) -> None:
    """Add the command to the program."""
    parser = actions.add_parser(
        "rules",
        help="check, explain, push and pull rules",
        description="Work with rules files, and with rules in Redis.",
        epilog=epilog("".join(EXAMPLES.values())),
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="check|explain|push|pull|schema"
    )

    def added(
        run: Callable[[argparse.Namespace], int], name: str, text: str
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog(EXAMPLES[name]),
        )
        made.set_defaults(run=run)
        return made

    check = added(_check, "check", "check a rules file for errors")
    explain = added(_explain, "explain", "show which rule limits a request, and why")
    push = added(_push, "push", "write rules to Redis, for all processes that use them")
    pull = added(_pull, "pull", "show the rules in Redis, as JSON")
    schema = added(_schema, "schema", "print the JSON Schema of rules files")
    for command in (check, explain, push):
        command.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            help="JSON, TOML or YAML; - for standard input"
            f"{'' if command is push else '; or the address of a Redis'} "
            f"(that of RATE_LIMITER_RULES, else {DEFAULT_FILE})",
        )
        command.add_argument(
            "--format",
            choices=[suffix[1:] for suffix in SUFFIXES],
            help="format of FILE (its extension, else json)",
        )
    for command in (push, pull):
        add_store(command)
    for command in (check, explain, push, pull):
        command.add_argument("--hash", help=f"key of the rules in Redis ({RULES_KEY})")
    push.add_argument(
        "--if-version",
        metavar="VERSION",
        help=f"push only over this version (see pull --version), or no rules ({NO_VERSION})",
    )
    pull.add_argument("--version", action="store_true", help="print only the version")
    _add_request(explain)
    for command in (check, explain, push, pull, schema):
        add_json(command)


def _add_request(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("--path", required=True, metavar="/PATH")
    explain.add_argument("--method", default="GET", help="HTTP method (GET)")
    add_header(explain)
    explain.add_argument(
        "--client", default="127.0.0.1", metavar="ADDRESS", help="address of the peer (127.0.0.1)"
    )
    explain.add_argument(
        "--key",
        action="append",
        metavar="SOURCE",
        help="as for the middleware (that of the settings, else ip)",
    )
    explain.add_argument(
        "--tier",
        metavar="TIER",
        help="a tier, or its source, such as header:X-Plan (RATE_LIMITER_TIER)",
    )
    explain.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="NETWORK",
        help="network with trusted X-Forwarded-For (RATE_LIMITER_TRUSTED_PROXIES); repeatable",
    )


def _schema(given: argparse.Namespace) -> int:
    from rate_limiter.policy.rule_files import json_schema

    print_json(json_schema())
    return DONE


def _pull(given: argparse.Namespace) -> int:
    from rate_limiter.policy.rule_files import as_data

    table, version = pull_rules(connected(_store(given)), given.hash or RULES_KEY)
    if given.version:
        print(version_text(version))
    else:
        print_json(as_data(table))
    return DONE


def _push(given: argparse.Namespace) -> int:
    if given.file is None and _is_address(_file(given)):
        raise UsageError("give a FILE to push: RATE_LIMITER_RULES is the address of a Redis")
    if _is_address(_file(given)):
        raise UsageError("FILE must be a file, and --store the address of the Redis")
    table = _table_of_file(given)
    key = given.hash or RULES_KEY
    version = push_rules(connected(_store(given)), table, key, if_version=given.if_version)
    if given.json:
        print_json({"version": version, "rules": len(table.rules)})
    else:
        print(f"{len(table.rules)} rules pushed, version {version}")
    return DONE


def _check(given: argparse.Namespace) -> int:
    from rate_limiter.policy.rule_files import as_data

    table = _table(given)
    if given.json:
        print_json(as_data(table))
        return DONE
    for rule in table.rules.values():
        print(printable(f"{rule.name}: {_matches(rule)}: {_allows(rule)}"))
    return DONE


def _explain(given: argparse.Namespace) -> int:
    if not given.path.startswith("/"):
        raise UsageError(f"--path must begin with '/', got {given.path!r}")
    table = _table(given)
    key, tiers, address = _client(given, table)
    method = given.method.upper()
    request = (given.path, method, tiers, key)
    found = table.matches(*request, address=address)
    counted = list(table.limiting(*request, address=address)) or found[:1]
    found = list(dict.fromkeys([*found, *counted]))
    if given.json:
        rule = counted[0].name if counted else None
        names = [one.name for one in found]
        print_json({"rule": rule, "key": key, "tiers": tiers, "matches": names})
        return DONE
    _print_matches(f"{method} {given.path} of {key}", tiers, found, counted)
    return DONE


def _client(given: argparse.Namespace, table: RuleTable) -> tuple[str, list[str], str | None]:
    """Return the request's key, tiers and client address, as the middleware would find them."""
    if given.tier is not None and not table.tiers:
        raise UsageError(f"--tier has no effect: the rules in {_file(given)} name no tiers")
    found = settings()
    identities = _identities(given, found)
    scope = _scope(given)
    keys = given.key or (["ip"] if found is None else found.key)
    key: str = key_of(identities, keys if len(keys) > 1 else keys[0], scope)
    address = _address_of(identities.address, scope)
    tier = given.tier or (None if found is None else found.tier)
    if tier is None or not table.tiers:
        return key, [], address
    if ":" in tier and tier not in table.tiers:
        return key, tiers_of(identities, tier, scope), address
    return key, tier.split(","), address


def _address_of(client: ClientAddress, scope: dict[str, Any]) -> str | None:
    peer: str = scope["client"][0]
    values = [value for name, value in scope["headers"] if name == client.header.encode()]
    found = client.address(peer, values, strict=True)
    return None if found is None else str(found)


def _identities(given: argparse.Namespace, found: Settings | None) -> Identities:
    if found is None:
        return Identities(ClientAddress(given.trusted_proxy))
    proxies = given.trusted_proxy or found.trusted_proxies
    header: ProxyHeader = found.proxy_header if proxies else "x-forwarded-for"
    address = ClientAddress(proxies, header=header, ipv6_prefix=found.ipv6_prefix)
    return Identities(address, found.jwt(), blocking=True)


def _print_matches(
    request: str, tiers: Iterable[str], found: list[Rule], counted: list[Rule]
) -> None:
    tier = f", tier {' '.join(tiers)}" if tiers else ""
    print(printable(f"{request}{tier}"))
    if not found:
        print("no rule matches, so the request is not limited")
    for rule in found:
        mark = "=>" if rule in counted else "  "
        print(printable(f"{mark} {rule.name}: {_matches(rule)}: {_allows(rule)}"))
    if len(found) > 1 and counted[0].deny and not counted[0].shadow and found[0] != counted[0]:
        print(f"{counted[0].name!r} wins: the path can be read in several ways, and it denies one")
    elif len(counted) > 1:
        names = " and ".join(repr(rule.name) for rule in counted)
        print(f"{names} count: the path can be read in several ways")
    elif found and found[0] not in counted:
        print(f"{counted[0].name!r} counts, as the path is not exactly one of {found[0].name!r}")
    elif len(found) > 1:
        print(f"{found[0].name!r} wins over {found[1].name!r}: {_why(found[0], found[1])}")


def _why(first: Rule, second: Rule) -> str:
    if first.keys and not second.keys:
        is_network = all(network_of(key) for key in first.keys)
        return f"it names the client's {'network' if is_network else 'key'}"
    if first.keys != second.keys and any(network_of(key) for key in second.keys):
        return "it names the client's key, or a smaller network"
    if first.paths != second.paths:
        return "its path is more specific"
    if first.methods and not second.methods:
        return "it names the method"
    return "it names the tier, or a higher one"


def _matches(rule: Rule) -> str:
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
    if rule.deny:
        return "would be denied, only counts (shadow)" if rule.shadow else "denied"
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


def _file(given: argparse.Namespace) -> str:
    """Return FILE, by default that of the settings: a file, ``-``, or the address of a Redis."""
    if given.file is not None:
        return str(given.file)
    return _rules_of_settings() or DEFAULT_FILE


def _rules_of_settings() -> str | None:
    found = settings()
    if found is not None:
        return found.rules
    return os.environ.get("RATE_LIMITER_RULES") or os.environ.get("RATE_LIMIT_RULES_PATH")


def _store(given: argparse.Namespace) -> str:
    """Return --store, by default the Redis that the settings take rules from."""
    rules = _rules_of_settings() if given.store is None else None
    return rules if rules is not None and _is_address(rules) else store_of(given)


def _is_address(file: str) -> bool:
    return "://" in file


def _table(given: argparse.Namespace) -> RuleTable:
    file = _file(given)
    if not _is_address(file):
        if given.hash is not None:
            raise UsageError(f"--hash has no effect on the rules in {file}")
        return _table_of_file(given)
    if given.format is not None:
        raise UsageError(f"--format has no effect on the rules in {file}")
    return pull_rules(connected(file, "FILE"), given.hash or RULES_KEY)[0]


def _table_of_file(given: argparse.Namespace) -> RuleTable:
    from rate_limiter.policy.rule_files import parse_rules, read_text

    file = _file(given)
    suffix = Path(file).suffix.lower() if given.format is None else f".{given.format}"
    if file == "-":
        return parse_rules(_standard_input(), suffix or ".json", "standard input")
    text = read_text(file, may_be_pipe=True)
    return parse_rules(text, suffix or ".json", file)


def _standard_input() -> str:
    try:
        return "" if sys.stdin is None else sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input: expected UTF-8: {error}") from None


def _scope(given: argparse.Namespace) -> dict[str, Any]:
    headers = [(name.lower().encode(), value.encode()) for name, value in given.header]
    return {
        "type": "http",
        "method": given.method.upper(),
        "path": given.path,
        "headers": headers,
        "client": (given.client, 0),
    }
