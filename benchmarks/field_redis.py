"""The cases of benchmarks/field.py on a Redis of this machine, which it starts itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import redis
import redis.asyncio
from field_rivals import NEVER_DENIES, OURS, pyrate_limiter, texts
from rate_limiter import AsyncRateLimiter, RateLimiter
from rate_limiter.cli.bench.measure import Spread
from rate_limiter.stores.connection import scripts

CALLERS = (1, 50, 500)
POOL: dict[str, Any] = {
    "max_connections": 512,
    "socket_connect_timeout": 60,
    "socket_timeout": 60,
}
"""Options of redis-py: with its own, 500 callers get "Too many connections" and timeouts."""
CEILING = "redis-benchmark, pipelined"
SAME_SCRIPT = "redis-py, the same script"
(LIMIT,) = texts(NEVER_DENIES)
NUMBERS = (1000, 1, 10**9, 1, 0)
"""1 token, 10^9 a second: the numbers that the engine sends for LIMIT."""
CLIENTS = 100_000
SIZED = (
    "100/day",
    "100/day; window=sliding",
    "10/hour; 100/day",
    "10/hour; 50/day; 100/day",
)
"""So slow that no key expires while they are counted."""
FIELDS = ("per_second", "p50_ms", "p99_ms", "server_us")


class Measured(NamedTuple):
    """One case in one round."""

    per_second: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """CPU time of the server for one decision."""


@contextlib.contextmanager
def redis_server() -> Iterator[int]:
    """Run a redis-server on a free port; yield the port."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is missing: .ci/system-packages bench")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                while True:
                    with contextlib.suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()


# --- Limiters --------------------------------------------------------------------------------

Call = Callable[[], Any]


def calls(port: int) -> dict[str, Call]:
    """Return what makes one decision with each limiter, in this thread."""
    import limits
    import throttled
    from limits.strategies import FixedWindowRateLimiter
    from pyrate_limiter.buckets.redis_state import RedisStateStore

    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis(port=port)
    ours = RateLimiter(LIMIT, store=f"{url}?timeout=5", on_store_error="raise")
    script = client.register_script(scripts()[0])
    window = FixedWindowRateLimiter(limits.storage.RedisStorage(url))
    item = limits.parse(LIMIT)
    other = throttled.Throttled(
        using="token_bucket", quota=LIMIT, store=throttled.RedisStore(server=url)
    )
    bucket = pyrate_limiter(NEVER_DENIES, lambda key: RedisStateStore(client, key))
    return {
        f"{OURS}, hit": lambda: ours.hit("one"),
        SAME_SCRIPT: lambda: script(keys=["same"], args=NUMBERS),
        "limits, fixed window": lambda: window.hit(item, "one"),
        "throttled-py, token bucket": lambda: other.limit("one"),
        "pyrate-limiter, token bucket": lambda: bucket.try_acquire("pyrate", blocking=False),
    }


def async_calls(port: int) -> dict[str, Call]:
    """Return what makes one awaitable decision with each limiter."""
    import limits
    import throttled.asyncio
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter
    from pyrate_limiter.buckets.redis_state import RedisStateStore

    url = f"redis://127.0.0.1:{port}/0"
    client = redis.asyncio.Redis(port=port, **POOL)
    ours = AsyncRateLimiter(LIMIT, store=f"{url}?timeout=5", on_store_error="raise")
    script = client.register_script(scripts()[0])
    storage = RedisStorage(f"async+{url}", implementation="redispy", **POOL)
    window = FixedWindowRateLimiter(storage)
    item = limits.parse(LIMIT)
    options = {"CONNECTION_POOL_KWARGS": POOL}
    store = throttled.asyncio.RedisStore(server=url, options=options)
    other = throttled.asyncio.Throttled(using="token_bucket", quota=LIMIT, store=store)
    bucket = pyrate_limiter(NEVER_DENIES, lambda key: RedisStateStore(client, key))
    return {
        f"{OURS}, hit": lambda: ours.hit("one"),
        SAME_SCRIPT: lambda: script(keys=["same"], args=NUMBERS),
        "limits, fixed window": lambda: window.hit(item, "one"),
        "throttled-py, token bucket": lambda: other.limit("one"),
        "pyrate-limiter, token bucket": lambda: bucket.try_acquire_async("pyrate", blocking=False),
    }


# --- Drivers ---------------------------------------------------------------------------------


def one_caller(call: Call, seconds: float) -> list[float]:
    """Return the time of each call in seconds."""
    times_s = []
    now = time.perf_counter()
    deadline = now + seconds
    while now < deadline:
        call()
        after = time.perf_counter()
        times_s.append(after - now)
        now = after
    return times_s


