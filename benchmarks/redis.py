"""Compare decisions in Redis with redis-py sending the same EVALSHA, in the same run.

    python benchmarks/redis.py [--rounds 7] [--seconds 1.0]

Starts its own redis-server. Each round measures every case once, so that other load on the machine
affects all of them; the output has the median of the rounds' ratios and their quartiles. redis-py
runs the same script with the same arguments, over one connection per thread, and a connection pool
for tasks, as its documentation recommends. The memory is that of Redis for 100,000 active clients.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

sys.path.pop(0)  # this folder, where `import redis` would find this very file

import rate_limiter
import redis
import redis.asyncio
from rate_limiter import AsyncRateLimiter, RateLimiter
from rate_limiter.stores.connection import scripts

CLIENTS = 100_000
TASKS = 50
THREADS = 8
LIMIT = "1000000000/second"
SIZED = (
    "100/hour",
    "100/hour; window=sliding",
    "100/hour; 1000/day",
    "1/second; 9/minute; 99/hour",
)


@dataclass
class Measured:
    """The result of one case in one round."""

    per_second: float
    p99_ms: float
    server_us: float
    """CPU time of the server for one decision."""


@contextmanager
def server() -> Iterator[int]:
    """Run a redis-server on a free port."""
    program = shutil.which("redis-server")
    assert program is not None, "redis-server is needed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            folder,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(port=port)
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()


class Benchmark:
    """The cases, on one server."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.seconds = seconds
        self.admin = redis.Redis(port=port)
        self.limiter = RateLimiter(
            LIMIT, store=f"redis://127.0.0.1:{port}/0?timeout=5", on_store_error="raise"
        )
        self.body = scripts()[0]
        # 1 token, 10^9 a second: the numbers that the engine sends for LIMIT.
        self.numbers = (1000, 1, 10**9, 1, 0)

    def measured(self, run: Callable[[list[float]], None]) -> Measured:
        """Run a case, which appends the time of each decision to a list."""
        times_s: list[float] = []
        before_s = self.server_cpu_s()
        started = time.perf_counter()
        run(times_s)
        elapsed_s = time.perf_counter() - started
        cpu_s = self.server_cpu_s() - before_s
        p99_ms = statistics.quantiles(times_s, n=100)[98] * 1000
        return Measured(len(times_s) / elapsed_s, p99_ms, cpu_s / len(times_s) * 1e6)

    def server_cpu_s(self) -> float:
        info: Any = self.admin.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])

    # --- One caller, and threads ---

    def blocking(self, call: Callable[[], object], times_s: list[float]) -> None:
        deadline = time.perf_counter() + self.seconds
        now = time.perf_counter()
        while now < deadline:
            call()
            after = time.perf_counter()
            times_s.append(after - now)
            now = after

    def one_caller(self, times_s: list[float]) -> None:
        self.blocking(lambda: self.limiter.hit("one"), times_s)

    def one_caller_redis_py(self, times_s: list[float]) -> None:
        script = redis.Redis(port=self.port).register_script(self.body)
        script(keys=["warm"], args=self.numbers)
        self.blocking(lambda: script(keys=["one"], args=self.numbers), times_s)

    def in_threads(self, case: Callable[[list[float]], None], times_s: list[float]) -> None:
        lists: list[list[float]] = [[] for _ in range(THREADS)]
        threads = [threading.Thread(target=case, args=(each,)) for each in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in lists:
            times_s += each

    def threads(self, times_s: list[float]) -> None:
        self.in_threads(self.one_caller, times_s)

    def threads_redis_py(self, times_s: list[float]) -> None:
        self.in_threads(self.one_caller_redis_py, times_s)

    # --- Tasks ---

    def in_tasks(self, call: Callable[[], Any], times_s: list[float]) -> Any:
        async def work() -> None:
            deadline = time.perf_counter() + self.seconds
            now = time.perf_counter()
            while now < deadline:
                await call()
                after = time.perf_counter()
                times_s.append(after - now)
                now = after

        return asyncio.gather(*(work() for _ in range(TASKS)))

    def tasks(self, times_s: list[float]) -> None:
        limiter = AsyncRateLimiter.of(self.limiter)

        async def main() -> None:
            await self.in_tasks(lambda: limiter.hit("one"), times_s)

        asyncio.run(main())

    def tasks_redis_py(self, times_s: list[float]) -> None:
        async def main() -> None:
            client = redis.asyncio.Redis(port=self.port)
            script = client.register_script(self.body)
            await script(keys=["warm"], args=self.numbers)
            await self.in_tasks(lambda: script(keys=["one"], args=self.numbers), times_s)
            await client.aclose()

        asyncio.run(main())


def bytes_of_a_client(port: int, limits: str) -> float:
    """Return the bytes that an active client adds to used_memory, including its keys."""
    with redis.Redis(port=port) as admin:
        admin.flushall()
        address = f"redis://127.0.0.1:{port}/0?timeout=10"
        limiter = RateLimiter(limits, store=address, on_store_error="raise")
        before = admin.info("memory")["used_memory"]  # type: ignore[index]
        keys = [f"user:{number}" for number in range(10_000, 10_000 + CLIENTS)]
        for at in range(0, CLIENTS, 1000):
            limiter.allow_many(keys[at : at + 1000])
        after = admin.info("memory")["used_memory"]  # type: ignore[index]
        assert admin.dbsize() == CLIENTS * len(limiter.limits)
        return float((after - before) / CLIENTS)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case of each round")
    given = parser.parse_args()
    with server() as port:
        bench = Benchmark(port, given.seconds)
        version = bench.admin.info("server")["redis_version"]  # type: ignore[index]
        print(
            f"rate_limiter {rate_limiter.__version__}, redis-py {redis.__version__}, "
            f"Redis {version}, CPython {platform.python_version()}, {platform.machine()}"
        )
        cases = {
            "one caller": (bench.one_caller, bench.one_caller_redis_py, 1),
            f"{THREADS} threads": (bench.threads, bench.threads_redis_py, 4),
            f"{TASKS} tasks": (bench.tasks, bench.tasks_redis_py, 7),
        }
        results: dict[str, list[tuple[Measured, Measured]]] = {name: [] for name in cases}
        for _ in range(given.rounds):
            for name, (ours, theirs, _target) in cases.items():
                results[name].append((bench.measured(ours), bench.measured(theirs)))
        sizes = {limits: bytes_of_a_client(port, limits) for limits in SIZED}
    for name, (_ours, _theirs, target) in cases.items():
        show(name, results[name], target)
    for limits, size in sizes.items():
        print(f"memory of Redis for user:12345 with {limits}: {size:.0f} bytes")


def show(name: str, rounds: list[tuple[Measured, Measured]], target: float) -> None:
    """Print the result of a case."""
    ratios = [ours.per_second / theirs.per_second for ours, theirs in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    verdict = "met" if middle >= target else "MISSED"
    print(
        f"{name}: {middle:.1f} times redis-py ({low:.1f}..{high:.1f}; target {target}: {verdict})"
    )
    for who, index in (("rate_limiter", 0), ("redis-py", 1)):
        print(
            f"    {who:13}{statistics.median(r[index].per_second for r in rounds):>8.0f}/s"
            f"{statistics.median(r[index].p99_ms for r in rounds):>9.2f} ms p99"
            f"{statistics.median(r[index].server_us for r in rounds):>8.1f} us of server CPU"
        )


if __name__ == "__main__":
    main()
