"""The service demo (004): documentation pages without the internet, and Redis Sentinel."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from rate_limiter import Limit
from rate_limiter.settings import Settings
from support.demo_servers import ASKING, DEMOS, PATH, shell, wait_for_room_in_the_minute
from support.redis_servers import RedisServer, SentinelGroup, sentinel_group, wait_until
from support.servers import ROOT, Server, serve
from support.tracing import Traces, shape

from demo.service.app import NOT_LIMITED, create_app

LONGEST_REQUEST_S = 3.0


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with sentinel_group(tmp_path_factory.mktemp("sentinel")) as group:
        yield group


@pytest.fixture(scope="module")
def service(group: SentinelGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "PATH": PATH,
        "REDIS_SENTINEL_HOSTS": ",".join(f"127.0.0.1:{each.port}" for each in group.sentinels),
        "REDIS_MASTER_NAME": "mymaster",
    }
    command = shell(DEMOS["service"].commands("{port}")[0])
    with serve(folder / "log", *command, program="/bin/sh", environment=environment) as server:
        yield server
    assert "Traceback" not in server.log


# --- The documentation pages ---


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_brings_all_it_needs(service: Server, path: str) -> None:
    page = ASKING.get(f"{service.url}{path}")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in page.text
    needed = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(needed) >= 2
    for address in needed:
        assert address.startswith("/docs/assets/"), address
        asset = ASKING.get(f"{service.url}{address}")
        assert (asset.status_code, len(asset.content) > 1000) == (200, True), address
        kind = {"js": "javascript", "css": "text/css", "png": "image/png"}
        assert kind[address.rpartition(".")[2]] in asset.headers["content-type"]
    elsewhere = re.findall(r"""(?:url\(|import |@import )['"]?(https?://[^'")]+)""", page.text)
    assert elsewhere == []


def test_what_documentation_needs_is_not_limited(service: Server) -> None:
    with httpx.Client(base_url=service.url, headers={"X-API-Key": "reader"}) as client:
        for path in NOT_LIMITED:
            for _ in range(3):
                answer = client.get(path)
                assert answer.status_code == 200, path
                assert "X-RateLimit-Limit" not in answer.headers, path
        assert client.get("/rate-limit/status").json()["remaining"] == 20
        # Nothing else under the same folder is free.
        assert "X-RateLimit-Limit" in client.get("/docs/assets/nothing").headers


def test_the_documentation_describes_the_routes(service: Server) -> None:
    paths = ASKING.get(f"{service.url}/openapi.json").json()["paths"]
    assert set(paths) == {"/", "/health", "/api/resource", "/rate-limit/status"}
    assert set(paths["/api/resource"]["post"]["responses"]) == {"200", "400", "422", "429"}


# --- Limits of keys and of addresses ---


def test_keys_and_addresses_have_separate_limits(tmp_path: Path, server: RedisServer) -> None:
    (tmp_path / "two.py").write_text(
        "from demo.service.app import create_app\n"
        "from rate_limiter import Limit\n"
        "app = create_app(limit=Limit.fixed_window(4, 3600), ip_limit=Limit.fixed_window(2, 60))\n"
    )
    environment = {"REDIS_URL": server.url, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = ("-m", "uvicorn", "two:app", "--port", "{port}")
    with (
        serve(tmp_path / "log", *command, environment=environment) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        wait_until(lambda: client.get("/health").json()["redis"] == "connected", "Redis is found")
        for headers, limit, window in (({"X-API-Key": "bob"}, 4, 3600), ({}, 2, 60)):
            wait_for_room_in_the_minute(10)
            answers = [client.post("/api/resource", headers=headers) for _ in range(limit + 1)]
            assert [one.status_code for one in answers] == [200] * limit + [429]
            assert answers[0].headers["X-RateLimit-Limit"] == str(limit)
            reset_s = int(answers[-1].headers["X-RateLimit-Reset"])
            start = datetime.fromtimestamp(reset_s - window, timezone.utc)
            name = start.strftime("%Y-%m-%d-%H:%M")
            denied = answers[-1].json()
            assert (denied["limit"], denied["window"]) == (limit, name)
            status = client.get("/rate-limit/status", headers=headers).json()
            assert (status["limit"], status["window"]) == (limit, name)
            assert (status["current_count"], status["remaining"]) == (limit, 0)
        metrics = client.get("/metrics").text
    assert 'rate_limiter_allowed_total{dimension="service"} 6.0' in metrics
    assert 'rate_limiter_blocked_total{dimension="service"} 2.0' in metrics


# --- Sentinel ---


def test_a_failover_under_way(service: Server, group: SentinelGroup) -> None:
    """The master dies: no request fails or hangs, and the service counts on the next master."""
    with httpx.Client(base_url=service.url, timeout=LONGEST_REQUEST_S) as client:

        def ask(number: int) -> None:
            key = {"X-API-Key": f"client {number}"}  # each of them once, so that all pass
            answer = client.post("/api/resource", headers=key)
            assert answer.status_code == 200
            assert answer.headers["X-RateLimit-Remaining"] == "19"

        def is_connected() -> bool:
            return bool(client.get("/health").json()["redis"] == "connected")

        wait_until(is_connected, "the service finds the master")
        before = group.master()
        ask(0)
        before.kill()
        asked = 0
        deadline_s = time.monotonic() + 120
        while not counts(group, before, asked):
            assert time.monotonic() < deadline_s, "no other master counts"
            asked += 1
            ask(asked)
        assert asked > 1
        wait_until(is_connected, "the service says that it is connected")
    assert "answers again" in service.log


def counts(group: SentinelGroup, before: RedisServer, number: int) -> bool:
    """Return whether another master than before has the count of a client."""
    master = group.master()
    if master is before:
        return False
    with contextlib.closing(master.admin()) as admin:
        return len(admin.keys(f"rate:user:client {number}:*")) == 1


# --- Traces ---


def test_spans_have_the_master(group: SentinelGroup, traces: Traces) -> None:
    """Its address is known after the first answer."""
    app = create_app(Settings(store=group.url, tracing=True), Limit.fixed_window(1, 3600))
    client = TestClient(app)
    for _ in range(2):
        with traces.request():
            client.post("/api/resource", headers={"X-API-Key": "traced"})
    assert {shape(one)["server.port"] for one in traces.calls()} == {group.master_port()}
    ((name, attributes),) = traces.events()
    assert name == "rate_limiter.denied"
    assert attributes["rate_limiter.limit"] == 1
