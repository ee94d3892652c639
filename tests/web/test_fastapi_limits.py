"""RateLimits: all limits of a FastAPI application in one object."""

import gc
import re
import weakref
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from rate_limiter import Decision, ManualClock, RateLimiter
from rate_limiter.fastapi import HeaderStyle, RateLimit, RateLimits, Store
from rate_limiter.observe.registry import decisions
from starlette.testclient import WebSocketDenialResponse
from support.fastapi_app import statuses


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def limits_of(app: FastAPI | None = None, **options: Any) -> RateLimits:
    return RateLimits(app, **({"clock": ManualClock()} | options))


# --- Names come from routes ---


def test_equal_limits_of_two_routes_are_separate(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app)
    one = limits("1/minute")
    app.get("/a", dependencies=[one])(lambda: "a")
    app.get("/b", dependencies=[one])(lambda: "b")
    app.post("/a", dependencies=[one])(lambda: "post")
    app.get("/c", dependencies=[limits("1/minute")])(lambda: "c")
    assert [statuses(client, path, 2) for path in ("/a", "/b", "/c")] == [[200, 429]] * 3
    assert [client.post("/a").status_code for _ in range(2)] == [200, 429]


def test_a_name_shares_the_buckets_and_each_limit_keeps_its_cost(
    app: FastAPI, client: TestClient
) -> None:
    limits = limits_of(app)
    app.get("/a", dependencies=[limits("5/minute", name="both")])(lambda: "a")
    app.get("/b", dependencies=[limits("5/minute", name="both", cost=3)])(lambda: "b")
    assert client.get("/a").headers["x-ratelimit-remaining"] == "4"
    assert client.get("/b").headers["x-ratelimit-remaining"] == "1"
    assert client.get("/b").status_code == 429


def rule(request: Request) -> str:
    return str(request.state.rate_limit.rule)


def test_routers_included_twice_have_their_full_paths(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app)
    router = APIRouter(prefix="/items", dependencies=[limits("2/minute")])
    router.get("/{item}")(rule)
    outer = APIRouter(prefix="/v1")
    outer.include_router(router)
    app.include_router(outer)
    app.include_router(router, prefix="/v2")
    assert client.get("/v1/items/7").json() == "GET /v1/items/<item>"
    assert client.get("/v2/items/7").json() == "GET /v2/items/<item>"
    assert statuses(client, "/v1/items/8", 2) == [200, 429]
    assert statuses(client, "/v2/items/8", 2) == [200, 429]


def test_a_mounted_application_is_named_after_its_place(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app)
    sub = FastAPI()
    for one in (app, sub):
        one.get("/x", dependencies=[limits("1/minute")])(rule)
    app.mount("/sub", sub)
    assert [client.get(path).json() for path in ("/x", "/sub/x")] == ["GET /x", "GET /sub/x"]
    assert statuses(client, "/x", 1) + statuses(client, "/sub/x", 1) == [429, 429]


def test_several_limits_of_one_route_have_different_names(app: FastAPI) -> None:
    limits = RateLimits(app, store="redis://127.0.0.1:1", name="shop")
    several = [limits("5/minute"), limits("5/minute", key="all"), limits("9/hour", name="all")]
    app.get("/a/{b}", dependencies=several)(lambda: "a")
    found = [one.redis_keys("k")[0] for one in limits.limiters()]  # type: ignore[attr-defined]
    assert found == [
        b"rl:shop:GET /a/<b>:{k}:5/minute",
        b"rl:shop:GET /a/<b>:2:{k}:5/minute",
        b"rl:shop:all:{k}:9/hour",
    ]


def test_a_route_added_after_the_first_request(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="3/minute")
    app.get("/a")(lambda: "a")
    assert statuses(client, "/a", 2) == [200, 200]
    app.get("/b", dependencies=[limits("1/minute")])(lambda: "b")
    assert statuses(client, "/b", 2) == [200, 429]
    assert statuses(client, "/a", 2) == [200, 429]


# --- The default ---


