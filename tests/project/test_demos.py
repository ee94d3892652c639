"""The demos as real processes, driven over HTTP as their documents describe.

Each is started by a command of its page, on a Redis and on none; the Redis is killed under way.
"""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.demo_servers import (
    ASKING,
    RunningDemo,
    environment,
    running_demo,
    wait_for_room_in_the_minute,
)
from support.redis_servers import RedisServer, redis_server, wait_until
from support.servers import ROOT, serve

TOKEN = "the-token-of-the-live-page"
# No request waits for a Redis that is away; this is far more than a busy machine needs for one.
LONGEST_REQUEST_S = 10.0


@dataclass(frozen=True)
class Case:
    """A demo, how it is started, and what its document promises."""

    name: str
    which: int  # of the commands of its page
    method: str
    path: str
    capacity: int
    refill_rate: float  # 0 for a window that ends with the minute


CASES = {
    "quickstart": Case("quickstart", 0, "GET", "/", 10, 2),
    "fastapi": Case("fastapi", 0, "GET", "/api/ping", 5, 1),
    "gunicorn": Case("flaskapp", 0, "GET", "/api/ping", 5, 1),
    "werkzeug": Case("flaskapp", 1, "GET", "/api/ping", 5, 1),
    "distributed": Case("distributed", 0, "GET", "/", 20, 5),
    "gateway": Case("gateway", 0, "GET", "/v1/hello", 10, 5),
    "service": Case("service", 0, "POST", "/api/resource", 20, 0),
}


STORES = ("memory", "redis")
# Flask's own server without a Redis is in test_demo_pages.py.
KINDS = [
    (name, store) for name in CASES for store in STORES if (name, store) != ("werkzeug", "memory")
]


def on(*names: str, stores: tuple[str, ...] = STORES) -> pytest.MarkDecorator:
    """Run a test on these demos only."""
    pairs = [pair for pair in KINDS if pair[0] in names and pair[1] in stores]
    return pytest.mark.parametrize("kind", pairs, indirect=True, ids="-".join)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a Redis for this module, which kills it."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(
    scope="module",
    params=KINDS,
    ids="-".join,
)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    given: tuple[str, str] = request.param
    return given


@pytest.fixture(scope="module")
def running(
    kind: tuple[str, str], redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningDemo]:
    case, store = CASES[kind[0]], kind[1]
    folder = tmp_path_factory.mktemp("demo")
    with_redis = redis if store == "redis" else None
    variables = {"LIVE_PAGE_TOKEN": TOKEN}
    with running_demo(case.name, folder, with_redis, case.which, variables) as running:
        settle(running, case, store)
        yield running


@pytest.fixture
def case(kind: tuple[str, str]) -> Case:
    return CASES[kind[0]]


@pytest.fixture
def storage(kind: tuple[str, str]) -> str:
    """Return what the pluggable limiter calls it."""
    name, store = kind
    return "regular" if store == "memory" and name != "fastapi" else store


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """Return a loopback address of the test's own: to the demo, a client not seen before."""
    number = zlib.crc32(request.node.nodeid.encode())
    return f"127.{1 + number % 250}.{number // 250 % 250}.{1 + number // 62500 % 250}"


def client_at(running: RunningDemo, address: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address, verify=False)
    return httpx.Client(base_url=running.server.url, transport=transport, timeout=LONGEST_REQUEST_S)


@pytest.fixture
def client(running: RunningDemo, address: str) -> Iterator[httpx.Client]:
    with client_at(running, address) as client:
        yield client


def settle(running: RunningDemo, case: Case, store: str) -> None:
    """Return when decisions are made there. Its first one connects, which may take too long."""
    url = f"{running.server.url}{case.path}"
    wait_until(
        lambda: running.storage(ASKING.request(case.method, url)) == store, f"it says {store}"
    )


def until_denied(client: httpx.Client, case: Case) -> list[httpx.Response]:
    """Send requests until one is denied, and check how many passed; return all answers."""
    if not case.refill_rate:
        wait_for_room_in_the_minute(10)
    began_s = time.monotonic()
    answers = []
    while not answers or (answers[-1].status_code == 200 and len(answers) < 500):
        answers.append(client.request(case.method, case.path))
    refilled = math.floor(case.refill_rate * (time.monotonic() - began_s))
    assert answers[-1].status_code == 429
    assert case.capacity <= len(answers) - 1 <= case.capacity + refilled
    return answers


# --- What holds for all ---


