"""Read and reset buckets in Redis, in tokens and seconds."""

from __future__ import annotations

import re

from rate_limiter import _core
from rate_limiter.limit import Limit
from rate_limiter.stores.bucket_info import BucketInfo
from rate_limiter.stores.connection import Connection, scripts
from rate_limiter.stores.searching import DATE, escaped, scan

_WINDOW = re.compile(rb"\d+/\d+/\d+|\d+\*\d+@[\d,]+( \d+\*\d+@[\d,]+)?", re.ASCII)
_STORED = re.compile(rb"(\d+)(?:\+\d+/\d+)?", re.ASCII)

SLIDING_LAYOUT = ":2"
"""End of the key of a sliding window: the layout of its value, which sliding.lua describes. Running
processes of a version with another layout keep separate keys."""


def inspect_key(connection: Connection, key: bytes, limit: Limit | None) -> BucketInfo:
    """Return the state of the bucket at a key in Redis; a missing key is a full bucket.

    Raises:
        StoreError: Redis gave no answer.
        ValueError: the value at the key is no bucket.
    """
    client = connection.client
    ttl_ms = client.command("PTTL", key)
    expires_s = ttl_ms / 1000 if ttl_ms >= 0 else None
    name = key.decode("utf-8", "replace")
    if limit is not None:
        decision = client.peek(
            _buckets(client, key, limit), DATE.sub(b"", key) if limit.is_window else key, 0
        )
        return BucketInfo(name, limit, decision.remaining, decision.reset_after, expires_s)
    value = client.command("GET", key)
    if value is None:
        return BucketInfo(name, None, None, 0.0, None)
    if b"!" in value:  # the end of a block follows, see bucket.lua
        value = value.partition(b"!")[0] or b"0"
    if DATE.search(key) or _WINDOW.fullmatch(value):
        # A window whose limit is not known counts until it expires.
        return BucketInfo(name, None, None, expires_s or 0.0, expires_s)
    stored = _STORED.fullmatch(value)
    if stored is None:
        raise ValueError(f"the value of {name!r} is no bucket, or one whose limit must be given")
    seconds, microseconds = client.command("TIME")
    now_s = int(seconds) + int(microseconds) / 1e6
    return BucketInfo(name, None, None, max(0.0, int(stored[1]) / 1e6 - now_s), expires_s)


def reset_key(connection: Connection, key: bytes, limit: Limit | None) -> int:
    """Make the bucket at a key in Redis full; return the number of removed keys.

    Raises:
        StoreError: Redis gave no answer.
    """
    client = connection.client
    if limit is None or not limit.is_window or DATE.search(key):
        removed: int = client.command("DEL", key)
        return removed
    used = inspect_key(connection, key, limit).tokens != limit.capacity
    client.reset(_buckets(client, key, limit), key)
    return int(used)


def _buckets(client: _core.RedisClient, key: bytes, limit: Limit) -> _core.RedisBuckets:
    """Return buckets that use `key` unchanged, with or without a date at its end."""
    source = scripts(with_windows=limit.is_window)
    is_dated = bool(DATE.search(key))
    return _core.RedisBuckets(client, (limit.for_engine,), source, b"", (b"",), False, 0, is_dated)


def _tagged_buckets(client: _core.RedisClient) -> _core.RedisBuckets:
    """Return buckets that write a client key as it appears in the keys in Redis."""
    return _core.RedisBuckets(
        client, (Limit(1, 1).for_engine,), scripts(), b"", (b"",), True, 0, False
    )


def find_keys(connection: Connection, key: str, prefix: str) -> list[bytes]:
    """Return the keys in Redis that belong to a client key, under any name and limit.

    This scans all keys of the database (SCAN, in small steps).

    Raises:
        StoreError: Redis gave no answer.
    """
    (tag,) = _tagged_buckets(connection.client).keys(key)
    pattern = escaped(f"{prefix}:".encode()) + b"*" + escaped(tag) + b":*"
    return sorted(set(scan(connection, pattern)))


def limit_in(key: bytes) -> Limit | None:
    """Return the limit in the name of a key, None if it contains none."""
    text = DATE.sub(b"", key).decode("utf-8", "replace").rpartition("}:")[2]
    text = text.removesuffix(SLIDING_LAYOUT)
    try:
        return Limit.parse(text)
    except ValueError:
        return None
