"""Compare the stand-ins for slowapi and Flask-Limiter with the originals, on a Redis.

    python benchmarks/compat_redis.py [--rounds 7] [--seconds 1.0]

Starts its own redis-server. The same programs as in benchmarks/web.py, a FastAPI route and a Flask
view with a limit, are asked by 50 callers at once: tasks of one event loop for FastAPI, threads for
Flask. They share a limit and never exceed it. There is no web server. Each round measures every
case once; the output has the median of the rounds' ratios and their quartiles, and the CPU time of
this process for a request, which other load on the machine affects less.

The ratio counts the whole request, of which the framework has its part. So each round also measures
the application without a limiter: its requests are the most that any limiter may reach. The output
says if that bound is below the target.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from ratios import HEADING, quartiles
from web_cases import fastapi_app, flask_app
from web_drivers import HEADERS, Asgi, Wsgi
from web_peers import COMPAT, FLASK_COMPAT, flask_limiter_decorator, slowapi_decorator

CALLERS = 50
LIMIT = "1000000000/day"
TARGET = 4.0


@contextmanager
def server() -> Iterator[int]:
    """Run a redis-server on a free port."""
    program = shutil.which("redis-server")
    assert program is not None, "redis-server is needed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
                time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()


class Measured(NamedTuple):
    """What an application did in one round."""

    per_second: float
    cpu_us: float  # of a request

    @classmethod
    def of(cls, requests: int, seconds: float, began_s: float) -> Measured:
        cpu_s = time.process_time() - began_s
        return cls(requests / seconds, cpu_s / requests * 1e6)


def in_tasks(app: Any, seconds: float) -> Measured:
    """Ask an ASGI application for some seconds."""
    driver = Asgi(app, HEADERS)
    assert driver.answer()[0] == 200

    began_s = time.process_time()

    async def main() -> int:
        deadline = time.perf_counter() + seconds

        async def work() -> int:
            count = 0
            while time.perf_counter() < deadline:
                await driver.ask()
                count += 1
            return count

        return sum(await asyncio.gather(*(work() for _ in range(CALLERS))))

    return Measured.of(asyncio.run(main()), seconds, began_s)


def in_threads(app: Any, seconds: float) -> Measured:
    """Ask a WSGI application for some seconds."""
    driver = Wsgi(app, HEADERS)
    assert driver.answer()[0] == 200
    counts = [0] * CALLERS
    began_s = time.process_time()
    deadline = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < deadline:
            driver.ask()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Measured.of(sum(counts), seconds, began_s)


Case = Callable[[], Measured]
Cases = dict[str, tuple[Case, Case, Case]]
NAMES = ("stand-in", "original", "no limiter")


def cases(port: int, seconds: float) -> Cases:
    """Return the cases: by name the stand-in, the original and the application without either."""
    uri = f"redis://127.0.0.1:{port}"

    def of(run: Any, unlimited: Any, make: Any, *packages: str) -> Any:
        # The engine waits 0.1 s for Redis by default, too short where 50 threads share two cores.
        apps = [
            make(LIMIT, package=one, storage_uri=uri + more)
            for one, more in zip(packages, ("?timeout=10", ""), strict=True)
        ]
        return tuple(partial(run, app, seconds) for app in (*apps, unlimited))

    return {
        "slowapi, decorator": of(in_tasks, fastapi_app(), slowapi_decorator, COMPAT, "slowapi"),
        "Flask-Limiter, decorator": of(
            in_threads, flask_app(), flask_limiter_decorator, FLASK_COMPAT, "flask_limiter"
        ),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case of each round")
    given = parser.parse_args()
    packages = ("slowapi", "Flask-Limiter", "limits", "redis", "fastapi", "flask")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"CPython {platform.python_version()}, {platform.machine()}, {versions}")
    with server() as port:
        found: dict[str, list[tuple[Measured, ...]]] = {}
        measured = cases(port, given.seconds)
        for _ in range(given.rounds):
            for name, runs in measured.items():
                found.setdefault(name, []).append(tuple(run() for run in runs))
    print(HEADING)
    for name, rounds in found.items():
        show(name, rounds)


def show(name: str, rounds: list[tuple[Measured, ...]]) -> None:
    """Print the figures of a case."""
    speeds, bounds, added = [], [], []
    for ours, theirs, unlimited in rounds:
        speeds.append(ours.per_second / theirs.per_second)
        bounds.append(unlimited.per_second / theirs.per_second)
        added.append((theirs.cpu_us - unlimited.cpu_us) / (ours.cpu_us - unlimited.cpu_us))
    print(
        quartiles(
            f"requests of the stand-in / {name}, {CALLERS} callers", speeds, TARGET, at_least=True
        )
    )
    low, bound, high = statistics.quantiles(bounds, n=4, method="inclusive")
    verdict = "" if bound >= TARGET else f": no limiter reaches {TARGET}"
    print(f"    bound: without a limiter {bound:.2f} ({low:.2f} .. {high:.2f}){verdict}")
    low, middle, high = statistics.quantiles(added, n=4, method="inclusive")
    print(f"    CPU time added by the original / stand-in {middle:.2f} ({low:.2f} .. {high:.2f})")
    for who, several in zip(NAMES, zip(*rounds, strict=True), strict=True):
        speed = statistics.median(one.per_second for one in several)
        cpu_us = statistics.median(one.cpu_us for one in several)
        print(f"    {who:10}{speed:>8.0f}/s{cpu_us:>8.0f} us of CPU for a request")


if __name__ == "__main__":
    main()
