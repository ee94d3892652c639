"""A million calls leave nothing behind: no memory, no references."""

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import Decision, ManualClock, RateLimiter, _core
from rate_limiter.middleware import RateLimitMiddleware

CALLS = 1_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def misused(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except (TypeError, ValueError):
        return
    raise AssertionError("not refused")


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})


async def send(message: Any) -> None: ...


async def request_many(gate: RateLimitMiddleware, n: int) -> None:
    scope = {"type": "http", "path": "/", "client": ("2001:db8::1", 5)}
    for _ in range(n):
        await gate(scope, None, send)


def work(n: int) -> None:
    """Do all that the binding can do, `n` calls in total."""
    clock = ManualClock()
    limiter = RateLimiter("10/second; 100/minute; 50/minute; window=sliding", clock=clock)
    meter = _core.Meter()
    limiter._measure(meter)
    sketch = _core.ClientSketch(b"s" * 16, 5, "masked")
    meter.count_clients(sketch)
    for number in range(n // 10):
        key = f"k{number % 100}"
        limiter.allow(key)
        limiter.hit(key, cost=0.5)
        limiter.peek(b"k")
        limiter.refund(key)
        limiter.charge(key, 3)
        limiter.hit_each(key)
        limiter.peek_each(key)
        limiter.reset("\ud800")
        limiter.allow_many((key, b"x"), 2)
        limiter._measure(meter)
        meter.record(1, 0, 5, key)
        meter.read()
        sketch.read(True)
        misused(meter.count_clients, _core.ClientSketch(b"s" * 16, 5, "masked"))
        misused(_core.ClientSketch, b"s", 5, "masked")
        misused(limiter._measure, _core.Meter())
        clock.advance_ns(1000)
        misused(limiter.hit, key, -1)
        misused(limiter.charge, key, -1)
        misused(limiter.allow, 5)
        hash(limiter.hit(key))
    for _ in range(n // 1000):
        repr(limiter.hit("k"))
        misused(RateLimiter, "10/second", 5)
        RateLimiter("10/second", clock=clock, max_keys=10).allow("k")
        misused(limiter.allow_many, ["a", 5])
        limiter.stats()
    gate = RateLimitMiddleware(app, limits="10/second", clock=clock)
    asyncio.run(request_many(gate, n // 100))


@pytest.mark.unsanitized(reason="memory that is freed stays in the sanitizer's quarantine")
def test_a_million_calls_leave_nothing() -> None:
    work(CALLS // 50)
    types = (Decision, ManualClock, RateLimiter, type(None), bool)
    gc.collect()
    references = [sys.getrefcount(one) for one in types]
    resident = resident_bytes()
    work(CALLS)
    gc.collect()
    drift = [sys.getrefcount(one) - before for one, before in zip(types, references, strict=True)]
    assert [abs(one) < 50 for one in drift] == [True] * len(types), drift
    assert resident_bytes() - resident < 4_000_000


def test_python_objects_are_all_freed() -> None:
    work(2000)
    tracemalloc.start()
    try:
        work(2000)
        gc.collect()
        before = tracemalloc.take_snapshot()
        work(20_000)
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ignored = [tracemalloc.Filter(False, tracemalloc.__file__)]
    grown = after.filter_traces(ignored).compare_to(before.filter_traces(ignored), "lineno")
    assert sum(one.size_diff for one in grown) < 20_000, grown[:5]


MEMORY = """
import sys
from rate_limiter import ManualClock, RateLimiter

def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

clock = ManualClock()
limiter = RateLimiter("100/hour", clock=clock)
before = resident_bytes()
for number in range(1_000_000):
    limiter.allow(b"%d" % number)
full = resident_bytes() - before
# By chance both places of a key may be full: then another one gives way.
assert 999_990 <= limiter.stats()["keys"] <= 1_000_000, limiter.stats()
for number in range(1_000_000):  # as many again: the table is bounded
    limiter.allow(b"x%d" % number)
flooded = resident_bytes() - before
clock.advance(7200)
assert limiter.stats()["keys"] == 0
print(full, flooded, resident_bytes() - before)
"""


@pytest.mark.unsanitized(reason="the sanitizer surrounds every allocation with other memory")
def test_resident_memory(run_python: Callable[..., str]) -> None:
    """At most 32 bytes for each of a million keys, no more under a flood, less afterwards."""
    full, flooded, after = map(int, run_python(MEMORY).split())
    assert 16_000_000 < full <= 32_000_000
    assert flooded <= full + 2_000_000
    assert after < full / 4
