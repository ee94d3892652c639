"""The cases of benchmarks/field.py in process memory: what one decision takes, in nanoseconds."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from field_rivals import (
    AIOLIMITER,
    AWAITED,
    CALLED,
    DENIES,
    EMPTY_CALL,
    EMPTY_COROUTINE,
    NEVER_DENIES,
    OURS,
    TWO_LIMITS,
    Decide,
    Limits,
    Rival,
)
from rate_limiter import RateLimiter
from rate_limiter.cli.bench.measure import PYTHON, Spread

SLICE_NS = 2_000_000
THREAD_SLICE_NS = 20_000_000
THREADS = 8
KEY = "192.0.2.1"
KEYS = [f"client:{number}" for number in range(100_000)]
BATCH = 1000

ONE_KEY, MANY_KEYS = "one key, allowed", "100,000 keys, allowed"
DENIED, TWO, BATCHED = "one key, denied", "two limits, allowed", f"batch of {BATCH}, per key"
AWAIT, AWAIT_DENIED = "asyncio, allowed", "asyncio, denied"
IN_THREADS = f"{THREADS} threads, one key"


class Case(NamedTuple):
    """One column and row of the tables.

    Attributes:
        group: the column; all its cases answer the same question.
        name: the limiter.
        run: decide so many times; return the nanoseconds of all decisions.
        slice_ns: about how long one measurement takes.
    """

    group: str
    name: str
    run: Callable[[int], int]
    slice_ns: int = SLICE_NS


def check(rival: Rival, result: Any, limits: Limits) -> None:
    """Raise if a limiter does not decide as the limits require."""
    if rival.passed(result) != (limits != DENIES):
        raise SystemExit(f"{rival.name}: unexpected decision: {result!r}")


# --- Drivers ---------------------------------------------------------------------------------


def calling(decide: Decide, keys: Sequence[str]) -> Callable[[int], int]:
    """Return a function that calls in this thread and measures its CPU time, without the loop."""
    source = itertools.cycle(keys)

    def run(calls: int) -> int:
        chosen = list(itertools.islice(source, calls))
        begin_ns = time.thread_time_ns()
        for key in chosen:
            decide(key)
        middle_ns = time.thread_time_ns()
        for key in chosen:  # noqa: B007
            pass
        return middle_ns - begin_ns - (time.thread_time_ns() - middle_ns)

    return run


def awaiting(decide: Decide, loop: asyncio.AbstractEventLoop) -> Callable[[int], int]:
    """Return a function that awaits in one task and measures CPU time, without the loop."""

    async def work(calls: int) -> int:
        begin_ns = time.thread_time_ns()
        for _ in range(calls):
            await decide(KEY)
        middle_ns = time.thread_time_ns()
        for _ in range(calls):
            pass
        return middle_ns - begin_ns - (time.thread_time_ns() - middle_ns)

    return lambda calls: loop.run_until_complete(work(calls))


def in_threads(decide: Decide, pool: ThreadPoolExecutor) -> Callable[[int], int]:
    """Return a function that calls in all threads of the pool and measures CPU time."""

    def some(calls: int) -> None:
        for _ in range(calls):
            decide(KEY)

    def run(calls: int) -> int:
        begin_ns = time.process_time_ns()
        list(pool.map(some, [calls // THREADS] * THREADS))
        return time.process_time_ns() - begin_ns

    return run


# --- Cases -----------------------------------------------------------------------------------


def cases(loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor) -> Iterator[Case]:
    """Yield all cases, each with its own limiter."""
    shuffled = random.sample(KEYS, len(KEYS))
    for group, limits, keys in (
        (ONE_KEY, NEVER_DENIES, [KEY]),
        (MANY_KEYS, NEVER_DENIES, shuffled),
        (DENIED, DENIES, [KEY]),
        (TWO, TWO_LIMITS, [KEY]),
    ):
        for rival in CALLED:
            if limits != TWO_LIMITS or rival.name != PYTHON:
                decide = rival.make(limits)
                for key in keys:
                    result = decide(key)
                check(rival, decide(KEY) if limits == DENIES else result, limits)
                yield Case(group, rival.name, calling(decide, keys))
        yield Case(group, EMPTY_CALL.name, calling(EMPTY_CALL.make(limits), keys))
    yield Case(BATCHED, f"{OURS}, allow_many", batches())
    for group, limits, rivals in (
        (AWAIT, NEVER_DENIES, (*AWAITED, AIOLIMITER, EMPTY_COROUTINE)),
        (AWAIT_DENIED, DENIES, AWAITED),
    ):
        for rival in rivals:
            decide = loop.run_until_complete(started(rival, limits))
            yield Case(group, rival.name, awaiting(decide, loop))
    for rival in (*CALLED, EMPTY_CALL):
        decide = in_threads(rival.make(NEVER_DENIES), pool)
        yield Case(IN_THREADS, rival.name, decide, THREAD_SLICE_NS)


async def started(rival: Rival, limits: Limits) -> Decide:
    """Make and check a limiter inside the event loop: some packages ask for the running one."""
    decide = rival.make(limits)
    await decide(KEY)
    check(rival, await decide(KEY), limits)
    return decide


def batches() -> Callable[[int], int]:
    """Return a function that decides about many keys in each call."""
    allow_many = RateLimiter("1000000000/second").allow_many

    def run(calls: int) -> int:
        begin_ns = time.thread_time_ns()
        for _ in range(max(1, calls // BATCH)):
            allow_many(KEYS[:BATCH])
        return time.thread_time_ns() - begin_ns

    return run


def calls_of_slice(case: Case) -> int:
    """Warm up; return how many decisions take about `slice_ns`, a multiple of BATCH if many."""
    case.run(BATCH)
    calls = int(case.slice_ns * BATCH / max(1, case.run(BATCH)))
    return max(THREADS * 10, calls - calls % BATCH if calls > BATCH else calls)


async def end_tasks() -> None:
    """End the timers that some packages start."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the figures of all cases, which take turns in random order."""
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(THREADS) as pool:
        all_cases = list(cases(loop, pool))
        calls = [BATCH if case.group == BATCHED else calls_of_slice(case) for case in all_cases]
        times: list[list[float]] = [[] for _ in all_cases]
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            gc.collect()
            for at in random.sample(range(len(all_cases)), len(all_cases)):
                times[at].append(all_cases[at].run(calls[at]) / calls[at])
    loop.run_until_complete(end_tasks())
    loop.close()
    return [
        {"group": case.group, "name": case.name, "ns": Spread.of(taken)._asdict()}
        for case, taken in zip(all_cases, times, strict=True)
    ]
