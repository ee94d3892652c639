"""Clocks of limiters: a ManualClock wakes those who wait, and callables return the time."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import time_machine
from fastapi import Depends, FastAPI
from flask import Flask
from freezegun import freeze_time
from rate_limiter import AsyncRateLimiter, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.limiting import waiting
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.fronts import ask_asgi, ask_flask

PATIENT_S = 120


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def waits(limiter: RateLimiter, n: int = 1, key: bytes = b"k") -> None:
    """Wait until so many callers wait for a key."""
    ends_s = time.monotonic() + PATIENT_S
    while len(limiter._lines.costs(key)) != n:
        assert time.monotonic() < ends_s
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but a wake end a sleep before the test fails."""
    monkeypatch.setattr(waiting, "LONGEST_SLEEP_S", 10.0 * PATIENT_S)
    monkeypatch.setattr(waiting, "LONGEST_SLEEP_BEHIND_S", 10.0 * PATIENT_S)


# --- A ManualClock wakes those who wait ----------------------------------------------------------

MOVES: list[Callable[[ManualClock], None]] = [
    lambda clock: clock.advance(1),
    lambda clock: clock.advance_ns(10**9),
    lambda clock: clock.set_ns(10**9),
]


@pytest.mark.parametrize("move", MOVES, ids=["advance", "advance_ns", "set_ns"])
def test_moving_a_clock_wakes_a_thread(
    move: Callable[[ManualClock], None], pool: ThreadPoolExecutor
) -> None:
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    limiter.acquire("k")
    waiter = pool.submit(limiter.acquire, "k")
    waits(limiter)
    move(clock)
    assert waiter.result(PATIENT_S).allowed


async def test_moving_a_clock_wakes_a_task() -> None:
    clock = ManualClock()
    limiter = AsyncRateLimiter("1/second", clock=clock)
    await limiter.acquire("k")
    waiter = asyncio.create_task(limiter.acquire("k"))
    await asyncio.sleep(0)
    clock.advance(1)
    assert (await asyncio.wait_for(waiter, PATIENT_S)).allowed


def test_no_caller_passes_after_too_short_a_step(pool: ThreadPoolExecutor) -> None:
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    limiter.acquire("k")
    waiter = pool.submit(limiter.acquire, "k")
    waits(limiter)
    clock.advance_ns(10**9 - 1)
    waits(limiter)
    assert not limiter.peek("k")
    assert not waiter.done()
    clock.advance_ns(1)
    assert waiter.result(PATIENT_S).allowed


