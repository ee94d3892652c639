"""Write docs/benchmarks.md and its charts from benchmarks/results/*.json.

    python benchmarks/field_page.py

Write the figures with `make bench` first; see docs/benchmarks.md itself for the commands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from chart import IMAGES, ROOT, bars, chart
from field_calls import (
    AWAIT,
    AWAIT_DENIED,
    BATCHED,
    DENIED,
    IN_THREADS,
    MANY_KEYS,
    ONE_KEY,
    TWO,
)
from field_redis import CALLERS, CEILING, SAME_SCRIPT
from field_rivals import EMPTY_CALL, EMPTY_COROUTINE, OURS
from rate_limiter.cli.bench.measure import PYTHON

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
FLOORS = (EMPTY_CALL.name, EMPTY_COROUTINE.name, CEILING)
COLUMNS = (ONE_KEY, MANY_KEYS, DENIED, TWO, BATCHED)

Figures = dict[str, Any]
Spread = dict[str, float]


# --- Text ------------------------------------------------------------------------------------


def cell(spread: Spread | None, scale: float = 1) -> str:
    """Return a median with its quartiles, or nothing."""
    if spread is None:
        return ""
    median, low, high = (short(value * scale) for value in spread.values())
    return f"{median} ({low} to {high})"


def short(value: float) -> str:
    """Return a value with three significant digits and thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def who(callers: int) -> str:
    return "1 caller, not async" if callers == 1 else f"{callers} asyncio tasks"


def by_name(rows: Iterable[Figures], group: str, field: str = "ns") -> dict[str, Spread]:
    """Return the spreads of the cases of a group of field_calls."""
    return {row["name"]: row[field] for row in rows if row["group"] == group}


# --- Sections --------------------------------------------------------------------------------


def calls_section(rows: list[Figures]) -> str:
    """Return the tables of decisions in process memory."""
    columns = [by_name(rows, group) for group in COLUMNS]
    names = list(dict.fromkeys(name for column in columns for name in column))
    floor = {group: by_name(rows, group).get(EMPTY_CALL.name) for group in COLUMNS}
    ours = by_name(rows, ONE_KEY)[f"{OURS}, allow"]["median"]
    empty = floor[ONE_KEY]
    assert empty is not None
    memory = table(
        ["CPU time per decision, µs", *COLUMNS],
        ([name, *(cell(column.get(name), 1e-3) for column in columns)] for name in names),
    )
    awaited = [by_name(rows, AWAIT), by_name(rows, AWAIT_DENIED)]
    tasks = table(
        ["CPU time per decision, µs", AWAIT, AWAIT_DENIED],
        (
            [name, *(cell(column.get(name), 1e-3) for column in awaited)]
            for name in dict.fromkeys(name for column in awaited for name in column)
        ),
    )
    threads = table(
        ["CPU time per decision, µs", IN_THREADS],
        ([name, cell(spread, 1e-3)] for name, spread in by_name(rows, IN_THREADS).items()),
    )
    return f"""## In memory

![CPU time of one allowed decision in memory](images/bench-memory.svg)

{memory}

`allow` takes {ratio(ours / empty["median"])} times as long as an empty C call, which reads one flag
of its argument. The other packages have no call for a batch. token-bucket takes no lock; its
documentation says that races reduce the capacity slightly. With two limits, limits, throttled-py
and token-bucket are called twice: a request that the second limit denies has used the first one.

{tasks}

aiolimiter has one bucket per limiter, without keys, and waits instead of denying.

{threads}

With eight threads the figure is CPU time of the process, with the cost of switching threads.
"""


def keys_section(rows: list[Figures]) -> str:
    """Return the table of floods."""
    body = table(
        [
            "",
            "bytes per key, at a million keys",
            "keys decided",
            "CPU time per key, µs",
            "resident memory at the end, MB",
            "worst decision, CPU µs",
        ],
        (
            [
                row["name"],
                short(row["bytes_per_key"]),
                f"{row['keys']:,}",
                *(short(row[field]) for field in ("cpu_us_per_key", "resident_mb", "worst_us")),
            ]
            for row in rows
        ),
    )
    return f"""## Many keys

One decision about each of many new keys, at 100 an hour, in a new process: one run per limiter.

![Resident bytes per key](images/bench-keys.svg)

{body}

A run ends early when its process has 1 GB. This package has `max_keys=1_000_000`, its default, so
its memory is bounded. throttled-py keeps 1,024 keys by default and forgets the oldest; here it
keeps all. The worst decision is the slowest of a run: for example, a table grows, or Python's
garbage collector visits all objects. CPU time leaves out the pauses of the scheduler.
"""


