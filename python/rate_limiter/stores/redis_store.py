"""RedisStore: buckets in a Redis, shared by all processes that use it."""

from __future__ import annotations

import math
import time
from typing import Any

from rate_limiter._core import StoreError
from rate_limiter.checks.arguments import checked_policy, checked_text, checked_tracing
from rate_limiter.checks.redaction import hidden_address
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Limit
from rate_limiter.stores.bucket_state import BucketState, checked_state
from rate_limiter.stores.connection import Connection, connect
from rate_limiter.stores.redis_address import redis_address


class RedisStore:
    """Keep buckets in a Redis.

    The store connects when first used and reconnects after a failure. Stores with the same address
    share their connections. Safe to share between threads, event loops and across a fork.

    Args:
        redis_client: an address (see docs/stores.md) or a redis-py client, sync or asyncio. The
            engine does not use the client's connections: it only reads the address from the client
            and connects to the same server and database.
        prefix: prefix of the keys in Redis.
        on_store_error: how to decide while Redis is unavailable: ``"memory"`` (the same limits, in
            the memory of each process), ``"allow"``, ``"deny"`` or ``"raise"`` (StoreError).
        tracing: trace the round trips of limiters with OpenTelemetry; see docs/tracing.md.

    Attributes:
        prefix: as given.
        on_store_error: as given.
        tracing: as given.
        redis: the redis-py client that was given; None for an address.

    Raises:
        TypeError: `redis_client` is something else, or a client without a server.
        ValueError: an argument is wrong; the message names the part.
        ImportError: `tracing` needs OpenTelemetry's API, which is not installed.
    """

    def __init__(
        self,
        redis_client: object = "redis://localhost:6379/0",
        prefix: str = "ratelimit",
        *,
        on_store_error: OnStoreError = "memory",
        tracing: bool = False,
    ) -> None:
        self.prefix: str = checked_text("prefix", prefix)
        self.on_store_error: str = checked_policy(on_store_error)
        self.redis: object | None = None if isinstance(redis_client, str) else redis_client
        self.address: str = hidden_address(redis_address(redis_client))
        self.connection: Connection = connect(self.address)
        self.tracing = checked_tracing("tracing", tracing)
        self._limits: list[Limit] = []  # of the limiters that use it, for get_state

    def health(self) -> dict[str, Any]:
        """Return the health of the Redis according to past decisions: nothing is sent.

        ``status`` is ``"ok"`` or ``"degraded"`` (decisions follow `on_store_error`), ``breaker``
        ``"closed"`` or ``"open"`` (nothing is sent to Redis except probes), ``since`` the time of
        the last change (seconds since the epoch), ``failures`` the failures in a row,
        ``failed_nodes`` the nodes of a cluster whose keys follow `on_store_error`, ``errors``
        the number of errors of each kind, ``last_error`` a text or None, ``fallback_decisions``
        the number of decisions without Redis, ``servers`` and ``kind`` the addresses and the kind
        of the Redis. A process counts its own errors and decisions, not those before its fork.
        """
        client = self.connection.client
        return {
            **self.connection.breaker.health(),
            "kind": client.kind,
            "servers": client.servers,
            "on_store_error": self.on_store_error,
        }

    def ping(self) -> bool:
        """Send PING; return True if Redis answered within its deadline."""
        try:
            self.connection.client.command("PING")
        except StoreError:
            return False
        return True

    def get_state(self, key: str) -> BucketState:
        """Return the tokens of `key` and the time they were counted.

        The tokens are None for a key that is not in Redis, which is the same as a full bucket.

        Raises:
            StoreError: Redis gave no answer.
            LookupError: the key exists, but no limiter uses this store: the number of tokens
                depends on the limit.
        """
        value = self.connection.client.command("GET", f"{self.prefix}:{key}")
        if value is None:
            return {"tokens": None, "last_refill": time.time()}
        text = value.decode("ascii", "replace").partition("!")[0]  # without the mark of a block
        if not text:
            return {"tokens": None, "last_refill": time.time()}
        tokens, at, last_refill = text.partition("@")
        if at:
            return {"tokens": float(tokens), "last_refill": float(last_refill)}
        if not self._limits:
            raise LookupError(f"no limiter uses {self!r}, so the tokens of {key!r} are not known")
        limit = self._limits[0]
        now_s = time.time()
        full_us = text.partition("+")[0]
        lacks = int(full_us) / 1e6 - now_s if limit.refill_rate else math.inf
        missing = max(0.0, lacks * limit.refill_rate)
        return {"tokens": max(0.0, limit.capacity - missing), "last_refill": now_s}

    def set_state(self, key: str, tokens: float | None, last_refill: float) -> None:
        """Set the tokens of `key` as of the time `last_refill` (seconds since the epoch).

        Tokens of None remove the key: its bucket is full.

        Raises:
            TypeError, ValueError: something is not a number, or not finite.
            StoreError: Redis gave no answer.
        """
        given = checked_state({"tokens": tokens, "last_refill": last_refill})
        name = f"{self.prefix}:{key}"
        if given is None:
            self.connection.client.command("DEL", name)
        else:
            self.connection.client.command("SET", name, f"{given[0]:.9f}@{given[1]:.6f}")

    def register(self, limit: Limit) -> None:
        """Add a limit of the buckets in this store, for get_state. Called by limiters."""
        self._limits.append(limit)

    def close(self) -> None:
        """Close the connections of event loops; they reconnect when needed.

        Requests that wait for an answer follow `on_store_error` at once. Redis may have counted
        them.
        """
        self.connection.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a store again from its address, which includes the password."""
        made_of = (type(self), str(self.address), self.prefix, self.on_store_error, self.tracing)
        return _remade, made_of, {"_limits": self._limits}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.connection.client.servers)!r})"


def _remade(
    kind: type[RedisStore], address: str, prefix: str, on_store_error: OnStoreError, tracing: bool
) -> RedisStore:
    return kind(address, prefix, on_store_error=on_store_error, tracing=tracing)