def test_a_clock_wakes_those_of_all_its_limiters(pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    clock = ManualClock(10**15)
    several = [
        RateLimiter("1/minute", clock=clock),
        RateLimiter("1/minute; window=fixed", clock=clock),
        RateLimiter("1/minute; 1/hour; burst=2", clock=clock),
        RateLimiter("1/minute", clock=clock, store=f"shared://{tmp_path / 'table'}"),
    ]
    several.append(several[0].with_limits("1/minute; burst=1"))
    for limiter in several:
        limiter.allow("k")
    waiters = [pool.submit(limiter.acquire, "k") for limiter in several]
    for limiter in several:
        waits(limiter)
    clock.advance(60)
    assert all(one.result(PATIENT_S).allowed for one in waiters)


def test_time_that_a_clock_skips_ends_the_timeout_of_all(pool: ThreadPoolExecutor) -> None:
    """The timeout is time of the clock: those who are behind leave too."""
    clock = ManualClock()
    limiter = RateLimiter("1/hour; burst=2", clock=clock)
    limiter.acquire("k", 2)
    first = pool.submit(limiter.acquire, "k", 2)
    waits(limiter)
    behind = pool.submit(limiter.acquire, "k", 1, 20_000)
    waits(limiter, 2)
    limiter.charge("k", 2)  # it is later than the second one had expected
    clock.advance(20_001 - 7200)
    waits(limiter, 2)
    clock.set_ns(0)
    limiter.charge("k", 2)
    clock.advance(7201)
    waits(limiter, 2)
    limiter.charge("k", 2)
    clock.set_ns(20_001 * 10**9)
    with pytest.raises(RateLimitExceeded):
        behind.result(PATIENT_S)
    limiter.reset("k")
    assert first.result(PATIENT_S).allowed


def test_a_timeout_does_not_end_while_the_clock_stands(pool: ThreadPoolExecutor) -> None:
    clock = ManualClock()
    limiter = RateLimiter("1000/second; burst=1", clock=clock)
    limiter.acquire("k")
    waiter = pool.submit(limiter.acquire, "k", 1, 0.001)
    waits(limiter)
    time.sleep(0.01)
    clock.advance(0.001)
    assert waiter.result(PATIENT_S).allowed


def test_a_signal_handler_may_move_the_clock() -> None:
    """It interrupts the sleep of the thread that it wakes."""
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    limiter.acquire("k")
    before = signal.signal(signal.SIGUSR1, lambda *_: clock.advance(1))
    main = threading.get_ident()

    def interrupt() -> None:
        waits(limiter)
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        assert limiter.acquire("k").allowed
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_many_threads_and_clocks_moved_at_once(pool: ThreadPoolExecutor) -> None:
    clock = ManualClock()
    limiters = [RateLimiter("10/second; burst=1", clock=clock) for _ in range(3)]
    is_over = threading.Event()

    def move() -> None:
        while not is_over.is_set():
            clock.advance(0.1)
            RateLimiter("1/second", clock=clock).allow("k")
            time.sleep(0.0001)

    movers = [threading.Thread(target=move) for _ in range(2)]
    for one in movers:
        one.start()
    try:
        waiters = [pool.submit(limiters[i % 3].acquire, "k") for i in range(60)]
        assert all(one.result(PATIENT_S).allowed for one in waiters)
    finally:
        is_over.set()
        for one in movers:
            one.join()


def test_a_clock_keeps_no_limiter_and_no_waiter() -> None:
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    limiter.allow("k")
    with pytest.raises(RateLimitExceeded):
        limiter.acquire("k", timeout=0)
    lines = weakref.ref(limiter._lines)
    gone = weakref.ref(limiter)
    del limiter
    gc.collect()
    assert gone() is None
    assert lines() is None
    clock.advance(1)
    assert not list(clock._watching)


# --- Callables -----------------------------------------------------------------------------------


def test_a_callable_is_the_clock() -> None:
    now: list[float] = [100]
    limiter = RateLimiter("2/minute", clock=lambda: now[0])
    assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
    assert limiter.peek("k").retry_after == 30
    now[0] = 129.5
    assert limiter.peek("k").retry_after == 0.5
    now[0] = 130
    assert [limiter.allow("k") for _ in range(2)] == [True, False]


@pytest.mark.parametrize("limit", ["1/minute; window=fixed", "1/minute; window=sliding"])
def test_windows_go_by_a_callable(limit: str) -> None:
    now = [600.0]
    limiter = RateLimiter(limit, clock=lambda: now[0])
    assert [limiter.allow("k") for _ in range(2)] == [True, False]
    now[0] += 59
    assert not limiter.allow("k")
    now[0] += 62
    assert limiter.allow("k")


@pytest.mark.parametrize(
    "limit", ["2/minute", "2/minute; window=fixed", "2/minute; window=sliding"]
)
def test_a_clock_that_is_set_back_refills_nothing(limit: str) -> None:
    now = [7200.0]
    limiter = RateLimiter(limit, clock=lambda: now[0])
    assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
    now[0] = 0
    assert not limiter.allow("k")
    assert limiter.peek("k").retry_after > 0
    now[0] = 7200 + 120
    assert limiter.allow("k")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "must return seconds as a float or an int, got None"),
        ("1", TypeError, "must return seconds as a float or an int, got '1'"),
        (True, TypeError, "must return seconds as a float or an int, got True"),
        (math.nan, ValueError, "must return seconds within 0 and 4611686018, got nan"),
        (-1, ValueError, "must return seconds within 0 and 4611686018, got -1"),
        (math.inf, ValueError, "must return seconds within 0 and 4611686018, got inf"),
        (10**400, ValueError, "must return seconds within 0 and 4611686018, got 1000"),
        (18 * 10**17, ValueError, "must return seconds within 0 and 4611686018, got 18"),
    ],
    ids=["none", "text", "bool", "nan", "negative", "infinite", "huge", "nanoseconds"],
)
def test_a_callable_that_returns_no_time(
    value: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """It fails where a limiter is made, and later in each method, which then takes nothing."""
    for store in ("memory://", f"shared://{tmp_path / 'table'}"):
        with pytest.raises(error, match=message):
            RateLimiter("1/second", store=store, clock=lambda: value)
    now: list[Any] = [1]
    limiter = RateLimiter("1/second; 5/minute", clock=lambda: now[0])
    now[0] = value
    calls: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("allow", "hit", "peek", "charge", "refund", "acquire"), ("k",)),
        **dict.fromkeys(("hit_each", "peek_each", "inspect"), ("k",)),
        "allow_many": (["k", "l"],),
        "stats": (),
        "with_limits": ("2/second; 5/minute",),
    }
    for name, args in calls.items():
        with pytest.raises(error, match=message):
            getattr(limiter, name)(*args)
    now[0] = 1
    assert limiter._lines._lines == {}
    assert limiter.peek_each("k", 0)[2].remaining == 5


