"""Measure the engine in process memory: `python benchmarks/memory.py [--rounds N] [--json FILE]`.

Times are ratios taken in one run. The compared cases alternate in many short slices, and each round
gives one ratio. The output has the median of the rounds and their quartiles. Other load on the
machine affects both sides of a ratio equally.
"""

import argparse
import asyncio
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from python_middleware import PythonMiddleware
from rate_limiter import ManualClock, RateLimiter, __version__
from rate_limiter.cli.bench.measure import SLICE, PythonBucket, machine, slice_s
from rate_limiter.middleware import RateLimitMiddleware
from ratios import HEADING, Ratio, quartiles

# --- Calls -----------------------------------------------------------------------------------


def measure_calls(rounds: int) -> tuple[list[Ratio], dict[str, float]]:
    limiter = RateLimiter("1000000000/second")
    coarse = RateLimiter("1000000000/second", clock="coarse")
    rival = PythonBucket(1e9, 1e9)
    # gc.is_tracked is a C function that reads one flag of its argument and returns a bool.
    calls: dict[str, tuple[Callable[..., Any], str]] = {
        "empty": (gc.is_tracked, "192.0.2.1"),
        "allow": (limiter.allow, "192.0.2.1"),
        "allow, coarse clock": (coarse.allow, "192.0.2.1"),
        "hit": (limiter.hit, "192.0.2.1"),
        "peek": (limiter.peek, "192.0.2.1"),
        "python": (rival.allow, "192.0.2.1"),
    }
    keys = ["192.0.2.1"] * SLICE
    times: dict[str, list[float]] = {name: [] for name in (*calls, "allow_many")}
    for _ in range(rounds):
        for name, (call, argument) in calls.items():
            times[name].append(slice_s(call, argument))
        begin_s = time.perf_counter()
        limiter.allow_many(keys)
        times["allow_many"].append(time.perf_counter() - begin_s)

    def over(name: str, other: str) -> list[float]:
        return [one / two for one, two in zip(times[name], times[other], strict=True)]

    ratios = [
        quartiles("allow / empty C method", over("allow", "empty"), 6),
        quartiles("allow, coarse clock / empty C method", over("allow, coarse clock", "empty"), 6),
        quartiles("hit / empty C method", over("hit", "empty"), 8),
        quartiles("peek / empty C method", over("peek", "empty"), 8),
        quartiles("allow_many, per key / empty C method", over("allow_many", "empty"), 6),
        quartiles("dict-and-Lock bucket / allow", over("python", "allow"), 8, at_least=True),
    ]
    return ratios, {name: statistics.median(all_s) / SLICE * 1e9 for name, all_s in times.items()}


# --- The middleware --------------------------------------------------------------------------


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def send(message: Any) -> None: ...


async def measure_middleware(rounds: int) -> tuple[list[Ratio], dict[str, float]]:
    ours = RateLimitMiddleware(app, limits="1000000000/second", exempt_paths={"/health"})
    rival = PythonMiddleware(app, RateLimiter("1000000000/second"))
    scope = {"type": "http", "path": "/", "client": ("192.0.2.1", 5), "headers": []}
    times: dict[str, list[float]] = {"bare app": [], "middleware": [], "python middleware": []}
    for _ in range(rounds):
        for name, application in zip(times, (app, ours, rival), strict=True):
            begin_s = time.perf_counter()
            for _ in range(SLICE):
                await application(scope, None, send)
            times[name].append(time.perf_counter() - begin_s)
    added = [
        (one - bare) / (two - bare)
        for bare, one, two in zip(*times.values(), strict=True)
        if two > bare
    ]
    ratios = [quartiles("added by our middleware / by the same in Python", added, 1 / 3)]
    return ratios, {name: statistics.median(all_s) / SLICE * 1e9 for name, all_s in times.items()}


# --- Memory ----------------------------------------------------------------------------------

BYTES_PROGRAM = """
import sys
from rate_limiter import ManualClock, RateLimiter
from rate_limiter.cli.bench.measure import PythonBucket

def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

engine = RateLimiter("100/hour", clock=ManualClock())
limiter = {"engine": engine, "python": PythonBucket(100, 1)}[sys.argv[1]]
before = resident_bytes()
for number in range(1_000_000):
    limiter.allow(f"client:{number}")
print((resident_bytes() - before) / 1_000_000)
"""


def bytes_per_key(kind: str) -> float:
    """Return what a million keys add to the resident memory of a new process, per key."""
    command = [sys.executable, "-c", BYTES_PROGRAM, kind]
    done = subprocess.run(command, cwd=sys.path[0], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_memory() -> tuple[list[Ratio], dict[str, float]]:
    engine = [bytes_per_key("engine") for _ in range(3)]
    python = bytes_per_key("python")
    return [quartiles("resident bytes per key, at a million keys", engine, 32)], {
        "engine": statistics.median(engine),
        "python": python,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="of the interleaved slices")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()

    about = {
        "command": " ".join(["python", "benchmarks/memory.py", *sys.argv[1:]]),
        "machine": machine(),
        "versions": f"rate_limiter {__version__}, CPython {platform.python_version()}, "
        f"{platform.system()} {platform.release()}, {platform.python_compiler()}",
    }
    print("\n".join(f"{name}: {text}" for name, text in about.items()), flush=True)
    RateLimiter("1/second", clock=ManualClock()).allow("warm up")
    results = [
        measure_calls(arguments.rounds),
        asyncio.run(measure_middleware(arguments.rounds // 3)),
        measure_memory(),
    ]
    print(f"\n{HEADING}")
    ratios = [ratio for found, _ in results for ratio in found]
    print(*ratios, sep="\n")
    units = ("ns a call", "ns a request", "bytes a key")
    print("\nabsolute values of this run, for orientation only:")
    for (_, values), unit in zip(results, units, strict=True):
        print(f"  {unit}: " + ", ".join(f"{name} {value:.0f}" for name, value in values.items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({**about, "ratios": [ratio._asdict() for ratio in ratios]}, file, indent=2)


if __name__ == "__main__":
    main()
