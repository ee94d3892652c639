"""What programs written for the rate-limiting service (004) expect."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from rate_limiter.settings import Settings
from support.redis_servers import RedisServer, redis_server, wait_until
from support.servers import Server, serve

NO_SERVER = "redis://127.0.0.1:1/0"


def steady(part: float = 0.5) -> None:
    """Wait until a minute has so much of it left."""
    while time.time() % 60 > 60 * (1 - part):
        time.sleep(0.1)


@pytest.fixture
def service(tmp_path: Path, server: RedisServer) -> Iterator[Server]:
    environment = {"RATE_LIMITER_STORE": server.url, "LOG_LEVEL": "INFO"}
    command = ("-m", "uvicorn", "demo.service.app:app", "--port", "{port}")
    with serve(tmp_path / "log", *command, environment=environment) as running:
        steady(0.2)
        yield running
    assert "Traceback" not in running.log


def test_service(service: Server, server: RedisServer) -> None:
    with httpx.Client(base_url=service.url, headers={"X-API-Key": "user123"}) as client:
        began_s = time.time()
        first = client.post("/api/resource", json={"action": "process", "data": {"a": 1}})
        assert first.status_code == 200
        body = first.json()
        assert re.fullmatch(r"req_[0-9a-f]{12}", body.pop("request_id"))
        assert datetime.fromisoformat(body.pop("timestamp").replace("Z", "+00:00"))
        assert body == {
            "message": "Request successful",
            "data": {"processed": True, "action": "process", "user_data": {"a": 1}},
        }
        window_end_s = int(began_s) // 60 * 60 + 60
        minute = datetime.fromtimestamp(began_s, timezone.utc).strftime("%Y-%m-%d-%H:%M")
        window_end = datetime.fromtimestamp(window_end_s, timezone.utc)
        assert first.headers["X-RateLimit-Limit"] == "20"
        assert first.headers["X-RateLimit-Remaining"] == "19"
        assert first.headers["X-RateLimit-Reset"] == str(window_end_s)

        for _ in range(3):
            assert client.get("/rate-limit/status").json() == {
                "identifier": "user123",
                "identifier_type": "user",
                "limit": 20,
                "remaining": 19,
                "reset_at": window_end.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "window": minute,
                "current_count": 1,
            }
        codes = [client.post("/api/resource").status_code for _ in range(20)]
        assert codes == [200] * 19 + [429]
        denied = client.post("/api/resource")
        wait_s = int(denied.headers["Retry-After"])
        assert 1 <= wait_s <= 60
        assert abs(time.time() + wait_s - window_end_s) < 2
        assert denied.json() == {
            "error": "Rate limit exceeded",
            "identifier": "user123",
            "limit": 20,
            "retry_after": wait_s,
            "window": minute,
        }
        assert denied.headers["X-RateLimit-Reset"] == str(window_end_s)
        for path in ("/", "/health", "/rate-limit/status", "/docs", "/redoc", "/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "X-RateLimit-Limit" not in answer.headers
        health = client.get("/health").json()
        assert (health["status"], health["redis"]) == ("healthy", "connected")
        index = client.get("/").json()
        assert index.pop("version") == health["version"]
        assert index == {
            "service": "Distributed Rate Limiting Service",
            "status": "running",
            "documentation": "/docs",
        }
    other = httpx.post(f"{service.url}/api/resource")
    assert other.headers["X-RateLimit-Remaining"] == "19"
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        assert sorted(admin.keys()) == [
            f"rate:ip:127.0.0.1:{minute}",
            f"rate:user:user123:{minute}",
        ]
        assert admin.get(f"rate:user:user123:{minute}") == "20"
        assert admin.expiretime(f"rate:user:user123:{minute}") == window_end_s


@pytest.mark.parametrize(
    ("body", "action", "user_data"),
    [
        (None, "process", None),
        ("{}", "process", None),
        ('{"action": "process", "data": {"key": "value"}}', "process", {"key": "value"}),
        ('{"action": "x", "user_data": {"a": [1]}}', "x", {"a": [1]}),
        ('{"data": null}', "process", None),
    ],
)
def test_what_the_service_sends_back(body: str | None, action: str, user_data: Any) -> None:
    from demo.service.app import create_app

    app = create_app(Settings(_env_file=None, store=NO_SERVER))  # type: ignore[call-arg]
    headers = {"content-type": "application/json"}
    answer = TestClient(app).post("/api/resource", content=body, headers=headers)
    assert answer.json()["data"] == {"processed": True, "action": action, "user_data": user_data}


def test_bodies_that_cannot_be_sent_back(service: Server) -> None:
    nested = "[" * 500 + "]" * 500
    for body in (
        r'{"action": "\ud800"}',
        '{"action": NaN}',
        '{"action": 1e999}',
        "[NaN]",
        r'{"user_data": {"a": "\ud800"}}',
        '{"user_data": {"a": NaN}}',
        '{"data": {"a": NaN}}',
        '{"user_data": {"a": ' + nested + "}}",
        nested,
    ):
        headers = {"content-type": "application/json", "x-api-key": "odd"}
        answer = httpx.post(f"{service.url}/api/resource", content=body, headers=headers)
        assert (answer.status_code, bool(answer.json())) == (422, True), body


def test_the_service_admits_exactly_twenty(service: Server) -> None:
    with (
        httpx.Client(base_url=service.url, headers={"X-API-Key": "many"}) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        codes = list(pool.map(lambda _: client.post("/api/resource").status_code, range(60)))
    assert (codes.count(200), codes.count(429)) == (20, 40)


def test_the_service_without_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        url = httpx.URL(server.url)
        environment = {"REDIS_HOST": url.host, "REDIS_PORT": str(url.port)}
        command = ("-m", "uvicorn", "demo.service.app:app", "--port", "{port}")
        with serve(tmp_path / "log", *command, environment=environment) as running:
            steady(0.25)

            def ask(key: str) -> int:
                answer = httpx.post(f"{running.url}/api/resource", headers={"X-API-Key": key})
                return answer.status_code

            assert ask("before") == 200
            server.kill()
            assert [ask("after") for _ in range(21)] == [200] * 20 + [429]
            health = httpx.get(f"{running.url}/health").json()
            assert (health["status"], health["redis"]) == ("degraded", "disconnected")
            server.start()
            wait_until(
                lambda: httpx.get(f"{running.url}/health").json()["status"] == "healthy",
                "the service finds Redis again",
            )


@pytest.mark.parametrize("count", [20, 1_000_000], ids=["429 mostly", "what is behind"])
def test_the_service_by_its_own_document(tmp_path: Path, server: RedisServer, count: int) -> None:
    """schemathesis: every answer is as the OpenAPI document says, and none is a 500."""
    (tmp_path / "roomy.py").write_text(
        "from demo.service.app import create_app\n"
        "from rate_limiter import Limit\n"
        f"app = create_app(limit=Limit.fixed_window({count}, 60))\n"
    )
    environment = {
        "REDIS_URL": server.url,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}",
    }
    command = ("-m", "uvicorn", "roomy:app", "--port", "{port}")
    with serve(tmp_path / "log", *command, environment=environment) as running:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"),
                *("--max-examples", "40", "--seed", "1", "--header", "X-API-Key: schemathesis"),
                "--no-color",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
            timeout=200,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r" (\d+) generated, \1 passed", done.stdout), done.stdout


def test_levels_of_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        from demo.service.app import create_app

        create_app(Settings(_env_file=None, log_level="ERROR"))  # type: ignore[call-arg]
        assert logging.getLogger("rate_limiter").level == logging.ERROR
    logging.getLogger("rate_limiter").setLevel(logging.NOTSET)
