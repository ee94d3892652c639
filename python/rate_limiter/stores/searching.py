"""Search Redis for the keys of clients, and remove them. A search scans the whole database."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rate_limiter.stores.connection import Connection

_GLOB = re.compile(rb"([*?\[\]\\^])")
_MARKED = re.compile(rb"[{}%]")
_ESCAPED = re.compile(rb"%([0-9a-f]{2})")
_TAGGED = re.compile(rb"\{([^{}]*)\}(:.*)", re.DOTALL)
# The key of a fixed window ends with the start of the window.
DATE = re.compile(rb":\d{4}-\d\d-\d\d-\d\d:\d\d(:\d\d)?\Z", re.ASCII)
_AT_ONCE = 500  # keys of one DEL
_PROBES = 100_000  # names that are tried to find one for each node of a cluster


def search(
    connection: Connection,
    before: bytes,
    prefix: bytes,
    endings: Iterable[bytes] | None,
    more: bytes | None = None,
) -> dict[bytes, bytes]:
    """Return the keys in Redis of all clients whose keys begin with a prefix, and those keys.

    Args:
        connection: the Redis; of a cluster all masters are searched.
        before: what the keys in Redis begin with.
        prefix: what the keys of the clients begin with.
        endings: what the keys in Redis end with; None: anything, below any name after `before`.
        more: what other endings begin with.

    Raises:
        StoreError: Redis gave no answer.
    """
    start = escaped(before) + (b"*" if endings is None else b"")
    known = None if endings is None else set(endings)

    def client_key(key: bytes) -> bytes | None:
        rest = key[len(before) :]
        found = _TAGGED.match(rest if known is not None else rest[max(0, rest.find(b"{")) :])
        if found is None:
            return None
        is_known = known is None or found[2] in known
        if not is_known and (more is None or not found[2].startswith(more)):
            return None
        return _unmarked(found[1])

    return _found(connection, start + b"{" + escaped(_marked(prefix)) + b"*}:*", prefix, client_key)


def search_exact(connection: Connection, before: bytes, prefix: bytes) -> dict[bytes, bytes]:
    """Do what search() does for keys that are the beginning, the client's key and maybe a date.

    Raises:
        ValueError: both are empty, so all keys of the database would be found.
    """
    if not before + prefix:
        raise ValueError(
            "without a prefix, the keys of this limiter cannot be distinguished from all others in "
            "the database of Redis: expected a prefix here, or an exact_prefix of the limiter"
        )
    pattern = escaped(before + prefix) + b"*"
    return _found(connection, pattern, prefix, lambda key: DATE.sub(b"", key[len(before) :]))


def remove_keys(connection: Connection, keys: Iterable[bytes]) -> int:
    """Remove keys in Redis; return how many there were.

    Raises:
        StoreError: Redis gave no answer.
    """
    left = list(keys)
    size = 1 if connection.is_cluster else _AT_ONCE
    parts = (left[i : i + size] for i in range(0, len(left), size))
    return sum(connection.client.command("DEL", *part) for part in parts)


def sorted_keys(keys: Iterable[bytes]) -> list[str | bytes]:
    """Return the keys of clients, each once: as a str, or as bytes if they are not UTF-8."""
    return [_text(key) for key in sorted(set(keys))]


def _text(key: bytes) -> str | bytes:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def _found(
    connection: Connection,
    pattern: bytes,
    prefix: bytes,
    client_key: Callable[[bytes], bytes | None],
) -> dict[bytes, bytes]:
    found = {}
    for key in scan(connection, pattern):
        name = client_key(key)
        if name is not None and name.startswith(prefix):
            found[key] = name
    return found


def scan(connection: Connection, pattern: bytes) -> Iterator[bytes]:
    """Return all keys with a pattern, some maybe twice."""
    for place in _places(connection):
        cursor: Any = b"0"
        while True:
            words = ("SCAN", cursor, "MATCH", pattern, "COUNT", "1000")
            cursor, some = connection.client.command_near(place, *words)
            yield from some
            if cursor == b"0":
                break
            time.sleep(0)


def _places(connection: Connection) -> Iterable[bytes]:
    """Return the name of a key for each node that has keys."""
    client = connection.client
    if not connection.is_cluster:
        return [b"any"]
    client.command_near(b"any", "PING")  # reads the map of the cluster
    nodes = set(client.nodes())
    places: dict[str, bytes] = {}
    for i in range(_PROBES):
        name = b"%d" % i
        places.setdefault(client.node_of(name), name)
        if places.keys() >= nodes:
            break
    return places.values()


def escaped(text: bytes) -> bytes:
    """Return a text that a pattern matches as it is."""
    return _GLOB.sub(rb"\\\1", text)


def _marked(key: bytes) -> bytes:
    """Return a client's key as it is between the braces in Redis."""
    return _MARKED.sub(lambda found: b"%%%02x" % found[0][0], key)


def _unmarked(key: bytes) -> bytes:
    if key == b"%":
        return b""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), key)
