"""The limiters that benchmarks/field.py compares, all with the same limits.

slowapi and Flask-Limiter decide with limits, and fastapi-limiter with pyrate-limiter, so these
three are only measured with whole requests, by benchmarks/web.py. Of limits there are the fixed
window, its fastest algorithm and the default of both, and the sliding window.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rate_limiter import AsyncRateLimiter, RateLimiter
from rate_limiter.cli.bench.measure import PYTHON, PythonBucket

PACKAGES = (
    "limits",
    "throttled-py",
    "pyrate-limiter",
    "token_bucket",
    "aiolimiter",
    "asgi-ratelimit",
    "redis",
)
PERIODS_S = {"second": 1, "hour": 3600, "day": 86_400}
OURS = "rate-limiter-c"

Limits = Sequence[tuple[int, str]]
"""Count and period: (100, "hour")."""
Decide = Callable[[str], Any]

NEVER_DENIES: Limits = ((10**9, "second"),)
TWO_LIMITS: Limits = ((10**9, "second"), (2 * 10**9, "hour"))
DENIES: Limits = ((1, "day"),)
PER_HOUR: Limits = ((100, "hour"),)


class Rival(NamedTuple):
    """A way to decide.

    Attributes:
        name: in tables.
        make: returns a function that decides about a key, or a coroutine function.
        passed: whether a result of that function allows the request.
    """

    name: str
    make: Callable[[Limits], Decide]
    passed: Callable[[Any], bool] = bool


def texts(limits: Limits) -> list[str]:
    """Return limits as most packages read them."""
    return [f"{count}/{period}" for count, period in limits]


# --- Called ----------------------------------------------------------------------------------


def allow(limits: Limits) -> Decide:
    return RateLimiter("; ".join(texts(limits))).allow


def hit(limits: Limits) -> Decide:
    return RateLimiter("; ".join(texts(limits))).hit


def python_bucket(limits: Limits) -> Decide:
    ((count, period),) = limits
    return PythonBucket(count, count / PERIODS_S[period]).allow


def limits_package(strategy: str) -> Callable[[Limits], Decide]:
    """Return what makes a limiter of the package limits; several limits one after the other."""

    def make(limits: Limits) -> Decide:
        from limits import parse, storage, strategies

        hit = getattr(strategies, strategy)(storage.MemoryStorage()).hit
        first, *others = (parse(text) for text in texts(limits))
        if others:
            return lambda key: hit(first, key) and all(hit(other, key) for other in others)
        return lambda key: hit(first, key)

    return make


def throttled(limits: Limits) -> Decide:
    from throttled import MemoryStore, Throttled

    store = MemoryStore(options={"MAX_SIZE": 100_000_000})
    first, *others = (
        Throttled(using="token_bucket", quota=text, store=store, key_prefix=text).limit
        for text in texts(limits)
    )
    if others:
        return lambda key: [first(key), *(other(key) for other in others)][-1]
    return first


def pyrate(limits: Limits) -> Decide:
    acquire = pyrate_limiter(limits).try_acquire
    return lambda key: acquire(key, blocking=False)


def pyrate_limiter(limits: Limits, store: Callable[[str], Any] | None = None) -> Any:
    """Return a limiter with one bucket for each key, as the documentation describes it.

    Args:
        limits: of each bucket.
        store: returns the store of a key; in memory without it.
    """
    from pyrate_limiter import BucketFactory, Limiter, Rate, RateItem, StateBucket, TokenBucket

    rates = [Rate(count, PERIODS_S[period] * 1000) for count, period in limits]

    class Buckets(BucketFactory):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.made: dict[str, StateBucket] = {}
            self.first = StateBucket(rates)

        def wrap_item(self, name: str, weight: int = 1) -> RateItem:
            return RateItem(name, self.first.now(), weight=weight)

        def get(self, item: RateItem) -> StateBucket:
            bucket = self.made.get(item.name)
            if bucket is None:
                of_key = store(item.name) if store else None
                bucket = self.made[item.name] = StateBucket(rates, TokenBucket(), of_key)
            return bucket

    return Limiter(Buckets())


def token_bucket(limits: Limits) -> Decide:
    from token_bucket import Limiter, MemoryStorage

    first, *others = (
        Limiter(count / PERIODS_S[period], count, MemoryStorage()).consume
        for count, period in limits
    )
    if others:
        return lambda key: first(key) and all(other(key) for other in others)
    return first


def is_not_limited(result: Any) -> bool:
    """Return whether throttled-py allows."""
    return not result.limited


EMPTY_CALL = Rival("empty C call", lambda _: gc.is_tracked, lambda _: True)
"""gc.is_tracked reads one flag of its argument and returns a bool."""
CALLED = (
    Rival(f"{OURS}, allow", allow),
    Rival(f"{OURS}, hit", hit, lambda decision: bool(decision.allowed)),
    Rival("limits, fixed window", limits_package("FixedWindowRateLimiter")),
    Rival("limits, sliding window", limits_package("SlidingWindowCounterRateLimiter")),
    Rival("throttled-py, token bucket", throttled, is_not_limited),
    Rival("pyrate-limiter, token bucket", pyrate),
    Rival("token-bucket", token_bucket),
    Rival(PYTHON, python_bucket),
)


# --- Awaited ---------------------------------------------------------------------------------


def async_allow(limits: Limits) -> Decide:
    return AsyncRateLimiter("; ".join(texts(limits))).allow


def async_limits(limits: Limits) -> Decide:
    from limits import parse
    from limits.aio import storage, strategies

    hit = strategies.FixedWindowRateLimiter(storage.MemoryStorage()).hit
    (item,) = (parse(text) for text in texts(limits))
    return lambda key: hit(item, key)


def async_throttled(limits: Limits) -> Decide:
    from throttled.asyncio import MemoryStore, Throttled

    (quota,) = texts(limits)
    return Throttled(using="token_bucket", quota=quota, store=MemoryStore()).limit


def async_pyrate(limits: Limits) -> Decide:
    acquire = pyrate_limiter(limits).try_acquire_async
    return lambda key: acquire(key, blocking=False)


def aiolimiter(limits: Limits) -> Decide:
    """Return a function that ignores the key: the package has one bucket per limiter."""
    from aiolimiter import AsyncLimiter

    ((count, period),) = limits
    acquire = AsyncLimiter(count, PERIODS_S[period]).acquire
    return lambda key: acquire()


def asgi_ratelimit(limits: Limits) -> Decide:
    from ratelimit import Rule
    from ratelimit.backends.simple import MemoryBackend

    ((count, period),) = limits
    seconds_left = MemoryBackend().retry_after  # type: ignore[no-untyped-call, unused-ignore]
    rule = Rule(**{period: count})  # type: ignore[arg-type, unused-ignore]
    return lambda key: seconds_left("/", key, rule)


async def empty_coroutine(key: str) -> bool:
    return True


EMPTY_COROUTINE = Rival("empty coroutine", lambda _: empty_coroutine)
AIOLIMITER = Rival("aiolimiter", aiolimiter, lambda result: result is None)
"""Waits instead of denying."""
AWAITED = (
    Rival(f"{OURS}, allow", async_allow),
    Rival("limits, fixed window", async_limits),
    Rival("throttled-py, token bucket", async_throttled, is_not_limited),
    Rival("pyrate-limiter, token bucket", async_pyrate),
    Rival("asgi-ratelimit", asgi_ratelimit, lambda seconds: seconds == 0),
)
