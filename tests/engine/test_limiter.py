"""RateLimiter and AsyncRateLimiter: the everyday methods, in both colours."""

import inspect
import pickle

import pytest
from rate_limiter import (
    AsyncRateLimiter,
    Decision,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitExceeded,
)


class Both:
    """Calls a method of either limiter, so that one test speaks for both."""

    def __init__(self, kind: type[RateLimiter] | type[AsyncRateLimiter], **arguments: object):
        self.clock = ManualClock()
        self.limiter = kind(clock=self.clock, **arguments)  # type: ignore[arg-type]

    async def __call__(self, method: str, *args: object, **kwargs: object) -> object:
        result = getattr(self.limiter, method)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=[RateLimiter, AsyncRateLimiter])
def kind(request: pytest.FixtureRequest) -> object:
    return request.param


async def test_allow_until_empty_then_refilled(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits=Limit(capacity=3, refill_rate=2.0))
    assert [await call("allow", "k") for _ in range(4)] == [True, True, True, False]
    call.clock.advance(0.5)
    assert [await call("allow", "k") for _ in range(2)] == [True, False]


async def test_hit_returns_the_numbers(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="10/second")
    assert await call("hit", "k", 4) == Decision(True, 6, limit=10, reset_after=0.4)
    assert await call("hit", "k", cost=7) == Decision(
        False, 6, limit=10, retry_after=0.1, reset_after=0.4
    )


async def test_peek_consumes_nothing(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="2/second")
    assert await call("peek", "k") == Decision(True, 2, limit=2)
    assert await call("peek", "k", 2) == await call("peek", "k", 2)
    assert await call("hit", "k", 2)
    assert not await call("peek", "k")


async def test_refund_and_reset(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="5/second")
    await call("hit", "k", 5)
    await call("refund", "k", 2)
    assert (await call("peek", "k")).remaining == 2  # type: ignore[attr-defined]
    await call("refund", "k", 100)
    assert (await call("peek", "k")).remaining == 5  # type: ignore[attr-defined]
    await call("hit", "k", 5)
    await call("reset", "k")
    assert (await call("peek", "k")).remaining == 5  # type: ignore[attr-defined]


async def test_allow_many(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="2/second")
    assert await call("allow_many", ["a", "b", "a", "a", b"b"]) == [True, True, True, False, True]
    assert await call("allow_many", (key for key in ["c"]), cost=3) == [False]


async def test_several_limits_are_all_or_nothing(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="10/second; 15/minute")
    assert await call("allow", "k", 8)
    assert not await call("allow", "k", 8)
    call.clock.advance(1)
    denied = await call("hit", "k", 8)
    assert isinstance(denied, Decision)
    assert (denied.allowed, denied.limit) == (False, 15)
    taken = await call("hit", "k", 7)
    assert isinstance(taken, Decision)
    assert (taken.allowed, taken.limit, int(taken.remaining)) == (True, 15, 0)
    assert await call("peek", "k") == await call("hit", "k")


async def test_acquire(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="2/second")
    assert await call("acquire", "k", 2) == Decision(True, 0, limit=2, reset_after=1)
    with pytest.raises(RateLimitExceeded) as caught:
        await call("acquire", "k", timeout=0.1)
    assert caught.value.decision == Decision(False, 0, limit=2, retry_after=0.5, reset_after=1)


async def test_stats_count(kind: type[RateLimiter]) -> None:
    call = Both(kind, limits="1/second")
    await call("allow_many", ["a", "b", "a"])
    stats = await call("stats")
    assert isinstance(stats, dict)
    assert (stats["keys"], stats["allowed"], stats["denied"]) == (2, 2, 1)


def test_limits_attribute_and_repr(kind: type[RateLimiter]) -> None:
    limiter = kind("10/second; 1000/hour")
    assert limiter.limits == (Limit(10, 10), Limit(1000, 1000 / 3600))
    assert repr(limiter) == f"{kind.__name__}('10/second; 1000/hour')"


@pytest.mark.parametrize("store", ["memory", ""])
def test_unknown_store(kind: type[RateLimiter], store: str) -> None:
    with pytest.raises(ValueError, match="store must be 'memory://' or the address of a"):
        kind("1/s", store=store)


def test_none_as_store(kind: type[RateLimiter]) -> None:
    with pytest.raises(TypeError, match="got None: leave it out for memory"):
        kind("1/s", store=None)


@pytest.mark.parametrize("store", [5, object()])
def test_no_store(kind: type[RateLimiter], store: object) -> None:
    with pytest.raises(TypeError, match="expected the address of a Redis"):
        kind("1/s", store=store)


def test_wrong_address(kind: type[RateLimiter]) -> None:
    with pytest.raises(
        ValueError, match="the port must be a number from 1 to 65535; after a password"
    ):
        kind("1/s", store="redis://localhost:http")


@pytest.mark.parametrize("clock", ["wall", "", 5, None, object()])
def test_unknown_clock(kind: type[RateLimiter], clock: str) -> None:
    with pytest.raises(ValueError, match="clock must be 'monotonic', 'coarse'"):
        kind("1/s", clock=clock)


@pytest.mark.parametrize("max_keys", [0, -1, 2**37])
def test_max_keys_out_of_range(kind: type[RateLimiter], max_keys: int) -> None:
    with pytest.raises(ValueError, match=f"max_keys must be within 1 and .* got {max_keys}"):
        kind("1/s", max_keys=max_keys)


def test_unknown_argument(kind: type[RateLimiter]) -> None:
    with pytest.raises(TypeError, match="burst"):
        kind("1/s", burst=5)  # type: ignore[call-arg]


def test_exception_without_details() -> None:
    assert str(RateLimitExceeded()) == "rate limit exceeded"
    assert str(RateLimitExceeded("slow down")) == "slow down"
    assert RateLimitExceeded("slow down").decision is None
    assert RateLimitExceeded().retry_after == 0.0


def test_exception_keeps_the_key_out_of_its_message_and_pickles() -> None:
    error = RateLimitExceeded(Decision(False, retry_after_ms=1500), "secret-api-key")
    assert str(error) == "rate limit exceeded; retry after 1.500 s"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.decision, copy.key, copy.retry_after) == (error.decision, error.key, 1.5)


def test_inspect_shows_each_limit() -> None:
    limiter = RateLimiter("2/second; 10/hour", clock=ManualClock())
    limiter.allow("k", 2)
    second, hour = limiter.inspect("k")
    assert (second.key, second.limit, second.tokens, second.full_after_s) == (
        "k",
        Limit(2, 2),
        0.0,
        1.0,
    )
    assert (hour.tokens, hour.full_after_s, hour.expires_after_s) == (8.0, 720.0, None)
    assert [one.tokens for one in limiter.inspect("other")] == [2.0, 10.0]
    with pytest.raises(TypeError, match="key must be str or bytes"):
        limiter.inspect(5)  # type: ignore[arg-type]
