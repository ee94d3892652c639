"""Compare the service demo with and without its limiter: `python benchmarks/service.py`.

One uvicorn worker serves each of the two, with one redis-server and the load tool on the same
machine. Runs alternate; the output has the median of the rounds and their quartiles.

    latency       requests at a fixed rate, far below the maximum of the service
    requests/s    20 connections that send the next request after each response
    1,000 at once 1,000 connections, 10,000 requests
    bytes         used_memory that 10,000 users add to Redis
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from rate_limiter import StoreError, __version__
from rate_limiter.cli.bench.measure import machine
from rate_limiter.cli.load.generator import LoadPlan, LoadResult, LoadRun
from rate_limiter.stores.connection import connect

ROOT = Path(__file__).resolve().parent.parent
USERS = 10_000
"""So many that each stays within 20 requests a minute: all measured requests are allowed."""
RATE = 200
PERCENTILES = (50, 95, 99)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[int]:
    """Run a program until the block ends; give the number of its process."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


class Redis:
    """A running redis-server, queried by the engine's client."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ask = connect(f"redis://127.0.0.1:{port}/0").client.command

    def info(self, section: str, name: str) -> str:
        """Return one value of INFO."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)[name]


@contextlib.contextmanager
def redis_running(folder: str) -> Iterator[Redis]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    with running("redis-server", *options):
        made = Redis(port)
        wait_for(lambda: made.ask("PING"))
        yield made


@contextlib.contextmanager
def service_running(app: str, redis_port: int) -> Iterator[str]:
    port = free_port()
    options = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    with running(sys.executable, *options, REDIS_PORT=str(redis_port), PYTHONPATH=path):
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: urlopen(f"{url}/health").close())
        yield url


def wait_for(question: object) -> None:
    """Retry until there is an answer."""
    deadline_s = time.monotonic() + 30
    while True:
        try:
            question()  # type: ignore[operator]
            return
        except (OSError, StoreError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def load(url: str, **plan: object) -> LoadResult:
    """Send requests of 10,000 users in rotation; return the result."""
    made = LoadPlan(f"{url}/api/resource", method="POST", users=USERS, **plan)  # type: ignore[arg-type]
    result = asyncio.run(LoadRun(made).run())
    if result.errors or set(result.statuses) != {200}:
        raise SystemExit(f"not every request passed: {result.statuses} {result.errors}")
    return result


def summary(values: list[float], form: str) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:{form}} ({low:{form}}..{high:{form}})"


def measure_latency(limited: str, unlimited: str, rounds: int, seconds: float) -> None:
    """Print latencies with and without the limiter, and what it adds."""
    taken: dict[str, dict[int, list[float]]] = {
        name: {percentile: [] for percentile in PERCENTILES} for name in ("with", "without")
    }
    for _ in range(rounds):
        for name, url in (("without", unlimited), ("with", limited)):
            result = load(url, rate=RATE, seconds=seconds, concurrency=50)
            for percentile in PERCENTILES:
                taken[name][percentile].append(
                    result.all_latencies().percentile_ns(percentile) / 1e6
                )
    print(f"\nlatency in ms, {RATE} requests/s due, {rounds} rounds of {seconds:g} s")
    for percentile in PERCENTILES:
        pairs = zip(taken["with"][percentile], taken["without"][percentile], strict=True)
        print(
            f"p{percentile}: with {summary(taken['with'][percentile], '.2f')}, "
            f"without {summary(taken['without'][percentile], '.2f')}, "
            f"added {summary([one - other for one, other in pairs], '.2f')}"
        )


def measure_throughput(limited: str, unlimited: str, rounds: int, seconds: float) -> None:
    """Print requests a second with and without the limiter."""
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for name, url in (("without", unlimited), ("with", limited)):
            result = load(url, seconds=seconds, concurrency=20)
            taken[name].append(result.answers / result.elapsed_s)
    pairs = zip(taken["with"], taken["without"], strict=True)
    print(f"\nrequests/s, 20 connections, {rounds} rounds of {seconds:g} s")
    print(f"with {summary(taken['with'], '.0f')}, without {summary(taken['without'], '.0f')}")
    print(f"with / without: {summary([one / other for one, other in pairs], '.3f')}")


def measure_many(limited: str) -> None:
    """Print errors and latencies with a thousand connections."""
    result = load(limited, requests=10_000, concurrency=1000, seconds=120, timeout_s=60)
    worst_ms = result.all_latencies().percentile_ns(100) / 1e6
    print(f"\n1,000 connections: 10,000 requests, {sum(result.errors.values())} errors")
    print(f"p99 {result.all_latencies().percentile_ns(99) / 1e6:.0f} ms, longest {worst_ms:.0f} ms")


def measure_bytes(limited: str, store: Redis) -> None:
    """Print the memory that the state of 10,000 users takes in Redis."""
    store.ask("FLUSHALL")
    before = int(store.info("memory", "used_memory"))
    load(limited, requests=USERS, concurrency=20, seconds=60)
    added = int(store.info("memory", "used_memory")) - before
    keys = store.ask("DBSIZE")
    print(f"\nRedis: {added / 1e6:.2f} MB for {keys} keys, {added / keys:.0f} bytes each")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5, help="of a run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_running(folder) as store:
        version = store.info("server", "redis_version")
        print(
            f"rate_limiter {__version__}, CPython {platform.python_version()}, Redis {version}, "
            f"{machine()}"
        )
        with (
            service_running("demo.service.app:app", store.port) as limited,
            service_running("unlimited_service:app", store.port) as unlimited,
        ):
            measure_latency(limited, unlimited, given.rounds, given.seconds)
            measure_throughput(limited, unlimited, given.rounds, given.seconds)
            measure_many(limited)
            measure_bytes(limited, store)


if __name__ == "__main__":
    main()
