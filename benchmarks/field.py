"""Compare this package with others: `python benchmarks/field.py [--short] [--json FILE]`.

All cases of a part take turns in each round, so that other load on the machine affects all of them
alike. The output has the medians of the rounds and their quartiles. In memory the figures are CPU
time, on Redis elapsed time. field_page.py makes docs/benchmarks.md of the JSON. benchmarks/web.py
compares whole requests.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import field_calls
import field_keys
import field_redis
from field_rivals import PACKAGES
from rate_limiter import __version__
from rate_limiter.cli.bench.measure import Spread, machine

IMPORTS = {
    "rate-limiter-c": "rate_limiter",
    "rate-limiter-c, ASGI middleware": "rate_limiter.asgi",
    "limits": "limits",
    "throttled-py": "throttled",
    "pyrate-limiter": "pyrate_limiter",
    "token-bucket": "token_bucket",
    "aiolimiter": "aiolimiter",
    "asgi-ratelimit": "ratelimit",
    "fastapi-limiter": "fastapi_limiter.depends",
    "slowapi": "slowapi",
    "Flask-Limiter": "flask_limiter",
    "redis-py": "redis",
}
"""By name, the module that users import."""
IMPORT_PROGRAM = """
import time
begin_ns = time.process_time_ns()
import {module}
print((time.process_time_ns() - begin_ns) / 1e6)
"""


def measure_imports(rounds: int) -> list[dict[str, Any]]:
    """Return the CPU milliseconds of importing each package in a new process."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, module in IMPORTS.items():
            command = [sys.executable, "-W", "ignore", "-c", IMPORT_PROGRAM.format(module=module)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times[name].append(float(done.stdout))
    return [{"name": name, "ms": Spread.of(taken)._asdict()} for name, taken in times.items()]


def about() -> dict[str, Any]:
    """Return the context of the figures."""
    versions = [f"rate_limiter {__version__}", f"CPython {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    versions += [f"{name} {version(name)}" for name in ("fastapi-limiter", "slowapi")]
    versions.append(f"Flask-Limiter {version('Flask-Limiter')}")
    options = " --short" if "--short" in sys.argv else ""
    options += " --only PART, for each part" if "--only" in sys.argv else ""
    return {
        "command": f"python benchmarks/field.py{options}",
        "machine": f"{machine()}, {platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
    }


def parts(*, short: bool) -> dict[str, Callable[[], Any]]:
    """Return what measures each part."""
    if short:
        return {
            "calls": lambda: field_calls.measure(3),
            "keys": lambda: field_keys.measure(100_000),
            "redis": lambda: field_redis.measure(2, 0.2),
            "imports": lambda: measure_imports(2),
        }
    return {
        "calls": lambda: field_calls.measure(100),
        "keys": lambda: field_keys.measure(10_000_000),
        "redis": lambda: field_redis.measure(5, 1),
        "imports": lambda: measure_imports(7),
    }


def show(figures: Any, indent: str = "") -> None:
    """Print figures: a line for each row, with medians and quartiles."""
    if isinstance(figures, dict):
        for name, rows in figures.items():
            print(f"{indent}{name}:", rows if isinstance(rows, (str, int)) else "")
            if not isinstance(rows, (str, int)):
                show(rows, indent + "  ")
        return
    if isinstance(figures, float):
        print(f"{indent}{figures:g}")
        return
    for row in figures:
        words = [f"{value}" for value in row.values() if not isinstance(value, dict)]
        values = [
            f"{unit} {value['median']:g} ({value['low']:g} .. {value['high']:g})"
            for unit, value in row.items()
            if isinstance(value, dict)
        ]
        print(f"{indent}{', '.join(words):<58} {'  '.join(values)}")


def main() -> None:
    """Print the figures, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = tuple(parts(short=True))
    parser.add_argument("--short", action="store_true", help="few rounds, to try the program")
    parser.add_argument("--only", choices=names, help="measure one part, and keep the rest of FILE")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    given = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # some packages log each denial

    figures = about()
    print("\n".join(f"{name}: {text}" for name, text in figures.items()), flush=True)
    if given.only and given.json and given.json.exists():
        figures = json.loads(given.json.read_text(encoding="utf-8")) | figures
    loads = figures.setdefault("loads", {})
    for name, measure in parts(short=given.short).items():
        if given.only in (None, name):
            figures[name] = measure()
            loads[name] = round(os.getloadavg()[0], 1)
            print(f"\n{name}")
            show(figures[name])
            sys.stdout.flush()
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
