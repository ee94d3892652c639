"""Metrics never stop traffic, whatever is wrong with PROMETHEUS_MULTIPROC_DIR."""

from __future__ import annotations

import logging
import sys
import uuid
from pathlib import Path

import httpx
import pytest
from flask import Flask
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rate_limiter import RateLimiter
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.metrics import registry
from rate_limiter.observe.registry import publish, watch
from support.odd_folders import ODD_FOLDERS
from support.servers import serve

APP = """
from fastapi import Depends, FastAPI
from prometheus_client import make_asgi_app
from rate_limiter import RateLimitPolicy
from rate_limiter.fastapi import RateLimit
from rate_limiter.metrics import registry
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter

app = FastAPI()
app.mount("/metrics", make_asgi_app(registry()))
policy = RateLimitPolicy(rate_per_sec=1, burst=100)
limiter = TokenBucketLimiter("redis://127.0.0.1:1", policy)
for path in ("/health", "/"):
    app.get(path)(lambda: "ok")
app.get("/route", dependencies=[Depends(RateLimit("100/hour", metrics="route"))])(lambda: "ok")
app.add_middleware(
    RateLimitMiddleware, limits="100/hour", metrics="api", exempt_paths=["/health", "/metrics/"]
)
app.add_middleware(
    RateLimitMiddleware, limiter, policy, dimension_label="gateway", exempt_paths=["/metrics/"]
)
"""


def scraped(text: str) -> dict[tuple[str, str | None], float]:
    """Return the samples of a scrape, by name without its beginning and by dimension."""
    return {
        (sample.name.removeprefix("rate_limiter_"), sample.labels.get("dimension")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("kind", ODD_FOLDERS)
def test_requests_are_served_and_counted(kind: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    odd = ODD_FOLDERS[kind](tmp_path)
    words = (*odd.before, sys.executable, *("-m", "uvicorn", "app:app", "--port={port}"))
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(odd.path)}
    log = tmp_path / "log"
    with serve(log, *words[1:], program=words[0], cwd=tmp_path, environment=environment) as server:
        answers = [httpx.get(server.url + path) for path in ("/", "/route", "/health") * 3]
        shown = [httpx.get(f"{server.url}/metrics/") for _ in range(2)]
    assert [answer.status_code for answer in [*answers, *shown]] == [200] * 11
    found = scraped(shown[1].text)
    assert (found["allowed_total", "gateway"], found["decision_seconds_count", "gateway"]) == (9, 9)
    assert (found["allowed_total", "api"], found["allowed_total", "route"]) == (6, 3)
    assert found["metrics_unshared", None] == 1
    text = log.read_text()
    assert text.count(f"PROMETHEUS_MULTIPROC_DIR={odd.path} cannot be used: ") == 1
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", ["missing", "file", "behind a file", "of another version"])
def test_limiters_and_flask(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = ODD_FOLDERS[kind](tmp_path).path
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    names = [f"{kind}-{uuid.uuid4().hex}" for _ in range(2)]
    limiter = RateLimiter("5/hour")
    with caplog.at_level(logging.WARNING, "rate_limiter"):
        watch(limiter, names[0])
        app = Flask("counted")
        FlaskRateLimiter(app, default_limits="5/hour", metrics=names[1], setup_checks=False)
        app.get("/")(lambda: "ok")
        assert limiter.allow("k")
        assert app.test_client().get("/").status_code == 200
        publish()
        found = scraped(generate_latest(registry()).decode())
    if kind != "of another version":  # where only the old files cannot be used
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [found["allowed_total", name] for name in names] == [1, 1]
    assert found["metrics_unshared", None] == 1


def test_a_folder_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    watch(RateLimiter("5/hour"), f"fine-{uuid.uuid4().hex}")
    assert scraped(generate_latest(registry()).decode())["metrics_unshared", None] == 0


def test_another_layout_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of another version are left alone, and numbers are still shared."""
    name = f"layout-{uuid.uuid4().hex}"
    old = tmp_path / f"{name}.rate_limiter_meter"
    old.write_bytes(b"of another version")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    watch(RateLimiter("5/hour"), name)
    assert old.read_bytes() == b"of another version"
    assert (tmp_path / f"{name}.rate_limiter_meter_1").exists()
    assert scraped(generate_latest(registry()).decode())["metrics_unshared", None] == 0
