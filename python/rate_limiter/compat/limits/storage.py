"""Storages of `limits`: where the counts are, by the addresses that `limits` takes.

    memory://                          this process
    shared:///dev/shm/app              all processes of this host (not in `limits`)
    redis://, rediss://, valkey://     a server; redis+unix:///path for a socket
    redis+sentinel://host:26379/name   redis+cluster://host:7000,host:7001

``async+`` before an address changes nothing: each storage is both blocking and awaited.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

from rate_limiter import _core
from rate_limiter._core import GivenLimits
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import OnStoreError
from rate_limiter.compat.limits.errors import ConfigurationError
from rate_limiter.compat.limits.util import KEPT
from rate_limiter.limit import Limit
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.given_limits import given_limits
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.address import MEMORY, check_store, is_shared
from rate_limiter.stores.redis_address import redis_address
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.stores.searching import remove_keys, search

PREFIX = "LIMITS"
"""Default prefix of the keys in Redis."""

Windows: TypeAlias = Callable[..., Limit]
"""Returns the Limit of an amount in windows of some seconds: a strategy has one."""

_KINDS = ("memory", "shared", "unix", "redis", "rediss", "valkey", "valkeys")
_ENDINGS = ("", "+unix", "+sentinel", "+cluster")
_ADVICE = {
    "memcached": "use 'shared:///dev/shm/app' within one host, or a Redis",
    "mongodb": "use a Redis or Valkey: 'redis://host:6379/0'",
    "etcd": "use a Redis or Valkey: 'redis://host:6379/0'",
}
# Options of redis-py that an address of this package expresses.
_IN_ADDRESS = {
    "socket_timeout": "timeout",
    "socket_connect_timeout": "connect_timeout",
    "client_name": "client_name",
    "ssl_ca_certs": "ssl_ca_certs",
    "ssl_ca_path": "ssl_ca_path",
    "ssl_certfile": "ssl_certfile",
    "ssl_keyfile": "ssl_keyfile",
    "ssl_password": "ssl_password",
    "ssl_cert_reqs": "ssl_cert_reqs",
    "ssl_check_hostname": "ssl_check_hostname",
    "sentinel_username": "sentinel_username",
    "sentinel_password": "sentinel_password",
}


def wall_clock() -> float:
    """Return time.time() of now: a test that replaces or freezes it moves the windows too."""
    return time.time()


class Counter(NamedTuple):
    """What counts under one limit: a limiter for windows of its length, and the limit.

    Keys have the amount in them, so what is counted under one limit is apart from the others.
    """

    limiter: RateLimiter
    given: GivenLimits


class Storage:
    """Keep the counts of all limits of one or several strategies.

    Limits may be any number of texts, such as those that a function returns: all amounts in
    windows of one length are counted in one table. In memory a table that no limit among the
    1024 used last needs is forgotten.

    Args:
        uri: an address, see this module.
        wrap_exceptions: accepted, and always so: errors of a Redis are a StorageError.
        key_prefix: prefix of the keys in Redis; in shared memory it separates counts, too.
        on_store_error: while a Redis is unavailable: ``"memory"`` (the same limits in this
            process), ``"allow"``, ``"deny"`` or ``"raise"`` (StorageError).
        count_denied: whether denied requests count too, as in the fixed windows of `limits`.
        clock: for memory, a callable that returns seconds.
        max_keys: about how many keys may be in use in this process at once, for all limits with
            windows of one length.
        options: for a Redis, settings of redis-py that an address can express, or
            `connection_pool`.

    Raises:
        ConfigurationError: the address or an option is not supported, or wrong.
    """

    DEFAULT_URI = MEMORY

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = True,
        *,
        key_prefix: str = PREFIX,
        on_store_error: OnStoreError = "memory",
        count_denied: bool = False,
        clock: Clock = wall_clock,
        max_keys: int = 1_000_000,
        **options: Any,
    ) -> None:
        self.uri: str = _address(uri or self.DEFAULT_URI, options)
        self.clock, self.max_keys, self.count_denied = clock, max_keys, count_denied
        self._name = "" if key_prefix == PREFIX else key_prefix  # in shared memory
        self.redis: RedisStore | None = None
        # By a limit with such windows. Counters hold these.
        self._limiters: WeakValueDictionary[Limit, RateLimiter] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._counter = lru_cache(maxsize=KEPT)(self._made_counter)
        try:
            if self.uri != MEMORY and not is_shared(self.uri):
                self.redis = RedisStore(self.uri, key_prefix, on_store_error=on_store_error)
            check_store(self.redis or self.uri)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None

    @property
    def is_remote(self) -> bool:
        """Whether a decision may wait for a server."""
        return self.redis is not None

    def counter_of(self, windows: Windows, amount: int, window_s: int) -> Counter:
        """Return what counts under a limit.

        Raises:
            ValueError: the amount or the window is too large for the engine.
        """
        return self._counter(windows, amount, window_s)

    def _made_counter(self, windows: Windows, amount: int, window_s: int) -> Counter:
        limit = windows(amount, window_s, count_denied=self.count_denied)
        any_amount = windows(1, window_s, count_denied=self.count_denied)
        with self._lock:
            limiter = self._limiters.get(any_amount)
            if limiter is None:
                limiter = self._limiters[any_amount] = self._made(any_amount)
        return Counter(limiter, given_limits(limit))

    def _made(self, limit: Limit) -> RateLimiter:
        if self.redis is not None:
            return RedisRateLimiter(limit, store=self.redis, max_keys=self.max_keys)
        if self.uri == MEMORY:
            return RateLimiter.in_memory(limit, self.max_keys, self.clock)
        return RateLimiter(
            limit, store=self.uri, name=self._name, max_keys=self.max_keys, clock=self.clock
        )

    def check(self) -> bool:
        """Return True if the storage answers."""
        return self.redis is None or self.redis.ping()

    def clear(self, key: str) -> None:
        """Forget what is counted under a key, see RateLimitItem.key_for()."""
        for limiter in list(self._limiters.values()):
            limiter.reset(key)

    def reset(self) -> int | None:
        """Forget all counts; return the number of keys in Redis, or None for memory.

        Raises:
            StorageError: Redis gave no answer.
        """
        for limiter in list(self._limiters.values()):
            _core.Limiter._reset_all(limiter)
        if self.redis is None:
            return None
        before = f"{self.redis.prefix}:".encode()
        connection = self.redis.connection
        return remove_keys(connection, search(connection, before, b"", None))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self.uri)})"


class MemoryStorage(Storage):
    """Keep the counts in the memory of this process."""


class RedisStorage(Storage):
    """Keep the counts in a Redis."""

    DEFAULT_URI = "redis://localhost:6379"


class RedisSentinelStorage(Storage):
    """Keep the counts in a Redis that Sentinel manages."""

    DEFAULT_URI = "redis+sentinel://localhost:26379/mymaster"


class RedisClusterStorage(Storage):
    """Keep the counts in a Redis Cluster."""

    DEFAULT_URI = "redis+cluster://localhost:7000"


def storage_from_string(storage_string: str, **options: Any) -> Storage:
    """Return the storage of an address.

    Args:
        storage_string: an address, see this module.
        options: as for Storage.

    Raises:
        ConfigurationError: the address or an option is not supported, or wrong.
    """
    if not isinstance(storage_string, str) or "://" not in storage_string:
        raise ConfigurationError(
            f"unknown storage scheme: expected an address such as 'memory://' or "
            f"'redis://host:6379/0', got {shown(storage_string)}"
        )
    scheme = _scheme(storage_string)
    if scheme.endswith("+sentinel"):
        kind: type[Storage] = RedisSentinelStorage
    elif scheme.endswith("+cluster"):
        kind = RedisClusterStorage
    else:
        kind = MemoryStorage if scheme in ("memory", "shared") else RedisStorage
    try:
        return kind(storage_string, **options)
    except TypeError as error:  # an option of another type
        raise ConfigurationError(str(error)) from None


def _scheme(uri: str) -> str:
    return uri.partition("://")[0].removeprefix("async+")


def _address(uri: str, options: dict[str, Any]) -> str:
    """Return the address of this package for one of `limits` and options of redis-py."""
    scheme, rest = _scheme(uri), uri.partition("://")[2]
    kind, plus, ending = scheme.partition("+")
    if kind in _ADVICE:
        raise ConfigurationError(f"{kind}:// is not supported: {_ADVICE[kind]}")
    if kind not in _KINDS or plus + ending not in _ENDINGS:
        raise ConfigurationError(f"unknown storage scheme: {shown(uri)}")
    if scheme == "memory":
        _refuse(options, "memory://")
        return MEMORY
    if scheme == "shared":
        _refuse(options, "shared://")
        return f"{scheme}://{rest}"
    if (pool := options.pop("connection_pool", None)) is not None:
        try:
            # A client is known by the attributes of its pool.
            address = redis_address(SimpleNamespace(connection_pool=pool))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"connection_pool: {error}") from None
    else:
        address = f"unix://{rest}" if ending == "unix" else f"{scheme}://{rest}"
    return _with_options(address, options)


def _with_options(address: str, options: dict[str, Any]) -> str:
    login = options.pop("username", None), options.pop("password", None)
    if any(login):
        scheme, _, rest = address.partition("://")
        who = ":".join(quote(str(each or ""), safe="") for each in login)
        if "@" in rest.partition("/")[0]:
            raise ConfigurationError("username and password are in the address already")
        address = f"{scheme}://{who}@{rest}"
    words = {_IN_ADDRESS[name]: options.pop(name) for name in list(options) if name in _IN_ADDRESS}
    _refuse(options, "a Redis")
    if not words:
        return address
    return f"{address}{'&' if '?' in address else '?'}{urlencode(words, quote_via=quote)}"


def _refuse(options: dict[str, Any], storage: str) -> None:
    if options:
        names = ", ".join(sorted(options))
        raise ConfigurationError(
            f"storage options not supported for {storage}: {names}. Leave them out; see "
            "docs/migration/slowapi.md for those that are"
        )
