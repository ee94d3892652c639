"""docs/benchmarks.md: that it shows what benchmarks/results has, and where others are better."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from support.servers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def module() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return import_module("field_page")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def figures() -> Any:
    return json.loads((BENCHMARKS / "results" / "field.json").read_text(encoding="utf-8"))


def test_page_and_charts_are_made_of_the_figures(module: Any) -> None:
    for path, content in module.files().items():
        assert path.read_text(encoding="utf-8") == content, path.name


def test_page_names_its_context(module: Any, figures: Any) -> None:
    text = module.PAGE.read_text(encoding="utf-8")
    assert figures["machine"] in text
    for package in ("limits", "throttled-py", "pyrate-limiter", "aiolimiter", "asgi-ratelimit"):
        assert f"{package} " in figures["versions"]
    assert figures["command"].startswith("python benchmarks/field.py")
    assert "--short" not in figures["command"]


def test_all_cases_are_on_the_page(module: Any, figures: Any) -> None:
    text = module.PAGE.read_text(encoding="utf-8")
    rows = [*figures["calls"], *figures["keys"], *figures["redis"]["cases"], *figures["imports"]]
    for row in rows:
        assert f"| {row['name']} |" in text


def spread(median: float) -> dict[str, float]:
    return {"median": median, "low": median, "high": median}


def test_losses_are_listed(module: Any) -> None:
    spreads = {"rate-limiter-c, allow": spread(2), "rate-limiter-c, hit": spread(3)}
    assert module.lost("calls", spreads | {"other": spread(2.5)}, "ns") == []
    assert module.lost("calls", spreads | {"empty C call": spread(1)}, "ns") == []
    (line,) = module.lost("calls", spreads | {"other": spread(1)}, "ns")
    assert line == "- calls: other (1); this package 2"
    (line,) = module.lost("redis", spreads | {"other": spread(4)}, "per_second")
    assert line == "- redis: other (4); this package 3"


def test_flood_of_one_limiter() -> None:
    command = [sys.executable, BENCHMARKS / "field_keys.py", "rate-limiter-c, allow", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    flood = json.loads(done.stdout)
    assert flood["keys"] == 3000
    assert flood["worst_us"] >= flood["cpu_us_per_key"] > 0


def test_a_wrong_decision_ends_the_benchmark() -> None:
    program = (
        "import field_calls, field_rivals as r;"
        "field_calls.check(r.CALLED[0], True, r.NEVER_DENIES);"
        "field_calls.check(r.CALLED[0], True, r.DENIES)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "rate-limiter-c, allow: unexpected decision: True" in done.stderr
