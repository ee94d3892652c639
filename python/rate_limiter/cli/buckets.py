"""The commands rate-limiter inspect, reset and list, for clients' buckets in Redis."""

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
from rate_limiter.stores.searching import remove_keys, search, sorted_keys

INSPECT_EXAMPLES = """\
  rate-limiter inspect user:42 --store redis://localhost:6379/0
  rate-limiter inspect user:42 --limit "100/minute"
  rate-limiter inspect --raw rate_limit:203.0.113.7 --limit "10 per 100 seconds"
  rate-limiter inspect user:42 --json
"""
RESET_EXAMPLES = """\
  rate-limiter reset user:42 --store redis://localhost:6379/0
  rate-limiter reset user:42 --limit "100/minute" --name api
  rate-limiter reset 'tenant1:*'
  rate-limiter reset --all --limit "100/minute" --name api
  rate-limiter reset --raw rate_limit:203.0.113.7
"""
LIST_EXAMPLES = """\
  rate-limiter list --store redis://localhost:6379/0
  rate-limiter list 'tenant1:*'
  rate-limiter list --limit "100/minute" --name api --json
"""


INSPECT = """\
Show the buckets of a client in Redis, under any name and limit.
With --limit only the bucket of that limit, which needs no search."""
RESET = """\
Fill the buckets in Redis of one client, of all clients with a prefix, or of all clients, under any
name and limit. With --limit only the buckets of that limit."""
LIST = """\
List the keys of clients whose buckets in Redis are not full, under any name and limit. Give a
prefix to list fewer. Keys of more than 200 bytes are stored and listed as "sha256:..."."""


def add_parser(actions: Any) -> None:
    """Add the commands to the program."""
    for name, run, help_text, description, examples in (
        ("inspect", _inspect, "show a client's buckets", INSPECT, INSPECT_EXAMPLES),
        ("reset", _reset, "refill the buckets of clients", RESET, RESET_EXAMPLES),
        ("list", _list, "list the clients that have buckets", LIST, LIST_EXAMPLES),
    ):
        parser = actions.add_parser(
            name, help=help_text, description=description, epilog=epilog(examples)
        )
        parser.set_defaults(run=run)
        key_help = "the client's key, as passed to the limiter"
        if name == "inspect":
            parser.add_argument("key", metavar="KEY", help=key_help)
        else:
            more = "; with * at the end: a prefix"
            parser.add_argument("key", metavar="KEY", nargs="?", help=key_help + more)
        if name == "reset":
            parser.add_argument("--all", action="store_true", help="instead of KEY: all clients")
        add_store(parser)
        parser.add_argument(
            "--limit", metavar="LIMIT", type=parsed(Limit.parse), help='such as "100/minute"'
        )
        parser.add_argument(
            "--name", default="", help="the name of the limiter, with --limit (none)"
        )
        parser.add_argument("--prefix", default=PREFIX, help=f"prefix of keys in Redis ({PREFIX})")
        if name != "list":
            parser.add_argument(
                "--raw", action="store_true", help="KEY is the complete key in Redis"
            )
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
    if given.all == (given.key is not None):
        raise UsageError("give either KEY or --all")
    address = store_of(given)
    connection = connected(address)
    if given.all or (given.key.endswith("*") and not given.raw):
        removed = remove_keys(connection, _search(given, address, connection))
    else:
        keys = _keys(given, address, connection)
        removed = sum(reset_key(connection, key, given.limit or limit_in(key)) for key in keys)
    if given.json:
        print_json({"removed": removed})
    else:
        print(f"{removed} removed")
    return DONE


def _list(given: argparse.Namespace) -> int:
    address = store_of(given)
    found = _search(given, address, connected(address)).values()
    texts = [
        one if isinstance(one, str) else one.decode("utf-8", "backslashreplace")
        for one in sorted_keys(found)
    ]
    if given.json:
        print_json(texts)
    else:
        for text in texts:
            print("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text))
    return DONE


def _search(given: argparse.Namespace, address: str, connection: Connection) -> dict[bytes, bytes]:
    """Return the keys in Redis of the clients that are meant, and the keys of those."""
    if given.name and given.limit is None:
        raise UsageError("--name requires --limit")
    if getattr(given, "raw", False):
        raise UsageError("--raw requires KEY, a complete key")
    key = (given.key or "*").encode("utf-8", "surrogateescape")
    prefix, is_prefix = key.removesuffix(b"*"), key.endswith(b"*")
    if given.limit is not None:
        store = RedisStore(address, given.prefix)
        found = RedisRateLimiter(given.limit, store=store, name=given.name).search(prefix)
    else:
        found = search(connection, f"{given.prefix}:".encode(), prefix, None)
    return {one: client for one, client in found.items() if is_prefix or client == prefix}


def _keys(given: argparse.Namespace, address: str, connection: Connection) -> list[bytes]:
    if given.name and (given.raw or given.limit is None):
        # Ignoring the name would reset more than requested.
        raise UsageError("--name requires --limit, and excludes --raw")
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
