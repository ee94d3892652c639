"""Types of the public names. Checked by mypy --strict, never executed."""

import time

from rate_limiter import (
    AsyncRateLimiter,
    AsyncReservation,
    AsyncTokenBucketRateLimiter,
    Decision,
    Decisions,
    Limit,
    ManualClock,
    RateLimitConfig,
    RateLimiter,
    RateLimitExceeded,
    Reservation,
    TokenBucketRateLimiter,
    hit_all,
    hit_all_async,
)
from rate_limiter.asgi import (
    ClientAddress,
    DeniedRequest,
    DynamicLimits,
    Finished,
    HeaderStyle,
    Store,
)
from rate_limiter.fastapi import RateLimit, RateLimits
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.memory_store import InMemoryStore
from rate_limiter.memory_store_async import AsyncInMemoryStore
from starlette.requests import HTTPConnection
from typing_extensions import assert_type

limiter = RateLimiter(["10/second", Limit(1000, 0.5)], clock=ManualClock())
assert_type(limiter.limits, tuple[Limit, ...])
assert_type(limiter.allow("k"), bool)
assert_type(limiter.hit(b"k", cost=2.5), Decision)
assert_type(limiter.peek("k"), Decision)
assert_type(limiter.acquire("k", timeout=1, max_waiting=5), Decision)
assert_type(limiter.allow_many(["a", b"b"]), list[bool])
assert_type(limiter.stats(), dict[str, int])
assert_type(limiter.hit("k", cost=(1, 1500)), Decision)
assert_type(limiter.block("k", 60), None)
assert_type(hit_all([(limiter, "a"), (limiter, b"b", (1, 2.5))]), Decisions)
assert_type(limiter.hit("k", limits="5/minute"), Decision)
assert_type(limiter.allow("k", 2, ["5/minute", Limit(5, 1)]), bool)
limiter.hit("k", limits=5)  # type: ignore[arg-type]


async def plan_of(connection: HTTPConnection) -> str:
    return "5/minute"


def used(finished: Finished) -> float:
    return 1


RateLimit(plan_of, cost_after=used)
RateLimits(default=DynamicLimits(plan_of, default="5/minute", ttl_s=60))
FlaskRateLimiter(default_limits=lambda: "5/minute").limit(lambda: [Limit(5, 1)])
with limiter.reserve("k", cost=(1, 2000), timeout=None) as reservation:
    assert_type(reservation, Reservation)
    assert_type(reservation.settle((1, 700)), None)
with limiter.slot("k", timeout=5) as turn:
    assert_type(turn, Decision)


@limiter.limited("api", cost=(1, 2))
def fetch(page: int) -> str:
    return str(page)


@limiter.limited(lambda page: f"page {page}")
async def fetch_later(page: int) -> str:
    return str(page)


assert_type(fetch(1), str)
fetch("1")  # type: ignore[arg-type]

decision = limiter.hit("k")
assert_type(decision.allowed, bool)
assert_type(decision.limit, float)
assert_type(decision.remaining, float)
assert_type(decision.retry_after, float)
assert_type(decision.retry_after_ms, int)
assert_type(decision.retry_after_s, int | None)
assert_type(decision.reset_after_ns, int)

RateLimiter("1/s", clock=time.time)
RateLimiter("1/s", clock=lambda: 5)
RateLimiter("1/s", clock="coarse")
RateLimiter("1/s", clock="sundial")  # type: ignore[arg-type]
RateLimiter("1/s", clock=lambda: "5")  # type: ignore[arg-type, return-value]
assert_type(limiter.keys(prefix="tenant:"), list[str | bytes])
limiter.reset()
limiter.reset("k")
limiter.reset(prefix="tenant:")
limiter.reset(None)  # type: ignore[arg-type]

RateLimiter("1/s", store="redis://a", on_store_error="denies")  # type: ignore[arg-type]
AsyncRateLimiter("1/s", store="redis://a", on_store_error="deny")
RateLimiter("1/s", clock="wall")  # type: ignore[arg-type]
Store("redis://a", on_store_error="denies")  # type: ignore[arg-type]
HeaderStyle("x")  # type: ignore[arg-type]
HeaderStyle("both", reset="epoch")
ClientAddress(["10.0.0.0/8"], header="x-real-ip")  # type: ignore[arg-type]

limits = RateLimits(default="5/minute", key="header:X-API-Key", headers="both")
limits("5/minute", cost=3, on_store_error="deny")
limits("5/minute", costs=3)  # type: ignore[call-arg]
limits("5/minute", reset="later")  # type: ignore[arg-type]


@limits.exempt
def exempted(number: int) -> str:
    return str(number)


assert_type(exempted(5), str)


def note(denied: DeniedRequest) -> None:
    assert_type(denied.decision, Decision)
    assert_type(denied.path, str)


async def note_later(denied: DeniedRequest) -> None: ...


RateLimits(on_denied=note)
FlaskRateLimiter(on_denied=note)
RateLimit("5/minute", on_denied=note_later)
RateLimit("5/minute", on_denied=5)  # type: ignore[arg-type]

limiter.allow(5)  # type: ignore[arg-type]
limiter.allow("k", "1")  # type: ignore[arg-type]
limiter.hit("k", weight=1)  # type: ignore[call-arg]
decision.allowed = True  # type: ignore[misc]
RateLimiter(5)  # type: ignore[arg-type]
RateLimiter("1/s", burst=5)  # type: ignore[call-arg]

error = RateLimitExceeded(decision, "k")
assert_type(error.decision, Decision | None)
assert_type(error.retry_after, float)

bucket = TokenBucketRateLimiter(RateLimitConfig(5, 1.0), InMemoryStore())
assert_type(bucket.allow_request("k", weight=2.0), bool)
assert_type(bucket.get_headers("k"), dict[str, str])


async def awaited() -> None:
    both = AsyncRateLimiter("10/second")
    assert_type(await both.allow("k"), bool)
    assert_type(await both.acquire("k"), Decision)
    assert_type(both.with_limits("5/s"), AsyncRateLimiter)
    assert_type(await both.allow_many(["k"]), list[bool])
    assert_type(await both.hit("k", cost=(1, 1500)), Decision)
    assert_type(await both.block("k", 60), None)
    assert_type(await hit_all_async([(both, "a"), (limiter, "b", 2)]), Decisions)
    async with both.reserve("k", cost=(1, 2000)) as reserved:
        assert_type(reserved, AsyncReservation)
        assert_type(await reserved.settle((1, 700)), None)
    async with both.slot("k") as turn:
        assert_type(turn, Decision)
    assert_type(await fetch_later(1), str)
    waited = AsyncTokenBucketRateLimiter(RateLimitConfig(5, 1.0), AsyncInMemoryStore())
    assert_type(await waited.get_remaining_tokens("k"), float)
