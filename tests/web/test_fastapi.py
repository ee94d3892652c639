"""RateLimit as a dependency of FastAPI routes, routers and applications."""

from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    Request,
    WebSocket,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from rate_limiter import Decision, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.fastapi import RATE_LIMITED_RESPONSE, RateLimit, document_limits
from rate_limiter.middleware import RateLimitMiddleware
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from support.fastapi_app import limit, statuses


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def test_route_needs_no_request_argument(app: FastAPI, client: TestClient) -> None:
    @app.get("/", dependencies=[Depends(limit("5/minute", cost=3))])
    async def view() -> str:
        return "ok"

    passed, denied = client.get("/"), client.get("/")
    assert passed.json() == "ok"
    assert passed.headers["x-ratelimit-limit"] == "5"
    assert passed.headers["x-ratelimit-remaining"] == "2"
    assert passed.headers["x-ratelimit-reset"] == "36"
    assert "retry-after" not in passed.headers
    assert denied.status_code == 429
    assert denied.json() == {"detail": "Rate limit exceeded. Please try again later."}
    assert denied.headers["retry-after"] == "12"
    assert denied.headers["cache-control"] == "no-store"


def test_sync_route_and_decision_as_an_argument(app: FastAPI, client: TestClient) -> None:
    per_minute = limit()

    @app.get("/")
    def view(decision: Annotated[Decision, Depends(per_minute)]) -> float:
        return decision.remaining

    assert [client.get("/").json() for _ in range(2)] == [1.0, 0.0]


def test_router_shares_one_bucket(app: FastAPI, client: TestClient) -> None:
    router = APIRouter(prefix="/r", dependencies=[Depends(limit())])

    @router.get("/a")
    async def a() -> None: ...

    @router.get("/b")
    async def b() -> None: ...

    app.include_router(router)
    assert statuses(client, "/r/a", 1) + statuses(client, "/r/b", 2) == [200, 200, 429]


def test_routes_have_separate_buckets(app: FastAPI, client: TestClient) -> None:
    for path in ("/a", "/b"):
        app.get(path, dependencies=[Depends(limit("1/minute"))])(lambda: None)
    assert statuses(client, "/a", 2) == statuses(client, "/b", 2) == [200, 429]


def test_stacked_limits_show_the_tightest_and_take_all_or_nothing(
    app: FastAPI, client: TestClient
) -> None:
    wide, narrow = limit("9/minute"), limit("3/minute", cost=2)
    app.get("/", dependencies=[Depends(wide), Depends(narrow)])(lambda: None)
    answer = client.get("/")
    assert answer.headers["x-ratelimit-limit"] == "3"
    assert statuses(client, "/", 3) == [429] * 3
    assert wide.limiter.peek("testclient").remaining == 8


def test_same_object_twice_counts_once(app: FastAPI, client: TestClient) -> None:
    one = limit()
    router = APIRouter(dependencies=[Depends(one)])
    router.get("/", dependencies=[Depends(one)])(lambda: None)
    app.include_router(router)
    assert statuses(client, "/", 3) == [200, 200, 429]


