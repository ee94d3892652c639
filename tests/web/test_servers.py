"""The middleware under a real uvicorn: streaming, websockets, lifespan, a unix socket."""

import http
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.servers import ROOT, Server, serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("asgi") / "log"
    command = ("-m", "uvicorn", "asgi_app:app", "--port", "{port}")
    with serve(log_file, *command, cwd=ROOT / "tests" / "support") as server:
        yield server
    assert server.log.count("started\n") == server.log.count("stopped\n") == 1
    assert "Traceback" not in server.log


def test_chunks_are_not_held_back(server: Server) -> None:
    headers = {"X-API-Key": "stream"}
    with httpx.stream("GET", f"{server.url}/slow-stream", headers=headers) as answer:
        assert answer.headers["x-ratelimit-remaining"] == "2"
        arrived = [(chunk, time.monotonic()) for chunk in answer.iter_raw()]
    assert [chunk for chunk, _ in arrived] == [b"0", b"1", b"2"]
    assert arrived[2][1] - arrived[0][1] > 0.15


def test_websocket_and_then_429(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/echo"
    headers = {"X-API-Key": "websocket"}
    for remaining in ("2", "1", "0"):
        with connect(url, additional_headers=headers) as websocket:
            assert websocket.response is not None
            assert websocket.response.headers["x-ratelimit-remaining"] == remaining
            websocket.send("hello")
            assert websocket.recv() == "hello"
    with pytest.raises(InvalidStatus) as caught, connect(url, additional_headers=headers):
        raise AssertionError("accepted")
    assert caught.value.response.status_code == http.HTTPStatus.TOO_MANY_REQUESTS
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 1200


def test_websocket_route_with_a_separate_limit(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/own-limit"
    with connect(url, additional_headers={"X-API-Key": "one"}):
        pass
    with pytest.raises(InvalidStatus) as caught:
        connect(url, additional_headers={"X-API-Key": "two"})
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["x-ratelimit-limit"] == "1"


def test_client_that_goes_away_in_the_middle(server: Server) -> None:
    headers = {"X-API-Key": "leaves"}
    with httpx.stream("GET", f"{server.url}/slow-stream", headers=headers) as answer:
        assert answer.status_code == 200
    assert httpx.get(f"{server.url}/nowhere", headers=headers).status_code == 404


def test_unix_socket(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    command = ("-m", "uvicorn", "asgi_app:app", "--uds", str(socket))
    with serve(tmp_path / "log", *command, cwd=ROOT / "tests" / "support", ready=socket.exists):
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://test") as client:
            statuses = [client.get("/nowhere").status_code for _ in range(4)]
    assert statuses == [404, 404, 404, 429]


def test_middleware_as_the_application_itself(tmp_path: Path) -> None:
    command = ("-m", "uvicorn", "asgi_app:outermost", "--port", "{port}", "--lifespan", "off")
    with serve(tmp_path / "log", *command, cwd=ROOT / "tests" / "support") as server:
        statuses = [httpx.get(server.url).status_code for _ in range(2)]
    assert statuses == [200, 429]
