"""Alerts, dashboard and runbook: every alert has a section, every metric exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rate_limiter import RateLimiter
from rate_limiter.metrics import registry, watch
from rate_limiter.rule_source import FileRules
from support.servers import ROOT

DEPLOY = ROOT / "deploy"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"][0][
    "rules"
]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))


def anchor(title: str) -> str:
    """Return the end of the address of a section."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_section(alert: dict[str, Any]) -> None:
    page, _, section = alert["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    found = {anchor(title): text for title, text in SECTIONS.items()}[section]
    assert re.findall(r"Alert `(\w+)`", found) == [alert["alert"]]
    assert "**Look at**" in found
    assert "**Do**" in found


def test_a_section_has_an_alert() -> None:
    named = [re.findall(r"Alert `(\w+)`", text) for text in SECTIONS.values()]
    assert sorted(named) == sorted([alert["alert"]] for alert in ALERTS)


def exposed(folder: Path) -> set[str]:
    """Return the names of the series that are exposed, with a store and rules."""
    limiter = RateLimiter("1/second", store="redis://127.0.0.1:9")
    watch(limiter, "runbook")
    (folder / "rules.json").write_text('{"default": {"limits": "1/second"}}')
    rules = FileRules(folder / "rules.json")
    rules.current()
    names = {"ALERTS"}  # of Prometheus itself
    for family in registry().collect():
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names |= {family.name + ending for ending in kinds.get(family.type, [""])}
    return names


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\b(rate_limiter_[a-z_]*[a-z])\b", text)) - {"rate_limiter_c"}


def test_every_metric_exists(tmp_path: Path) -> None:
    found = exposed(tmp_path)
    panels = DASHBOARD["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    queries += [one["expr"] for one in DASHBOARD["annotations"]["list"] if "expr" in one]
    queries += [variable.get("query", "") for variable in DASHBOARD["templating"]["list"]]
    queries += [alert["expr"] for alert in ALERTS]
    used = named_in("\n".join(queries))
    assert used <= found
    assert named_in(RUNBOOK) <= found
    assert {"rate_limiter_rules_loaded_total", "rate_limiter_shadow_denied_total"} <= used
    assert named_in("rate_limiter_no_such_total") - found  # a wrong name would be found


def test_panels_that_the_runbook_names() -> None:
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    named = set(re.findall(r'"([A-Z][^"]+)"', RUNBOOK))
    assert len(named) > 6
    assert named <= titles


def test_logs_that_the_runbook_names() -> None:
    """Operators search for these words."""
    code = "".join(
        path.read_text("utf-8") for path in Path(ROOT / "python" / "rate_limiter").rglob("*.py")
    )
    for words in (
        "failed",
        "Until it answers",
        "new rules cannot be used",
        "could not load rules",
        "rate_limiter.denied",
    ):
        assert words in code
        assert words in RUNBOOK
