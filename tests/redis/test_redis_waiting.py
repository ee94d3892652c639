"""acquire over Redis: cancelled calls, forks, signals, waiters first, other limits, copies."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading

import pytest
from rate_limiter import AsyncRateLimiter, Limit, RateLimiter, RateLimitExceeded
from rate_limiter.limiting import late_answers
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.limiting.waiting import Waiter
from rate_limiter.stores.redis_store import RedisStore
from support.interrupts import at_each_step, interrupt
from support.redis_servers import RedisServer, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def waiting(limiter: RateLimiter, key: bytes = b"k") -> int:
    return len(limiter._lines._lines.get(key, ()))


class Stub(Waiter):
    """A waiter that never does anything."""

    blocks_thread = False

    def __init__(self, limiter: RateLimiter, cost: float) -> None:
        super().__init__(limiter, b"k", cost)
        self.thread = 0

    def wake(self) -> None:
        pass


@pytest.fixture
def limiter(server: RedisServer, request: pytest.FixtureRequest) -> RateLimiter:
    """A limiter with ten tokens and a separate bucket."""
    return RateLimiter(Limit(10, 1 / 3600), store=server.url, name=request.node.name[:60])


async def until_full(both: AsyncRateLimiter) -> None:
    """Wait until nothing is taken."""
    remaining = 0.0
    while remaining < 9.9:
        await asyncio.sleep(0.001)
        remaining = (await both.peek("k")).remaining


# --- Cancelled while Redis decides ---


@pytest.mark.parametrize("ahead", [0, 1])
async def test_cancelled_acquire_takes_nothing(limiter: RateLimiter, ahead: int) -> None:
    both = AsyncRateLimiter.of(limiter)
    if ahead:
        Stub(limiter, 1).join()
    for turns in range(12):
        task = asyncio.create_task(both.acquire("k", 2, timeout=0))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.cancel():
            break
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_full(both)
        assert waiting(limiter) == ahead
    assert turns > 1


async def test_cancelled_while_redis_is_silent(server: RedisServer, limiter: RateLimiter) -> None:
    both = AsyncRateLimiter.of(limiter)
    await both.peek("k")
    server.pause()
    try:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(both.acquire("k"), 0.05)
    finally:
        server.resume()
    await until_full(both)


def test_asyncio_run_gives_back_before_it_closes_the_loop(
    limiter: RateLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_answers, "GRACE_S", 60)  # a busy machine answers late

    async def cancel() -> None:
        task = asyncio.create_task(AsyncRateLimiter.of(limiter).acquire("k"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(cancel())
    assert limiter.peek("k").remaining == pytest.approx(10, abs=0.01)


async def test_one_behind_gets_what_is_given_back(server: RedisServer) -> None:
    both = AsyncRateLimiter("1/hour", store=server.url, name="behind")
    first = asyncio.create_task(both.acquire("k"))
    second = asyncio.create_task(both.acquire("k"))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    assert (await asyncio.wait_for(second, 60)).allowed


# --- Forks and signals ---


def test_forked_child_has_empty_lines(limiter: RateLimiter) -> None:
    limiter.hit("k", 10)
    thread = threading.Thread(target=limiter.acquire, args=("k",), daemon=True)
    thread.start()
    wait_until(lambda: waiting(limiter) == 1, "it waits")
    child = multiprocessing.get_context("fork").Process(target=pass_in_child, args=(limiter,))
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
    limiter.reset("k")
    thread.join(60)
    assert not thread.is_alive()


def pass_in_child(limiter: RateLimiter) -> None:
    """Check in a child that its first caller is the first. The child exits with 0 then."""
    assert waiting(limiter) == 0
    limiter.reset("k")
    assert limiter.acquire("k", timeout=1800).allowed


def test_signal_handler_that_raises_leaves_no_waiter(limiter: RateLimiter) -> None:
    ends = []
    for has_ended in at_each_step(lambda: limiter.acquire("k"), interrupt):
        assert waiting(limiter) == 0
        limiter.reset("k")
        ends.append(has_ended)
    assert len(ends) > 20
    assert not all(ends)


def test_signal_handler_may_use_the_limiter(limiter: RateLimiter) -> None:
    def use() -> None:
        limiter.refund("k")
        limiter.acquire("k")
        limiter.reset("k")

    for has_ended in at_each_step(lambda: limiter.acquire("k"), use):
        assert has_ended
        assert waiting(limiter) == 0


def test_signal_handler_that_raises_in_a_task(limiter: RateLimiter) -> None:
    both = AsyncRateLimiter.of(limiter)

    async def work() -> None:
        task = asyncio.create_task(both.acquire("k", 10))
        await task

    for _ in at_each_step(lambda: asyncio.run(work()), interrupt):
        # CPython 3.10 may leave a task behind on the closed loop, which does not block others.
        assert limiter._lines.costs(b"k") == []
        limiter.reset("k")


# --- Waiters first, and order ---


async def test_others_do_not_overtake_waiters(server: RedisServer) -> None:
    limiter = RateLimiter(Limit(10, 1 / 3600), store=server.url, name="fair", waiters_first=True)
    both = AsyncRateLimiter.of(limiter)
    limiter.hit("k", 6)
    Stub(limiter, 3).join()
    assert limiter.allow("k")
    assert not limiter.allow("k")
    assert not await both.allow("k")
    assert limiter.allow_many(["k", "free", "k"]) == [False, True, False]
    assert await both.allow_many(["k", "free", "k"]) == [False, True, False]
    for denied in (limiter.hit("k"), await both.hit("k"), limiter.hit_each("k")[0]):
        assert not denied.allowed
        assert denied.retry_after == pytest.approx(3600, abs=60)
    assert len(await both.hit_each("k")) == 2
    assert (await both.acquire("free")).allowed
    with pytest.raises(TypeError, match="key must be str or bytes"):
        await both.allow(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cost must be a finite number"):
        limiter.allow("k", -1)


def test_refusal_counts_those_ahead(limiter: RateLimiter) -> None:
    limiter.hit("k", 10)
    Stub(limiter, 5).join()
    for refuse in (
        lambda: limiter.acquire("k", timeout=4 * 3600),
        lambda: limiter.acquire("k", max_waiting=1),
        lambda: asyncio.run(AsyncRateLimiter.of(limiter).acquire("k", timeout=0)),
    ):
        with pytest.raises(RateLimitExceeded) as caught:
            refuse()
        assert caught.value.decision is not None
        assert not caught.value.decision.allowed
        assert caught.value.retry_after == pytest.approx(6 * 3600, abs=60)


async def test_limiters_with_the_same_buckets_have_one_line(server: RedisServer) -> None:
    one, two = (AsyncRateLimiter("1/hour", store=server.url, name="line") for _ in range(2))
    await one.hit("k")
    task = asyncio.create_task(one.acquire("k"))
    wait = asyncio.create_task(two.acquire("k"))
    await asyncio.sleep(0.01)
    await two.reset("k")
    assert (await asyncio.wait_for(task, 60)).allowed
    await two.reset("k")
    assert (await asyncio.wait_for(wait, 60)).allowed


async def test_waiters_continue_with_other_limits(server: RedisServer) -> None:
    both = AsyncRateLimiter("1/hour", store=server.url, name="changed")
    await both.hit("k")
    tasks = [asyncio.create_task(both.acquire("k")) for _ in range(2)]
    await asyncio.sleep(0.01)
    changed = both.with_limits("60/hour; burst=120")
    assert all(await asyncio.wait_for(asyncio.gather(*tasks), 60))
    # It was to be full in an hour, so it had 60 of 120.
    assert (await changed.peek("k")).remaining == pytest.approx(58, abs=1)


async def test_slow_limit_that_becomes_fast(server: RedisServer) -> None:
    """What is missing was to take an hour. It is at most twice the new capacity."""
    both = AsyncRateLimiter("1/hour", store=server.url, name="fast")
    await both.hit("k")
    task = asyncio.create_task(both.acquire("k"))
    await asyncio.sleep(0.01)
    changed = both.with_limits("100/second")
    assert (await asyncio.wait_for(task, 60)).allowed
    assert (await asyncio.wait_for(changed.acquire("k"), 60)).allowed


# --- Copies ---


def test_limiter_is_made_again(server: RedisServer) -> None:
    store = RedisStore(server.url, "copies", on_store_error="raise")
    limiter = RateLimiter("5/hour", store=store, name="login", max_keys=9, waiters_first=True)
    limiter.hit("k", 2)
    changed = limiter.with_limits("6/hour")
    for one in (limiter, changed):
        for made in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
            assert type(made) is RedisRateLimiter
            assert made.limits == one.limits
            assert made.redis_keys("k") == limiter.redis_keys("k")
            assert made.store.on_store_error == "raise"
            assert made.store.connection is store.connection
            assert made.waiters_first
            assert made.peek("k").remaining == pytest.approx(one.peek("k").remaining, abs=0.1)
    exact = RedisRateLimiter("5/hour", store=store, exact_prefix="x:", min_ttl_s=60)
    assert pickle.loads(pickle.dumps(exact)).redis_keys("k") == (b"x:k",)
    both = pickle.loads(pickle.dumps(AsyncRateLimiter("5/hour", store=server.url)))
    assert asyncio.run(both.hit("copied")).allowed


def hit(limiter: RateLimiter) -> None:
    """Take a token in another process."""
    limiter.hit("k")


def test_limiter_goes_to_a_spawned_process(limiter: RateLimiter) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hit, args=(limiter,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert limiter.peek("k").remaining == pytest.approx(9, abs=0.01)