async def async_user(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-user")


@pytest.mark.parametrize("key", [async_user, lambda connection: connection.headers.get("x-user")])
def test_key(app: FastAPI, client: TestClient, key: Any) -> None:
    app.get("/", dependencies=[Depends(limit("1/minute", key=key))])(lambda: None)
    assert statuses(client, "/", 2, headers={"x-user": "a"}) == [200, 429]
    assert statuses(client, "/", 2, headers={"x-user": "b"}) == [200, 429]
    assert statuses(client, "/", 2) == [200, 429]


async def async_cost(connection: HTTPConnection) -> float:
    return float(connection.query_params["n"])


@pytest.mark.parametrize("cost", [async_cost, lambda connection: connection.query_params["n"]])
def test_cost(app: FastAPI, client: TestClient, cost: Any) -> None:
    made = cost if cost is async_cost else (lambda connection: float(cost(connection)))
    app.get("/", dependencies=[Depends(limit("5/minute", cost=made))])(lambda: None)
    assert statuses(client, "/?n=4", 1) + statuses(client, "/?n=2", 1) == [200, 429]


def test_exception_handler_of_ones_own(app: FastAPI, client: TestClient) -> None:
    @app.exception_handler(RateLimitExceeded)
    async def handler(request: Request, error: RateLimitExceeded) -> JSONResponse:
        return JSONResponse({"wait": error.retry_after, "who": error.key}, 420)

    app.get("/", dependencies=[Depends(limit("1/minute"))])(lambda: None)
    assert statuses(client, "/", 2) == [200, 420]
    assert client.get("/").json() == {"wait": 60.0, "who": "testclient"}


def test_headers_off(app: FastAPI, client: TestClient) -> None:
    app.get("/", dependencies=[Depends(limit("1/minute", headers="off"))])(lambda: None)
    for answer in (client.get("/"), client.get("/")):
        assert not [name for name in answer.headers if "ratelimit" in name]


def test_a_limit_without_headers_is_not_described_by_another(
    app: FastAPI, client: TestClient
) -> None:
    silent, telling = limit("2/minute", headers="off"), limit("9/minute")
    app.get("/", dependencies=[Depends(silent), Depends(telling)])(lambda: None)
    assert client.get("/").headers["x-ratelimit-limit"] == "9"


def test_within_the_middleware_the_route_speaks(app: FastAPI, client: TestClient) -> None:
    app.add_middleware(RateLimitMiddleware, limits="50/minute")
    app.get("/limited", dependencies=[Depends(limit())])(lambda: None)
    app.get("/free")(lambda: None)
    assert client.get("/limited").headers.get_list("x-ratelimit-limit") == ["2"]
    assert client.get("/free").headers.get_list("x-ratelimit-limit") == ["50"]


def test_limiter_can_be_shared(app: FastAPI, client: TestClient) -> None:
    limiter = RateLimiter("1/minute", clock=ManualClock())
    app.get("/", dependencies=[Depends(RateLimit(limiter=limiter))])(lambda: None)
    assert limiter.allow("testclient")
    assert client.get("/").status_code == 429


def test_websocket(app: FastAPI, client: TestClient) -> None:
    @app.websocket("/", dependencies=[Depends(limit("1/minute"))])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    with client.websocket_connect("/"):
        pass
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/"):
        pass
    assert caught.value.status_code == 429
    assert caught.value.headers["retry-after"] == "60"


@pytest.mark.parametrize("extensions", [{}, None, 5, "websocket.http.response"])
def test_websocket_on_a_server_that_can_only_close(app: FastAPI, extensions: object) -> None:
    @app.websocket("/", dependencies=[Depends(limit("1/minute"))])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": extensions}, receive, send)

    client = TestClient(plain)
    with client.websocket_connect("/"):
        pass
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/"):
        pass
    assert caught.value.code == 1008


# --- OpenAPI ---------------------------------------------------------------------------------


def documented(app: FastAPI, path: str = "/", method: str = "get") -> Any:
    return app.openapi()["paths"][path][method]["responses"].get("429")


def test_429_is_documented_automatically(app: FastAPI) -> None:
    router = APIRouter(prefix="/r", dependencies=[Depends(limit())])
    router.post("/a")(lambda: None)
    app.include_router(router)
    app.get("/", dependencies=[Depends(limit())])(lambda: None)
    app.get("/free")(lambda: None)

    def nested(decision: Annotated[Decision, Depends(limit())]) -> None: ...

    app.get("/nested", dependencies=[Depends(nested)])(lambda: None)
    assert documented(app) == RATE_LIMITED_RESPONSE
    assert documented(app, "/r/a", "post") == RATE_LIMITED_RESPONSE
    assert documented(app, "/nested") == RATE_LIMITED_RESPONSE
    assert documented(app, "/free") is None
    assert app.openapi() is app.openapi()


def test_application_wide_limit_is_documented() -> None:
    app = FastAPI(dependencies=[Depends(limit())])
    app.get("/")(lambda: None)
    assert documented(app) == RATE_LIMITED_RESPONSE


def test_429_is_documented_again_when_routes_were_added(app: FastAPI) -> None:
    app.get("/", dependencies=[Depends(limit())])(lambda: None)
    assert documented(app) == RATE_LIMITED_RESPONSE
    app.get("/late")(lambda: None)
    assert documented(app) == RATE_LIMITED_RESPONSE


def test_applications_have_separate_documents(app: FastAPI) -> None:
    app.get("/", dependencies=[Depends(limit())])(lambda: None)
    documented(app)["description"] = "changed"
    assert RATE_LIMITED_RESPONSE["description"] == "Rate limit exceeded"


def test_429_of_ones_own_stays(app: FastAPI) -> None:
    own = {"description": "Slow down"}
    app.get("/", dependencies=[Depends(limit())], responses={429: own})(lambda: None)
    assert documented(app) == own


def test_openapi_document_made_by_hand(app: FastAPI) -> None:
    from fastapi.openapi.utils import get_openapi

    app.get("/", dependencies=[Depends(limit())])(lambda: None)
    document = get_openapi(title="t", version="1", routes=app.routes)
    assert "429" not in document["paths"]["/"]["get"]["responses"]
    document_limits(document, app.routes)
    assert document["paths"]["/"]["get"]["responses"]["429"] == RATE_LIMITED_RESPONSE


# --- set-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "give either limits or limiter"),
        ({"limits": "5/minute", "cost": 6}, ValueError, "cost 6 is above the capacity"),
        ({"limits": "5/minute", "key": "name"}, ValueError, "key must be 'ip', 'all', 'user'"),
        ({"limits": "5/minute", "headers": True}, ValueError, "headers must be one of"),
        ({"limits": "5/minute", "burst": 6}, TypeError, "burst"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RateLimit(**arguments)


# --- keys, proxies, headers ------------------------------------------------------------------


def test_a_key_in_words_behind_a_proxy() -> None:
    limit = RateLimit("2/minute", key=["header:X-API-Key", "ip"], trusted_proxies=["10.0.0.0/8"])
    app = FastAPI()
    app.get("/", dependencies=[Depends(limit)])(lambda: "ok")
    client = TestClient(app, client=("10.0.0.1", 5))

    def left(**headers: str) -> str:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return str(client.get("/", headers=names).headers["X-RateLimit-Remaining"])

    assert left(X_API_Key="k") == left(X_Forwarded_For="203.0.113.1") == "1"
    assert left(X_API_Key="k") == left(X_Forwarded_For="6.6.6.6, 203.0.113.1") == "0"
    assert left(X_Forwarded_For="203.0.113.2") == "1"


def test_ietf_headers_of_stacked_limits() -> None:
    from support.rules_app import sf

    app = FastAPI()
    limits = [
        RateLimit("5/minute", headers="both", clock=ManualClock(), name="burst"),
        RateLimit("3/hour; window=fixed", headers="both", clock=ManualClock()),
    ]
    app.get("/", dependencies=[Depends(one) for one in limits])(lambda: "ok")
    headers = TestClient(app).get("/").headers
    assert headers["X-RateLimit-Limit"] == "3"
    assert sf(headers["RateLimit"]) == [
        ("3/hour; window=fixed", {"r": 2, "t": 3600}),
        ("burst", {"r": 4, "t": 12}),
    ]


def test_callables_in_a_chain_get_the_connection_too() -> None:
    seen: list[Any] = []

    def user(connection: HTTPConnection) -> str | None:
        seen.append(connection)
        return connection.query_params.get("user")

    app = FastAPI()
    limit = RateLimit("1/minute", key=["header:X-API-Key", user, "ip"])
    app.get("/", dependencies=[Depends(limit)])(lambda: "ok")
    client = TestClient(app)
    assert [client.get(f"/?user={name}").status_code for name in "aab"] == [200, 429, 200]
    assert isinstance(seen[0], HTTPConnection)


def test_one_that_is_turned_off_lets_everything_pass(app: FastAPI, client: TestClient) -> None:
    one = limit("1/minute", enabled=False)

    @app.get("/")
    async def view(decision: Annotated[Decision, Depends(one)]) -> list[float]:
        return [decision.allowed, decision.remaining]

    for _ in range(3):
        response = client.get("/")
        assert response.json() == [True, 1]
        assert "x-ratelimit-limit" not in response.headers
    one.enabled = True
    assert statuses(client, "/", 2) == [200, 429]


def test_whether_it_is_enabled_must_be_said_plainly() -> None:
    with pytest.raises(TypeError, match="enabled must be True or False, got 0"):
        limit(enabled=0)


def test_a_denied_message_of_a_websocket_gives_no_tokens_back(
    app: FastAPI, client: TestClient
) -> None:
    handshakes, messages = limit("9/hour"), limit("3/hour")

    @app.websocket("/", dependencies=[Depends(handshakes)])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            try:
                await messages(websocket)
                await websocket.send_text("sent")
            except (RateLimitExceeded, WebSocketException):
                await websocket.send_text("wait")

    with client.websocket_connect("/") as websocket:
        answers = []
        for _ in range(8):
            websocket.send_text("hello")
            answers.append(websocket.receive_text())
    assert answers == ["sent"] * 3 + ["wait"] * 5
    assert handshakes.limiter.peek("testclient").remaining == 8
