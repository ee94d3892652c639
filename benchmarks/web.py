"""Measure what a limiter adds to a request: `python benchmarks/web.py [--only PATTERN] [--server]`.

The applications are called in this process, without a server. Each round sends a slice of requests
to every application and measures the CPU time of the thread, so that other load on the machine
affects all of them alike. A limiter adds the time of a request less the time of the same request
without a limiter in the same round. The output has the medians of the rounds and their quartiles,
in microseconds.

With --server, uvicorn and gunicorn serve some of the applications too: see web_servers.py.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import platform
import random
import re
import statistics
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from rate_limiter import __version__
from rate_limiter.cli.bench.measure import Spread, machine
from ratios import HEADING, WIDTH, Ratio, quartiles
from web_cases import (
    CONFIGURATIONS,
    COST_ALONE,
    EMPTY,
    KEY_ALONE,
    LIMITS_ALONE,
    NO_ASGI,
    NO_FASTAPI,
    NO_FLASK,
    NO_WSGI,
    Case,
    by_base,
)
from web_drivers import Driver
from web_peers import COMPAT, FLASK_COMPAT, FLASK_LIMITER, PACKAGES, all_cases
from web_servers import measure_servers, served_cases, wrk_version

SLICE_NS = 3_000_000
WARM_UP = 1000  # requests: a RateLimit checks so many for mistakes in its configuration
FRAMEWORKS = ("fastapi", "starlette", "flask", "werkzeug")
SERVERS = ("uvicorn", "uvloop", "httptools", "gunicorn")

Times = dict[str, list[float]]
"""By case, the microseconds of a request in each round."""


# --- Measuring -------------------------------------------------------------------------------


def measure(cases: list[Case], rounds: int) -> Times:
    """Return the times of the cases, interleaved."""
    try:
        drivers = {case.name: case.start() for case in cases}
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error}: pip install 'rate-limiter-c[bench]', or choose with --only"
        ) from None
    calls = {name: _calls_of_slice(driver) for name, driver in drivers.items()}
    times: Times = {name: [] for name in drivers}
    gc.collect()
    gc.freeze()  # a collection then looks only at the garbage of the requests
    for _ in range(rounds):
        for name in _order(cases):
            gc.collect()
            times[name].append(drivers[name].time_ns(calls[name]) / calls[name] / 1e3)
    for case in cases:
        case.check(drivers[case.name])
    return times


def _order(cases: list[Case]) -> list[str]:
    """Return the names in random order, those with the same base together."""
    groups = [random.sample(group, len(group)) for group in by_base(cases)]
    random.shuffle(groups)
    return [case.name for group in groups for case in group]


def _calls_of_slice(driver: Driver) -> int:
    """Warm up; return how many requests take about SLICE_NS."""
    driver.time_ns(WARM_UP)
    return max(10, SLICE_NS * 100 // max(1, driver.time_ns(100)))


def difference(times: Times, names: tuple[str, ...]) -> list[float]:
    """Return the times of the first case less those of the others, by round."""
    columns = [times[name] for name in names]
    return [one - sum(others) for one, *others in zip(*columns, strict=True)]


# --- Targets ---------------------------------------------------------------------------------


class Target(NamedTuple):
    """A bound of a difference of cases, or of its ratio to another difference.

    Attributes:
        name: the case, and what is compared.
        value: names of cases: the first less the others.
        bound: in microseconds; without a unit if `over` is given.
        over: names of cases, as in `value`.
        at_least: the bound is the least value and not the largest.
    """

    name: str
    value: tuple[str, ...]
    bound: float
    over: tuple[str, ...] = ()
    at_least: bool = False

    def ratio(self, times: Times) -> Ratio:
        unit = statistics.median(difference(times, self.over)) if self.over else 1
        values = [one / unit for one in difference(times, self.value)]
        if self.at_least:
            values = [1 / one for one in values]
        return quartiles(self.name, values, self.bound, at_least=self.at_least)


def targets() -> Iterator[Target]:
    plain, *others, everything = CONFIGURATIONS
    for name, bound in {plain: 1, **dict.fromkeys(others, 3), everything: 6}.items():
        yield added(f"ASGI, {name}", NO_ASGI, bound)
    for name in ("plain", "header key chain"):
        yield added(f"WSGI, {name}", NO_WSGI, 3)
    for name in ("default limits", "decorator"):
        yield added(f"Flask, {name}", NO_FLASK, 10)
    denied = [f"ASGI, {name}, denied" for name in CONFIGURATIONS]
    for name in (*denied, "WSGI, plain, denied", "WSGI, header key chain, denied"):
        yield Target(f"{name}: us of a request", (name,), 8)
    callables = (("key", KEY_ALONE, 1), ("cost", COST_ALONE, 1), ("limits", LIMITS_ALONE, 2))
    for name, alone, bound in callables:
        case = f"ASGI, callable {name}"
        parts = (case, "ASGI, plain", alone)
        yield Target(f"{case}: us more than plain and callable", parts, bound)
    yield Target(
        "FastAPI, dependency: added / empty dependency",
        ("FastAPI, dependency", NO_FASTAPI),
        1.3,
        (EMPTY, NO_FASTAPI),
    )
    for name in ("ASGI middleware", "decorator"):
        yield Target(
            f"added by slowapi / {COMPAT}, {name}",
            (f"{COMPAT}, {name}", NO_FASTAPI),
            2,
            (f"slowapi, {name}", NO_FASTAPI),
            at_least=True,
        )
    for name in ("default limits", "decorator"):
        yield Target(
            f"added by Flask-Limiter / {FLASK_COMPAT}, {name}",
            (f"{FLASK_COMPAT}, {name}", NO_FLASK),
            5,
            (f"Flask-Limiter, {name}", NO_FLASK),
            at_least=True,
        )
    for name in ("default limits", "decorator"):
        case = f"Flask, {name}"
        yield Target(
            f"added by Flask-Limiter / {case}",
            (case, NO_FLASK),
            12,
            (FLASK_LIMITER, NO_FLASK),
            at_least=True,
        )
        yield Target(f"{case}, denied / no limiter", (f"{case}, denied",), 1.05, (NO_FLASK,))


def added(name: str, base: str, bound: float) -> Target:
    return Target(f"{name}: us added", (name, base), bound)


# --- Output ----------------------------------------------------------------------------------


def about(packages: tuple[str, ...], *others: str) -> dict[str, str]:
    """Return the context of the figures."""
    versions = [f"rate_limiter {__version__}", f"CPython {platform.python_version()}", *others]
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", "benchmarks/web.py", *sys.argv[1:]]),
        "machine": f"{machine()}, {platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
    }


def rows_of(cases: list[Case], times: Times) -> list[dict[str, Any]]:
    """Return the figures of each case, those with the same base together."""
    rows = []
    for case in itertools.chain(*by_base(cases)):
        row: dict[str, Any] = {"name": case.name, "base": case.base}
        row["request_us"] = Spread.of(times[case.name])._asdict()
        if case.base:
            row["added_us"] = Spread.of(difference(times, (case.name, case.base)))._asdict()
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"\n{'us of CPU time':<{WIDTH}} {'request':>8} {'added':>8}  {'quartiles':>18}")
    for row in rows:
        line = f"{row['name']:<{WIDTH}} {row['request_us']['median']:8.2f}"
        if "added_us" in row:
            median, low, high = row["added_us"].values()
            line += f" {median:8.2f}  {f'{low:.2f} .. {high:.2f}':>18}"
        print(line if row["base"] else f"\n{line}")


def selected(cases: list[Case], pattern: str) -> list[Case]:
    """Return the cases whose names match, and those that they are compared with."""
    chosen = [case for case in cases if re.search(pattern, case.name)]
    names = {case.name for case in chosen} | {case.base for case in chosen}
    return [case for case in cases if case.name in names]


def at_least_two(text: str) -> int:
    if (number := int(text)) < 2:
        raise ValueError
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_two, default=200, help="at least 2")
    parser.add_argument("--only", metavar="PATTERN", default="", help="regular expression")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--server", action="store_true", help="measure with servers and wrk too")
    parser.add_argument("--server-rounds", type=at_least_two, default=7, help="at least 2")
    parser.add_argument("--seconds", type=int, default=4, help="of a run with a server")
    given = parser.parse_args()
    given.cases = selected(all_cases(), given.only)
    if not given.cases:
        parser.error(f"--only: no case matches {given.only!r}")
    return given


def main() -> None:
    """Print the figures."""
    given = parse()
    logging.getLogger().addHandler(logging.NullHandler())  # some packages log each denial
    tools = [wrk_version()] if given.server else []
    packages = (*FRAMEWORKS, *PACKAGES, *(SERVERS if given.server else ()))
    figures: dict[str, Any] = about(packages, *tools)
    print("\n".join(f"{name}: {text}" for name, text in figures.items()), flush=True)
    times = measure(given.cases, given.rounds)
    figures["cases"] = rows_of(given.cases, times)
    show(figures["cases"])
    met = [
        target.ratio(times) for target in targets() if {*target.value, *target.over} <= times.keys()
    ]
    if given.server:
        served, ratios = measure_servers(
            served_cases(given.cases), given.server_rounds, given.seconds
        )
        figures["servers"] = served
        met += ratios
    print(f"\n{HEADING}", *met, sep="\n")
    if given.json:
        figures["targets"] = [ratio._asdict() | {"met": ratio.is_met} for ratio in met]
        with open(given.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