def test_a_burst_passes_then_429(case: Case, client: httpx.Client) -> None:
    *allowed, denied = until_denied(client, case)
    assert {answer.headers["X-RateLimit-Limit"] for answer in (*allowed, denied)} == {
        str(case.capacity)
    }
    assert float(allowed[0].headers["X-RateLimit-Remaining"]) >= case.capacity - 1
    assert float(denied.headers["X-RateLimit-Remaining"]) < 1
    wait_s = int(denied.headers["Retry-After"])
    assert wait_s >= 1
    if case.refill_rate:
        time.sleep(wait_s)
        assert client.request(case.method, case.path).status_code == 200
    else:
        assert abs(time.time() + wait_s - int(denied.headers["X-RateLimit-Reset"])) < 2


def test_it_says_where_limits_are(running: RunningDemo, case: Case, kind: tuple[str, str]) -> None:
    settle(running, case, kind[1])
    if kind[1] == "memory":
        assert re.search(r"(buckets are|counted) in: (memory|regular)", running.server.log)
        assert "failed. Until it answers, requests are decided in memory" in running.server.log
    elif case.name != "service":  # whose first line says nothing where all is well
        assert "buckets are in: redis" in running.server.log


@on(*CASES, stores=("redis",))
def test_redis_is_killed_under_way(
    running: RunningDemo, case: Case, redis: RedisServer, address: str
) -> None:
    settle(running, case, "redis")
    with client_at(running, address) as client:
        assert client.request(case.method, case.path).status_code == 200
        redis.kill()
        try:
            # A request under way may have been counted on both sides; another client shows it all.
            assert client.request(case.method, case.path).status_code in (200, 429)
            with client_at(running, another(address)) as other:
                until_denied(other, case)
            answer = client.request(case.method, case.path)
            assert answer.status_code in (200, 429)
            assert running.storage(answer) == "memory"
        finally:
            redis.start()

        def decided_in_redis() -> bool:
            answer = client.request(case.method, case.path)
            assert answer.status_code in (200, 429)
            with contextlib.closing(redis.admin()) as admin:
                return running.storage(answer) == "redis" and admin.dbsize() > 0

        wait_until(decided_in_redis, "the demo uses Redis again")
    assert "answers again" in running.server.log


def another(address: str) -> str:
    """Return the address next to one."""
    before, _, last = address.rpartition(".")
    return f"{before}.{int(last) % 250 + 1}"


# --- 001: weights ---

PLUGGABLE = ("fastapi", "gunicorn", "werkzeug")


@on(*PLUGGABLE)
def test_pings(storage: str, client: httpx.Client) -> None:
    *allowed, denied = until_denied(client, CASES["fastapi"])
    assert allowed[0].json() == {"message": "pong", "storage": storage}
    assert 4 < float(denied.headers["X-RateLimit-Reset"]) <= 5
    assert {answer.headers["X-Storage-Type"] for answer in allowed} == {storage}
    assert denied.headers["X-Storage-Type"] == storage
    body = denied.json()
    assert body.get("detail", body) == {"error": "Rate limit exceeded", "storage": storage}


@on(*PLUGGABLE)
def test_upload_is_heavier(client: httpx.Client) -> None:
    began_s = time.monotonic()
    assert client.post("/api/upload").status_code == 200
    denied = client.post("/api/upload")
    if time.monotonic() - began_s < 1:  # else there are three tokens again
        assert denied.status_code == 429
        assert denied.headers["Retry-After"] == "1"
    assert client.get("/api/ping").status_code == 200


@on(*PLUGGABLE)
def test_heavy_report_takes_all(case: Case, client: httpx.Client) -> None:
    answer = client.get("/api/heavy-report")
    if case.name == "fastapi":
        assert answer.status_code == 404
    else:
        assert answer.status_code == 200
        denied = client.get("/api/heavy-report")
        assert denied.status_code == 429
        assert 1 <= int(denied.headers["Retry-After"]) <= 5


@on(*PLUGGABLE)
def test_stats_consume_nothing(storage: str, client: httpx.Client) -> None:
    for _ in range(20):
        answer = client.get("/api/stats", params={"ip": "192.0.2.1"})
    assert answer.json() == {
        "ip": "192.0.2.1",
        "capacity": 5,
        "refill_rate": 1.0,
        "remaining_tokens": 5.0,
        "headers": {
            "X-RateLimit-Limit": "5",
            "X-RateLimit-Remaining": "5",
            "X-RateLimit-Reset": "0.00",
        },
        "storage": storage,
    }


