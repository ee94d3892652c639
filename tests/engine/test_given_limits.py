"""Limits that are given with a call, on every store, blocking and awaited."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import (
    AsyncRateLimiter,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitExceeded,
    StoreError,
)
from rate_limiter._core import Limiter, Meter
from rate_limiter.limiting.given_limits import KEPT, given_limits
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.redis_servers import RedisServer

Make = Callable[..., RateLimiter]
Call = Callable[..., Any]

KINDS = ["", "; window=fixed", "; window=sliding", "; window=fixed; start=first"]


def left(call: Call, limiter: RateLimiter, key: str, limits: Any) -> list[int]:
    # Redis goes on refilling; a day is long enough for a whole token to show none of it.
    return [int(one.remaining) for one in call(limiter, "peek_each", key, 0, limits)[1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_limits_of_a_call_decide(make: Make, call: Call, kind: str) -> None:
    limiter = make("1/day")
    for remaining in (2, 1, 0):
        decision = call(limiter, "hit", "k", 1, f"3/day{kind}")
        assert (bool(decision), decision.limit, int(decision.remaining)) == (True, 3, remaining)
    assert not call(limiter, "hit", "k", limits=f"3/day{kind}")
    assert not call(limiter, "allow", "k", limits=Limit.parse(f"3/day{kind}"))
    assert call(limiter, "allow", "other", limits=[f"3/day{kind}"])
    assert call(limiter, "hit", "k").limit == 1  # calls without limits have their own buckets
    assert not call(limiter, "allow", "k", limits=None)


@pytest.mark.parametrize("kind", KINDS)
def test_another_limit_keeps_what_was_used(make: Make, call: Call, kind: str) -> None:
    limiter = make("1/day")
    assert call(limiter, "allow", "k", 5, f"10/day{kind}")
    # A bucket keeps its share, a window its count.
    assert left(call, limiter, "k", f"1000/day{kind}") == [995 if kind else 500]
    assert not call(limiter, "allow", "k", 6, f"10/day{kind}")
    assert not call(limiter, "allow", "k", 3 if not kind else 1, f"4/day{kind}")


def test_several_limits(make: Make, call: Call) -> None:
    limiter = make("1/day")
    both = "10/day; 3/hour"
    assert call(limiter, "allow", "k", 3, both)
    assert not call(limiter, "allow", "k", 1, both)
    assert left(call, limiter, "k", both) == [7, 0]
    assert left(call, limiter, "k", "3/hour, 10/day") == [0, 7]  # in any order
    assert left(call, limiter, "k", "10/day") == [7]  # without the other
    assert call(limiter, "hit", "j", (1, 5), ("5/day", "10/day; window=fixed"))
    assert left(call, limiter, "j", "5/day; 10/day; window=fixed") == [4, 5]


@pytest.mark.parametrize("one", ["7/day", "20/day"])
@pytest.mark.parametrize("other", ["1000/day", "100003/day"])
def test_buckets_that_fill_equally_long_keep_their_order(
    make: Make, call: Call, one: str, other: str
) -> None:
    limiter = make("1/day")
    for key, limits in (("k", f"{one}; {other}"), ("j", f"{other}; {one}")):
        first, second = limits.split("; ")
        all_of_it = (Limit.parse(first).capacity, 0)
        assert call(limiter, "allow", key, all_of_it, limits)
        assert left(call, limiter, key, first) == [0]
        assert left(call, limiter, key, second) == [0]  # the first bucket, whatever its rate
        assert left(call, limiter, key, limits) == [0, int(Limit.parse(second).capacity)]


@pytest.mark.parametrize("nothing", ["0/minute", "0/minute; count_denied=yes", Limit(0, 5)])
@pytest.mark.parametrize("method", ["hit", "peek", "charge", "refund", "allow", "allow_many"])
def test_a_limit_of_nothing_keeps_what_was_used(
    make: Make, call: Call, method: str, nothing: Any
) -> None:
    limiter = make("1/day")
    assert call(limiter, "allow", "k", 100, "100/day")
    for cost in (0, 1):
        call(limiter, method, ["k", "k"] if method == "allow_many" else "k", cost, nothing)
    assert left(call, limiter, "k", "100/day") == [0]


def test_looking_at_a_short_limit_keeps_what_was_used(make: Make, call: Call) -> None:
    limiter = make("1/day")
    assert call(limiter, "allow", "k", 100, "100/day")
    for method in ("peek", "peek_each"):
        call(limiter, method, "k", 1, "10/second")
    call(limiter, "inspect", "k", "10/second")
    assert left(call, limiter, "k", "100/day") == [0]


def test_every_method(make: Make, call: Call) -> None:
    limiter, limits = make("1/day"), "10/day"
    assert call(limiter, "allow_many", ["a", "b", "a"], 4, limits) == [True, True, True]
    assert call(limiter, "allow_many", ["a", "b"], 4, limits) == [False, True]
    assert int(call(limiter, "charge", "a", 1, limits).remaining) == 1
    call(limiter, "refund", "a", 5, limits)
    assert int(call(limiter, "peek", "a", 1, limits).remaining) == 6
    tightest, one = call(limiter, "hit_each", "a", 1, limits)
    assert tightest == one
    assert int(one.remaining) == 5
    (info,) = call(limiter, "inspect", "a", limits)
    assert str(info.limit) == "10/day"
    assert int(info.tokens) == 5
    assert call(limiter, "acquire", "a", 5, 0, limits=limits)
    with pytest.raises(RateLimitExceeded):
        call(limiter, "acquire", "a", 5, 0, limits=limits)
    call(limiter, "reset", "a")
    assert left(call, limiter, "a", limits) == [10]
    assert call(limiter, "allow", "a", 1, "5/day; window=fixed")
    call(limiter, "reset")
    assert left(call, limiter, "b", limits) == [10]
    assert left(call, limiter, "a", "5/day; window=fixed") == [5]


def test_a_block_holds_whatever_limits_come(make: Make, call: Call) -> None:
    limiter = make("100/day")
    call(limiter, "allow", "k", 1, "5/day; window=fixed")
    call(limiter, "block", "k", 1000)
    for limits in (None, "100/day", "5/day; 10/hour", "5/day; window=fixed"):
        decision = call(limiter, "hit", "k", 1, limits)
        assert not decision
        assert 900 < decision.retry_after <= 1000
    call(limiter, "reset", "k")
    for limits in (None, "100/day", "5/day; window=fixed"):
        assert call(limiter, "allow", "k", 1, limits)


@pytest.mark.parametrize(
    ("limits", "error", "text"),
    [
        (5, TypeError, "got 5"),
        (b"5/s", TypeError, "got b'5/s'"),
        ({"free": "5/s"}, TypeError, "mapping"),
        ("soon", ValueError, "invalid limit 'soon'"),
        ((["5/s"],), TypeError, "got \\['5/s'\\]"),
        ((), ValueError, "expected 1 to 8 limits, got 0"),
        (["1/s"] * 5, ValueError, "a call may have 1 to 4 limits, got 5"),
        (Limit(10, 0), ValueError, "must refill within 8 years, got '"),
        ("1/year; burst=9", ValueError, "must refill within 8 years, got '1/year; burst=9'"),
    ],
)
def test_limits_that_are_none(
    make: Make, call: Call, limits: Any, error: type[Exception], text: str
) -> None:
    limiter = make("1/day")
    for method in ("hit", "acquire", "peek"):
        with pytest.raises(error, match=text):
            call(limiter, method, "k", limits=limits)
    with pytest.raises(ValueError, match="one number for each limit, 2 in all"):
        call(limiter, "hit", "k", (1,), "1/day; 2/day")
    assert call(limiter, "allow", "k")  # nothing was taken


def test_windows_of_many_lengths_are_refused(make: Make, call: Call) -> None:
    limiter = make("1/day")
    texts = [f"1 per {i} days; window=fixed" for i in range(1, 18)]
    for text in texts[:-1]:
        assert call(limiter, "allow", "k", limits=text)
    with pytest.raises(
        ValueError, match="windows of at most 16 kinds, so there is no room for '1 "
    ):
        call(limiter, "allow", "k", limits=texts[-1])
    assert call(limiter, "allow", "k", limits="1/day")


def test_a_limit_of_nothing_denies(make: Make, call: Call) -> None:
    decision = call(make("1/day"), "hit", "k", limits="0/day")
    assert (bool(decision), decision.retry_after) == (False, float("inf"))


# --- In memory ---


def test_a_thousand_texts_have_one_table() -> None:
    limiter = RateLimiter("1/day")
    limiter.allow("k", limits="1/day")
    before = limiter.stats()["bytes"]
    for i in range(3000):
        limiter.allow("k", limits=f"{i + 1}/day")
    assert limiter.stats()["bytes"] == before
    assert limiter.stats()["keys"] == 1
    assert given_limits("1/day") is given_limits("1/day")
    assert KEPT <= 1024


def test_counts_and_metrics_include_them() -> None:
    limiter, meter = RateLimiter("1/day"), Meter()
    limiter._measure(meter)
    limiter.allow("k")
    for _ in range(3):
        limiter.allow("k", limits="2/day")
    stats = limiter.stats()
    assert (stats["allowed"], stats["denied"], stats["keys"]) == (3, 1, 2)
    assert limiter._counts() == stats
    assert [sum(one) for one in meter.read()[:2]] == [3, 1]


def test_waiting_exactly_as_long_as_it_says() -> None:
    clock = ManualClock()
    limiter = RateLimiter("1/day", clock=clock)
    limiter.allow("k", 7, "7/minute")
    denied = limiter.hit("k", limits="7/minute")
    clock.advance_ns(round(denied.retry_after * 1e9) - 1)
    assert not limiter.allow("k", limits="7/minute")
    clock.advance_ns(1)
    assert limiter.allow("k", limits="7/minute")


def test_those_who_wait_are_woken() -> None:
    limiter = RateLimiter("1/day")
    limiter.allow("k", 1, "1/day")
    for free in (lambda: limiter.refund("k", 1, "1/day"), lambda: limiter.reset("k")):
        thread = threading.Thread(target=limiter.acquire, args=("k",), kwargs={"limits": "1/day"})
        thread.start()
        while limiter._behind_waiters("k", 1, given_limits("1/day")) is None:
            pass
        free()
        thread.join(60)
        assert not thread.is_alive()


def test_reservations_slots_and_decorators() -> None:
    limiter = RateLimiter("1/day")
    with limiter.reserve("k", 5, limits="10/day") as reservation:
        reservation.settle(2)
    with limiter.slot("k", limits="10/day"):
        pass
    limiter.limited("k", limits="10/day")(lambda: None)()

    async def awaited() -> None:
        tasks = AsyncRateLimiter.of(limiter)
        async with tasks.reserve("k", 5, limits="10/day") as reservation:
            await reservation.settle(1)
        async with tasks.slot("k", limits="10/day"):
            pass

        async def work() -> None: ...

        await tasks.limited("k", limits="10/day")(work)()

    asyncio.run(awaited())
    assert int(limiter.peek("k", limits="10/day").remaining) == 3


def test_waiters_first() -> None:
    clock = ManualClock()
    limiter = RateLimiter("1/day", clock=clock, waiters_first=True)
    limiter.allow("k", 1, "1/minute")
    thread = threading.Thread(target=limiter.acquire, args=("k",), kwargs={"limits": "1/minute"})
    thread.start()
    while limiter._behind_waiters("k", 1, given_limits("1/minute")) is None:
        pass
    assert not limiter.hit("k", limits="1/minute")
    assert limiter.hit("k", limits="5/minute").limit == 5  # another line
    clock.advance(60 * 5)
    thread.join(60)
    assert not thread.is_alive()


def test_other_limits_of_the_limiter_keep_them() -> None:
    limiter = RateLimiter("1/day")
    limiter.allow("k", 3, "10/day")
    assert int(limiter.with_limits("5/day").peek("k", limits="10/day").remaining) == 7


def test_a_shared_file_is_shared(tmp_path: Path) -> None:
    store = f"shared://{tmp_path}/app"
    one, other = (RateLimiter(f"{i}/day", store=store, max_keys=100) for i in (1, 2))
    for limits in ("10/day", "10/day; window=fixed", "10/day; window=sliding"):
        assert one.allow("k", 4, limits)
        assert int(other.peek("k", limits=limits).remaining) == 6
        copied = pickle.loads(pickle.dumps(copy.copy(one)))
        assert int(copied.peek("k", limits=limits).remaining) == 6


def test_the_engine_alone_has_no_texts() -> None:
    engine = Limiter([(1.0, 1.0)])
    with pytest.raises(TypeError, match="limits must be GivenLimits, got '1/day'"):
        engine.hit("k", limits="1/day")
    with pytest.raises(TypeError, match="limits must be GivenLimits"):
        engine.hit("k", limits=given_limits("1/day"))  # which has no table for them
    table = Limiter(given_limits("1/day"))
    assert [table.allow("k"), table.allow("k")] == [True, False]


# --- Redis ---


def test_keys_in_redis(server: RedisServer) -> None:
    limiter = RateLimiter("1/day", store=server.url, on_store_error="raise")
    limiter.allow("k")
    limiter.allow("k", limits="10/day; 3/hour")
    limiter.allow("j", limits="10/day; window=fixed")
    assert limiter.keys() == ["j", "k"]
    with server.admin() as client:
        names = sorted(client.keys("*"))
    assert names == [
        b"rl:{j}:calls:0:fixed_window:86400",
        b"rl:{k}:1/day",
        b"rl:{k}:calls:0:bucket",
        b"rl:{k}:calls:1:bucket",
    ]
    limiter.reset(prefix="k")
    assert limiter.keys() == ["j"]


def test_counts_of_many_limits_in_redis(server: RedisServer) -> None:
    limiter = RateLimiter("1/day", store=server.url, on_store_error="raise")
    for i in range(200):
        limiter.allow("k", limits=f"{i + 1}/day")
    assert limiter.stats()["allowed"] + limiter.stats()["denied"] == 200
    assert len(limiter._of_calls) <= 129  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", ["memory", "allow", "deny", "raise"])
def test_without_redis(call: Call, policy: Any) -> None:
    limiter = RateLimiter("1/day", store="redis://127.0.0.1:1", on_store_error=policy)
    if policy == "raise":
        with pytest.raises(StoreError):
            call(limiter, "hit", "k", limits="2/day; 3/day")
        return
    each = [call(limiter, "hit_each", "k", 1, "2/day; 3/day") for _ in range(3)]
    assert [bool(one[0]) for one in each] == {
        "memory": [True, True, False],
        "allow": [True] * 3,
        "deny": [False] * 3,
    }[policy]
    assert {tuple(one.limit for one in decisions[1:]) for decisions in each} == {(2, 3)}


def test_an_exact_prefix_takes_no_limits(server: RedisServer) -> None:
    limiter = RedisRateLimiter("1/day", store=server.url, exact_prefix="app:")
    with pytest.raises(ValueError, match="exact prefix takes no limits"):
        limiter.hit("k", limits="2/day")
    limiter.block("k", 10)
    limiter.reset("k")
    assert limiter.allow("k")