async def test_a_callable_that_raises() -> None:
    broken = False

    def now() -> float:
        if broken:
            raise LookupError("no time")
        return 5

    limiter = RateLimiter("1/second", clock=now)
    broken = True
    with pytest.raises(LookupError, match="no time"):
        limiter.hit("k")
    with pytest.raises(LookupError, match="no time"):
        await AsyncRateLimiter.of(limiter).acquire("k")
    with pytest.raises(LookupError, match="no time"):
        RateLimiter("1/second", clock=now)
    broken = False
    assert limiter.allow("k")


def test_values_that_are_no_clock() -> None:
    async def now() -> float:
        return 1

    with pytest.raises(TypeError, match="clock must be a plain function, not an async one"):
        RateLimiter("1/second", clock=now)  # type: ignore[arg-type]
    for value in (5, "time.time", None):
        with pytest.raises(ValueError, match=r"clock must be 'monotonic', .* a callable that"):
            RateLimiter("1/second", clock=value)  # type: ignore[arg-type]


def test_a_callable_may_use_its_limiter() -> None:
    def now() -> float:
        if made and not busy:
            busy.append(1)
            made[0].allow("other")
            made[0].reset("k")
            busy.clear()
        return 1

    made: list[RateLimiter] = []
    busy: list[int] = []
    made.append(RateLimiter("1/second", clock=now))
    assert [made[0].allow("k") for _ in range(2)] == [True, True]
    assert not made[0].peek("other")


def test_a_callable_that_refers_to_its_limiter_is_freed() -> None:
    class Owner:
        def __init__(self) -> None:
            self.limiter = RateLimiter("1/second", clock=self.now)

        def now(self) -> float:
            return 1

    owner = Owner()
    assert owner.limiter.allow("k")
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_freezegun() -> None:
    with freeze_time("2026-01-01", ignore=["xdist"]) as frozen:
        limiter = RateLimiter("1/minute", clock=lambda: time.time())  # looked up in each call
        assert [limiter.allow("k") for _ in range(2)] == [True, False]
        frozen.tick(59)
        assert not limiter.allow("k")
        frozen.tick(1)
        assert limiter.allow("k")


def test_time_machine() -> None:
    limiter = RateLimiter("1/minute; window=fixed", clock=time.time)
    with time_machine.travel(1_800_000_000, tick=False) as traveller:
        assert [limiter.allow("k") for _ in range(2)] == [True, False]
        traveller.shift(60)
        assert [limiter.allow("k") for _ in range(2)] == [True, False]


# --- Where a clock is given ----------------------------------------------------------------------


@pytest.mark.parametrize("clock", [ManualClock(), time.time], ids=["manual", "callable"])
@pytest.mark.parametrize("kind", [RateLimiter, AsyncRateLimiter])
def test_redis_has_a_separate_clock(kind: Any, clock: Any) -> None:
    with pytest.raises(
        ValueError, match=r"clock=.* cannot be used with store='redis://127.0.0.1:1/0'"
    ):
        kind("1/second", store="redis://127.0.0.1:1/0", clock=clock)


def asgi_front(clock: Any) -> Callable[[], int]:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
    gate = RateLimitMiddleware(app, limits="1/minute", clock=clock)
    return lambda: int(ask_asgi(gate)[0])


def fastapi_front(clock: Any) -> Callable[[], int]:
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("1/minute", clock=clock))])(lambda: "ok")
    return lambda: int(ask_asgi(app)[0])


def flask_front(clock: Any) -> Callable[[], int]:
    app = Flask(__name__)
    app.get("/")(lambda: "ok")
    FlaskRateLimiter(app, default_limits="1/minute", clock=clock)
    return lambda: int(ask_flask(app)[0])


def wsgi_front(clock: Any) -> Callable[[], int]:
    app = Flask(__name__)
    app.get("/")(lambda: "ok")
    gate = WsgiMiddleware(app, limits="1/minute", clock=clock)
    return lambda: int(ask_flask(gate)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("front", [asgi_front, fastapi_front, flask_front, wsgi_front])
def test_every_front_takes_a_callable(front: Callable[[Any], Callable[[], int]]) -> None:
    now = [0.0]
    ask = front(lambda: now[0])
    assert [ask() for _ in range(2)] == [200, 429]
    now[0] += 60
    assert [ask() for _ in range(2)] == [200, 429]
    with pytest.raises(TypeError, match="must return seconds as a float or an int, got None"):
        front(lambda: None)
    with pytest.raises(ValueError, match="clock must be 'monotonic'"):
        front("sundial")
