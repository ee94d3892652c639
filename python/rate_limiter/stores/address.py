"""The argument `store=`: memory, shared memory, or a Redis."""

from __future__ import annotations

from hashlib import sha256

from rate_limiter import _core
from rate_limiter.checks.arguments import NoEffectError
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Limits, as_limits
from rate_limiter.stores.redis_store import RedisStore

MEMORY = "memory://"
"""The store in the memory of this process."""
SHARED = "shared://"
"""Scheme of a store that the processes of one host share, in a file."""
PREFIX = "rl"
"""Default prefix of the keys in Redis."""


def redis_store(
    store: object, on_store_error: OnStoreError, prefix: str = PREFIX, *, tracing: bool = False
) -> RedisStore:
    """Return a RedisStore as it is, or a new one for an address or a client.

    Args:
        tracing: of a new one.

    Raises:
        TypeError, ValueError: `store` is something else, or a RedisStore with another
            `on_store_error`; the message says why.
    """
    held = getattr(store, "redis", None)  # of an AsyncRedisStore
    for one in (store, held):
        if isinstance(one, RedisStore):
            if on_store_error not in ("memory", one.on_store_error):
                raise NoEffectError("on_store_error", "beside store, a RedisStore that has its own")
            return one
    if store is None:
        raise TypeError(
            f"store must be {MEMORY!r} or the address of a Redis, got None: leave it out for memory"
        )
    if isinstance(store, str) and "://" not in store:
        raise ValueError(f"store must be {MEMORY!r} or the address of a Redis, got {shown(store)}")
    try:
        return RedisStore(store, prefix, on_store_error=on_store_error, tracing=tracing)
    except TypeError as error:
        raise TypeError(f"store: {error}") from None


def is_shared(store: object) -> bool:
    """Return True for memory that the processes of a host share."""
    return isinstance(store, str) and store.startswith(SHARED)


def store_name(store: object) -> str:
    """Return the short name of a store: ``"memory"``, ``"shared"`` or the servers of a Redis."""
    if isinstance(store, RedisStore):
        return ", ".join(store.connection.client.servers)
    return str(store).partition(":")[0]


def may_trace(store: object) -> bool:
    """Return True for a Redis whose round trips a limiter may trace by its own `tracing`."""
    return store != MEMORY and not is_shared(store) and not isinstance(store, RedisStore)


def shared_file(store: object, name: str, limits: Limits, max_keys: int = 1_000_000) -> str:
    """Return the file of a limiter; its name begins with the path of the store.

    Each combination of name, limits, layout version and `max_keys` has a file. A process with
    another version or another `max_keys` creates a new file; running processes keep theirs.

    Raises:
        ValueError: the path is not absolute.
    """
    path = str(store).removeprefix(SHARED)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(
            f"store must be '{SHARED}' and the absolute path of a file, such as "
            f"'{SHARED}/dev/shm/app', got {shown(store)}"
        )
    text = f"{name}\n{'; '.join(limit.stored_name for limit in as_limits(limits))}"
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{path}.{digest}.{_core.SHARED_LAYOUT}-{max_keys}"


def check_store(store: object, on_store_error: OnStoreError = "memory") -> None:
    """Check the argument `store=`, and `on_store_error=` beside it, without connecting.

    Raises:
        TypeError, ValueError: `store` is no valid store, or a RedisStore with another
            `on_store_error`; the message says why.
    """
    if is_shared(store):
        shared_file(store, "", "1/second")
    elif store != MEMORY:
        redis_store(store, on_store_error)
