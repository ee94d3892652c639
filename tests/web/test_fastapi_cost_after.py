"""cost_after of a RateLimit: what routes of FastAPI charge when their response is over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from rate_limiter import ManualClock, RateLimiter
from rate_limiter.fastapi import RateLimit, SettlingMiddleware
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.settling import Finished
from starlette.applications import Starlette
from starlette.routing import Route
from support.fastapi_app import limit, statuses


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def remaining(route: RateLimit) -> float:
    return route.limiter.peek("testclient").remaining


def settling(cost_after: Any, limits: str = "100/hour", **arguments: Any) -> RateLimit:
    return limit(limits, cost_after=cost_after, **arguments)


async def cost_later(finished: Finished) -> float:
    await asyncio.sleep(0)
    return finished.body_bytes


@pytest.mark.parametrize("cost_after", [lambda finished: finished.body_bytes, cost_later])
def test_cost_after(app: FastAPI, client: TestClient, cost_after: Any) -> None:
    route = settling(cost_after, cost=9)

    @app.get("/", dependencies=[Depends(route)])
    async def view() -> StreamingResponse:
        return StreamingResponse(iter(["one,", "two"]))

    answer = client.get("/")
    assert (answer.text, answer.headers.get("content-length")) == ("one,two", None)
    assert remaining(route) == 93


def test_what_cost_after_of_a_route_gets(app: FastAPI, client: TestClient) -> None:
    seen: list[Finished] = []
    route = settling(seen.append, cost=2, key=lambda connection: b"me")
    app.get("/", dependencies=[Depends(route)])(lambda: JSONResponse([1], 201, {"X-Own": "1"}))
    app.get("/missing", dependencies=[Depends(route), Depends(refusing)])(lambda: None)
    app.get("/{number}", dependencies=[Depends(route)])(of_number)
    assert [client.get(path).status_code for path in ("/", "/missing", "/text")] == [201, 401, 422]
    assert [(one.status, one.failed, one.error) for one in seen] == [
        (201, False, None),
        (401, True, None),
        (422, True, None),
    ]
    assert (seen[0].cost, seen[0].key, seen[0].body_bytes) == (2, b"me", 3)
    assert (b"x-own", b"1") in seen[0].headers
    assert seen[0].scope["path"] == "/"


def refusing() -> None:
    raise HTTPException(401)


def of_number(number: int) -> int:
    return number


def test_cost_after_of_a_route_that_raises(app: FastAPI) -> None:
    seen: list[Finished] = []

    @app.get("/", dependencies=[Depends(settling(seen.append))])
    async def view() -> None:
        raise RuntimeError("planned")

    assert TestClient(app, raise_server_exceptions=False).get("/").status_code == 500
    (finished,) = seen
    assert (finished.status, str(finished.error), finished.failed) == (None, "planned", True)


def test_a_limit_that_counts_twice_for_a_request_settles_each_once(
    app: FastAPI, client: TestClient
) -> None:
    route = settling(lambda finished: 0 if finished.failed else None)

    @app.get("/{status}", dependencies=[Depends(route)])
    async def view(status: int, request: Request) -> Response:
        await route(request)
        return Response(status_code=status)

    assert [client.get(f"/{status}").status_code for status in (200, 404, 404)] == [200, 404, 404]
    assert remaining(route) == 98


def test_the_limit_of_a_handshake_is_settled_after_limits_of_messages(
    app: FastAPI, client: TestClient
) -> None:
    handshake, message = settling(lambda finished: 7), limit("9/hour")

    @app.websocket("/", dependencies=[Depends(handshake)])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await message(websocket)
            await websocket.send_text(text)

    with client.websocket_connect("/") as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "hello"
    assert (remaining(handshake), remaining(message)) == (93, 8)


def test_a_denied_request_is_not_settled(app: FastAPI, client: TestClient) -> None:
    seen: list[Finished] = []
    wide, narrow = settling(seen.append), settling(seen.append, "1/hour")
    app.get("/", dependencies=[Depends(wide), Depends(narrow)])(lambda: None)
    assert statuses(client, "/", 3) == [200, 429, 429]
    assert len(seen) == 2
    assert remaining(wide) == 99


def test_a_cost_after_that_raises_is_logged_and_others_are_settled(
    app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    broken, kept = settling(lambda finished: 1 / 0), settling(lambda finished: 0)
    app.get("/", dependencies=[Depends(broken), Depends(kept)])(lambda: "ok")
    assert client.get("/").json() == "ok"
    (record,) = caplog.records
    assert (record.name, record.message) == (
        "rate_limiter",
        "the cost of a request could not be settled",
    )
    assert (remaining(broken), remaining(kept)) == (99, 100)


def test_cost_after_of_a_route_beside_the_middleware(app: FastAPI, client: TestClient) -> None:
    inner, outer = settling(lambda finished: 5), RateLimiter("50/hour", clock=ManualClock())
    app.get("/", dependencies=[Depends(inner)])(lambda: "ok")
    app.add_middleware(RateLimitMiddleware, limiter=outer, cost_after=lambda finished: 7)
    assert client.get("/").headers["x-ratelimit-limit"] == "50"
    assert (remaining(inner), outer.peek("testclient").remaining) == (95, 43)


def test_cost_after_behind_a_middleware_that_wraps_everything(
    app: FastAPI, client: TestClient
) -> None:
    route = settling(lambda finished: finished.body_bytes)
    app.get("/", dependencies=[Depends(route)])(lambda: "0123456789" * 5)

    @app.middleware("http")
    async def wrapping(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    assert client.get("/").status_code == 200
    assert remaining(route) == 48


def test_cost_after_of_a_mounted_application(app: FastAPI, client: TestClient) -> None:
    seen: list[Finished] = []
    mounted = FastAPI()
    mounted.get("/", dependencies=[Depends(settling(seen.append))])(lambda: "ok")
    app.mount("/below", mounted)
    assert client.get("/below/").json() == "ok"
    assert [one.status for one in seen] == [200]


def test_cost_after_of_a_websocket(app: FastAPI, client: TestClient) -> None:
    seen: list[Finished] = []

    @app.websocket("/", dependencies=[Depends(settling(seen.append))])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        await websocket.close()

    with client.websocket_connect("/") as websocket:
        assert not seen
        websocket.send_text("over")
        websocket.receive()
    assert [(one.status, one.disconnected, one.error) for one in seen] == [(101, False, None)]


async def test_cost_after_of_a_client_that_leaves(app: FastAPI) -> None:
    seen: list[Finished] = []

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(0)

    @app.get("/", dependencies=[Depends(settling(seen.append))])
    async def view() -> StreamingResponse:
        return StreamingResponse(ticks())

    sent: list[bytes] = []
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 4:
            gone.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 5),
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    (finished,) = seen
    assert (finished.disconnected, finished.error) == (True, None)
    assert finished.body_bytes >= 12


async def test_cost_after_where_nothing_settles() -> None:
    route = settling(lambda finished: 5)
    connection = HTTPConnection({"type": "http", "headers": [], "client": ("testclient", 5)})
    with pytest.raises(RuntimeError, match="cost_after of a RateLimit needs SettlingMiddleware"):
        await route(connection, Response())
    assert remaining(route) == 100
    assert (await limit("9/hour")(connection, Response())).remaining == 8


def test_routes_in_an_application_of_starlette_with_the_middleware() -> None:
    seen: list[Finished] = []

    async def endpoint(request: Request) -> JSONResponse:
        await route(request, Response())
        return JSONResponse("ok")

    route = settling(seen.append)
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(SettlingMiddleware)
    assert TestClient(app).get("/").json() == "ok"
    assert [one.body_bytes for one in seen] == [4]


def test_a_key_that_raises_takes_nothing(app: FastAPI) -> None:
    def key(connection: HTTPConnection) -> str:
        return connection.headers["x-user"]

    first = limit("9/minute")
    app.get("/", dependencies=[Depends(first), Depends(limit("2/minute", key=key))])(lambda: None)
    client = TestClient(app, raise_server_exceptions=False)
    assert statuses(client, "/", 3) == [500] * 3
    assert remaining(first) == 9
    assert statuses(client, "/", 3, headers={"x-user": "a"}) == [200, 200, 429]