async def many_callers(call: Callable[[], Awaitable[Any]], callers: int, seconds: float) -> Any:
    """Return the time of each call in seconds, of tasks that call again after each response."""
    times_s: list[float] = []
    deadline = time.perf_counter() + seconds

    async def work() -> None:
        now = time.perf_counter()
        while now < deadline:
            await call()
            after = time.perf_counter()
            times_s.append(after - now)
            now = after

    await asyncio.gather(*(work() for _ in range(callers)))
    return times_s


class Bench:
    """All cases on one server."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.seconds = seconds
        self.admin: Any = redis.Redis(port=port)
        self.called = calls(port)
        for call in self.called.values():
            call()

    def server_cpu_s(self) -> float:
        info = self.admin.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])

    def case(self, name: str, callers: int) -> Measured:
        """Measure one case once."""
        if callers == 1:
            before_s = self.server_cpu_s()
            begin_s = time.perf_counter()
            times_s = one_caller(self.called[name], self.seconds)
            elapsed_s = time.perf_counter() - begin_s
        else:
            times_s, elapsed_s, before_s = asyncio.run(self.tasks(name, callers))
            gc.collect()  # closes the connections
        cpu_s = self.server_cpu_s() - before_s
        cuts = statistics.quantiles(times_s, n=100)
        count = len(times_s)
        return Measured(count / elapsed_s, cuts[49] * 1e3, cuts[98] * 1e3, cpu_s / count * 1e6)

    async def tasks(self, name: str, callers: int) -> tuple[list[float], float, float]:
        """Measure an awaited case; its connections are opened before."""
        call = async_calls(self.port)[name]
        await asyncio.gather(*(call() for _ in range(callers)))
        before_s = self.server_cpu_s()
        begin_s = time.perf_counter()
        times_s = await many_callers(call, callers, self.seconds)
        return times_s, time.perf_counter() - begin_s, before_s

    def ceiling(self, callers: int) -> Measured:
        """Measure redis-benchmark with the same script, 16 calls per pipeline."""
        sha = self.admin.script_load(scripts()[0])
        numbers = [str(number) for number in NUMBERS]
        before = self.admin.info("commandstats")["cmdstat_evalsha"]["calls"]
        before_s = self.server_cpu_s()
        command = ["redis-benchmark", "-p", str(self.port), "-c", str(callers), "-P", "16"]
        command += ["-n", str(int(50_000 * self.seconds)), "--csv"]
        done = subprocess.run(
            [*command, "EVALSHA", sha, "1", "ceiling", *numbers],
            capture_output=True,
            text=True,
            check=True,
        )
        cpu_s = self.server_cpu_s() - before_s
        count = self.admin.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        names, values = (row for row in _rows(done.stdout) if len(row) > 5)
        row = dict(zip(names, values, strict=True))
        return Measured(
            float(row["rps"]),
            float(row["p50_latency_ms"]),
            float(row["p99_latency_ms"]),
            cpu_s / count * 1e6,
        )

    def bytes_of_a_client(self, limits: str) -> float:
        """Return the bytes that an active client adds to used_memory, including its keys."""
        self.admin.flushall()
        address = f"redis://127.0.0.1:{self.port}/0?timeout=10"
        limiter = RateLimiter(limits, store=address, on_store_error="raise")
        before = self.admin.info("memory")["used_memory"]
        keys = [f"user:{number}" for number in range(10_000, 10_000 + CLIENTS)]
        for at in range(0, CLIENTS, 1000):
            limiter.allow_many(keys[at : at + 1000])
        time.sleep(2)  # until Redis has moved all keys into a table that grew
        if (found := self.admin.dbsize()) != CLIENTS * len(limiter.limits):
            raise SystemExit(f"{limits}: {found} keys in Redis")
        return float((self.admin.info("memory")["used_memory"] - before) / CLIENTS)


def _rows(csv: str) -> list[list[str]]:
    """Return the rows of redis-benchmark, whose last line is what --csv prints."""
    lines = csv.replace("\r", "\n").splitlines()
    return [line.strip('"').split('","') for line in lines]


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Return the figures of all cases, which take turns in random order."""
    with redis_server() as port:
        bench = Bench(port, seconds)
        sizes = {limits: round(bench.bytes_of_a_client(limits)) for limits in SIZED}
        bench.admin.flushall()
        cases = [(name, callers) for callers in CALLERS for name in bench.called]
        cases += [(CEILING, callers) for callers in CALLERS[:2]]
        found: dict[tuple[str, int], list[Measured]] = {case: [] for case in cases}
        for _ in range(rounds):
            for name, callers in random.sample(cases, len(cases)):
                measured = bench.ceiling(callers) if name == CEILING else bench.case(name, callers)
                found[name, callers].append(measured)
        version = bench.admin.info("server")["redis_version"]
    rows = [
        {"callers": callers, "name": name}
        | {
            field: Spread.of([getattr(each, field) for each in all_rounds])._asdict()
            for field in FIELDS
        }
        for (name, callers), all_rounds in found.items()
    ]
    return {"redis": version, "cases": rows, "bytes_of_a_client": sizes}
