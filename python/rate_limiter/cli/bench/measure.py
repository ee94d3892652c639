"""Measure decisions on this machine, next to an empty C call and a bucket written in Python.

Every round runs a short slice of all cases, so other load on the machine affects all of them
alike. Results are medians and quartiles of the rounds; ratios are computed within a round.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import secrets
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rate_limiter import AsyncRateLimiter, Limit, RateLimiter, __version__
from rate_limiter.stores.address import is_shared, shared_file

SLICE = 2000  # calls
STORE_SLICE = 800
THREADS = 8
TASKS = 50
STORE_TIMEOUT_S = 5
EMPTY = "empty C call"
PYTHON = "dict and Lock in Python"


class Spread(NamedTuple):
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of two or more values; the quartiles are within their range."""
        # The exclusive method extrapolates beyond the given values.
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(_short(median), _short(low), _short(high))


def _short(value: float) -> float:
    """Return a value rounded to four significant digits."""
    return float(f"{value:.4g}")


class PythonBucket:
    """A token bucket as it is usually written in Python: a dict of (tokens, time), and a lock."""

    def __init__(self, capacity: float, refill_rate: float) -> None:
        self._capacity = capacity
        self._refill_rate = refill_rate
        self._lock = threading.Lock()
        self.buckets: dict[str, tuple[float, float]] = {}

    def allow(self, key: str, cost: float = 1) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        with self._lock:
            now_s = time.monotonic()
            tokens, last_s = self.buckets.get(key, (self._capacity, now_s))
            tokens = min(self._capacity, tokens + (now_s - last_s) * self._refill_rate)
            allowed = tokens >= cost
            self.buckets[key] = (tokens - cost if allowed else tokens, now_s)
            return allowed


def slice_s(call: Callable[..., Any], argument: str, calls: int = SLICE) -> float:
    """Return the time of some calls in seconds, without the loop around them."""
    arguments = [argument] * calls
    while True:
        begin_s = time.perf_counter()
        for one in arguments:
            call(one)
        middle_s = time.perf_counter()
        for one in arguments:  # noqa: B007
            pass
        taken_s = middle_s - begin_s - (time.perf_counter() - middle_s)
        # An empty loop that took longer than the calls was interrupted.
        if taken_s > 0:
            return taken_s


def machine() -> str:
    """Return the name of the processor and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{name}, {os.cpu_count()} cores"


class Bench:
    """The cases and their measurements so far.

    Args:
        limit: limit of the one client in all cases.
        store: a store to measure too: redis://... or shared:///...

    Attributes:
        cases: by name, a function that measures a case once and returns nanoseconds per decision.
        rounds: number of measured rounds.
        times_ns: by name, the measurements, one per round.

    Raises:
        ValueError, RuntimeError: the store cannot be used.
    """

    def __init__(self, limit: Limit, store: str | None = None) -> None:
        # A key that no other client uses.
        self._key = f"bench:{secrets.token_hex(8)}"
        plain, coarse = RateLimiter(limit), RateLimiter(limit, clock="coarse")
        rival = PythonBucket(limit.capacity, limit.refill_rate)
        # gc.is_tracked is a C function that reads one flag of its argument and returns a bool.
        self.cases: dict[str, Callable[[], float]] = {
            EMPTY: self._calls(gc.is_tracked),
            "memory, allow": self._calls(plain.allow),
            "memory, allow, coarse clock": self._calls(coarse.allow),
            "memory, hit": self._calls(plain.hit),
            "memory, allow_many, per key": lambda: self._many(plain),
            PYTHON: self._calls(rival.allow),
        }
        self._closers: list[Callable[[], object]] = []
        if store is not None:
            self._add_store(limit, store)
        self.rounds = 0
        self.times_ns: dict[str, list[float]] = {name: [] for name in self.cases}

    def _add_store(self, limit: Limit, store: str) -> None:
        if is_shared(store):
            file = Path(shared_file(store, "", limit))
            is_new = not file.exists()
            limiter = RateLimiter(limit, store=store)
            if is_new:
                self._closers.append(lambda: file.unlink(missing_ok=True))
        else:
            if "timeout=" not in store:
                store += f"{'&' if '?' in store else '?'}timeout={STORE_TIMEOUT_S}"
            limiter = RateLimiter(limit, store=store, on_store_error="raise")
        limiter.hit(self._key)  # raises here if the store cannot be used
        loop = asyncio.new_event_loop()
        pool = ThreadPoolExecutor(THREADS)
        self._closers += [loop.close, pool.shutdown, lambda: limiter.reset(self._key)]
        awaited = AsyncRateLimiter.of(limiter)
        self.cases["store, one caller"] = self._calls(limiter.hit, STORE_SLICE)
        self.cases[f"store, {THREADS} threads"] = lambda: self._threads(limiter, pool)
        self.cases[f"store, {TASKS} tasks"] = lambda: loop.run_until_complete(self._tasks(awaited))

    def round(self) -> None:
        """Measure every case once."""
        self.rounds += 1
        for name, measure in self.cases.items():
            self.times_ns[name].append(measure())

    def results(self) -> list[dict[str, Any]]:
        """Return the name, ns, decisions per second and two ratios of each case.

        Raises:
            ValueError: there were fewer than two rounds.
        """
        if self.rounds < 2:
            raise ValueError("a spread needs two rounds at least")

        def over(name: str, other: str) -> dict[str, float]:
            pairs = zip(self.times_ns[name], self.times_ns[other], strict=True)
            return Spread.of([one / two for one, two in pairs])._asdict()

        return [
            {
                "name": name,
                "ns": Spread.of(times)._asdict(),
                "per_second": _short(1e9 / statistics.median(times)),
                "to_empty_call": over(name, EMPTY),
                "to_python": over(name, PYTHON),
            }
            for name, times in self.times_ns.items()
        ]

    def close(self) -> None:
        """Remove the stored keys and files."""
        for close in reversed(self._closers):
            close()

    # --- Cases ---

    def _calls(self, call: Callable[..., Any], calls: int = SLICE) -> Callable[[], float]:
        return lambda: slice_s(call, self._key, calls) / calls * 1e9

    def _many(self, limiter: RateLimiter) -> float:
        keys = [self._key] * SLICE
        begin_s = time.perf_counter()
        limiter.allow_many(keys)
        return (time.perf_counter() - begin_s) / SLICE * 1e9

    def _threads(self, limiter: RateLimiter, pool: ThreadPoolExecutor) -> float:
        def some() -> None:
            for _ in range(STORE_SLICE // THREADS):
                limiter.hit(self._key)

        begin_s = time.perf_counter()
        for done in [pool.submit(some) for _ in range(THREADS)]:
            done.result()
        return (time.perf_counter() - begin_s) / STORE_SLICE * 1e9

    async def _tasks(self, limiter: AsyncRateLimiter) -> float:
        async def some() -> None:
            for _ in range(STORE_SLICE // TASKS):
                await limiter.hit(self._key)

        begin_s = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(TASKS)))
        return (time.perf_counter() - begin_s) / STORE_SLICE * 1e9


def about() -> dict[str, Any]:
    """Return the context of the results: versions, machine, cores."""
    return {
        "rate_limiter": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine(),
    }
