"""The demos as real processes, driven over HTTP as their documents tell."""

import signal
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis_servers import RedisServer, redis_server, wait_until
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
# Of each demo: what it says without Redis.
WITHOUT_REDIS = {"uvicorn": "memory", "werkzeug": "regular", "gunicorn": "regular"}
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module", params=[(name, use) for name in COMMANDS for use in (True, False)])
def kind(request: pytest.FixtureRequest) -> tuple[str, bool]:
    given: tuple[str, bool] = request.param
    return given


@pytest.fixture(scope="module")
def demo(
    kind: tuple[str, bool],
    tmp_path_factory: pytest.TempPathFactory,
    redis_of_session: RedisServer,
) -> Iterator[Server]:
    name, use_redis = kind
    log_file = tmp_path_factory.mktemp("demo") / "log"
    command = COMMANDS[name]
    environment = {"REDIS_URL": redis_of_session.url if use_redis else NOBODY}
    if use_redis and name == "werkzeug":
        command = (*command, "--use-redis")
    if use_redis and name == "gunicorn":
        environment["USE_REDIS"] = "1"
    with serve(log_file, *command, environment=environment) as server:
        yield server
    # Some servers end as they were told, others by the signal; neither had to be killed.
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


@pytest.fixture
def storage(kind: tuple[str, bool]) -> str:
    name, use_redis = kind
    return "redis" if use_redis else WITHOUT_REDIS[name]


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """Return a loopback address of the test's own: to the demo, a client not seen before."""
    number = zlib.crc32(request.node.nodeid.encode())
    return f"127.{1 + number % 250}.{number // 250 % 250}.{1 + number // 62500 % 250}"


@pytest.fixture
def client(demo: Server, address: str) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=demo.url, transport=transport) as client:
        yield client


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


def test_heavy_report_takes_all(kind: tuple[str, bool], client: httpx.Client) -> None:
    answer = client.get("/api/heavy-report")
    if kind[0] == "uvicorn":
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


def test_clients_at_the_same_time_get_no_more(client: httpx.Client) -> None:
    begin_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: client.get("/api/ping").status_code, range(40)))
    refilled = int(time.monotonic() - begin_s)
    assert set(statuses) == {200, 429}
    assert 5 <= statuses.count(200) <= 5 + refilled


def test_each_decision_is_logged(demo: Server, client: httpx.Client, address: str) -> None:
    for _ in range(6):
        client.get("/api/ping")
    assert f"[ALLOWED] {address} on /api/ping | remaining=4" in demo.log
    assert f"[BLOCKED] {address} on /api/ping | remaining=0" in demo.log


@pytest.mark.parametrize("name", ["uvicorn", "werkzeug"])
def test_redis_comes_and_goes(tmp_path: Path, name: str) -> None:
    command = COMMANDS[name] + (("--use-redis",) if name == "werkzeug" else ())
    with (
        redis_server(tmp_path) as redis,
        serve(tmp_path / "log", *command, environment={"REDIS_URL": redis.url}) as demo,
        httpx.Client(base_url=demo.url) as client,
    ):

        def storage() -> str:
            answer = client.get("/api/ping")
            assert answer.status_code in (200, 429)
            told = answer.json().get("storage") or answer.json()["detail"]["storage"]
            assert answer.headers["X-Storage-Type"] == told
            return str(told)

        # The first decision connects, for which a busy machine may need longer than its deadline.
        deadline_s = time.monotonic() + 10
        while storage() != "redis":
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        redis.kill()
        assert [storage() for _ in range(10)] == [WITHOUT_REDIS[name]] * 10
        redis.start()
        wait_until(lambda: storage() == "redis", "the demo uses Redis again", 10)


def test_preloaded_workers_share_the_buckets(
    tmp_path: Path, redis_of_session: RedisServer, address: str
) -> None:
    command = ("-m", "gunicorn", "--preload", "--workers=3", "--bind=127.0.0.1:{port}")
    environment = {"REDIS_URL": redis_of_session.url, "USE_REDIS": "1"}
    begin_s = time.monotonic()
    with serve(
        tmp_path / "log", *command, "demo.flaskapp.app:app", environment=environment
    ) as demo:
        statuses = []
        for _ in range(20):  # a connection each, so that any worker may answer
            transport = httpx.HTTPTransport(local_address=address)
            with httpx.Client(base_url=demo.url, transport=transport) as client:
                statuses.append(client.get("/api/ping").status_code)
    assert 5 <= statuses.count(200) <= 5 + int(time.monotonic() - begin_s)