def redis_section(figures: Figures) -> str:
    """Return the tables of decisions on Redis."""
    parts = []
    for callers in CALLERS:
        rows = [row for row in figures["cases"] if row["callers"] == callers]
        parts.append(
            table(
                [
                    who(callers),
                    "decisions/s",
                    "p50, ms",
                    "p99, ms",
                    "CPU of Redis per decision, µs",
                ],
                (
                    [
                        row["name"],
                        *(
                            cell(row[field])
                            for field in ("per_second", "p50_ms", "p99_ms", "server_us")
                        ),
                    ]
                    for row in rows
                ),
            )
        )
    tables = "\n\n".join(parts)
    sizes = table(
        ["limits of a client", "bytes in Redis"],
        ([f"`{limits}`", f"{size:,}"] for limits, size in figures["bytes_of_a_client"].items()),
    )
    return f"""## On Redis

![Decisions per second of 50 tasks on Redis](images/bench-redis.svg)

{tables}

One key, Redis {figures["redis"]} on the same machine, elapsed time. "{SAME_SCRIPT}" sends the
script of this package with the same arguments. "{CEILING}" sends it 16 times per pipeline, with as
many connections as callers: what Redis itself can do with one script per decision. This package
decides for all tasks of one turn of the event loop with one script. redis-py has 512 connections in
all cases: with its default of 100, it raises `MaxConnectionsError` if there are 500 callers.

{sizes}

Measured by `used_memory`, with 100,000 active clients.
"""


def imports_section(rows: list[Figures]) -> str:
    body = table(
        ["", "CPU time of the import, ms"], ([row["name"], cell(row["ms"])] for row in rows)
    )
    return f"""## Import

{body}

In a new process, with all that the package imports itself: slowapi imports Starlette, Flask-Limiter
Flask.
"""


def web_section(figures: Figures) -> str:
    """Return the table of whole requests."""
    body = table(
        ["CPU time, µs", "whole request", "added by the limiter"],
        (
            [row["name"], cell(row["request_us"]), cell(row.get("added_us"))]
            for row in figures["cases"]
        ),
    )
    return f"""## Requests

![CPU time that limiters add to a request](images/bench-web.svg)

{body}

Allowed requests, without a server, with the state in memory; "ASGI", "FastAPI" and "Flask" are this
package. Each row adds to the one without a limiter above it. From a separate run:

- Command: `{figures["command"]}`
- Machine: {figures["machine"]}
- Versions: {figures["versions"]}
"""


# --- Where other packages are better ---------------------------------------------------------


def losses(figures: Figures) -> list[str]:
    """Return a line for each figure in which another package has a better median."""
    lines = []
    for group in (*COLUMNS, AWAIT, AWAIT_DENIED, IN_THREADS):
        lines += lost(f"in memory, {group}", by_name(figures["calls"], group), "ns")
    keys = {row["name"]: row for row in figures["keys"]}
    for field, what in (
        ("bytes_per_key", "bytes per key"),
        ("cpu_us_per_key", "time per new key"),
        ("worst_us", "worst decision of a flood"),
    ):
        lines += lost(what, {name: one_run(row[field]) for name, row in keys.items()}, field)
    for callers in CALLERS:
        rows = [row for row in figures["redis"]["cases"] if row["callers"] == callers]
        for field, what in (
            ("per_second", "decisions/s"),
            ("p50_ms", "p50"),
            ("p99_ms", "p99"),
            ("server_us", "CPU of Redis"),
        ):
            spreads = {row["name"]: row[field] for row in rows}
            lines += lost(f"on Redis, {who(callers)}, {what}", spreads, field)
    imports = {row["name"]: row["ms"] for row in figures["imports"]}
    lines += lost("import", imports, "ms")
    return lines


