"""How a client's key becomes the keys in Redis, one for each limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rate_limiter._core import GivenLimits
from rate_limiter.limit import FIXED_WINDOW, SLIDING_WINDOW, Limit
from rate_limiter.limiting.given_limits import given_limits
from rate_limiter.stores.inspection import SLIDING_LAYOUT
from rate_limiter.stores.redis_store import RedisStore

OF_CALLS = ":calls"
"""What follows a client's key in Redis where the limits came with a call."""

FOUR_BUCKETS = given_limits("1/second, 1/second, 1/second, 1/second")
"""Whatever buckets came with calls, the keys of these are theirs."""


@dataclass(frozen=True)
class RedisKeys:
    """The keys in Redis: a beginning, the client's key, and an ending for each limit."""

    before: str
    endings: tuple[str, ...]
    is_exact: bool
    min_ttl_ms: int
    bounded: bool  # each key belongs to one limit, see bucket.lua

    @classmethod
    def of(
        cls,
        store: RedisStore,
        limits: tuple[Limit, ...],
        name: str,
        exact_prefix: str | None,
        *,
        names_limits: bool,
        min_ttl_s: float,
    ) -> RedisKeys:
        """Return the keys of a limiter. Arguments are those of RedisRateLimiter.

        Raises:
            ValueError: the name is wrong.
        """
        exact = exact_prefix is not None
        endings = (
            _ending(i, limit, exact=exact, names_limits=names_limits)
            for i, limit in enumerate(limits)
        )
        before = exact_prefix if exact_prefix is not None else _before(store, name)
        bounded = names_limits and not exact
        return cls(before, tuple(endings), exact, math.ceil(min_ttl_s * 1000), bounded)

    def renewed(self, before: tuple[Limit, ...], after: tuple[Limit, ...]) -> RedisKeys:
        """Return the keys for other limits: the same, unless the values would be misread."""
        endings = list(self.endings)
        for i, pair in enumerate(zip(before, after, strict=True)):
            old, new = (_ending(i, one, exact=False, names_limits=False) for one in pair)
            if old == new:
                continue
            if self.is_exact:
                raise ValueError(f"with an exact prefix, {pair[0]} cannot become {pair[1]}")
            endings[i] += new
        return replace(self, endings=tuple(endings))


def check_place(store: RedisStore, limits: tuple[Limit, ...], exact_prefix: str | None) -> None:
    """Check that a server, or a cluster, can have the keys of a client.

    Raises:
        ValueError: it cannot.
    """
    if exact_prefix is not None and len(limits) != 1:
        raise ValueError("with an exact prefix there is one key in Redis, and so one limit")
    is_dated = exact_prefix is not None and any(
        limit.algorithm == FIXED_WINDOW and limit.start == "clock" for limit in limits
    )
    if is_dated and store.connection.client.kind == "cluster":
        raise ValueError(
            "a fixed window under an exact prefix has the date in its key, which a cluster "
            "cannot place: leave the prefix out, or take another algorithm"
        )
    if store.connection.client.kind == "cluster" and len(limits) > 1:
        _check_hash_tag(store.prefix)


def time_to_fill_s(limit: Limit) -> float:
    """Return the seconds until an empty bucket is full; 0 if it never is."""
    return limit.capacity / limit.refill_rate if limit.refill_rate > 0 else 0.0


def _ending(i: int, limit: Limit, *, exact: bool, names_limits: bool) -> str:
    """Return the part after the client's key in Redis."""
    if exact:
        return ""
    layout = SLIDING_LAYOUT if limit.algorithm == SLIDING_WINDOW else ""
    if names_limits:
        return ":" + limit.stored_name.replace(" ", "") + layout
    if limit.is_window:
        first = ":first" if limit.start == "first" else ""
        calendar = f":{limit.unit}:{limit.tz}" if limit.unit else ""
        return f":{i}:{limit.algorithm}:{limit.window_s}{first}{calendar}{layout}"
    # The deficit of a bucket that is never refilled is stored in units of its capacity.
    return f":{i}:bucket" if limit.refill_rate else f":{i}:frozen:{limit.capacity!r}"


def endings_of_calls(given: GivenLimits) -> list[str]:
    """Return the parts after the client's key in Redis, for limits that came with a call.

    Buckets are numbered from the one that takes longest to fill: so a limit that is added or left
    out does not change what the others are. As in memory, a bucket beside windows is another one.
    """
    bucket = "mixed" if given.has_windows else "bucket"
    places = range(len(given.limits)) if given.has_windows else given.places
    return [
        OF_CALLS
        + (_ending(i, one, exact=False, names_limits=False) if one.is_window else f":{i}:{bucket}")
        for i, one in zip(places, given.limits, strict=True)
    ]


def _before(store: RedisStore, name: str) -> str:
    if not isinstance(name, str) or set("{}") & set(name):
        raise ValueError(f"name must be a str without braces, got {name!r}")
    return f"{store.prefix}:{name}:" if name else f"{store.prefix}:"


def _check_hash_tag(prefix: str) -> None:
    """Raise ValueError for a prefix that puts the keys of one client into different slots."""
    # The first brace begins the hash tag, and an empty tag is none: see the cluster specification.
    if prefix.partition("{")[2].startswith("}"):
        raise ValueError(
            f"the prefix {prefix!r} has empty braces, so a cluster would put the several limits of "
            "one client on different nodes: leave them out"
        )
