"""The part of benchmarks/web.py with servers: uvicorn and gunicorn, each with one worker, and wrk.

Each application has its own server. 20 kept-alive connections of wrk each send their next request
after the response to the last, for some seconds. The applications alternate within each round, so
that other load on the machine, such as wrk itself, affects all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from rate_limiter.cli.bench.measure import Spread
from ratios import Ratio, quartiles
from service import ROOT, free_port, running, wait_for
from web_cases import EMPTY, NO_FASTAPI, NO_FLASK, Case, by_base
from web_drivers import PATH, Asgi
from web_peers import FLASK_LIMITER, SLOWAPI

CONNECTIONS = 20
TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # in which the kernel gives CPU times
LIMITED = "FastAPI, dependency"
SERVED = (
    NO_FASTAPI,
    EMPTY,
    SLOWAPI,
    LIMITED,
    f"{LIMITED}, denied",
    NO_FLASK,
    "Flask, hand-written hooks",
    FLASK_LIMITER,
    "Flask, default limits",
    "Flask, default limits, denied",
)
UVICORN = ("uvicorn", "--factory", "web_application:application", "--no-access-log", "--port")
GUNICORN = (
    *("gunicorn", "web_application:application()", "--worker-class", "gthread"),
    *("--threads", "4", "--bind"),
)


class Load(NamedTuple):
    """The result of one run of wrk.

    The CPU time of the server for a request is the figure that other load on the machine affects
    least; the wall-clock ones need a machine without any.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class Server(NamedTuple):
    """A running server of one case."""

    case: Case
    url: str
    pid: int

    def cpu_s(self) -> float:
        """Return the CPU time of its processes so far."""
        return _cpu_s(self.pid)


def _cpu_s(pid: int) -> float:
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    children = (process / "task" / f"{pid}" / "children").read_text().split()
    own_s = (int(fields[11]) + int(fields[12])) * TICK_S
    return own_s + sum(_cpu_s(int(child)) for child in children)


def served_cases(cases: list[Case]) -> list[Case]:
    """Return those of the cases that are served, by their bases."""
    return [case for group in by_base(cases) for case in group if case.name in SERVED]


def wrk_version() -> str:
    """Return the name and version of wrk.

    Raises:
        SystemExit: it is not installed.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("--server needs wrk: run .ci/system-packages bench")
    shown = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout
    return " ".join(shown.split()[:2])


@contextlib.contextmanager
def serving(case: Case) -> Iterator[Server]:
    """Serve the application of a case."""
    port = free_port()
    command = (*UVICORN, f"{port}") if case.driver is Asgi else (*GUNICORN, f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}{PATH}"
    environment = {"CASE": case.name, "PYTHONPATH": str(ROOT / "benchmarks")}
    with running(sys.executable, "-m", *command, **environment) as pid:
        wait_for(lambda: urlopen(url).close())
        yield Server(case, url, pid)


def load(server: Server, seconds: int) -> Load:
    """Run wrk.

    Raises:
        SystemExit: responses are not as expected.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", server.url]
    before_s = server.cpu_s()
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu_s = max(server.cpu_s() - before_s, TICK_S)
    total = int(_found(r"(\d+) requests in", text))
    denied = int(_found(r"Non-2xx or 3xx responses: (\d+)", text) or 0)
    if "Socket errors" in text or denied != (total if server.case.status == 429 else 0):
        raise SystemExit(f"{server.case.name}: unexpected responses:\n{text}")
    requests_per_s = float(_found(r"Requests/sec: +([\d.]+)", text))
    return Load(requests_per_s, _ms(50, text), _ms(99, text), cpu_s / total * 1e6)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _ms(percentile: int, text: str) -> float:
    shown = _found(rf"{percentile}% +([\d.]+[mu]?s)", text)
    number = shown.rstrip("mus")
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[shown.removeprefix(number)]


def measure_servers(
    cases: list[Case], rounds: int, seconds: int
) -> tuple[list[dict[str, Any]], list[Ratio]]:
    """Print the figures of the served cases; return them, and those that have targets."""
    loads: dict[str, list[Load]] = {case.name: [] for case in cases}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(case)) for case in cases]
        for server in servers:
            load(server, 1)  # warm up
        for _ in range(rounds):
            for server in servers:
                loads[server.case.name].append(load(server, seconds))
    rows = [_row(case, loads) for case in cases]
    _show(rows, rounds, seconds)
    return rows, list(_targets(loads))


def _ratios(case: str, base: str, figure: int, loads: dict[str, list[Load]]) -> list[float]:
    """Return one figure of a case, as a ratio to another case in the same round."""
    pairs = zip(loads[case], loads[base], strict=True)
    return [one[figure] / other[figure] for one, other in pairs]


def _row(case: Case, loads: dict[str, list[Load]]) -> dict[str, Any]:
    base = case.base or case.name
    row: dict[str, Any] = {"name": case.name, "base": case.base}
    for figure, name in enumerate(Load._fields):
        row[name] = Spread.of([one[figure] for one in loads[case.name]])._asdict()
        row[f"{name}_ratio"] = Spread.of(_ratios(case.name, base, figure, loads))._asdict()
    return row


def _show(rows: list[dict[str, Any]], rounds: int, seconds: int) -> None:
    """Print the table."""
    print(
        f"\nuvicorn, and gunicorn with 4 threads: one worker each, {CONNECTIONS} connections, "
        f"{rounds} rounds of {seconds} s.\nIn brackets: ratios to the same without a limiter, with "
        "quartiles."
    )
    print(f"{'':<30}", *(f"{name:>26}" for name in ("requests/s", "p50 ms", "p99 ms", "CPU us")))
    for row in rows:
        line = f"{row['name']:<30}"
        for name in Load._fields:
            median, low, high = row[f"{name}_ratio"].values()
            ratio = f"({median:.2f}; {low:.2f}..{high:.2f})"
            line += f" {row[name]['median']:>7.5g} {ratio}"
        print(line if row["base"] else f"\n{line}")


def _targets(loads: dict[str, list[Load]]) -> Iterator[Ratio]:
    if LIMITED not in loads:
        return
    yield quartiles(
        f"{LIMITED}: requests/s / no limiter",
        _ratios(LIMITED, NO_FASTAPI, 0, loads),
        0.85,
        at_least=True,
    )
    yield quartiles(f"{LIMITED}: p99 / no limiter", _ratios(LIMITED, NO_FASTAPI, 2, loads), 1.2)
