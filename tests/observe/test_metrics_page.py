"""Check the statements of docs/metrics.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from rate_limiter.metrics import registry
from support.servers import ROOT

TEXT = (ROOT / "docs" / "metrics.md").read_text("utf-8")


def test_python_blocks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "metrics.md", "exec"), names)
    client = TestClient(names["app"])
    assert client.get("/").headers["X-RateLimit-Remaining"] == "99"
    names["limiter"].allow("k")
    shown = client.get("/metrics/")
    assert "X-RateLimit-Remaining" not in shown.headers
    assert 'rate_limiter_allowed_total{dimension="api"}' in shown.text
    assert 'rate_limiter_allowed_total{dimension="mails"} 1.0' in shown.text


@pytest.mark.usefixtures("server")
def test_the_table_of_metrics() -> None:
    rows = re.findall(r"^\| `(rate_limiter_\w+)` \| (.*?) \|", TEXT, re.MULTILINE)
    documented = {
        name.removesuffix("_total"): set(re.findall(r"`(\w+)`", labels)) for name, labels in rows
    }
    from rate_limiter.observe import prometheus as metrics

    names = {metrics.ALLOWED, metrics.BLOCKED, metrics.SHADOW_DENIED, metrics.SECONDS}
    names |= {name for name, _ in metrics._READINGS.values()}
    assert set(documented) == names
    for family in registry().collect():
        for sample in family.samples:
            if family.name in documented:
                assert set(sample.labels) - {"le"} == documented[family.name]


def test_the_table_of_alerts() -> None:
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))
    names = [rule["alert"] for rule in alerts["groups"][0]["rules"]]
    assert re.findall(r"^\| `(RateLimiter\w+)` \|", TEXT, re.MULTILINE) == names