def lost(what: str, spreads: dict[str, Spread], field: str) -> list[str]:
    """Return one line if others have a better median than the best of this package."""
    more_is_better = field == "per_second"
    better: Callable[..., float] = max if more_is_better else min
    medians = {name: spread["median"] for name, spread in spreads.items() if name not in FLOORS}
    ours = better(value for name, value in medians.items() if name.startswith(OURS))
    ahead = [
        f"{name} ({short(value)})"
        for name, value in medians.items()
        if not name.startswith(OURS) and (value > ours if more_is_better else value < ours)
    ]
    return [f"- {what}: {', '.join(ahead)}; this package {short(ours)}"] if ahead else []


# --- The page --------------------------------------------------------------------------------


def page(figures: Figures, web: Figures) -> str:
    """Return the content of docs/benchmarks.md."""
    loads = ", ".join(f"{part} {load:.1f}" for part, load in figures["loads"].items())
    behind = "\n".join(losses(figures)) or "- nowhere in this run"
    sections = "\n".join(
        (
            calls_section(figures["calls"]),
            keys_section(figures["keys"]),
            redis_section(figures["redis"]),
            imports_section(figures["imports"]),
            web_section(web),
        )
    )
    return f"""# Benchmarks

<!-- Written by benchmarks/field_page.py from benchmarks/results: do not edit. -->

This package next to others, as `make bench` measures it. Figures are medians, with quartiles in
parentheses. All cases of a table take turns in one run, so ratios within a table hold; absolute
values depend on the machine. Where the load average is above the number of cores, elapsed times (on
Redis) are longer than on a quiet machine, for all packages.

- Command: `{figures["command"]}`
- Machine: {figures["machine"]}
- Load average at the end of each part, other work included: {loads}
- Versions: {figures["versions"]}

"Fixed window" and "token bucket" name the algorithm of a package. slowapi and Flask-Limiter decide
with limits, and fastapi-limiter with pyrate-limiter, so these three are only in the tables of
requests and imports. "{PYTHON}" is a token bucket of ten lines.

## Where other packages are better

{behind}

What speed does not show: limits also has stores for Memcached, MongoDB and Valkey clients, and runs
on any Python without a compiled part.

{sections}
## Measuring on your machine

`make bench` writes the figures to `build/bench`. To publish them, copy `field.json` to
`benchmarks/results`, and run `python benchmarks/field_page.py`, which writes this page and its
charts.
"""


def charts(figures: Figures, web: Figures) -> dict[str, str]:
    """Return the content of each chart, by its file name."""
    note = "Median and quartiles. Shorter is better."
    one_key = {
        name: {part: value / 1e3 for part, value in spread.items()}
        for name, spread in by_name(figures["calls"], ONE_KEY).items()
    }
    keys = {row["name"]: one_run(row["bytes_per_key"]) for row in figures["keys"]}
    fifty = {
        row["name"]: row["per_second"] for row in figures["redis"]["cases"] if row["callers"] == 50
    }
    return {
        "bench-memory.svg": bars(
            "CPU time of one allowed decision in memory, in µs",
            {"": packages(one_key)},
            note,
            "page",
        ),
        "bench-keys.svg": bars(
            "Resident bytes per key", {"": packages(keys)}, "Shorter is better.", "page"
        ),
        "bench-redis.svg": bars(
            "Decisions per second of 50 asyncio tasks on one Redis",
            {"": packages(fifty)},
            "Median and quartiles. Longer is better.",
            "page",
        ),
        "bench-web.svg": chart(web, "page"),
    }


def one_run(value: float) -> Spread:
    return {"median": value, "low": value, "high": value}


def packages(spreads: dict[str, Spread]) -> dict[str, Spread]:
    """Return the first case of each package, under the name of the package."""
    found: dict[str, Spread] = {}
    for name, spread in spreads.items():
        if name not in FLOORS:
            label = "in Python" if name == PYTHON else name.partition(",")[0]
            found.setdefault(label, spread)
    return found


def files() -> dict[Path, str]:
    """Return the content of each file that this program writes."""
    field, web = (
        json.loads((RESULTS / name).read_text(encoding="utf-8"))
        for name in ("field.json", "web.json")
    )
    drawn = {IMAGES / name: content for name, content in charts(field, web).items()}
    return {PAGE: page(field, web), **drawn}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
