"""Measure the targets of the engine: `python benchmarks/engine.py [--rounds N]`.

Times are ratios taken in one run. The compared cases alternate in short slices, and each round
gives one ratio. Other load on the machine affects both sides of a ratio equally.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rate_limiter import AsyncRateLimiter, RateLimiter
from rate_limiter.stores.address import SHARED
from ratios import HEADING, Ratio, quartiles

SLICE = 1000  # calls
KEY = "192.0.2.1"
KEYS = [f"client:{number}" for number in range(2000)]
LIMIT = "1000000000/second"
TARGETS = (
    ("allow / empty C call", "allow", "empty", 5.0),
    ("hit / empty C call", "hit", "empty", 7.0),
    ("allow_many, per key / empty C call", "allow_many", "empty", 3.0),
    ("two limits / one", "two limits", "allow", 1.3),
    ("await allow / allow", "await allow", "allow", 1.5),
    ("2,000 keys: shared memory / memory", "shared, 2,000 keys", "2,000 keys", 1.5),
)


def slice_of(call: Callable[..., Any], keys: list[str]) -> Callable[[], Any]:
    """Return a function that calls with each key; its bytecode is specialised for the call."""
    names: dict[str, Any] = {}
    exec("def run(call, keys):\n    for key in keys: call(key)", names)
    return partial(names["run"], call, keys)


async def awaits(call: Callable[[str], Any]) -> None:
    for _ in range(SLICE):
        await call(KEY)


def run_async(call: Callable[[str], Any]) -> None:
    """Run without an event loop, whose own time would count: in memory nothing waits."""
    try:
        awaits(call).send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def cases(path: str) -> dict[str, Callable[[], Any]]:
    limiter = RateLimiter(LIMIT)
    two = RateLimiter(f"{LIMIT}; 60000000000/minute")
    shared = RateLimiter(LIMIT, store=f"{SHARED}{path}")
    one = [KEY] * SLICE
    return {
        # It reads one flag of its argument.
        "empty": slice_of(gc.is_tracked, one),
        "allow": slice_of(limiter.allow, one),
        "hit": slice_of(limiter.hit, one),
        "allow_many": partial(limiter.allow_many, one),
        "two limits": slice_of(two.allow, one),
        "await allow": partial(run_async, AsyncRateLimiter.of(limiter).allow),
        "2,000 keys": slice_of(RateLimiter(LIMIT).allow, KEYS),
        "shared, 2,000 keys": slice_of(shared.allow, KEYS),
    }


def measure(rounds: int, path: str) -> list[Ratio]:
    run = cases(path)
    times: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(rounds):
        for name, call in run.items():
            begin_s = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin_s)
    return [
        quartiles(text, [a / b for a, b in zip(times[of], times[to], strict=True)], target)
        for text, of, to, target in TARGETS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="of the alternating slices")
    path = f"/dev/shm/rl-benchmark-{os.getpid()}"
    try:
        ratios = measure(parser.parse_args().rounds, path)
    finally:
        for file in os.listdir("/dev/shm"):
            if f"/dev/shm/{file}".startswith(path):
                os.unlink(f"/dev/shm/{file}")
    print(HEADING, *ratios, sep="\n")


if __name__ == "__main__":
    main()
