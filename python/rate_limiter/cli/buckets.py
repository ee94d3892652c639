"""The commands rate-limiter inspect and rate-limiter reset for a client's buckets in Redis."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

from rate_limiter.cli.common import (
    DONE,
    UsageError,
    add_json,
    add_store,
    connected,
    epilog,
    parsed,
    print_json,
    store_of,
)
from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.address import PREFIX
from rate_limiter.stores.bucket_info import BucketInfo
from rate_limiter.stores.connection import Connection
from rate_limiter.stores.inspection import find_keys, inspect_key, limit_in, reset_key
from rate_limiter.stores.redis_store import RedisStore

INSPECT_EXAMPLES = """\
  rate-limiter inspect user:42 --store redis://localhost:6379/0
  rate-limiter inspect user:42 --limit "100/minute"
  rate-limiter inspect --raw rate_limit:203.0.113.7 --limit "10 per 100 seconds"
  rate-limiter inspect user:42 --json
"""
RESET_EXAMPLES = """\
  rate-limiter reset user:42 --store redis://localhost:6379/0
  rate-limiter reset user:42 --limit "100/minute" --name api
  rate-limiter reset --raw rate_limit:203.0.113.7
"""


def add_parser(actions: Any) -> None:
    """Add the commands to the program."""
    for name, run, help_text, text, examples in (
        ("inspect", _inspect, "show a client's buckets", "Show the buckets", INSPECT_EXAMPLES),
        ("reset", _reset, "make a client's buckets full", "Fill the buckets", RESET_EXAMPLES),
    ):
        parser = actions.add_parser(
            name,
            help=help_text,
            description=f"{text} of a client in Redis, under any name and limit.\n"
            "With --limit only the bucket of that limit, which needs no search.",
            epilog=epilog(examples),
        )
        parser.set_defaults(run=run)
        parser.add_argument("key", metavar="KEY", help="the client's key, as the limiter gets it")
        add_store(parser)
        parser.add_argument(
            "--limit", metavar="LIMIT", type=parsed(Limit.parse), help='such as "100/minute"'
        )
        parser.add_argument(
            "--name", default="", help="the name of the limiter, with --limit (none)"
        )
        parser.add_argument("--prefix", default=PREFIX, help=f"of keys in Redis ({PREFIX})")
        parser.add_argument("--raw", action="store_true", help="KEY is the whole key in Redis")
        add_json(parser)


def _inspect(given: argparse.Namespace) -> int:
    address = store_of(given)
    connection = connected(address)
    keys = _keys(given, address, connection)
    found = [inspect_key(connection, key, given.limit or limit_in(key)) for key in keys]
    if given.json:
        print_json([_plain(one) for one in found])
        return DONE
    if not found:
        print(f"{given.key}: no buckets, so all are full")
    for one in found:
        print(_line(one))
    return DONE


def _reset(given: argparse.Namespace) -> int:
    address = store_of(given)
    connection = connected(address)
    keys = _keys(given, address, connection)
    removed = sum(reset_key(connection, key, given.limit or limit_in(key)) for key in keys)
    if given.json:
        print_json({"removed": removed})
    else:
        print(f"{removed} removed")
    return DONE


def _keys(given: argparse.Namespace, address: str, connection: Connection) -> list[bytes]:
    if given.name and (given.raw or given.limit is None):
        # Ignoring the name would reset more than requested.
        raise UsageError("--name goes with --limit, and not with --raw")
    if given.raw:
        if given.prefix != PREFIX:
            raise UsageError("--prefix has no effect with --raw")
        return [given.key.encode()]
    if given.limit is not None:
        store = RedisStore(address, given.prefix)
        limiter = RedisRateLimiter(given.limit, store=store, name=given.name)
        return list(limiter.redis_keys(given.key))
    return find_keys(connection, given.key, given.prefix)


def _line(one: BucketInfo) -> str:
    tokens = ""
    if one.limit is not None and one.tokens is not None:
        tokens = f"{one.tokens:.6g} of {one.limit.capacity:g} tokens, "
    full = "never full" if math.isinf(one.full_after_s) else f"full in {one.full_after_s:.3f} s"
    return f"{one.key}: {tokens}{full if one.full_after_s else 'full'}"


def _plain(one: BucketInfo) -> dict[str, object]:
    fields = dataclasses.asdict(one)
    fields["limit"] = None if one.limit is None else str(one.limit)
    # JSON has no infinity.
    fields["full_after_s"] = None if math.isinf(one.full_after_s) else one.full_after_s
    return fields