@on(*PLUGGABLE)
def test_clients_at_the_same_time_get_no_more(client: httpx.Client) -> None:
    begin_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: client.get("/api/ping").status_code, range(40)))
    refilled = int(time.monotonic() - begin_s)
    assert set(statuses) == {200, 429}
    assert 5 <= statuses.count(200) <= 5 + refilled


@on(*PLUGGABLE)
def test_each_decision_is_logged(running: RunningDemo, client: httpx.Client, address: str) -> None:
    until_denied(client, CASES["fastapi"])
    assert f"[ALLOWED] {address} on /api/ping | remaining=4" in running.server.log
    assert f"[BLOCKED] {address} on /api/ping | remaining=0" in running.server.log


def test_preloaded_workers_share_the_buckets(
    tmp_path: Path, redis_of_session: RedisServer, address: str
) -> None:
    command = ("-m", "gunicorn", "--preload", "--workers=3", "--bind=127.0.0.1:{port}")
    variables = {"REDIS_URL": redis_of_session.url, "USE_REDIS": "1"}
    begin_s = time.monotonic()
    with serve(tmp_path / "log", *command, "demo.flaskapp.app:app", environment=variables) as demo:
        statuses = []
        for _ in range(20):  # a connection each, so that any worker may answer
            transport = httpx.HTTPTransport(local_address=address, verify=False)
            with httpx.Client(base_url=demo.url, transport=transport) as client:
                statuses.append(client.get("/api/ping").status_code)
    assert 5 <= statuses.count(200) <= 5 + int(time.monotonic() - begin_s)


# --- 002: rules by path, and the program that tries them ---


@on("distributed")
def test_rules_by_path(case: Case, client: httpx.Client) -> None:
    denied = until_denied(client, case)[-1]
    assert denied.text == "Too Many Requests"
    special = client.get("/special_path")
    assert special.status_code == 200
    assert special.headers["X-RateLimit-Limit"] == "50"
    assert special.headers["X-RateLimit-Remaining"] == "49"
    assert "X-RateLimit-Limit" not in client.get("/health").headers


@on("distributed")
@pytest.mark.parametrize("program", ["test_limiter.py", "try_limiter.py"])
def test_the_program_that_tries_it(running: RunningDemo, program: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "demo" / "distributed" / program),
            *("--url", f"{running.server.url}/", "--requests", "60"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 60
    allowed = r"Request \d+: 200 OK, \d+ left"
    denied = r"Request \d+: 429 Too Many Requests, 0 left, retry after \d+ s"
    assert [line for line in lines if not re.fullmatch(f"{allowed}|{denied}", line)] == []
    assert any(re.fullmatch(denied, line) for line in lines)
    assert "Client '127.0.0.1': Allowed=False, Tokens Left=0." in running.server.log


def test_the_environment_in_a_file(tmp_path: Path, redis_of_session: RedisServer) -> None:
    """The example of .env, with the port and rules of this test, in the folder it starts from."""
    text = (ROOT / "demo" / "distributed" / ".env.example").read_text(encoding="utf-8")
    assert "REDIS_PORT=6379" in text
    text = text.replace("6379", str(redis_of_session.port)).replace("REDIS_DB=0", "REDIS_DB=9")
    text = text.replace("demo/distributed/rate_limits.json", "mine.json")
    (tmp_path / ".env").write_text(text)
    (tmp_path / "mine.json").write_text('{"default": {"capacity": 7, "refill_rate": 1}}')
    command = ("-m", "uvicorn", "demo.distributed.app:app", "--port", "{port}")
    with (
        serve(
            tmp_path / "log", *command, cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)}
        ) as server,
    ):

        def is_in_redis() -> bool:
            assert httpx.get(f"{server.url}/").headers["X-RateLimit-Limit"] == "7"
            health = httpx.get(f"{server.url}/health").json()
            return bool(health == {"status": "ok", "storage": "redis"})

        wait_until(is_in_redis, "the first decision in Redis")
    assert (tmp_path / "rate_limiter.log").is_file()
    with contextlib.closing(redis_of_session.admin(db=9)) as admin:
        admin.flushdb()


