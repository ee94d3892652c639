"""The quickstart demo (000): its classes by themselves, its load script, its drawings."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import redis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from rate_limiter import RateLimiterMiddleware, TokenBucket
from support.demo_servers import running_demo
from support.redis_servers import RedisServer
from support.servers import ROOT, serve

FOLDER = ROOT / "demo" / "quickstart"
K6_STUB = ROOT / "tests" / "support" / "k6_stub.mjs"


# --- The classes, as the demo uses them ---


@pytest.fixture
def client_of_redis(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def settled(bucket: TokenBucket) -> TokenBucket:
    """Return the bucket when Redis decides, for which a busy machine may need more than one try."""
    deadline_s = time.monotonic() + 60
    while bucket.limiter.store.health()["status"] != "ok" or not bucket.limiter.store.ping():
        assert time.monotonic() < deadline_s
        bucket.get_remaining("unused")
    return bucket


def test_a_bucket_is_emptied_and_refilled(client_of_redis: redis.Redis) -> None:
    bucket = settled(TokenBucket(client_of_redis, capacity=10, refill_rate=2.0))
    assert bucket.get_remaining("client") == 10
    began_s = time.monotonic()
    passed = [bucket.consume("client") for _ in range(12)]
    refilled = int(2 * (time.monotonic() - began_s))
    assert passed[:10] == [True] * 10
    assert sum(passed) <= 10 + refilled
    while not bucket.consume("client"):
        assert time.monotonic() < began_s + 60
        time.sleep(0.05)


def test_clients_have_separate_buckets(client_of_redis: redis.Redis) -> None:
    bucket = settled(TokenBucket(client_of_redis, capacity=2, refill_rate=0.01))
    assert [bucket.consume("a") for _ in range(3)] == [True, True, False]
    assert bucket.consume("b") is True
    assert bucket.consume("c", tokens=2) is True
    assert bucket.consume("c") is False
    with contextlib.closing(client_of_redis):
        assert {b"rate_limit:a", b"rate_limit:b", b"rate_limit:c"} <= set(client_of_redis.keys())


def test_the_middleware_around_an_application(client_of_redis: redis.Redis) -> None:
    settled(TokenBucket(client_of_redis, capacity=10, refill_rate=2.0))
    app = FastAPI()
    app.add_middleware(
        RateLimiterMiddleware, redis_client=client_of_redis, capacity=2, refill_rate=0.01
    )
    app.get("/")(lambda: "ok")
    app.get("/health")(lambda: "ok")
    client = TestClient(app)
    answers = [client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert answers[2].json() == {"detail": "Rate limit exceeded. Please try again later."}
    assert int(answers[2].headers["Retry-After"]) >= 1
    forwarded = {"X-Forwarded-For": "203.0.113.7, 10.0.0.1"}
    assert client.get("/", headers=forwarded).status_code == 200
    assert "X-RateLimit-Limit" not in client.get("/health").headers


# --- The application ---


def test_what_it_answers(tmp_path: Path) -> None:
    with (
        running_demo("quickstart", tmp_path) as running,
        httpx.Client(base_url=running.server.url) as client,
    ):
        for path in ("/", "/api/data"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["X-RateLimit-Limit"]) == (200, "10")
        sent = {"name": "x", "list": [1, None]}
        assert client.post("/api/submit", json=sent).json()["received"] == sent
        assert client.post("/api/submit", json=[1]).status_code == 422
        assert "X-RateLimit-Limit" not in client.get("/health").headers


# --- The load script, under Node with a stand-in for k6 ---


def test_the_load_script(tmp_path: Path) -> None:
    turns = 10  # of three limited requests, within about two seconds: more than pass
    with running_demo("quickstart", tmp_path) as running:
        done = subprocess.run(
            [
                *(
                    "node",
                    str(K6_STUB),
                    str(FOLDER / "k6_load.js"),
                ),
                *(running.server.url, str(turns)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert {name: counts["failed"] for name, counts in seen["checks"].items()} == {
        "is a 200 or a 429": 0,
        "has the limit": 0,
        "has the remaining requests": 0,
        "has the time to wait": 0,
        "has nothing left": 0,
        "health is not limited": 0,
    }
    counted = seen["counters"]
    assert counted["rate_limit_allowed"] >= 10
    assert counted["rate_limit_denied"] >= 1
    assert sum(counted.values()) == 3 * turns
    paths = {url.removeprefix(running.server.url): times for url, times in seen["urls"].items()}
    assert paths == {"/": turns, "/api/data": turns, "/api/submit": turns, "/health": turns}
    assert seen["expected"] == [200, 429]
    assert [stage["target"] for stage in seen["options"]["stages"]] == [5, 20, 0]
    assert set(seen["options"]["thresholds"]) == {"checks", *counted}


def test_the_load_script_notices_what_is_wrong(tmp_path: Path) -> None:
    """Of a server without a limit, its checks and its threshold fail."""
    (tmp_path / "plain.py").write_text(
        "from fastapi import FastAPI\n"
        "app = FastAPI()\n"
        "app.api_route('/{path:path}', methods=['GET', 'POST'])(lambda: 'ok')\n"
    )
    command = ("-m", "uvicorn", "plain:app", "--port", "{port}")
    with serve(tmp_path / "log", *command, cwd=tmp_path) as plain:
        done = subprocess.run(
            [
                "node",
                K6_STUB,
                FOLDER / "k6_load.js",
                plain.url,
                "2",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    seen = json.loads(done.stdout)
    assert seen["checks"]["has the limit"] == {"passed": 0, "failed": 6}
    assert seen["counters"]["rate_limit_denied"] == 0


# --- The drawings: what can be checked of Mermaid's syntax without Mermaid ---

DRAWINGS = re.findall(
    r"```mermaid\n(.*?)```", (FOLDER / "architecture.md").read_text(encoding="utf-8"), re.DOTALL
)
PAIRS = {"(": ")", "[": "]", "{": "}"}


def test_the_drawings_that_there_are() -> None:
    kinds = [drawing.split()[0] for drawing in DRAWINGS]
    assert kinds == ["flowchart"] + ["sequenceDiagram"] * 2 + ["stateDiagram-v2"] * 2


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.split()[0])
def test_a_drawing(drawing: str) -> None:
    kind, *lines = [line.strip() for line in drawing.splitlines() if line.strip()]
    assert check_brackets(re.sub(r'"[^"]*"', "", drawing)) == ""
    assert drawing.count('"') % 2 == 0
    if kind == "sequenceDiagram":
        check_sequence(lines)
    elif kind == "stateDiagram-v2":
        allowed = r"(\[\*\]|\w+) --> (\[\*\]|\w+)(: .+)?|state \w+ \{|\}|\w+: .+"
        assert [line for line in lines if not re.fullmatch(allowed, line)] == []
    else:
        opened = sum(line.startswith("subgraph ") for line in lines)
        assert opened == lines.count("end")
        others = [line for line in lines if not re.match(r"subgraph |end$", line)]
        assert [line for line in others if not re.search(r"\w.* -->(\|.+?\|)? \w+", line)] == []


def check_brackets(text: str) -> str:
    """Return the brackets that nothing closes, or what closes nothing."""
    waiting = ""
    for letter in text.replace("-->>", "").replace("->>", ""):
        if letter in PAIRS:
            waiting += PAIRS[letter]
        elif letter in PAIRS.values():
            if not waiting.endswith(letter):
                return letter
            waiting = waiting[:-1]
    return waiting


def check_sequence(lines: list[str]) -> None:
    known: set[str] = set()
    for line in lines:
        if found := re.fullmatch(r"participant (\w+) as .+", line):
            known.add(found[1])
        elif found := re.fullmatch(r"(\w+)-?->>(\w+): .+|Note over (\w+): .+", line):
            assert {name for name in found.groups() if name} <= known, line
        else:
            raise AssertionError(f"not a line of a sequence diagram: {line}")
