"""Programs written for the distributed-middleware (002) and API-gateway (003) demos."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from rate_limiter import Decision, RateLimitPolicy, TokenBucketLimiter
from rate_limiter.middleware import DistributedTokenBucketMiddleware, RateLimitMiddleware
from support.redis_servers import RedisServer
from support.servers import Server, serve

UNREACHABLE = "redis://127.0.0.1:1/0"

# --- 002: rules for paths ---


def distributed(server: RedisServer, **arguments: Any) -> TestClient:
    app = FastAPI()
    app.state.redis = redis.asyncio.Redis.from_url(server.url)
    app.add_middleware(DistributedTokenBucketMiddleware, **arguments)
    app.get("/{path:path}")(lambda: "ok")
    return TestClient(app)


SEED_RULES = (
    '{"default": {"capacity": 20, "refill_rate": 5},'
    ' "special_path": {"capacity": 50, "refill_rate": 0.01}}'
)


def test_rules_apply_to_the_paths_they_name(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of an unchanged program: two numbers, and a file from the environment."""
    path = tmp_path / "limits.json"
    path.write_text(SEED_RULES)
    monkeypatch.setenv("RATE_LIMIT_RULES_PATH", str(path))
    client = distributed(server, capacity=3, refill_rate=0.01)
    assert client.get("/").headers["X-RateLimit-Limit"] == "3"
    assert client.get("/special_path").headers["X-RateLimit-Limit"] == "50"
    assert client.get("/special_path/x").headers["X-RateLimit-Remaining"] == "48"
    codes = [client.get("/").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert client.get("/special_path").status_code == 200
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        assert sorted(admin.keys()) == [
            "rate-limit:testclient",
            "rate-limit:testclient:special_path",
        ]


def test_a_file_beside_the_program(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATE_LIMIT_RULES_PATH", raising=False)
    assert "X-RateLimit-Limit" in distributed(server, capacity=3, refill_rate=1).get("/").headers
    (tmp_path / "rate_limits.json").write_text(SEED_RULES)
    client = distributed(server, capacity=3, refill_rate=1)
    assert client.get("/special_path").headers["X-RateLimit-Limit"] == "50"


@pytest.mark.parametrize("text", ["{", '{"special_path": {"capacity": -1}}', None])
def test_a_broken_file_is_logged(
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
) -> None:
    path = tmp_path / "limits.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("RATE_LIMIT_RULES_PATH", str(path))
    client = distributed(server, capacity=3, refill_rate=1)
    assert client.get("/special_path").headers["X-RateLimit-Limit"] == "3"
    assert f"rules for paths have no effect: {path}" in caplog.text


def test_rules_given_to_it(server: RedisServer) -> None:
    rules = {"free": {"path": "/free", "exempt": True}, "dear": {"path": "/dear", "limits": "9/m"}}
    client = distributed(server, capacity=3, refill_rate=1, rules=rules)
    assert "X-RateLimit-Limit" not in client.get("/free").headers
    assert client.get("/dear").headers["X-RateLimit-Limit"] == "9"


def test_rules_with_several_limits_and_shadows(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    rules = {
        "several": {"limits": "2/hour; 100/day", "refund": "5xx"},
        "shadow": {"limits": "1/hour", "shadow": True},
    }
    client = distributed(server, capacity=3, refill_rate=1, rules=rules)
    assert [client.get("/several").status_code for _ in range(3)] == [200, 200, 429]
    assert [client.get("/shadow").status_code for _ in range(3)] == [200] * 3
    assert "rule 'several': refund has no effect in" in caplog.text


@pytest.fixture
def distributed_demo(tmp_path: Path, redis_of_session: RedisServer) -> Iterator[Server]:
    url = httpx.URL(redis_of_session.url)
    (tmp_path / "rules.json").write_text(
        '{"default": {"capacity": 20, "refill_rate": 0.01}, '
        '"special_path": {"capacity": 50, "refill_rate": 0.01}}'
    )
    environment = {
        "REDIS_HOST": url.host,
        "REDIS_PORT": str(url.port),
        "REDIS_DB": "7",
        "RATE_LIMIT_RULES_PATH": str(tmp_path / "rules.json"),
        "RATE_LIMITER_LOG": str(tmp_path / "rate_limiter.log"),
    }
    with contextlib.closing(redis_of_session.admin()) as admin:
        admin.execute_command("SELECT", 7)
    command = ("-m", "uvicorn", "demo.distributed.app:app", "--port", "{port}")
    with serve(tmp_path / "log", *command, environment=environment) as server:
        yield server
    with contextlib.closing(redis.Redis(host=url.host, port=url.port or 6379, db=7)) as admin:
        admin.flushdb()


def test_the_demo_of_the_rules(distributed_demo: Server, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "demo" / "distributed" / "try_limiter.py"
    done = subprocess.run(
        [sys.executable, script, "--url", f"{distributed_demo.url}/", "--requests", "25"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "Request 1: 200 OK, 19 left"
    assert re.fullmatch(r"Request 21: 429 Too Many Requests, 0 left, retry after \d+ s", lines[20])
    assert len(lines) == 25
    special = httpx.get(f"{distributed_demo.url}/special_path")
    assert special.headers["X-RateLimit-Limit"] == "50"
    log = (tmp_path / "rate_limiter.log").read_text()
    assert "Client '127.0.0.1': Allowed=True, Tokens Left=19.00" in log
    assert "Allowed=False" in log
    assert "Allowed=False" in distributed_demo.log


# --- 003: the gateway ---


def gateway(limiter: Any, policy: RateLimitPolicy, **arguments: Any) -> TestClient:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limiter=limiter, policy=policy, **arguments)
    app.get("/{path:path}")(lambda: "ok")
    return TestClient(app)


POLICY = RateLimitPolicy(rate_per_sec=0.01, burst=3)


def test_long_names_of_a_gateway_make_short_keys(server: RedisServer) -> None:
    client = gateway(TokenBucketLimiter(server.url, POLICY), POLICY)
    for name in ("x-api-key", "x-user-id"):
        answers = [client.get("/v1", headers={name: "k" * 5000}).status_code for _ in range(4)]
        assert answers == [200, 200, 200, 429]
        assert client.get("/v1", headers={name: "k" * 5001}).status_code == 200
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        keys = [key.rpartition("sha256:") for key in admin.scan_iter()]
        assert {before for before, _, _ in keys} == {"rl:tb:apikey:", "rl:tb:user:"}
        assert {len(digest) for _, _, digest in keys} == {64}


def test_a_gateway_that_is_turned_off(server: RedisServer) -> None:
    client = gateway(TokenBucketLimiter(server.url, POLICY), POLICY, enabled=False)
    assert {client.get("/v1").status_code for _ in range(5)} == {200}


def test_gateway(server: RedisServer) -> None:
    limiter = TokenBucketLimiter(server.url, POLICY)
    client = gateway(limiter, POLICY, dimension_label="test")
    answers = [client.get("/v1", headers={"x-api-key": "demo"}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert [one.headers["X-RateLimit-Remaining"] for one in answers] == ["2", "1", "0", "0"]
    assert {one.headers["X-RateLimit-Limit"] for one in answers} == {"3"}
    denied = answers[-1]
    seconds = int(denied.headers["Retry-After"])
    assert seconds >= 1
    assert denied.json() == {"error": "rate_limited", "retry_after_seconds": seconds}
    assert client.get("/v1", headers={"x-user-id": "bob"}).status_code == 200
    assert client.get("/v1").status_code == 200
    assert client.get("/v1", headers={"x-api-key": "demo", "x-user-id": "eve"}).status_code == 429
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        assert sorted(admin.keys()) == [
            "rl:tb:apikey:demo",
            "rl:tb:ip:testclient",
            "rl:tb:user:bob",
        ]
        assert admin.pttl("rl:tb:user:bob") > 3_590_000

    def metric(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"dimension": "test"})

    assert metric("rate_limiter_allowed_total") == 5
    assert metric("rate_limiter_blocked_total") == 2
    assert metric("rate_limiter_decision_seconds_count") == 7


def test_gateway_exempt_paths(server: RedisServer) -> None:
    limiter = TokenBucketLimiter(server.url, POLICY)
    for arguments, limited in (
        ({}, {"/v1"}),
        ({"exempt_paths": {"/v1"}}, {"/health", "/metrics"}),
        ({"exempt_paths": set()}, {"/health", "/metrics", "/v1"}),
    ):
        client = gateway(limiter, POLICY, **arguments)
        for path in ("/health", "/metrics", "/v1"):
            has_header = (
                "X-RateLimit-Limit" in client.get(path, headers={"x-user-id": path}).headers
            )
            assert has_header == (path in limited)


def test_gateway_headers_by_other_names(server: RedisServer) -> None:
    limiter = TokenBucketLimiter(server.url, POLICY)
    client = gateway(limiter, POLICY, api_key_header="X-Key", user_id_header="X-Who")
    client.get("/", headers={"x-key": "k"})
    client.get("/", headers={"x-who": "w"})
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        assert sorted(admin.keys()) == ["rl:tb:apikey:k", "rl:tb:user:w"]


@pytest.mark.parametrize("argument", ["api_key_header", "user_id_header"])
def test_gateway_refuses_a_name_that_no_header_can_have(argument: str) -> None:
    limiter = TokenBucketLimiter("redis://127.0.0.1:1", POLICY)
    with pytest.raises(ValueError, match=f"{argument} must be the name of a header, got 'X:Key'"):
        RateLimitMiddleware(FastAPI(), limiter, POLICY, **{argument: "X:Key"})


class _Keys:
    """A limiter that keeps the keys it was asked about."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def check(self, key: str) -> Decision:
        self.keys.append(key.removeprefix("rl:tb:ip:"))
        return Decision(allowed=True, remaining=1.0, retry_after_ms=0)


def test_gateway_behind_a_proxy() -> None:
    limiter = _Keys()
    client = gateway(limiter, POLICY)
    for value in ("203.0.113.1", "203.0.113.2, 10.0.0.1", " 2001:db8::1 ,x", "", None):
        client.get("/", headers={} if value is None else {"X-Forwarded-For": value})
    assert limiter.keys == [
        *("203.0.113.1", "203.0.113.2", "2001_db8__1"),
        *("testclient", "testclient"),
    ]


@pytest.mark.parametrize(
    ("more", "header", "value", "key"),
    [
        ({}, "x-forwarded-for", "203.0.113.9", "203.0.113.9"),
        ({}, "x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ({}, "x-forwarded-for", "nonsense", "10.0.0.1"),
        ({}, "x-forwarded-for", "2001:db8::1", "2001_db8__/64"),
        ({"ipv6_prefix": 128}, "x-forwarded-for", "2001:db8::1", "2001_db8__1"),
        ({"proxy_header": "forwarded"}, "forwarded", "for=203.0.113.9", "203.0.113.9"),
    ],
)
def test_gateway_behind_proxies_that_are_trusted(
    more: dict[str, Any], header: str, value: str, key: str
) -> None:
    limiter = _Keys()

    async def app(*arguments: Any) -> None: ...

    gate = RateLimitMiddleware(app, limiter, POLICY, trusted_proxies=["10.0.0.0/8"], **more)
    for peer in ("10.0.0.1", "198.51.100.7"):
        scope = {"type": "http", "method": "GET", "path": "/", "client": (peer, 1)}
        scope["headers"] = [(header.encode(), value.encode())]
        asyncio.run(_ask(gate, scope))
    assert limiter.keys == [key, "198.51.100.7"]


async def _ask(gate: Any, scope: Any) -> None:
    await gate(scope, None, None)


def test_gateway_without_redis() -> None:
    client = gateway(TokenBucketLimiter(UNREACHABLE, POLICY), POLICY)
    assert [client.get("/").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_gateway_with_a_limiter_of_ones_own() -> None:
    from rate_limiter import Decision

    class Never:
        def check(self, key: str) -> Decision:
            assert key == "rl:tb:ip:testclient"
            return Decision(allowed=False, remaining=0.0, retry_after_ms=1500)

    answer = gateway(Never(), POLICY).get("/")
    assert (answer.status_code, answer.json()["retry_after_seconds"]) == (429, 2)


@pytest.mark.parametrize(
    ("limiter", "policy", "message"),
    [(5, POLICY, "limiter must be a TokenBucketLimiter"), (None, POLICY, "limiter must be"),
     (TokenBucketLimiter(UNREACHABLE, POLICY), 5, "policy must be a RateLimitPolicy")],
)  # fmt: skip
def test_bad_gateways(limiter: Any, policy: Any, message: str) -> None:
    async def app(*arguments: Any) -> None: ...

    with pytest.raises(TypeError, match=message):
        RateLimitMiddleware(app, limiter, policy)


@pytest.mark.parametrize("with_redis", [True, False])
def test_the_demo_of_the_gateway(
    tmp_path: Path, redis_of_session: RedisServer, with_redis: bool
) -> None:
    environment = {
        "REDIS_URL": redis_of_session.url if with_redis else UNREACHABLE,
        "RL_RATE_PER_SEC": "0.01",
        "RL_BURST": "4",
        "PORT": "{port}",
    }
    key = f"demo-{with_redis}-{time.time_ns()}"
    with serve(tmp_path / "log", "-m", "demo.gateway.app", environment=environment) as server:
        codes = [
            httpx.get(f"{server.url}/v1/hello", headers={"x-api-key": key}).status_code
            for _ in range(6)
        ]
        assert codes == [200] * 4 + [429] * 2
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'rate_limiter_allowed_total{dimension="gateway"} 4.0' in metrics
        assert 'rate_limiter_blocked_total{dimension="gateway"} 2.0' in metrics
        assert 'rate_limiter_decision_seconds_count{dimension="gateway"} 6.0' in metrics
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