@pytest.mark.parametrize("rules", ["{", '{"special_path": {"capacity": 5, "refill_rate": 1}}'])
def test_without_a_default_rule(tmp_path: Path, rules: str) -> None:
    (tmp_path / "rate_limits.json").write_text(rules)
    command = ("-m", "uvicorn", "demo.distributed.app:app", "--port", "{port}")
    variables = environment(None, tmp_path) | {"PYTHONPATH": str(ROOT)}
    with serve(tmp_path / "log", *command, cwd=tmp_path, environment=variables) as server:
        assert httpx.get(f"{server.url}/").headers["X-RateLimit-Limit"] == "10"
        assert " ERROR " in server.log


# --- 003: who a request counts for ---


@on("gateway")
def test_api_key_before_user_before_address(case: Case, client: httpx.Client, address: str) -> None:
    key, user = {"x-api-key": f"key of {address}"}, {"x-user-id": f"user {address}"}
    with httpx.Client(base_url=client.base_url, headers=key) as by_key:
        denied = until_denied(by_key, case)[-1]
    seconds = int(denied.headers["Retry-After"])
    assert seconds >= 1
    assert denied.json() == {"error": "rate_limited", "retry_after_seconds": seconds}
    for headers in (user, {}):
        answer = client.get(case.path, headers=headers)
        assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, "9")
    # With a key as well, the user does not count.
    client.get(case.path, headers=key | user)
    assert int(client.get(case.path, headers=user).headers["X-RateLimit-Remaining"]) >= 8


@on("gateway")
def test_metrics_count(case: Case, client: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        text = client.get("/metrics").text
        return {
            name: float(value)
            for name, value in re.findall(r'^(\w+)\{dimension="gateway"\} (\S+)$', text, re.M)
        }

    before = counts()
    answers = until_denied(client, case)
    after = counts()
    added = {name: after[name] - before.get(name, 0) for name in after}
    assert added["rate_limiter_allowed_total"] == len(answers) - 1
    assert added["rate_limiter_blocked_total"] == 1
    assert added["rate_limiter_decision_seconds_count"] == len(answers)


# --- 004: the service ---


@on("service")
def test_twenty_a_minute_and_a_status_that_takes_nothing(case: Case, client: httpx.Client) -> None:
    key = {"X-API-Key": f"key{time.time_ns()}"}
    wait_for_room_in_the_minute(15)
    for used in range(3):
        for _ in range(2):
            status = client.get("/rate-limit/status", headers=key).json()
            assert (status["current_count"], status["remaining"]) == (used, 20 - used)
            assert (status["identifier"], status["identifier_type"]) == (key["X-API-Key"], "user")
        assert client.post("/api/resource", headers=key).status_code == 200
    codes = [client.post("/api/resource", headers=key).status_code for _ in range(18)]
    assert codes == [200] * 17 + [429]
    denied = client.post("/api/resource", headers=key)
    body = denied.json()
    assert body.pop("retry_after") == int(denied.headers["Retry-After"])
    assert body == {
        "error": "Rate limit exceeded",
        "identifier": key["X-API-Key"],
        "limit": 20,
        "window": status["window"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d\d:\d\d", status["window"])
    assert client.post(case.path).status_code == 200  # by address, counted separately


@on("service")
def test_paths_without_a_limit(client: httpx.Client) -> None:
    for path in ("/", "/health", "/rate-limit/status", "/docs", "/redoc", "/openapi.json"):
        answer = client.get(path)
        assert (answer.status_code, "X-RateLimit-Limit" in answer.headers) == (200, False), path


# --- The live page of 003 and 004 ---


@on("gateway", "service")
def test_the_live_page(case: Case, client: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    page = "/rate-limit/live"

    def rule() -> dict[str, Any]:
        (found,) = client.get(f"{page}/data", headers=headers).json()["rules"]
        return dict(found)

    assert client.get(f"{page}/").status_code == 401
    before = rule()
    with httpx.Client(base_url=client.base_url, headers={"X-API-Key": "live"}) as by_key:
        answers = until_denied(by_key, case)
    wait_until(lambda: rule()["denied"] > before["denied"], "the page shows it")
    after = rule()
    added = {name: after[name] - before[name] for name in ("allowed", "denied")}
    assert added == {"allowed": len(answers) - 1, "denied": 1}
    if case.name == "service":  # the bucket of the gateway fills too soon
        body = {"rule": after["rule"], "key": "user:live"}
        left = [
            client.post(f"{page}/{path}", json=body, headers=headers).json()["limits"][0]
            for path in ("client", "reset")
        ]
        assert [one["remaining"] for one in left] == [0, case.capacity]
