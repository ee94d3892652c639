"""hit_all: several limiters in one step, on every store."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import (
    AsyncRateLimiter,
    Decisions,
    ManualClock,
    RateLimiter,
    StoreError,
    hit_all,
    hit_all_async,
)
from rate_limiter._core import Meter, take_all
from rate_limiter.limiting.given_limits import given_limits
from rate_limiter.stores.redis_store import RedisStore
from support.redis_servers import RedisServer, redis_cluster

Make = Callable[..., RateLimiter]
Call = Callable[..., Decisions]


@pytest.fixture(params=["threads", "tasks"])
def call(request: pytest.FixtureRequest) -> Call:
    """Return hit_all, or a function that awaits hit_all_async with AsyncRateLimiters."""
    if request.param == "threads":
        return hit_all

    async def awaited(items: Any) -> Decisions:
        return await hit_all_async([(AsyncRateLimiter.of(one), *rest) for one, *rest in items])

    return lambda items: asyncio.run(awaited(items))


def left(limiter: RateLimiter, key: str) -> tuple[int, ...]:
    return tuple(int(one.remaining) for one in limiter.peek_each(key, 0)[1:])


@pytest.mark.parametrize("kind", ["", "; window=fixed", "; window=sliding"])
def test_all_or_nothing(make: Make, call: Call, kind: str) -> None:
    per_user, per_tenant = make(f"3/day{kind}", "user"), make(f"5/day{kind}", "tenant")
    decisions = call([(per_user, "u"), (per_tenant, "t")])
    assert decisions
    assert [int(one.remaining) for one in decisions] == [2, 4]
    assert (decisions.allowed, decisions.denied, decisions.retry_after) == (True, (), 0)
    decisions = call([(per_user, "u", 2), (per_tenant, "t", 2)])
    assert decisions
    decisions = call([(per_user, "other"), (per_user, "u"), (per_tenant, "t")])
    assert not decisions
    assert [one.allowed for one in decisions] == [True, False, True]
    assert (decisions.allowed, decisions.denied) == (False, (1,))
    assert 0 < decisions.retry_after == decisions[1].retry_after < math.inf
    assert (left(per_user, "u"), left(per_user, "other"), left(per_tenant, "t")) == (
        (0,),
        (3,),
        (2,),
    )
    assert not call([(per_tenant, "t", 3)])
    assert call([(per_tenant, "t", 2)])


def test_costs_of_several_limits(make: Make, call: Call) -> None:
    tokens, calls = make("10/day; 1000/day", "tokens"), make("5/day; window=fixed", "calls")
    assert call([(tokens, "k", (1, 900)), (calls, "k", 2)])
    assert (left(tokens, "k"), left(calls, "k")) == ((9, 100), (3,))
    decisions = call([(tokens, "k", (1, 101)), (calls, "k", 4)])
    assert (decisions.denied, decisions[0].limit, decisions[1].limit) == ((0, 1), 1000, 5)
    assert math.isinf(call([(tokens, "k", (11, 1))]).retry_after)


def test_a_key_twice_counts_twice(make: Make, call: Call) -> None:
    limiter = make("3/day; 100/day; window=fixed")
    assert not call([(limiter, "k", 2), (limiter, "k", 2)])
    assert left(limiter, "k") == (3, 100)
    assert call([(limiter, "k", 1), (limiter, "k", 2)])
    assert left(limiter, "k") == (0, 97)


def test_two_limiters_with_the_same_buckets(make: Make, call: Call) -> None:
    one, other = make("3/day"), make("3/day")
    shares = type(one).__name__ == "RedisRateLimiter" or one._path is not None
    assert bool(call([(one, "k", 2), (other, "k", 2)])) is not shares
    assert call([(one, "k", 1), (other, "k", 1)])
    assert left(one, "k") == ((1,) if shares else (0,))


def test_a_blocked_key_denies_all(make: Make, call: Call) -> None:
    per_user, per_tenant = make("3/day", "user"), make("5/day; 9/day", "tenant")
    per_tenant.block("t", 1000)
    decisions = call([(per_user, "u"), (per_tenant, "t")])
    assert decisions.denied == (1,)
    assert decisions.retry_after == pytest.approx(1000, abs=30)
    assert left(per_user, "u") == (3,)


def test_waiters_are_not_overtaken(make: Make) -> None:
    first, other = make("3/day", "a", waiters_first=True), make("5/day", "b")
    first.hit("k", 2)

    async def run() -> None:
        task = asyncio.ensure_future(AsyncRateLimiter.of(first).acquire("k", 2))
        while not first._lines.costs(b"k"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for decisions in (await hit_all_async([(other, "k"), (first, "k")]),):
            assert decisions.denied == (1,)
        assert hit_all([(other, "k"), (first, "k")]).denied == (1,)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert left(other, "k") == (5,)
    assert hit_all([(other, "k"), (first, "k")])


def test_meters_count(make: Make, call: Call) -> None:
    limiters = make("1/day", "a"), make("5/day", "b")
    meters = Meter(), Meter()
    for limiter, meter in zip(limiters, meters, strict=True):
        limiter._measure(meter)
    assert call([(one, "k") for one in limiters])
    assert not call([(one, "k") for one in limiters])
    counts = [tuple(map(sum, meter.read()[:2])) for meter in meters]
    assert counts == [(1, 1), (1, 0)]


def test_threads_never_exceed(make: Make) -> None:
    one, other = make("50/day", "a"), make("80/day", "b")
    passed = []

    def work(items: Any) -> None:
        passed.extend(bool(hit_all(items)) for _ in range(40))

    orders = [[(one, "k"), (other, "k")], [(other, "k"), (one, "k")]]
    threads = [threading.Thread(target=work, args=(orders[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed.count(True) == 50
    assert (left(one, "k"), left(other, "k")) == ((0,), (30,))


def test_stats_count_the_denial_where_it_was(make: Make, call: Call) -> None:
    one, other = make("1/day"), make("5/day")
    call([(one, "k"), (other, "k")])
    call([(one, "k"), (other, "k")])
    counts = [(s["allowed"], s["denied"]) for s in (one.stats(), other.stats())]
    assert counts == [(1, 1), (1, 0)]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 4)),
            min_size=1,
            max_size=4,
        ),
        max_size=15,
    )
)
def test_exact_in_memory(steps: list[list[tuple[int, str, int]]]) -> None:
    limiters = [
        RateLimiter("6/second", clock=ManualClock()),
        RateLimiter("9/hour; window=sliding", clock=ManualClock()),
    ]
    used = {(i, key): 0 for i in (0, 1) for key in "ab"}
    for step in steps:
        after = dict(used)
        for i, key, cost in step:
            after[i, key] += cost
        fits = all(after[i, key] <= (6, 9)[i] for i, key, _ in step)
        assert hit_all((limiters[i], key, cost) for i, key, cost in step).allowed is fits
        used = after if fits else used
        for (i, key), count in used.items():
            assert left(limiters[i], key) == ((6, 9)[i] - count,)


# --- What does not fit ---


@pytest.mark.parametrize(
    ("items", "kind", "message"),
    [
        ([], ValueError, "1 to 32 items, got 0"),
        ([()], TypeError, "item 0 must be a tuple (limiter, key) or (limiter, key, cost), got ()"),
        (["k"], TypeError, "item 0 must be a tuple"),
        ([("memory", "k")], TypeError, "item 0 must begin with a RateLimiter, got 'memory'"),
        ([(RateLimiter("1/day"), 5)], TypeError, "key must be str or bytes, not int"),
        ([(RateLimiter("1/day"), "k", -1)], ValueError, "finite number >= 0, got -1"),
        ([(RateLimiter("1/day"), "k", (1, 2))], ValueError, "1 in all, got (1, 2)"),
        ([(RateLimiter("1/day"), "k")] * 33, ValueError, "1 to 32 items, got 33"),
    ],
)
async def test_bad_items(items: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        hit_all(items)
    assert message in str(caught.value)
    with pytest.raises(kind) as caught:
        await hit_all_async(items)
    assert message in str(caught.value)


def test_limiters_that_do_not_fit_together(server: RedisServer) -> None:
    on_redis = RateLimiter("5/day", store=server.url, on_store_error="raise")
    with pytest.raises(ValueError, match="item 1 is in memory, others in Redis"):
        hit_all([(on_redis, "k"), (RateLimiter("5/day"), "k")])
    other = RateLimiter("5/day", store="redis://127.0.0.1:1", on_store_error="raise")
    with pytest.raises(ValueError, match="limiters of one Redis: item 1 uses"):
        hit_all([(on_redis, "k"), (other, "k")])
    lenient = RateLimiter("5/day", store=server.url, on_store_error="allow")
    with pytest.raises(ValueError, match="item 1 has 'allow', item 0 'raise'"):
        hit_all([(on_redis, "k"), (lenient, "k")])
    with pytest.raises(ValueError, match="at most 8 limits in all, got 9"):
        hit_all([(on_redis, str(i)) for i in range(9)])
    assert on_redis.peek("k").remaining == 5


@pytest.mark.parametrize("policy", ["memory", "allow", "deny", "raise"])
def test_without_redis(call: Call, policy: str) -> None:
    store = "redis://127.0.0.1:1"
    one = RateLimiter("1/day", store=store, on_store_error=policy)
    other = RateLimiter("5/day", store=store, on_store_error=policy)
    items = [(other, "k"), (one, "k")]
    if policy == "raise":
        with pytest.raises(StoreError):
            call(items)
        return
    assert bool(call(items)) is (policy != "deny")
    decisions = call(items)
    assert bool(decisions) is (policy == "allow")
    assert decisions.denied == {"memory": (1,), "allow": (), "deny": (0, 1)}[policy]
    assert all(one.store_unavailable for one in decisions) is (policy != "memory")


def test_a_cluster_needs_one_slot(tmp_path: Path, call: Call) -> None:
    with redis_cluster(tmp_path) as cluster:
        store = RedisStore(cluster.url, on_store_error="raise")
        one, other = (RateLimiter(f"{n}/day", store=store) for n in (3, 5))
        assert call([(one, "same"), (other, "same")])
        with pytest.raises(ValueError, match=r"all keys in one slot.*\{ratelimit\}"):
            call([(one, "user"), (other, "tenant")])
        braces = RedisStore(cluster.url, prefix="{ratelimit}", on_store_error="raise")
        one, other = (RateLimiter(f"{n}/day", store=braces) for n in (1, 5))
        assert call([(one, "user"), (other, "tenant")])
        assert call([(one, "user"), (other, "tenant")]).denied == (0,)
        assert left(other, "tenant") == (4,)


def test_it_is_public() -> None:
    assert inspect.iscoroutinefunction(hit_all_async)
    assert issubclass(Decisions, tuple)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["fixed; start=first", "fixed", "sliding"])
def test_windows_that_come_with_requests(tmp_path: Path, kind: str, shared: bool) -> None:
    store = f"shared://{tmp_path}/app" if shared else "memory://"
    limiter, blocked = RateLimiter("9/day", store=store), RateLimiter("9/day")
    three, five = (given_limits(f"{count}/day; window={kind}") for count in (3, 5))

    def take(*costs: int) -> list[bool]:
        pairs = zip(costs, (three, five), strict=True)
        items = ((limiter, f"k{given.limits[0].capacity}", cost, given) for cost, given in pairs)
        return [one.allowed for one in take_all(tuple(items))]

    assert take(2, 4) == [True, True]
    assert take(1, 2) == [True, False]
    assert take(2, 2) == [False, False]
    assert limiter.peek("k3.0", 1, three).remaining == 1
    # One key under two limits is one count, and what has no limits of its own is apart.
    decisions = take_all(((limiter, "k", 2, three), (limiter, "k", 2, five), (limiter, "k", 9)))
    assert [one.remaining for one in decisions] == [1, 1, 0]
    assert not any(take_all(((limiter, "k", 2, three), (limiter, "k", 2, five))))
    blocked.block("k", 60)
    one, two = take_all(((blocked, "k", 1, three), (limiter, "other", 1, five)))
    assert (one.allowed, two.allowed) == (False, True)
    assert 0 < one.retry_after <= 60
    assert limiter.peek("other", 0, five).remaining == 5


def test_requests_come_with_windows_only() -> None:
    limiter: Any = RateLimiter("9/day")
    with pytest.raises(ValueError, match="must be windows"):
        take_all(((limiter, "k", 1, given_limits("3/day")),))
    for wrong in ("3/day; window=fixed", None):
        with pytest.raises(TypeError):
            take_all(((limiter, "k", 1, wrong),))  # type: ignore[arg-type]
