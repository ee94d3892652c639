"""The demos as real processes, driven over HTTP as their documents tell."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from servers import Server, serve

COMMANDS = {
    "uvicorn": ("-m", "uvicorn", "demo.fastapi.app:app", "--port", "{port}"),
    "werkzeug": ("demo/flaskapp/app.py", "--port", "{port}"),
    "gunicorn": (
        "-m",
        "gunicorn",
        "--threads=8",
        "--bind=127.0.0.1:{port}",
        "demo.flaskapp.app:app",
    ),
}
STORAGE = {"uvicorn": "memory", "werkzeug": "regular", "gunicorn": "regular"}


@pytest.fixture(scope="module", params=list(COMMANDS))
def name(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture(scope="module")
def demo(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("demo") / "log"
    with serve(log_file, *COMMANDS[name]) as server:
        yield server
    # Some servers end as they were told, others by the signal; neither had to be killed.
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


@pytest.fixture
def storage(name: str) -> str:
    return STORAGE[name]


@pytest.fixture
def client(demo: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url) as client:
        wait_until_full(client)
        yield client


def wait_until_full(client: httpx.Client) -> None:
    while client.get("/api/stats").json()["remaining_tokens"] < 5:
        time.sleep(0.1)


def test_five_pings_pass_then_429(storage: str, client: httpx.Client) -> None:
    answers = [client.get("/api/ping") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[0].json() == {"message": "pong", "storage": storage}
    assert [answer.headers["X-RateLimit-Limit"] for answer in answers] == ["5"] * 6
    assert float(answers[0].headers["X-RateLimit-Remaining"]) < 4.5
    assert float(answers[5].headers["X-RateLimit-Remaining"]) < 1
    assert 4 < float(answers[5].headers["X-RateLimit-Reset"]) <= 5
    assert answers[5].headers["Retry-After"] == "1"
    assert {answer.headers["X-Storage-Type"] for answer in answers} == {storage}
    time.sleep(1)
    assert client.get("/api/ping").status_code == 200


def test_upload_is_heavier(client: httpx.Client) -> None:
    assert client.post("/api/upload").status_code == 200
    denied = client.post("/api/upload")
    assert denied.status_code == 429
    assert denied.headers["Retry-After"] == "1"
    assert client.get("/api/ping").status_code == 200


def test_heavy_report_takes_all(storage: str, client: httpx.Client) -> None:
    answer = client.get("/api/heavy-report")
    if storage == "memory":
        assert answer.status_code == 404
    else:
        assert answer.status_code == 200
        assert client.get("/api/heavy-report").headers["Retry-After"] == "5"


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


def test_clients_at_the_same_time_get_no_more(demo: Server, client: httpx.Client) -> None:
    begin_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(
            pool.map(lambda _: httpx.get(f"{demo.url}/api/ping").status_code, range(40))
        )
    refilled = int(time.monotonic() - begin_s)
    assert set(statuses) == {200, 429}
    assert 5 <= statuses.count(200) <= 5 + refilled


def test_each_decision_is_logged(demo: Server, client: httpx.Client) -> None:
    for _ in range(6):
        client.get("/api/ping")
    assert "[ALLOWED] 127.0.0.1 on /api/ping | remaining=4" in demo.log
    assert "[BLOCKED] 127.0.0.1 on /api/ping | remaining=0" in demo.log


def test_redis_option_says_that_memory_is_used(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "demo/flaskapp/app.py", "--use-redis", "--port", "{port}") as demo:
        assert httpx.get(f"{demo.url}/api/ping").json()["storage"] == "regular"
        assert demo.log.count("this version has no Redis store; state is kept in memory") == 1
