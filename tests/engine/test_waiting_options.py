"""acquire: who is refused at once, who goes first, and other limits while callers wait."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from rate_limiter import (
    AsyncRateLimiter,
    Decision,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitExceeded,
)
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.limiting.waiting import Waiter
from support.redis_servers import wait_until


def waiting(limiter: RateLimiter, key: bytes = b"k") -> int:
    return len(limiter._lines._lines.get(key, ()))


class Stub(Waiter):
    """A waiter that never does anything."""

    blocks_thread = False

    def __init__(self, limiter: RateLimiter, cost: float) -> None:
        super().__init__(limiter, b"k", cost)
        self.thread = 0  # another one: a caller in this thread goes ahead of what it blocks

    def wake(self) -> None:
        pass


@contextmanager
def threads_waiting(limiter: RateLimiter, *costs: float) -> Iterator[None]:
    """Let threads wait for the key one behind the other; they pass at the end."""
    threads = []
    for count, cost in enumerate(costs, 1):
        threads.append(threading.Thread(target=limiter.acquire, args=("k", cost), daemon=True))
        threads[-1].start()
        wait_until(lambda count=count: waiting(limiter) == count, f"{count} wait")  # type: ignore[misc]
    try:
        yield
    finally:
        while any(one.is_alive() for one in threads):
            limiter.reset("k")
            threads[0].join(0.01)


def refusal(limiter: RateLimiter, cost: float = 1, **patience: float) -> Decision:
    """Return the decision with which acquire refuses a request."""
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("k", cost, **patience)  # type: ignore[arg-type]
    decision = caught.value.decision
    assert decision is not None
    assert not decision.allowed
    assert caught.value.retry_after == decision.retry_after > 0
    return decision


# --- Refusals ---


@pytest.mark.parametrize(
    ("limits", "used", "ahead", "cost", "retry_after_s"),
    [
        # A bucket with two tokens of four, refilled at one in a second.
        ("1/second; burst=4", 2, (3,), 1, 2),
        ("1/second; burst=4", 2, (4, 4, 4), 1, 11),
        ("1/second; burst=4", 2, (3,), 4, 5),
        # In debt.
        ("1/second; burst=4", 8, (1,), 1, 6),
        # The slower one of two.
        ("1/second; burst=4; 10/hour", 4, (4, 3), 2, 3 * 360),
        # Never refilled.
        (Limit(4, 0), 2, (1, 1), 1, math.inf),
        # A minute began 15 s ago.
        ("4/minute; window=fixed", 3, (2,), 1, 45),
        ("4/minute; window=fixed", 3, (1,) * 8, 1, 45 + 60),
        ("4/minute; window=fixed", 3, (0.5, 0.5, 0.5, 0.5), 1, 45),
    ],
)
def test_refusal_counts_those_ahead(
    limits: str | Limit, used: float, ahead: tuple[float, ...], cost: float, retry_after_s: float
) -> None:
    limiter = RateLimiter(limits, clock=ManualClock(3600 * 10**9 + 15 * 10**9))
    limiter.charge("k", used)
    for one in ahead:
        Stub(limiter, one).join()
    assert refusal(limiter, cost, timeout=0).retry_after == pytest.approx(retry_after_s)
    assert waiting(limiter) == len(ahead)


def test_sliding_window_counts_those_ahead() -> None:
    limiter = RateLimiter("4/minute; window=sliding", clock=ManualClock(3600 * 10**9))
    limiter.hit("k", 4)
    for _ in range(8):
        Stub(limiter, 1).join()
    # Four pass by the end of the second minute, four of the third, and then this one.
    assert 60 <= refusal(limiter, timeout=0).retry_after <= 180


def test_impossible_timeout_is_refused_at_once() -> None:
    limiter = RateLimiter("1/minute; burst=3")
    limiter.hit("k", 3)
    with threads_waiting(limiter, 2):
        # Alone it would have to wait for one minute only.
        assert 150 < refusal(limiter, timeout=120).retry_after <= 180
        assert waiting(limiter) == 1


def test_max_waiting() -> None:
    limiter = RateLimiter("1/minute")
    limiter.acquire("k", max_waiting=0)  # it need not wait
    assert 50 < refusal(limiter, max_waiting=0).retry_after <= 60
    with threads_waiting(limiter, 1, 1):
        assert 150 < refusal(limiter, max_waiting=2).retry_after <= 180
        assert waiting(limiter) == 2
        thread = threading.Thread(target=limiter.acquire, args=("k",), kwargs={"max_waiting": 3})
        thread.start()
        wait_until(lambda: waiting(limiter) == 3, "it waits")
    while thread.is_alive():
        limiter.reset("k")
        thread.join(0.01)
    limiter.reset("k")
    assert asyncio.run(AsyncRateLimiter.of(limiter).acquire("k", max_waiting=0)).allowed


@pytest.mark.parametrize("value", [-1, 2.5, True, "3"])
def test_bad_max_waiting(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="max_waiting must be"):
        RateLimiter("1/s").acquire("k", max_waiting=value)  # type: ignore[arg-type]


def test_one_whose_time_is_up_passes_if_there_is_enough_for_all() -> None:
    limiter = RateLimiter("1/hour; burst=5")
    Stub(limiter, 3).join()
    assert limiter.acquire("k", timeout=0).remaining == pytest.approx(4, abs=0.1)
    assert refusal(limiter, 2, timeout=0).remaining == pytest.approx(4, abs=0.1)


# --- waiters_first ---


@pytest.fixture(params=["memory", "shared"])
def fair(request: pytest.FixtureRequest, tmp_path: Path) -> RateLimiter:
    """A limiter with four tokens whose waiters are first."""
    limit = Limit(10, 1 / 3600)
    if request.param == "memory":
        made = RateLimiter(limit, waiters_first=True)
    elif sys.platform == "linux":
        made = RateLimiter(
            limit, store=f"shared://{tmp_path}/file", max_keys=100, waiters_first=True
        )
    else:
        pytest.skip("shared memory needs Linux")
    made.hit("k", 6)
    return made


async def test_others_do_not_overtake_waiters(fair: RateLimiter) -> None:
    both = AsyncRateLimiter.of(fair)
    assert both.waiters_first
    with threads_waiting(fair, 10):
        assert not fair.allow("k")
        assert not await both.allow("k")
        assert fair.allow_many(["k", "free", "k"]) == [False, True, False]
        for denied in (fair.hit("k", 2), await both.hit("k", 2), fair.hit_each("k", 2)[0]):
            assert not denied.allowed
            assert denied.remaining == pytest.approx(4, abs=0.1)
            assert denied.retry_after == pytest.approx(8 * 3600, abs=60)
        assert len(await both.hit_each("k")) == 2
        assert fair.peek("k", 4).allowed
        assert fair.allow("free")
        fair.refund("k", 5)
        assert not fair.allow("k")
    assert fair.peek("k").remaining < 1  # the one that waited took all


def test_others_pass_if_there_is_enough_for_waiters_too(fair: RateLimiter) -> None:
    Stub(fair, 3).join()
    assert fair.allow("k")
    assert not fair.allow("k")
    with pytest.raises(TypeError, match="key must be str or bytes"):
        fair.allow(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cost must be a finite number"):
        fair.hit("k", -1)
    with pytest.raises(TypeError, match="key must be str or bytes"):
        fair.allow_many(["k", 5])  # type: ignore[list-item]


async def test_middleware_does_not_overtake_waiters(fair: RateLimiter) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("a denied request reaches no application")

    limited = RateLimitMiddleware(app, limiter=fair, key=lambda scope: "k")
    Stub(fair, 10).join()
    transport = httpx.ASGITransport(app=limited)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) == pytest.approx(7 * 3600, abs=60)


def test_waiters_first_is_a_switch() -> None:
    with pytest.raises(TypeError, match="waiters_first must be True or False"):
        RateLimiter("1/s", waiters_first=1)  # type: ignore[arg-type]
    assert not RateLimiter("1/s").waiters_first


# --- Other limits ---


def test_waiters_continue_with_other_limits() -> None:
    limiter = RateLimiter("1/hour")
    limiter.hit("k")
    with threads_waiting(limiter, 1, 1):
        changed = limiter.with_limits("100/second")
        wait_until(lambda: waiting(changed) == 0, "both have passed")
        assert waiting(limiter) == 0
    assert changed.stats()["allowed"] == 3
    assert not limiter.allow("k")


async def test_tasks_continue_with_other_limits() -> None:
    limiter = AsyncRateLimiter("1/hour", waiters_first=True)
    await limiter.hit("k")
    tasks = [asyncio.create_task(limiter.acquire("k")) for _ in range(3)]
    await asyncio.sleep(0)
    changed = limiter.with_limits("100/second")
    assert isinstance(changed, AsyncRateLimiter)
    assert changed.waiters_first
    assert changed.limits == (Limit(100, 100),)
    assert all(await asyncio.wait_for(asyncio.gather(*tasks), 60))


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs Linux")
def test_waiters_on_shared_memory_continue_with_other_limits(tmp_path: Path) -> None:
    store = f"shared://{tmp_path}/file"
    limiter, other = (RateLimiter("1/hour", store=store, max_keys=100) for _ in range(2))
    limiter.hit("k")
    assert limiter._lines is other._lines
    with threads_waiting(limiter, 1, 1):
        changed = limiter.with_limits("100/second")
        wait_until(lambda: waiting(changed) + waiting(limiter) == 0, "both have passed")


def test_limiters_of_one_file_have_one_line(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("shared memory needs Linux")
    store = f"shared://{tmp_path}/file"
    one, two = (RateLimiter("1/hour; burst=2", store=store, max_keys=100) for _ in range(2))
    one.hit("k", 2)
    with threads_waiting(one, 2):
        assert 2 * 3600 < refusal(two, timeout=0).retry_after <= 3 * 3600
        two.refund("k", 2)  # wakes the waiter of the other limiter
        wait_until(lambda: waiting(one) == 0, "it has passed")
