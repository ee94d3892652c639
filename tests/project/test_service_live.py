"""The service, end to end: at SERVICE_URL where that is set, else on a stack of deploy/start.sh.

deploy/run_tests.sh runs this file. Each test is a separate client, and none waits for a window.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import httpx
import pytest
from support.stacks import running_stack

LIMIT = 20
HEADERS = {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    if url := os.environ.get("SERVICE_URL"):
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
        return
    log_file = tmp_path_factory.mktemp("stack") / "log"
    with (
        running_stack(log_file, "plain") as stack,
        httpx.Client(base_url=stack.url, timeout=30) as client,
    ):
        yield client


def in_one_window(scenario: Callable[[dict[str, str]], list[httpx.Response]]) -> list[
    httpx.Response
]:  # fmt: skip
    """Run a scenario for a new client, again where a window ended in the middle of it."""
    for _ in range(5):
        answers = scenario({"X-API-Key": f"live-{uuid.uuid4()}"})
        if len({answer.headers["x-ratelimit-reset"] for answer in answers}) == 1:
            return answers
    raise AssertionError("five scenarios in a row did not fit into a window")


def spend(client: httpx.Client, count: int) -> list[httpx.Response]:
    return in_one_window(
        lambda who: [client.post("/api/resource", headers=who) for _ in range(count)]
    )


def test_health(client: httpx.Client) -> None:
    data = client.get("/health").json()
    assert (data["status"], data["redis"]) == ("healthy", "connected")


def test_index(client: httpx.Client) -> None:
    data = client.get("/").json()
    assert data["service"] == "Distributed Rate Limiting Service"
    assert (data["status"], data["documentation"]) == ("running", "/docs")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_documentation(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "Distributed Rate Limiting Service" in answer.text


def test_request_that_passes(client: httpx.Client) -> None:
    (answer,) = spend(client, 1)
    assert answer.status_code == 200
    data = answer.json()
    assert data["message"] == "Request successful"
    assert data["request_id"].startswith("req_")
    assert data["data"] == {"processed": True, "action": "process", "user_data": None}


def test_data_comes_back(client: httpx.Client) -> None:
    data = {"name": "Zoë", "n": [1, 2]}
    answer = client.post(
        "/api/resource",
        json={"action": "process", "data": data},
        headers={"X-API-Key": str(uuid.uuid4())},
    )
    assert answer.json()["data"] == {"processed": True, "action": "process", "user_data": data}


def test_headers_count_down(client: httpx.Client) -> None:
    answers = spend(client, 5)
    assert all(set(answer.headers) >= HEADERS for answer in answers)
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
    assert left == [19, 18, 17, 16, 15]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {str(LIMIT)}


def test_window_ends_with_the_minute(client: httpx.Client) -> None:
    (answer,) = spend(client, 1)
    reset_s = int(answer.headers["x-ratelimit-reset"])
    assert reset_s % 60 == 0
    assert -5 < reset_s - time.time() <= 65  # clocks of two machines may differ


def test_twenty_pass_and_then_429(client: httpx.Client) -> None:
    answers = spend(client, LIMIT + 3)
    assert [answer.status_code for answer in answers] == [200] * LIMIT + [429] * 3
    denied = answers[-1]
    assert denied.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(denied.headers["retry-after"]) <= 60
    data = denied.json()
    assert data["error"] == "Rate limit exceeded"
    assert data["identifier"] == denied.request.headers["x-api-key"]
    start = datetime.fromtimestamp(int(denied.headers["x-ratelimit-reset"]) - 60, timezone.utc)
    assert (data["limit"], data["window"]) == (LIMIT, start.strftime("%Y-%m-%d-%H:%M"))
    assert 1 <= data["retry_after"] <= 60


def test_clients_do_not_count_for_each_other(client: httpx.Client) -> None:
    def scenario(who: dict[str, str]) -> list[httpx.Response]:
        first = [client.post("/api/resource", headers=who) for _ in range(LIMIT + 1)]
        other = {"X-API-Key": who["X-API-Key"] + "-other"}
        return [*first, client.post("/api/resource", headers=other)]

    *_, denied, other = in_one_window(scenario)
    assert (denied.status_code, other.status_code) == (429, 200)
    assert other.headers["x-ratelimit-remaining"] == "19"


def test_without_a_key_the_address_counts(client: httpx.Client) -> None:
    data = client.get("/rate-limit/status").json()
    assert data["identifier_type"] == "ip"
    assert client.post("/api/resource").status_code in (200, 429)  # others may share the address


def test_status_takes_nothing(client: httpx.Client) -> None:
    def scenario(who: dict[str, str]) -> list[httpx.Response]:
        first = client.post("/api/resource", headers=who)
        for _ in range(30):
            assert client.get("/rate-limit/status", headers=who).status_code == 200
        return [first, client.post("/api/resource", headers=who)]

    assert in_one_window(scenario)[1].headers["x-ratelimit-remaining"] == "18"


def test_status_shows_what_was_taken(client: httpx.Client) -> None:
    for _ in range(5):
        (*_, last) = spend(client, 3)
        who = {"X-API-Key": last.request.headers["x-api-key"]}
        data = client.get("/rate-limit/status", headers=who).json()
        end = datetime.fromtimestamp(int(last.headers["x-ratelimit-reset"]), timezone.utc)
        if data["reset_at"] == end.strftime("%Y-%m-%dT%H:%M:%SZ"):
            break
    assert data == {
        "identifier": who["X-API-Key"],
        "identifier_type": "user",
        "limit": LIMIT,
        "remaining": 17,
        "reset_at": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": (end - timedelta(minutes=1)).strftime("%Y-%m-%d-%H:%M"),
        "current_count": 3,
    }


@pytest.mark.parametrize("path", ["/", "/health", "/rate-limit/status"])
def test_paths_without_a_limit(client: httpx.Client, path: str) -> None:
    who = {"X-API-Key": str(uuid.uuid4())}
    answers = [client.get(path, headers=who) for _ in range(LIMIT + 5)]
    assert {answer.status_code for answer in answers} == {200}
    assert not HEADERS & set(answers[0].headers)


def test_clients_at_the_same_time_get_no_more(client: httpx.Client) -> None:
    def scenario(who: dict[str, str]) -> list[httpx.Response]:
        with ThreadPoolExecutor(10) as pool:
            return list(
                pool.map(lambda _: client.post("/api/resource", headers=who), range(3 * LIMIT))
            )

    for _ in range(10):
        before = decided_without_redis(client)
        statuses = [answer.status_code for answer in in_one_window(scenario)]
        if (statuses.count(200), statuses.count(429)) == (LIMIT, 2 * LIMIT):
            return
        time.sleep(3)  # workers publish their counts every second
        assert decided_without_redis(client) > before, statuses
    raise AssertionError("Redis was too slow ten times in a row")


def decided_without_redis(client: httpx.Client) -> float:
    """Return how many decisions workers have made in their own memory, because Redis was slow."""
    counts = re.findall(
        r"^rate_limiter_fallback_decisions_total(?:{.*})? (\S+)$", client.get("/metrics").text, re.M
    )
    return sum(map(float, counts))


@pytest.mark.parametrize("body", [b"[1]", b'{"action": 5}', b"{"])
def test_wrong_bodies_are_refused(client: httpx.Client, body: bytes) -> None:
    headers = {"X-API-Key": str(uuid.uuid4()), "Content-Type": "application/json"}
    answer = client.post("/api/resource", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_long_keys(client: httpx.Client) -> None:
    answer = client.post("/api/resource", headers={"X-API-Key": "k" * 4000})
    assert answer.status_code in (200, 429)
