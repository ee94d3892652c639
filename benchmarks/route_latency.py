"""Measure what a RateLimit adds to a FastAPI route: `python benchmarks/route_latency.py`.

One uvicorn worker serves the same route without a limit, with an empty dependency, and with limits.
20 kept-alive connections each send their next request when they have the response to the last. The
routes alternate within each round, so that other load on the machine affects all of them.
The load tool runs on the same machine. The output has the medians of the rounds, and the medians of
the ratios to the route without a limit in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
from importlib.metadata import version
from urllib.request import urlopen

from fastapi import Depends, FastAPI, Response
from fastapi.requests import HTTPConnection
from rate_limiter import __version__
from rate_limiter.cli.bench.measure import machine
from rate_limiter.cli.load.generator import LoadPlan, LoadRun
from rate_limiter.fastapi import RateLimit
from service import ROOT, free_port, running, wait_for

CONNECTIONS = 20
ENOUGH = "1000000/second"
STATUSES = {"free": 200, "empty": 200, "limited": 200, "settled": 200, "denied": 429}

app = FastAPI()


async def empty(connection: HTTPConnection, response: Response) -> None:
    """Do nothing, with the same parameters as a RateLimit."""


async def view() -> dict[str, str]:
    return {"message": "hello"}


def add_routes() -> None:
    dependencies = {
        "free": [],
        "empty": [Depends(empty)],
        "limited": [Depends(RateLimit(ENOUGH))],
        "settled": [Depends(RateLimit(ENOUGH, cost_after=lambda finished: 0))],
        "denied": [Depends(RateLimit("1/day"))],
    }
    for name, several in dependencies.items():
        app.get(f"/{name}", dependencies=several, name=name)(view)


add_routes()


def measure(url: str, seconds: float, status: int) -> tuple[float, float, float]:
    """Load a route; return p50 and p99 in ms, and requests a second."""
    plan = LoadPlan(url, concurrency=CONNECTIONS, seconds=seconds)
    result = asyncio.run(LoadRun(plan).run())
    others = set(result.statuses) - {status}
    if result.errors or (others and status != 429):
        raise SystemExit(f"{url}: {dict(result.statuses)} {dict(result.errors)}")
    p50_ns, p99_ns = result.all_latencies().percentiles_ns([50, 99])
    return p50_ns / 1e6, p99_ns / 1e6, result.requests_per_s


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4, help="of each route in a round")
    given = parser.parse_args()
    packages = ("fastapi", "starlette", "uvicorn")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"rate_limiter {__version__}, CPython {platform.python_version()}, {versions}")
    print(f"{machine()}; {CONNECTIONS} connections, {given.rounds} rounds of {given.seconds:g} s")

    port = free_port()
    server = [sys.executable, "-m", "uvicorn", "route_latency:app", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STATUSES}
    with running(*server, "--no-access-log", PYTHONPATH=str(ROOT / "benchmarks")):
        wait_for(lambda: urlopen(f"{url}/free").close())
        for name, status in STATUSES.items():
            measure(f"{url}/{name}", 1, status)  # warm up
        for _ in range(given.rounds):
            for name, status in STATUSES.items():
                taken[name].append(measure(f"{url}/{name}", given.seconds, status))
    print(f"{'route':10} {'p50 ms':>16} {'p99 ms':>16} {'requests/s':>18}   (ratio to free)")
    for name, rounds in taken.items():
        columns = []
        for i, form in enumerate((".2f", ".2f", ".0f")):
            values = [one[i] for one in rounds]
            bases = [one[i] for one in taken["free"]]
            ratio = statistics.median(a / b for a, b in zip(values, bases, strict=True))
            columns.append(f"{statistics.median(values):{form}} ({ratio:.2f})")
        print(f"{name:10} {columns[0]:>16} {columns[1]:>16} {columns[2]:>18}")


if __name__ == "__main__":
    main()
