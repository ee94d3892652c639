"""benchmarks/web.py with few rounds: that it runs each case of this package, not how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.servers import ROOT

BENCHMARKS = ROOT / "benchmarks"
CONFIGURATIONS = {
    "plain",
    "header key chain",
    "cookie key",
    "trusted proxies, three hops",
    "bypass by network",
    "2 rules",
    "1,000 rules",
    "tier by header",
    'two limits, headers="both"',
    "epoch reset",
    "cors=True",
    "all at once",
}
ROUTES = {
    "FastAPI, dependency",
    "FastAPI, two dependencies",
    "Flask, default limits",
    "Flask, decorator",
}
WRK = """#!/bin/sh
cat <<'END'
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.36ms    1.02ms  12.03ms   80.00%
  Latency Distribution
     50%  900.00us
     75%    3.75ms
     90%    4.81ms
     99%    1.20s
  5936 requests in 1.00s, 0.96MB read
Requests/sec:   5930.12
Transfer/sec:      0.96MB
END
"""
"""Prints what wrk prints, and sends nothing."""


def run(*arguments: str, folder: Path, **environment: str) -> tuple[dict[str, Any], str]:
    """Run the benchmark; return the JSON and the text that it has written."""
    command = [sys.executable, BENCHMARKS / "web.py", "--rounds", "2", "--json", "figures.json"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "figures.json").read_text()), done.stdout


def test_all_cases_of_this_package_are_measured(tmp_path: Path) -> None:
    figures, text = run("--only", "^(ASGI|FastAPI|Flask|WSGI),", folder=tmp_path)
    rows = {row["name"]: row for row in figures["cases"]}
    ours = {f"ASGI, {name}" for name in CONFIGURATIONS} | ROUTES
    for name in ours | {f"{name}, denied" for name in ours}:
        assert rows[name]["request_us"]["low"] > 0
        assert set(rows[name]["added_us"]) == {"median", "low", "high"}
        assert name in text
    assert "base" in rows["ASGI, no limiter"]
    assert {"CPython", "fastapi", "flask"} <= set(figures["versions"].replace(",", "").split())
    assert figures["command"].startswith("python benchmarks/web.py --rounds 2")
    targets = {target["name"]: target for target in figures["targets"]}
    assert targets["ASGI, plain: us added"]["target"] == 1
    assert "FastAPI, dependency: added / empty dependency" in targets
    assert not any("Flask-Limiter" in name for name in targets)  # not selected


def test_only_adds_the_case_without_a_limiter(tmp_path: Path) -> None:
    figures, _ = run("--only", "cookie key$", folder=tmp_path)
    assert [row["name"] for row in figures["cases"]] == ["ASGI, no limiter", "ASGI, cookie key"]


def test_served_applications_are_compared(tmp_path: Path) -> None:
    """A real uvicorn and a real gunicorn answer; only the load is not sent."""
    (tmp_path / "wrk").write_text(WRK)
    (tmp_path / "wrk").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    only = "^(FastAPI, dependency|Flask, default limits)$"
    options = ("--only", only, "--server", "--server-rounds", "2", "--seconds", "1")
    figures, _ = run(*options, folder=tmp_path, PATH=path)
    limited, flask = (row for row in figures["servers"] if row["base"])
    assert (limited["name"], limited["base"]) == ("FastAPI, dependency", "FastAPI, no limiter")
    assert (flask["name"], flask["base"]) == ("Flask, default limits", "Flask, no limiter")
    for row in limited, flask:
        assert row["requests_per_s"]["median"] == 5930
        assert (row["p50_ms"]["median"], row["p99_ms"]["median"]) == (0.9, 1200)
        assert row["p99_ms_ratio"] == {"median": 1, "low": 1, "high": 1}
    ratio = figures["targets"][-2]
    assert ratio["name"] == "FastAPI, dependency: requests/s / no limiter"
    assert ratio["met"]


def test_an_unexpected_response_ends_the_benchmark() -> None:
    program = (
        "from web_cases import *; Case('a case', lambda: asgi_app, Asgi, '', status=429).start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "a case: unexpected response: 200" in done.stderr
