"""Connection: one Redis, for all limiters, threads and event loops of a process.

Limiters with the same address share a Connection. So a process has one connection to a server for
its threads and one for each event loop, for any number of limiters.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import weakref
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from rate_limiter import _core
from rate_limiter.stores.breaker import Breaker

Source: TypeAlias = "_core.RedisClient | _core.RedisLoop"


class Connection:
    """Connect to the Redis at an address, when first used.

    Args:
        address: see docs/stores.md.

    Attributes:
        client: the client for threads.
        breaker: the health of the Redis.
        is_cluster: whether keys are on several nodes.

    Raises:
        ValueError: the address is wrong; the message names the part.
        RuntimeError: this build has no Redis support.
    """

    def __init__(self, address: str) -> None:
        if not _core.HAS_REDIS:
            raise RuntimeError(
                "this rate_limiter was built without Redis (RATE_LIMITER_NO_REDIS=1); "
                "install it again without that setting to use a Redis store"
            )
        self.client = _core.RedisClient(address)
        self.is_cluster = self.client.kind == "cluster"
        self.breaker = Breaker(
            f"Redis ({self.client.kind}) at {', '.join(self.client.servers)}",
            has_nodes=self.is_cluster,
        )
        self._loops: dict[int, _core.RedisLoop] = {}
        with _lock:
            _all[id(self)] = self

    def loop(self, running: Any = None) -> _core.RedisLoop:
        """Return the client for an event loop.

        Args:
            running: the loop; None for the asyncio loop that is running.

        Raises:
            RuntimeError: no event loop is running.
        """
        if running is None:
            running = running_loop()
        known = self._loops.get(id(running))
        if known is not None and known.loop is running:
            return known
        self._close_loops(only_closed=True)
        made = _core.RedisLoop(self.client, running)
        self._loops[id(running)] = made
        return made

    def permits(self, source: Source, buckets: _core.RedisBuckets, key: str | bytes) -> bool:
        """Return True if the node that has a key may be used, see Breaker.permits.

        Args:
            source: the client or the loop that would be used.
        """
        return self.breaker.permits(self._node_of(source, buckets, key))

    def succeeded(self, source: Source, buckets: _core.RedisBuckets, key: str | bytes) -> None:
        """Record that the node of a key has answered. Only needed while something has failed."""
        known = source.nodes() if self.is_cluster else ()
        self.breaker.succeeded(self._node_of(source, buckets, key), known)

    def give_back_probe(
        self, source: Source, buckets: _core.RedisBuckets, key: str | bytes
    ) -> None:
        """Let the next caller probe: a request for the key was not sent."""
        if not self.breaker.is_working:
            self.breaker.give_back_probe(self._node_of(source, buckets, key))

    def _node_of(self, source: Source, buckets: _core.RedisBuckets, key: str | bytes) -> str:
        return source.node_of(buckets.keys(key)[0]) if self.is_cluster else ""

    def close(self) -> None:
        """Close the connections of event loops. The object closes those of threads when freed.

        Tasks that wait for an answer get StoreError, whose kind is ``closed``.
        """
        self._close_loops(only_closed=False)

    def _close_loops(self, *, only_closed: bool) -> None:
        for number, each in list(self._loops.items()):
            is_closed = each.loop.is_closed()
            if only_closed and not is_closed:
                continue
            self._loops.pop(number, None)
            with contextlib.suppress(RuntimeError):  # a closed loop takes no callbacks
                if is_closed:
                    each.close()
                else:
                    each.loop.call_soon_threadsafe(each.close)

    def _after_fork_in_child(self) -> None:
        self.breaker.after_fork_in_child()
        self.client.after_fork_in_child()
        for each in self._loops.values():
            each.after_fork_in_child()
            forget = getattr(each.loop, "after_fork_in_child", None)
            if forget is not None:
                forget()
        self._loops.clear()

    def __del__(self) -> None:
        if hasattr(self, "_loops"):
            self.close()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running asyncio loop.

    Raises:
        RuntimeError: there is none; for a task of trio the text says what to do.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            raise
    raise RuntimeError(
        "AsyncRateLimiter awaits on an asyncio event loop, and this is a task of trio: use "
        "RateLimiter in a thread, as in trio.to_thread.run_sync(limiter.hit, key), or run the "
        "application on asyncio"
    ) from None


def connect(address: str) -> Connection:
    """Return the existing Connection to an address, or a new one."""
    with _lock:
        known = _by_address.get(address)
    if known is None:
        known = Connection(address)
        with _lock:
            known = _by_address.setdefault(address, known)
    return known


@cache
def scripts(*, with_windows: bool = False, bounded: bool = False) -> tuple[bytes, ...]:
    """Return the Lua scripts take, peek, refund, charge, take_many, reset and block as they are
    sent.

    Args:
        with_windows: whether one of the limits is a window.
        bounded: whether each key in Redis belongs to one limit, see bucket.lua.
    """
    folder = files("rate_limiter") / "stores/lua"

    def joined(*names: str) -> bytes:
        files_read = ((folder / f"{name}.lua").read_bytes() for name in names)
        return b"local bounded = %s\n" % str(bounded).lower().encode() + b"".join(files_read)

    head = ("bucket", "sliding", "window") if with_windows else ("bucket",)
    fast_path = "take_window" if with_windows else "take_one"
    return (
        joined(fast_path, *head, "take"),
        joined(*head, "peek"),
        joined(*head, "refund"),
        joined(*head, "charge"),
        joined("take_many"),
        joined("bucket", "sliding", "window", "reset"),
        joined("bucket", "block"),
    )


# Guards the two below. Re-entrant, because the garbage collector may run while it is held.
_lock = threading.RLock()
_by_address: weakref.WeakValueDictionary[str, Connection] = weakref.WeakValueDictionary()
_all: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()

# A child process must not use or close the connections of its parent. A hook of other code, or a
# signal handler, may fork while these hooks run, so forks nest.
_forks: list[list[Connection]] = []


def _present() -> list[Connection]:
    return [each for ref in _all.valuerefs() if (each := ref()) is not None]


def _before_fork() -> None:
    _lock.acquire()
    held: list[Connection] = []
    _forks.append(held)
    for connection in _present():
        connection.client.before_fork()
        held.append(connection)


def _after_fork_in_parent() -> None:
    for connection in _forks.pop():
        connection.client.after_fork_in_parent()
    _lock.release()


def _after_fork_in_child() -> None:
    held = _forks.pop()
    for connection in _present():
        if connection not in held:  # a hook of other code has made it since then
            connection.client.before_fork()
        connection._after_fork_in_child()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
