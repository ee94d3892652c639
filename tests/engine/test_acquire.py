"""acquire: waiting for tokens in order of arrival, with threads and with tasks."""

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable

import pytest
from rate_limiter import AsyncRateLimiter, ManualClock, RateLimiter, RateLimitExceeded


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after a minute."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def waiting(limiter: RateLimiter, key: bytes = b"k") -> int:
    return len(limiter._lines._lines.get(key, ()))


def start(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


# --- what both do ----------------------------------------------------------------------------


def test_passes_at_once_while_there_are_tokens() -> None:
    limiter = RateLimiter("3/minute", clock=ManualClock())
    assert [limiter.acquire("k").remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(RateLimitExceeded):
        limiter.acquire("k", timeout=0)
    assert limiter._lines._lines == {}


def test_waits_as_long_as_it_must() -> None:
    limiter = RateLimiter("20/second; burst=1")
    begin_s = time.monotonic()
    for _ in range(3):
        assert limiter.acquire("k").allowed
    assert time.monotonic() - begin_s >= 0.1


async def test_waits_as_long_as_it_must_async() -> None:
    limiter = AsyncRateLimiter("20/second; burst=1")
    begin_s = time.monotonic()
    for _ in range(3):
        assert (await limiter.acquire("k")).allowed
    assert time.monotonic() - begin_s >= 0.1


def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    limiter = RateLimiter("1/minute")
    limiter.acquire("k")
    begin_s = time.monotonic()
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("k", timeout=30)
    assert time.monotonic() - begin_s < 10
    assert caught.value.key == "k"
    assert 50 < caught.value.retry_after <= 60
    assert "retry after" in str(caught.value)


@pytest.mark.parametrize(("limit", "cost"), [("5/second", 6), ("0/second; burst=1", 1)])
def test_what_never_passes_is_refused_at_once(limit: str, cost: int) -> None:
    limiter = RateLimiter(limit)
    limiter.hit("k")
    with pytest.raises(RateLimitExceeded, match="can never pass") as caught:
        limiter.acquire("k", cost)
    assert math.isinf(caught.value.retry_after)


@pytest.mark.parametrize("timeout", [-1, -math.inf, math.nan])
def test_bad_timeout(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, got"):
        RateLimiter("1/s").acquire("k", timeout=timeout)


def test_bad_arguments_leave_no_line() -> None:
    limiter = RateLimiter("1/s")
    with pytest.raises(TypeError, match="key must be str or bytes, not int"):
        limiter.acquire(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cost must be a finite number"):
        limiter.acquire("k", -1)
    assert limiter._lines._lines == {}


def test_infinite_timeout_is_none() -> None:
    limiter = RateLimiter("50/second; burst=1")
    limiter.acquire("k")
    assert limiter.acquire("k", timeout=math.inf)


def test_coarse_clock() -> None:
    limiter = RateLimiter("100/second; burst=1", clock="coarse")
    begin_s = time.monotonic()
    for _ in range(4):
        limiter.acquire("k")
    assert time.monotonic() - begin_s > 0.02


# --- order -----------------------------------------------------------------------------------


def test_threads_pass_in_order_of_arrival() -> None:
    limiter = RateLimiter("50/second; burst=1")
    limiter.acquire("k")
    order: list[int] = []

    def wait(number: int) -> None:
        # A small request behind a large one does not overtake it.
        limiter.acquire("k", 1 if number % 2 == 0 else 0.1)
        order.append(number)

    threads = []
    for number in range(6):
        threads.append(start(lambda number=number: wait(number)))  # type: ignore[misc]
        eventually(lambda number=number: len(order) > 0 or waiting(limiter) > number)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == sorted(order)
    assert limiter._lines._lines == {}


async def test_tasks_pass_in_order_of_arrival() -> None:
    limiter = AsyncRateLimiter("100/second; burst=1")
    await limiter.acquire("k")
    order: list[int] = []

    async def wait(number: int) -> None:
        await limiter.acquire("k")
        order.append(number)

    await asyncio.gather(*(wait(number) for number in range(10)))
    assert order == list(range(10))


async def test_other_keys_do_not_wait() -> None:
    limiter = AsyncRateLimiter("1/hour")
    await limiter.acquire("busy")
    waiter = asyncio.create_task(limiter.acquire("busy"))
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(limiter.acquire("free"), 60)).allowed
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


def test_str_and_bytes_stand_in_one_line() -> None:
    limiter = RateLimiter("1/hour")
    limiter.acquire("é")
    thread = start(lambda: limiter.acquire("é".encode()))
    eventually(lambda: waiting(limiter, "é".encode()) == 1)
    limiter.reset("é")
    thread.join(60)
    assert not thread.is_alive()


# --- leaving a line --------------------------------------------------------------------------


async def test_cancelled_waiter_takes_nothing_and_delays_no_other() -> None:
    clock = ManualClock()
    limiter = AsyncRateLimiter("1/hour; burst=2", clock=clock)
    await limiter.acquire("k", 2)
    first, second, third = (asyncio.create_task(limiter.acquire("k", cost)) for cost in (2, 1, 1))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    clock.advance(3600)  # enough for the third, but it is the first one's turn
    first.cancel()
    assert (await asyncio.wait_for(third, 60)).remaining == 0
    assert first.cancelled()
    assert second.cancelled()
    assert (await limiter.peek("k")).remaining == 0
    assert limiter._limiter._lines._lines == {}


def test_timed_out_waiter_lets_the_next_one_pass() -> None:
    limiter = RateLimiter("1/hour; burst=2")
    limiter.acquire("k", 2)
    results: list[bool] = []

    def wait(cost: float, timeout: float | None) -> None:
        try:
            results.append(limiter.acquire("k", cost, timeout).allowed)
        except RateLimitExceeded:
            results.append(False)

    head = start(lambda: wait(2, None))
    eventually(lambda: waiting(limiter) == 1)
    behind = start(lambda: wait(1, 0.02))
    eventually(lambda: results == [False])
    last = start(lambda: wait(1, None))
    eventually(lambda: waiting(limiter) == 2)
    limiter.refund("k", 2)
    eventually(lambda: results == [False, True])
    limiter.refund("k", 1)
    for thread in (head, behind, last):
        thread.join(60)
    assert results == [False, True, True]


async def test_asyncio_timeout_around_acquire() -> None:
    limiter = AsyncRateLimiter("1/hour")
    await limiter.acquire("k")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(limiter.acquire("k"), 0.02)
    await limiter.reset("k")
    assert (await limiter.acquire("k")).allowed


def test_exception_in_a_sleeping_thread_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, seconds: float) -> None:
        raise KeyboardInterrupt

    limiter = RateLimiter("1/hour")
    limiter.acquire("k")
    monkeypatch.setattr("rate_limiter.limiting.waiting.ThreadWaiter.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire("k")
    assert limiter._lines._lines == {}


def test_tasks_of_a_closed_loop_do_not_block_the_line() -> None:
    limiter = AsyncRateLimiter("1/hour")

    async def abandon() -> asyncio.Task[object]:
        await limiter.acquire("k")
        task: asyncio.Task[object] = asyncio.create_task(limiter.acquire("k"))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(abandon())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def next_one() -> bool:
        waiter = asyncio.create_task(limiter.acquire("k"))
        await asyncio.sleep(0)
        await limiter.reset("k")
        return (await asyncio.wait_for(waiter, 60)).allowed

    assert asyncio.run(next_one())
    del task
    gc.collect()
    assert limiter._limiter._lines._lines == {}


# --- being woken -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "refund"])
def test_reset_and_refund_wake_the_first_in_line(how: str) -> None:
    limiter = RateLimiter("1/hour")
    limiter.acquire("k")
    thread = start(lambda: limiter.acquire("k"))
    eventually(lambda: waiting(limiter) == 1)
    getattr(limiter, how)("k")
    thread.join(60)
    assert not thread.is_alive()
    assert not limiter.allow("k")


def test_one_line_for_threads_and_event_loops() -> None:
    limiter = AsyncRateLimiter("100/second; burst=1")
    passed: list[int] = []

    async def some() -> None:
        await asyncio.gather(*(limiter.acquire("k") for _ in range(5)))
        passed.append(5)

    loops = [start(lambda: asyncio.run(some())) for _ in range(3)]
    for _ in range(5):
        limiter._limiter.acquire("k")
    for thread in loops:
        thread.join(60)
    assert passed == [5, 5, 5]
    assert limiter.stats()["allowed"] == 20
