"""The command rate-limiter: look at buckets in Redis and reset them; check and push rules.

Exit status: 0 done, 1 not possible (the reason is printed), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence

from rate_limiter import __version__, rule_cli
from rate_limiter._core import StoreError
from rate_limiter.bucket_info import BucketInfo
from rate_limiter.connection import Connection, connect
from rate_limiter.inspection import find_keys, inspect_key, limit_in, reset_key
from rate_limiter.limit import Limit
from rate_limiter.limiter import PREFIX
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.redis_store import RedisStore

EXAMPLES = """\
examples:
  rate-limiter inspect user:42 --store redis://localhost:6379/0
  rate-limiter inspect --raw rate_limit:203.0.113.7 --limit "10/5s"
  rate-limiter inspect user:42 --json
  rate-limiter reset user:42
  rate-limiter rules check rate_limits.json

The store is also taken from the environment: RATE_LIMITER_STORE, else REDIS_URL.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = _parser().parse_args(arguments)
    try:
        if given.action == "rules":
            return rule_cli.run(given)
        connection = connect(given.store)
        limit = None if given.limit is None else Limit.parse(given.limit)
        keys = _keys(given, connection, limit)
        if given.action == "reset":
            removed = sum(reset_key(connection, key, limit or limit_in(key)) for key in keys)
            print(json.dumps({"removed": removed}) if given.json else f"{removed} removed")
            return 0
        found = [inspect_key(connection, key, limit or limit_in(key)) for key in keys]
    except (StoreError, ValueError, TypeError, RuntimeError) as error:
        message = str(error) if given.action == "rules" else str(error).splitlines()[0]
        print(f"rate-limiter: {message}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"rate-limiter: {error.name} is missing: pip install 'rate_limiter[rules]'",
            file=sys.stderr,
        )
        return 1
    _show(found, as_json=given.json, key=given.key)
    return 0


def _keys(given: argparse.Namespace, connection: Connection, limit: Limit | None) -> list[bytes]:
    if given.raw:
        return [given.key.encode()]
    if limit is not None:
        store = RedisStore(given.store, given.prefix)
        return list(RedisRateLimiter(limit, store=store, name=given.name).redis_keys(given.key))
    return find_keys(connection, given.key, given.prefix)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rate-limiter",
        description="Look at the buckets of a client in Redis and reset them; check, explain and "
        "push rules.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="inspect|reset|rules")
    for name, text in (("inspect", "show a client's buckets"), ("reset", "make them full")):
        action = actions.add_parser(
            name, help=text, epilog=EXAMPLES, formatter_class=parser.formatter_class
        )
        action.add_argument("key", metavar="KEY", help="the client's key, as the limiter gets it")
        action.add_argument(
            "--store",
            metavar="URL",
            default=_store(),
            help="the address of the Redis",
        )
        action.add_argument("--prefix", default=PREFIX, help=f"of keys in Redis ({PREFIX})")
        action.add_argument("--raw", action="store_true", help="KEY is the whole key in Redis")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.add_argument("--name", default="", help="of the limiter, with --limit")
        action.add_argument(
            "--limit",
            metavar="LIMIT",
            help='such as "100/minute": its bucket alone, which is found without a search',
        )
    rule_cli.add_parser(actions, _store())
    return parser


def _store() -> str:
    named = os.environ.get("RATE_LIMITER_STORE") or os.environ.get("REDIS_URL")
    return named or "redis://localhost:6379/0"


def _show(found: list[BucketInfo], *, as_json: bool, key: str) -> None:
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=2))
        return
    if not found:
        print(f"{key}: no buckets, so all are full")
    for one in found:
        tokens = ""
        if one.limit is not None and one.tokens is not None:
            tokens = f"{one.tokens:.6g} of {one.limit.capacity:g} tokens, "
        full = "never full" if math.isinf(one.full_after_s) else f"full in {one.full_after_s:.3f} s"
        print(f"{one.key}: {tokens}{full if one.full_after_s else 'full'}")


def _plain(one: BucketInfo) -> dict[str, object]:
    fields = dataclasses.asdict(one)
    fields["limit"] = None if one.limit is None else str(one.limit)
    # JSON has no word for infinity.
    fields["full_after_s"] = None if math.isinf(one.full_after_s) else one.full_after_s
    return fields


if __name__ == "__main__":
    sys.exit(main())
