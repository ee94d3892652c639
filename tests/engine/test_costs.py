"""Costs per limit, and reservations, on every store."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import AsyncRateLimiter, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.limiting.waiting import ThreadWaiter

LIMITS = "60/day; 100000/day"

Make = Callable[..., RateLimiter]


def left(limiter: RateLimiter, key: str = "k") -> tuple[int, ...]:
    """Return the whole tokens that each limit has left; what a day refills meanwhile is less."""
    return tuple(int(one.remaining) for one in limiter.peek_each(key, 0)[1:])


# --- Costs ---


def test_each_limit_has_its_cost(make: Make, call: Callable[..., Any]) -> None:
    limiter = make(LIMITS)
    assert call(limiter, "hit", "k", (1, 1500))
    assert left(limiter) == (59, 98_500)
    assert call(limiter, "allow", "k", cost=(9, 0)) is True
    assert call(limiter, "hit_each", "k", (10, 500))[2].remaining == pytest.approx(98_000, abs=10)
    call(limiter, "charge", "k", (0, 8000))
    assert left(limiter) == (40, 90_000)
    call(limiter, "refund", "k", (10, 4000))
    assert left(limiter) == (50, 94_000)
    call(limiter, "acquire", "k", (5, 4000), 0)
    assert left(limiter) == (45, 90_000)
    assert call(limiter, "allow_many", ["k", "other"], (45, 1)) == [True, True]
    assert (left(limiter), left(limiter, "other")) == ((0, 89_999), (15, 99_999))


def test_a_cost_of_one_limit_denies_and_takes_nothing(make: Make, call: Callable[..., Any]) -> None:
    limiter = make(LIMITS)
    for method in ("hit", "peek"):
        denied = call(limiter, method, "k", (1, 100_001))
        assert (denied.allowed, denied.limit, denied.retry_after) == (False, 100_000, math.inf)
    each = call(limiter, "peek_each", "k", (1, 100_001))
    assert [one.allowed for one in each] == [False, True, False]
    with pytest.raises(RateLimitExceeded):
        call(limiter, "acquire", "k", (61, 1), 0)
    assert left(limiter) == (60, 100_000)


def test_one_limit_takes_a_tuple_of_one(make: Make, call: Callable[..., Any]) -> None:
    limiter = make("10/day")
    assert call(limiter, "hit", "k", (4,))
    assert left(limiter) == (6,)


async def test_tasks_of_one_turn_have_their_own_costs(make: Make) -> None:
    limiter = make("10/day")
    costs = ((4,), 3, (2,), (2,))
    hits = (AsyncRateLimiter.of(limiter).allow("k", one) for one in costs)
    assert await asyncio.gather(*hits) == [True, True, True, False]


@pytest.mark.parametrize(
    ("cost", "kind", "message"),
    [
        ((1,), ValueError, "one number for each limit, 2 in all, got (1,)"),
        ((1, 2, 3), ValueError, "one number for each limit, 2 in all, got (1, 2, 3)"),
        ((), ValueError, "one number for each limit, 2 in all, got ()"),
        ((1, math.nan), ValueError, "a finite number >= 0, or a tuple of them, got (1, nan)"),
        ((-1, 5), ValueError, "a finite number >= 0, or a tuple of them, got (-1, 5)"),
        ((1, math.inf), ValueError, "a finite number >= 0, or a tuple of them, got (1, inf)"),
        ((1, 10**400), ValueError, "a finite number >= 0, or a tuple of them"),
        ((1, "2"), TypeError, "a finite number >= 0, or a tuple of them, got (1, '2')"),
        ([1, 2], TypeError, "must be a number, not list"),
    ],
)
@pytest.mark.parametrize(
    "method", ["allow", "hit", "hit_each", "peek", "charge", "refund", "acquire", "allow_many"]
)
def test_bad_costs(
    make: Make, call: Callable[..., Any], method: str, cost: Any, kind: Any, message: str
) -> None:
    limiter = make(LIMITS)
    with pytest.raises(kind) as caught:
        call(limiter, method, ["k"] if method == "allow_many" else "k", cost)
    assert message in str(caught.value)
    assert left(limiter) == (60, 100_000)


def test_waiters_first_counts_each_limit(make: Make) -> None:
    limiter = make("10/day; 100/day", waiters_first=True)
    limiter.hit("k", (0, 50))

    async def run() -> None:
        waiting = AsyncRateLimiter.of(limiter)
        task = asyncio.ensure_future(waiting.acquire("k", (1, 60)))
        while not limiter._lines.costs(b"k"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert await waiting.allow("k", (9, 0)) is False  # after the waiter, 60 of 100 are missing
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await waiting.allow("k", (9, 0)) is True

    asyncio.run(run())


def test_waiting_behind_others_adds_up_each_limit() -> None:
    limiter = RateLimiter("10/second; 100/second", clock=ManualClock())
    limiter.hit("k", (10, 0))
    waiter = ThreadWaiter(limiter, b"k", (3.0, 30.0))
    waiter.thread = -1  # another one
    waiter.join()
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("k", (5, 150), 0.1)
    assert math.isinf(caught.value.retry_after)
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("k", (5, 90), 0.1)
    assert caught.value.retry_after == pytest.approx(0.8)  # 3 + 5 tokens; 30 + 90 take 0.2 s
    waiter.leave()


# --- Reservations ---


class Block:
    """Runs a block with a reservation, blocking or awaited."""

    def __init__(self, limiter: RateLimiter, is_async: bool) -> None:
        self.limiter = limiter
        self.is_async = is_async
        self.reservation: Any = None

    def __call__(self, cost: Any, body: Callable[..., Any], **options: Any) -> None:
        if self.is_async:
            asyncio.run(self._awaited(cost, body, options))
            return
        with self.limiter.reserve("k", cost, **options) as self.reservation:
            body(self.reservation.settle)

    async def _awaited(self, cost: Any, body: Callable[..., Any], options: Any) -> None:
        limiter = AsyncRateLimiter.of(self.limiter)
        async with limiter.reserve("k", cost, **options) as self.reservation:
            settling: list[Any] = []
            body(lambda used: settling.append(self.reservation.settle(used)))
            for one in settling:
                await one


@pytest.fixture(params=["with", "async with"])
def block(request: pytest.FixtureRequest, make: Make) -> Block:
    return Block(make(LIMITS), request.param == "async with")


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ((1, 700), (59, 99_300)),
        ((1, 2000), (59, 98_000)),
        ((2, 5000), (58, 95_000)),
        ((0, 3000), (60, 97_000)),
        ((0, 0), (60, 100_000)),
        (3, (57, 99_997)),
    ],
)
def test_settle(block: Block, used: Any, expected: tuple[int, int]) -> None:
    block((1, 2000), lambda settle: settle(used))
    assert left(block.limiter) == expected
    assert block.reservation.decision.allowed


def test_without_settle_the_cost_stands(block: Block) -> None:
    block((1, 2000), lambda settle: None)
    assert left(block.limiter) == (59, 98_000)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_an_exception_gives_all_back(block: Block, error: type[BaseException]) -> None:
    def fail(settle: Any) -> None:
        raise error

    with pytest.raises(error):
        block((1, 2000), fail)
    assert left(block.limiter) == (60, 100_000)


def test_an_exception_after_settle_keeps_what_was_used(make: Make) -> None:
    limiter = make(LIMITS)

    def fail(reservation: Any) -> None:
        reservation.settle((1, 500))
        raise LookupError

    with pytest.raises(LookupError), limiter.reserve("k", (1, 2000)) as reservation:
        fail(reservation)
    assert left(limiter) == (59, 99_500)


def test_a_debt_is_at_most_one_capacity(block: Block) -> None:
    block((1, 2000), lambda settle: settle((1, 10**9)))
    assert left(block.limiter) == (59, 0)
    day_s = 86_400
    assert block.limiter.peek("k").reset_after == pytest.approx(2 * day_s, abs=10)


def test_denied_at_the_beginning(block: Block) -> None:
    with pytest.raises(RateLimitExceeded) as caught:
        block((1, 100_001), lambda settle: None)
    assert (caught.value.key, math.isinf(caught.value.retry_after)) == ("k", True)
    block.limiter.hit("k", 60)
    with pytest.raises(RateLimitExceeded):
        block(1, lambda settle: None)
    assert left(block.limiter) == (0, 99_940)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_waits_for_tokens(make: Make, is_async: bool) -> None:
    fast = Block(make("100/second; burst=1"), is_async)
    fast.limiter.hit("k")
    fast(1, lambda settle: None, timeout=30)
    assert fast.reservation.decision.allowed


def test_wrong_uses_of_settle(make: Make) -> None:
    limiter = make(LIMITS)
    reservation = limiter.reserve("k", (1, 2000))
    with pytest.raises(RuntimeError, match="inside the block"):
        reservation.settle(1)
    with reservation:
        with pytest.raises(ValueError, match="2 in all, got"):
            reservation.settle((1, 2, 3))
        with pytest.raises(ValueError, match="got -1"):
            reservation.settle(-1)
        assert reservation.used is None
        reservation.settle((1, 100))
        with pytest.raises(RuntimeError, match=r"settled already, with \(1.0, 100.0\); got"):
            reservation.settle((1, 200))
    with pytest.raises(RuntimeError, match=r"settle\(\(1.0, 1.0\)\) came after the block"):
        reservation.settle(1)
    with pytest.raises(RuntimeError, match="one block"), reservation:
        pass
    assert left(limiter) == (59, 99_900)
    for bad in ({"cost": -1}, {"timeout": -1}, {"max_waiting": -1}):
        with pytest.raises(ValueError, match="-1"):
            limiter.reserve("k", **bad)


async def test_wrong_uses_of_settle_awaited(make: Make) -> None:
    limiter = AsyncRateLimiter.of(make(LIMITS))
    reservation = limiter.reserve("k", (1, 2000))
    with pytest.raises(RuntimeError, match="inside the block"):
        await reservation.settle(1)
    async with reservation:
        await reservation.settle((1, 100))
        with pytest.raises(RuntimeError, match="settled already"):
            await reservation.settle(1)
    with pytest.raises(RuntimeError, match="after the block"):
        await reservation.settle(1)
    with pytest.raises(RuntimeError, match="one block"):
        async with reservation:
            pass
    assert left(limiter._limiter) == (59, 99_900)


@pytest.mark.parametrize("at", ["body", "settle"])
def test_cancelled_tasks_lose_nothing(make: Make, at: str) -> None:
    limiter = make(LIMITS)

    async def work(settles: asyncio.Event) -> None:
        async with AsyncRateLimiter.of(limiter).reserve("k", (1, 2000)) as reservation:
            settles.set()
            if at == "settle":
                await reservation.settle((1, 500))
            await asyncio.sleep(60)

    async def run() -> None:
        inside = asyncio.Event()
        task = asyncio.ensure_future(work(inside))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert left(limiter) == ((60, 100_000) if at == "body" else (59, 99_500))


def test_a_loop_that_ends_gives_back(make: Make) -> None:
    limiter = make(LIMITS)

    async def work() -> None:
        async with AsyncRateLimiter.of(limiter).reserve("k", (1, 2000)):
            await asyncio.sleep(60)

    async def run() -> None:
        asyncio.ensure_future(work())  # noqa: RUF006 - asyncio.run cancels it
        while left(limiter) != (59, 98_000):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert left(limiter) == (60, 100_000)


def test_windows_count_whole_requests() -> None:
    limiter = RateLimiter("10/minute; window=sliding", clock=ManualClock())
    with limiter.reserve("k", 4.5) as reservation:  # takes 5
        reservation.settle(2.2)  # is 3
    assert left(limiter) == (7,)


ENDS = ("stands", "settles", "fails", "fails after settle")


@given(
    st.lists(
        st.tuples(
            st.tuples(st.integers(0, 12), st.integers(0, 120)),
            st.tuples(st.integers(0, 25), st.integers(0, 250)),
            st.sampled_from(ENDS),
        ),
        max_size=12,
    ),
    st.sampled_from(["10/second; burst=10 | 100/second", "10/hour; window=fixed | 100/hour"]),
    st.booleans(),
)
def test_never_above_and_nothing_lost(
    steps: list[tuple[Any, Any, str]], limits: str, is_async: bool
) -> None:
    """What is in use is exactly what stands or was settled, up to one capacity of debt."""
    clock = ManualClock()
    limiter = RateLimiter(limits.split(" | "), clock=clock)
    capacities = (10, 100)
    in_use = [0, 0]
    block = Block(limiter, is_async)
    for cost, used, end in steps:
        fits = all(a + b <= c for a, b, c in zip(in_use, cost, capacities, strict=True))

        def body(settle: Any, used: Any = used, end: str = end) -> None:
            if "settle" in end:
                settle(used)
            if "fails" in end and not (is_async and "settle" in end):
                raise LookupError

        try:
            block(cost, body)
            outcome = end
        except LookupError:
            outcome = end
        except RateLimitExceeded:
            assert not fits
            outcome = "denied"
        else:
            assert fits
        taken = {"denied": (0, 0), "fails": (0, 0), "stands": cost}.get(outcome, used)
        for i in (0, 1):
            in_use[i] = min(in_use[i] + taken[i], 2 * capacities[i])
        free = [max(0, c - u) for u, c in zip(in_use, capacities, strict=True)]
        assert left(limiter) == tuple(free)


def test_signatures_agree() -> None:
    for name in ("reserve",):
        of_both = [inspect.signature(getattr(one, name)) for one in (RateLimiter, AsyncRateLimiter)]
        assert of_both[0].parameters == of_both[1].parameters
