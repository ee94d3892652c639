"""Waiters that vanish: closed and stopped loops, forks, signals, cancelled tasks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.limiting import waiting as waiting_module
from rate_limiter.limiting.waiting import ThreadWaiter
from support.interrupts import Interrupted, at_each_step, interrupt
from support.redis_servers import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

FORK = multiprocessing.get_context("fork")


def waiting(limiter: RateLimiter, key: bytes = b"k") -> int:
    return len(limiter._lines._lines.get(key, ()))


def wait_for(limiter: RateLimiter, count: int) -> None:
    wait_until(lambda: waiting(limiter) == count, f"{count} wait")


@contextmanager
def thread_waiting(limiter: RateLimiter) -> Iterator[threading.Thread]:
    """Let a thread wait for the key; it passes at the end."""
    before = waiting(limiter)
    thread = threading.Thread(target=limiter.acquire, args=("k",), daemon=True)
    thread.start()
    wait_for(limiter, before + 1)
    yield thread
    limiter.reset("k")
    thread.join(60)
    assert not thread.is_alive()


@contextmanager
def signal_when(condition: Callable[[], bool], delay_s: float = 0) -> Iterator[None]:
    """Send SIGUSR1 to the main thread when a condition holds, until the block ends.

    CPython handles one that arrives just before a thread blocks only after the next.
    """
    is_over = threading.Event()

    def send() -> None:
        wait_until(condition, "a signal is due")
        time.sleep(delay_s)
        while not is_over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            is_over.wait(0.01)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def leave_a_task(limiter: AsyncRateLimiter) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.create_task(limiter.acquire("k"))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    return task


# --- Loops that do not run ---


@pytest.fixture
def stopped() -> Iterator[tuple[AsyncRateLimiter, asyncio.AbstractEventLoop, asyncio.Task[Any]]]:
    """A limiter without tokens, and a stopped loop with a task that waits for them."""
    limiter = AsyncRateLimiter("1/hour")
    limiter._limiter.hit("k")
    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(leave_a_task(limiter))
    assert waiting(limiter._limiter) == 1
    yield limiter, loop, task
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.parametrize("how", ["closed", "stopped"])
def test_task_of_a_loop_that_does_not_run_is_not_ahead(stopped: Any, how: str) -> None:
    limiter, loop, task = stopped
    if how == "closed":
        loop.close()
    limiter._limiter.reset("k")
    assert asyncio.run(asyncio.wait_for(limiter.acquire("k"), 60)).allowed
    limiter._limiter.reset("k")
    assert limiter._limiter.acquire("k", timeout=60).allowed
    assert not task.done()
    assert waiting(limiter._limiter) == 0


def test_task_of_a_stopped_loop_joins_again_when_it_runs(stopped: Any) -> None:
    limiter, loop, task = stopped
    with pytest.raises(RateLimitExceeded):
        limiter._limiter.acquire("k", timeout=0)
    assert waiting(limiter._limiter) == 0
    limiter._limiter.reset("k")
    assert loop.run_until_complete(asyncio.wait_for(task, 60)).allowed


@pytest.mark.parametrize("how", ["closed", "stopped"])
def test_loop_that_ends_while_a_thread_waits_behind(
    stopped: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "LONGEST_SLEEP_BEHIND_S", 0.01)
    limiter, loop, task = stopped
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    wait_until(loop.is_running, "the loop runs")
    thread = threading.Thread(target=limiter._limiter.acquire, args=("k",), daemon=True)
    thread.start()
    wait_for(limiter._limiter, 2)
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
    if how == "closed":
        loop.close()
    wait_for(limiter._limiter, 1)
    limiter._limiter.reset("k")
    thread.join(60)
    assert not thread.is_alive()
    assert not task.done()


# --- Forks ---


@pytest.fixture(params=["memory", "shared"])
def limiter(request: pytest.FixtureRequest, tmp_path: Path) -> RateLimiter:
    """A limiter without tokens."""
    if request.param == "memory":
        made = RateLimiter("1/hour")
    elif sys.platform == "linux":
        made = RateLimiter("1/hour", store=f"shared://{tmp_path}/file", max_keys=100)
    else:
        pytest.skip("shared memory needs Linux")
    made.hit("k")
    return made


def pass_in_child(limiter: RateLimiter) -> None:
    """Check in a child that its first caller is the first. The child exits with 0 then."""
    assert waiting(limiter) == 0
    limiter.reset("k")
    assert limiter.acquire("k", timeout=1800).allowed
    limiter.reset("k")
    assert asyncio.run(AsyncRateLimiter.of(limiter).acquire("k", timeout=1800)).allowed


def run_in_child(limiter: RateLimiter) -> int | None:
    child = FORK.Process(target=pass_in_child, args=(limiter,))
    child.start()
    child.join(60)
    child.kill()
    return child.exitcode


def test_forked_child_has_empty_lines(limiter: RateLimiter) -> None:
    with thread_waiting(limiter):
        assert run_in_child(limiter) == 0


def test_forked_child_has_a_separate_lock(limiter: RateLimiter) -> None:
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with waiting_module._lock:
            is_held.set()
            is_over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    child = FORK.Process(target=pass_in_child, args=(limiter,))
    child.start()
    child.join(60)
    is_over.set()
    thread.join()
    child.kill()
    assert child.exitcode == 0


async def test_worker_of_a_process_pool_does_not_wait_for_tasks_of_its_parent(
    limiter: RateLimiter,
) -> None:
    task = await leave_a_task(AsyncRateLimiter.of(limiter))
    _limiters.append(limiter)  # the worker inherits it: a limiter in memory cannot be pickled
    try:
        with ProcessPoolExecutor(1, mp_context=FORK) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.run_in_executor(pool, _pass_in_worker), 60)
    finally:
        _limiters.clear()
    limiter.reset("k")
    assert (await asyncio.wait_for(task, 60)).allowed


_limiters: list[RateLimiter] = []


def _pass_in_worker() -> None:
    pass_in_child(_limiters[0])


def test_caller_that_forks_while_it_waits_continues_in_both(limiter: RateLimiter) -> None:
    pids: list[int] = []
    begun: list[bool] = []  # the signal comes again while a slow machine forks
    allowed = False

    def fork(number: int, frame: object) -> None:
        if not begun:
            begun.append(True)
            pids.append(os.fork())
            limiter.reset("k")

    before = signal.signal(signal.SIGUSR1, fork)
    with signal_when(lambda: waiting(limiter) == 1):
        try:
            allowed = limiter.acquire("k").allowed
            limiter.reset("k")  # in shared memory the two may have reset before either took
        finally:
            if 0 in pids:  # the child, which does not leave the block: it has no other threads
                os._exit(0 if allowed and waiting(limiter) == 0 else 1)
    signal.signal(signal.SIGUSR1, before)
    assert os.waitpid(pids[0], 0)[1] == 0


# --- Signals ---


def assert_idle(limiter: RateLimiter, others: int = 0) -> None:
    assert waiting(limiter) == others
    assert not waiting_module._lock._is_owned()  # type: ignore[attr-defined]


def test_signal_handler_that_raises_leaves_no_waiter() -> None:
    limiter = RateLimiter("300/second; burst=1")
    ends = []
    for has_ended in at_each_step(lambda: limiter.acquire("k", 0.9), interrupt):
        assert_idle(limiter)
        ends.append(has_ended)
    assert len(ends) > 30
    assert not all(ends)


def test_signal_handler_that_raises_in_one_that_waits_behind() -> None:
    limiter = RateLimiter("1/hour")
    limiter.hit("k")

    def refused() -> None:
        with pytest.raises(RateLimitExceeded):
            limiter.acquire("k", timeout=0)

    with thread_waiting(limiter):
        ends = []
        for has_ended in at_each_step(refused, interrupt):
            assert_idle(limiter, others=1)
            ends.append(has_ended)
    assert len(ends) > 30


def test_signal_handler_that_raises_in_a_task() -> None:
    limiter = AsyncRateLimiter("300/second; burst=1")

    def work() -> None:
        asyncio.run(limiter.acquire("k", 0.9))

    ends = []
    for has_ended in at_each_step(work, interrupt):
        assert_idle(limiter._limiter)
        ends.append(has_ended)
    assert len(ends) > 30


def test_signals_at_random_times() -> None:
    limiter = RateLimiter("1/hour")
    limiter.hit("k")
    handled = 0

    def raise_once(number: int, frame: object) -> None:
        nonlocal handled
        if handled == i:
            handled += 1
            raise Interrupted

    def acquire(due: threading.Event) -> None:
        due.set()
        limiter.acquire("k")

    before = signal.signal(signal.SIGUSR1, raise_once)
    try:
        for i in range(100):
            due = threading.Event()
            with signal_when(due.is_set, 1e-6 * (i % 50)), pytest.raises(Interrupted):
                acquire(due)
            assert_idle(limiter)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signal_handler_may_use_the_limiter() -> None:
    limiter = RateLimiter("300/second; burst=1")

    def use() -> None:
        limiter.refund("k", 0.1)
        limiter.acquire("k", 0.9)  # goes ahead of the one that it interrupts
        limiter.reset("k")
        limiter.allow("k", 0.5)

    for has_ended in at_each_step(lambda: limiter.acquire("k"), use):
        assert has_ended
        assert_idle(limiter)


def test_blocking_caller_goes_ahead_of_tasks_of_its_thread() -> None:
    limiter = RateLimiter("300/second; burst=1")
    limiter.hit("k")

    async def block() -> bool:
        task = asyncio.create_task(leave_a_task(AsyncRateLimiter.of(limiter)))
        await asyncio.sleep(0)
        limiter.acquire("k")
        await (await task)
        return True

    assert asyncio.run(block())


# --- Sleeping ---


def test_no_sleep_is_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless one is None for a lock: TIMEOUT_MAX is too much for eventlet."""
    limiter = RateLimiter("1/day")
    limiter.hit("k")
    times: list[float | None] = []

    def sleep(self: ThreadWaiter, seconds: float | None) -> None:
        times.append(seconds)
        limiter.reset("k")

    monkeypatch.setattr(ThreadWaiter, "sleep", sleep)
    limiter.acquire("k")
    assert times == [waiting_module.LONGEST_SLEEP_S]


def test_sleep_without_limit() -> None:
    waiter = ThreadWaiter(RateLimiter("1/s"))
    timer = threading.Timer(0.01, waiter.wake)
    timer.start()
    waiter.sleep(None)
    waiter.wake()
    waiter.wake()
    waiter.sleep(None)
    began_s = time.monotonic()
    waiter.sleep(0.01)
    assert time.monotonic() - began_s >= 0.009


# --- Cancelled tasks ---


@pytest.mark.parametrize("ahead", [0, 1])
async def test_cancelled_at_each_step(ahead: int) -> None:
    clock = ManualClock()
    limiter = AsyncRateLimiter("1/hour; burst=2", clock=clock)
    await limiter.hit("k", 2)
    others = [asyncio.create_task(limiter.acquire("k", 2)) for _ in range(ahead)]
    for turns in range(6):
        task = asyncio.create_task(limiter.acquire("k"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting(limiter._limiter) == ahead
    await limiter.reset("k")
    await asyncio.gather(*others)
    assert waiting(limiter._limiter) == 0
    assert (await limiter.peek("k")).remaining == 2 - 2 * ahead
