"""Applications that share buckets in a store without a name: one warning in a process."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from rate_limiter import RateLimiter
from rate_limiter.fastapi import RateLimit, RateLimits, Store
from rate_limiter.limiting import sharing
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.servers import free_port

TEXT = "without a name share their buckets"
RULES = {"default": {"limits": "1/hour"}}


@pytest.fixture(autouse=True)
def not_reported_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sharing, "_is_reported", False)
    caplog.set_level(logging.WARNING, "rate_limiter")


@pytest.fixture(params=["redis", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        f"redis://localhost:{free_port()}" if request.param == "redis" else f"shared://{tmp_path}/b"
    )


def by_limits(store: str, **more: Any) -> Any:
    return RateLimitMiddleware(None, limits="1/hour", store=store, **more)  # type: ignore[arg-type]


def by_rules(store: str, **more: Any) -> Any:
    return RateLimitMiddleware(None, rules=RULES, store=store, **more)  # type: ignore[arg-type]


def by_wsgi(store: str, **more: Any) -> Any:
    return WsgiMiddleware(None, rules=RULES, store=store, **more)  # type: ignore[arg-type]


MAKERS = pytest.mark.parametrize("make", [by_limits, by_rules, by_wsgi])


@MAKERS
def test_two_without_a_name_are_reported_once(
    make: Callable[..., Any], store: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(store)
    assert TEXT not in caplog.text
    others = [make(store), make(store)]
    assert caplog.text.count(TEXT) == 1
    assert "the limits '1/hour'" in caplog.text
    assert "give each its own name=" in caplog.text
    assert [first, *others]


@MAKERS
def test_names_are_not_reported(
    make: Callable[..., Any], store: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = [make(store, name="a"), make(store, name="a"), make(store, name="b"), make(store)]
    assert len(made) == 4
    assert TEXT not in caplog.text


@pytest.mark.parametrize(
    ("name", "of_route", "is_reported"),  # None: a default limit
    [("", None, True), ("", "", True), ("", "search", False), ("shop", None, False)],
)
def test_two_applications_with_limits_of_routes(
    name: str, of_route: str | None, is_reported: bool, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    def asked() -> FastAPI:
        app = FastAPI()
        default = "1/hour" if of_route is None else None
        limits = RateLimits(app, default=default, store=store, name=name, on_store_error="allow")
        own = [] if of_route is None else [limits("1/hour", name=of_route)]
        app.get("/", dependencies=own)(lambda: "ok")
        TestClient(app).get("/")
        return app

    apps = [asked()]
    assert TEXT not in caplog.text
    apps += [asked(), asked()]
    assert caplog.text.count(TEXT) == is_reported


def test_others_are_not_reported(store: str, caplog: pytest.LogCaptureFixture) -> None:
    limiter = RateLimiter("1/hour", store=store)
    made = [by_limits(store), by_rules(store), by_limits("memory://"), by_limits("memory://")]
    made += [limiter.with_limits("2/hour"), RateLimiter("1/hour", store=store)]
    made.append(RateLimitMiddleware(None, limits="2/hour", store=store))  # type: ignore[arg-type]
    assert len(made) == 7
    assert TEXT not in caplog.text


def test_one_that_is_gone_is_not_reported(store: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        by_limits(store)
        gc.collect()
    assert TEXT not in caplog.text


def test_a_reload_is_not_reported(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from rate_limiter.policy.rule_sources import FileRules

    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "1/hour"}}')
    source = FileRules(file)
    app: Any = RateLimitMiddleware(None, rules=source, store=store)  # type: ignore[arg-type]
    before = app.governor.limiters()
    file.write_text('{"default": {"limits": "2/hour"}}')
    source.reload()
    app.governor._refresh()
    assert app.governor.limiters() != before
    assert TEXT not in caplog.text


def test_limits_of_routes_with_one_store_have_their_own_names(tmp_path: Path) -> None:
    def one(name: str, of_store: str = "shop") -> Any:
        store = Store(f"shared://{tmp_path}/routes", name=of_store)
        return RateLimit("1/hour", name=name, store=store).limiter

    upload, search = one("upload"), one("search")
    assert [upload.allow("k"), search.allow("k"), one("upload").allow("k")] == [True, True, False]
    assert [one("upload", "").allow("k"), one("").allow("k")] == [True, True]
    with pytest.raises(ValueError, match="needs a name"):
        one("", "")