def test_the_default_is_for_routes_without_own_limits(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="2/minute")
    router = APIRouter(prefix="/r")
    router.get("/x")(lambda: "x")
    router.get("/own", dependencies=[limits("3/minute")])(lambda: "own")
    app.include_router(router)
    app.get("/y", dependencies=[Depends(RateLimit("9/minute", clock=ManualClock()))])(lambda: "y")
    assert statuses(client, "/r/x", 1) + statuses(client, "/y", 2) == [200, 200, 429]
    assert statuses(client, "/r/own", 4) == [200, 200, 200, 429]
    assert client.get("/r/own").headers["x-ratelimit-limit"] == "3"
    assert client.get("/docs").status_code == 200


def test_the_default_of_a_mounted_application(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(default="1/minute")
    sub = FastAPI()
    for one in (app, sub):
        limits.init_app(one)
        one.get("/x")(lambda: "x")
    app.mount("/sub", sub)
    assert statuses(client, "/x", 1) + statuses(client, "/sub/x", 1) == [200, 429]


def test_exempt_endpoints_and_routers(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="1/minute")

    @app.get("/free")
    @limits.exempt
    def free() -> str:
        return "free"

    router = limits.exempt(APIRouter(prefix="/internal", dependencies=[limits("1/minute")]))
    router.get("/a")(lambda: "a")
    outer = APIRouter()
    outer.include_router(router)
    app.include_router(outer)
    app.get("/limited")(lambda: "limited")
    assert statuses(client, "/free", 3) == statuses(client, "/internal/a", 3) == [200] * 3
    assert statuses(client, "/limited", 2) == [200, 429]
    paths = client.get("/openapi.json").json()["paths"]
    documented = {path for path, one in paths.items() if "429" in one["get"]["responses"]}
    assert documented == {"/limited"}
    assert "x-ratelimit-limit" not in client.get("/free").headers


@pytest.mark.skipif(not hasattr(APIRouter, "frontend"), reason="an older FastAPI")
def test_frontends_are_limited(app: FastAPI, client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    limits = limits_of(app, default="2/minute")
    app.frontend("/own", directory=tmp_path)
    limited = APIRouter(dependencies=[limits("3/minute")])
    exempt = limits.exempt(APIRouter())
    for router in (limited, exempt):
        router.frontend("/page", directory=tmp_path)
    app.include_router(limited, prefix="/a")
    app.include_router(limited, prefix="/b")
    app.include_router(exempt, prefix="/exempt")
    part = FastAPI()
    limits_of(part, default="1/minute")
    part.frontend("/page", directory=tmp_path)
    app.mount("/part", part)
    assert statuses(client, "/own/", 3) == [200, 200, 429]
    assert statuses(client, "/a/page/", 4) == [200, 200, 200, 429]
    assert statuses(client, "/b/page/", 4) == [200, 200, 200, 429]
    assert statuses(client, "/exempt/page/", 4) == [200] * 4
    assert statuses(client, "/part/page/", 2) == [200, 429]


def test_an_exemption_is_of_one_object(app: FastAPI, client: TestClient) -> None:
    first, second = limits_of(app, default="1/minute"), limits_of(app, default="2/minute")

    @app.get("/")
    @first.exempt
    def view() -> str:
        return "ok"

    assert statuses(client, "/", 3) == [200, 200, 429]
    assert len(second.limiters()) == 1
    assert first.limiters() == []


# --- Keys, options, decisions ---


async def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user is None:
        raise HTTPException(401)
    return x_user


@pytest.mark.parametrize("key", [current_user, Depends(current_user)])
def test_key_is_a_dependency(app: FastAPI, client: TestClient, key: Any) -> None:
    limits = limits_of(app, default="1/minute", key=key)
    app.get("/")(lambda: "ok")
    app.get("/own", dependencies=[limits("1/minute")])(lambda: "own")
    for path in ("/", "/own"):
        assert client.get(path).status_code == 401
        assert statuses(client, path, 2, headers={"x-user": "a"}) == [200, 429]
        assert statuses(client, path, 2, headers={"x-user": "b"}) == [200, 429]


def test_key_is_a_function_of_the_connection(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, key="header:X-Api-Key")
    app.get("/", dependencies=[limits("1/minute", key=lambda one: one.headers["x-user"])])(
        lambda: "ok"
    )

    def of_request(request: Request) -> str:
        return request.headers["x-user"]

    app.get("/r", dependencies=[limits("1/minute", key=of_request)])(lambda: "ok")
    for path in ("/", "/r"):
        assert statuses(client, path, 2, headers={"x-user": "a"}) == [200, 429]
        assert statuses(client, path, 1, headers={"x-user": "b"}) == [200]


def test_decision_parameter_and_cost_after(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, headers="both", cost_after=lambda finished: 3)

    @app.get("/")
    async def view(decision: Annotated[Decision, limits("5/minute")]) -> float:
        return decision.remaining

    assert [client.get("/").json() for _ in range(2)] == [4.0, 1.0]
    assert client.get("/").headers["ratelimit-policy"] == '"GET /";q=5;w=60'


def test_websockets(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="1/minute")
    router = APIRouter(prefix="/w")

    @router.websocket("/chat", dependencies=[limits("2/minute")])
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.rate_limit.rule)

    app.include_router(router)
    for _ in range(2):
        with client.websocket_connect("/w/chat") as socket:
            assert socket.receive_text() == "WEBSOCKET /w/chat"
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/w/chat"):
        pass
    assert len(limits.limiters()) == 1


def test_headers_on_errors_and_the_document(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="9/minute", headers=HeaderStyle("ietf"))

    @app.get("/", dependencies=[limits("2/minute")])
    def view() -> str:
        raise HTTPException(418)

    assert client.get("/").headers["ratelimit"] == '"GET /";r=1;t=30'
    responses = client.get("/openapi.json").json()["paths"]["/"]["get"]["responses"]
    assert "429" in responses


def test_a_limiter_shares_its_buckets(app: FastAPI, client: TestClient) -> None:
    limiter = RateLimiter("3/minute", clock=ManualClock())
    limits = limits_of(app, store="memory://")
    for path in ("/a", "/b"):
        app.get(path, dependencies=[limits(limiter=limiter)])(lambda: "ok")
    assert statuses(client, "/a", 2) + statuses(client, "/b", 2) == [200, 200, 200, 429]
    assert limits.limiters() == [limiter]


def test_reset_and_enabled(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, default="1/minute", key="header:X-User")
    app.get("/")(lambda: "ok")
    app.get("/own", dependencies=[limits("1/minute")])(lambda: "own")
    limits.reset()  # before any request
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    for user in (ann, bob):
        assert statuses(client, "/", 2, headers=user) == [200, 429]
        assert statuses(client, "/own", 2, headers=user) == [200, 429]
    limits.reset("header:x-user:ann")
    assert statuses(client, "/", 2, headers=ann) == [200, 429]
    assert statuses(client, "/own", 1, headers=bob) == [429]
    limits.reset()
    assert (
        statuses(client, "/own", 1, headers=bob) == statuses(client, "/", 1, headers=bob) == [200]
    )
    limits.enabled = False
    assert statuses(client, "/own", 3, headers=bob) == [200] * 3


def test_bare_limits_beside_it(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app)
    bare = RateLimit("1/minute", clock=ManualClock())
    app.get("/", dependencies=[limits("5/minute"), Depends(bare)])(lambda: "ok")
    assert statuses(client, "/", 2) == [200, 429]
    (limiter,) = limits.limiters()
    assert limiter.peek("testclient").remaining == 4


def test_metrics_are_named_after_the_route(app: FastAPI, client: TestClient) -> None:
    limits = limits_of(app, metrics="named")
    app.get("/m/{x}", dependencies=[limits("1/minute")])(lambda: "ok")
    app.get("/own", dependencies=[limits("1/minute", metrics="by_hand")])(lambda: "ok")
    assert statuses(client, "/m/1", 2) + statuses(client, "/own", 1) == [200, 429, 200]
    counted = decisions()
    assert (counted["named.GET /m/<x>"].allowed, counted["named.GET /m/<x>"].blocked) == (1, 1)
    assert counted["by_hand"].allowed == 1


# --- Applications that come and go ---


async def test_it_keeps_no_application_alive() -> None:
    limits = RateLimits(default="9/hour", clock=ManualClock())

    async def endpoint() -> str:
        return "ok"

    def make() -> FastAPI:
        app, mounted = FastAPI(), FastAPI()
        limits.init_app(app)
        limits.init_app(mounted)
        app.get("/own", dependencies=[limits("5/hour")])(endpoint)
        app.get("/default")(endpoint)
        mounted.get("/", dependencies=[limits("7/hour")])(endpoint)
        app.mount("/mounted", mounted)
        return app

    async def left(app: FastAPI, path: str) -> str:
        # A TestClient keeps the last application.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get(path)).headers["x-ratelimit-remaining"]

    apps = [make() for _ in range(3)]
    for used in range(1, 4):  # routes of one name share their buckets
        found = [await left(apps[used - 1], path) for path in ("/own", "/default", "/mounted/")]
        assert found == [str(capacity - used) for capacity in (5, 9, 7)]
    made = [weakref.ref(app) for app in apps]
    del apps[1:]
    gc.collect()
    assert made[0]() is apps[0]
    assert [ref() for ref in made[1:]] == [None, None]
    assert {limiter.limits[0].capacity for limiter in limits.limiters()} == {5, 7, 9}
    assert await left(apps[0], "/own") == "1"


# --- Mistakes ---


def test_mistakes_are_found_at_once(app: FastAPI) -> None:
    app_with_routes = FastAPI()
    app_with_routes.get("/")(lambda: "ok")
    limits = RateLimits()
    router = APIRouter()
    router.get("/")(lambda: "ok")
    limits.init_app(app)
    for mistake, text in [
        (lambda: limits("5/minute", cost=9), "cost 9"),
        (lambda: limits("5/minute", costs=9), "unknown option 'costs'"),  # type: ignore[call-arg]
        (lambda: limits("nonsense"), "nonsense"),
        (lambda: limits(), "give either limits or limiter"),
        (lambda: limits("5/minute", limiter=RateLimiter("1/second")), "give either"),
        (lambda: limits("5/minute", on_store_error="deny"), "on_store_error has no effect"),
        (lambda: limits("5/minute", trusted_proxies=["10.0.0.0/8"], key="all"), "trusted_proxies"),
        (lambda: limits("5/minute", max_keys=0), "max_keys"),
        (lambda: limits("5/minute", store="nowhere"), "store"),
        (lambda: limits("5/minute", name=5), "name must be a str"),  # type: ignore[arg-type]
        (lambda: RateLimits(key="nonsense"), "nonsense"),
        (lambda: RateLimits(headers="nonsense"), "nonsense"),
        (lambda: RateLimits(store="nowhere"), "store"),
        (lambda: RateLimits(store="redis://127.0.0.1:1", clock=ManualClock()), "ManualClock"),
        (lambda: RateLimits(name="shop"), "name has no effect"),
        (lambda: RateLimits(store=Store(name="a"), name="b"), "beside a Store"),
        (lambda: RateLimits(default="5/minute", cost=6), "cost 6"),
        (lambda: RateLimits(app_with_routes, default="5/minute"), "has routes already"),
        (lambda: RateLimits("app"), "expected a FastAPI application"),  # type: ignore[arg-type]
        (lambda: limits.init_app(app), "already"),
        (lambda: limits.exempt(router), "before you add routes"),
        (lambda: limits.exempt(app), "expected an endpoint or an APIRouter"),
        (lambda: limits.exempt("view"), "expected an endpoint or an APIRouter"),
    ]:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=re.escape(text)):
            mistake()
    RateLimits(app_with_routes)  # without a default the order does not matter


def test_inherited_options_need_no_effect() -> None:
    limits = RateLimits(trusted_proxies=["10.0.0.0/8"], store="memory://", on_store_error="deny")
    assert limits("5/minute", key="all") is not None
    assert limits(limiter=RateLimiter("5/minute")) is not None


@pytest.mark.parametrize("where", [{"dependencies": [RateLimit("5/minute")]}])
def test_a_bare_limit_needs_depends(app: FastAPI, where: Any) -> None:
    with pytest.raises(TypeError, match="wrap a RateLimit in Depends"):
        app.get("/", **where)(lambda: "ok")
    with pytest.raises(TypeError, match="wrap a RateLimit in Depends"):
        APIRouter(**where).get("/")(lambda: "ok")
    with pytest.raises(TypeError, match="wrap a RateLimit in Depends"):
        FastAPI(**where).get("/")(lambda: "ok")
