"""Limits that a route depends on first: called as FastAPI calls them, in fewer steps."""

import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Security, WebSocket, routing
from fastapi.dependencies import utils
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from rate_limiter import Decision, ManualClock
from rate_limiter.fastapi import RateLimit, RateLimits
from support.fastapi_app import limit, statuses

Log = list[str]


@pytest.fixture
def log() -> Log:
    return []


def noted(log: Log, name: str, limits: str = "3/minute") -> RateLimit:
    """Return a limit that notes its calls."""

    def key(connection: HTTPConnection) -> str:
        log.append(name)
        return "all"

    return limit(limits, key=key)


def noting(log: Log, name: str) -> Callable[[], None]:
    return lambda: log.append(name)


def one_first(app: FastAPI, log: Log) -> None:
    @app.get("/", dependencies=[Depends(noted(log, "limit")), Depends(noting(log, "other"))])
    async def view(number: int = 1) -> int:
        return number


def one_after_another_dependency(app: FastAPI, log: Log) -> None:
    several = [noting(log, "first"), noted(log, "limit"), noting(log, "last")]

    @app.get("/", dependencies=[Depends(one) for one in several])
    async def view() -> None: ...


def several_first(app: FastAPI, log: Log) -> None:
    several = [noted(log, "a", "5/minute"), noted(log, "b"), noting(log, "c"), noted(log, "d")]

    @app.get("/", dependencies=[Depends(one) for one in several])
    async def view() -> None: ...


def of_application_router_and_route(app: FastAPI, log: Log) -> None:
    app.router.dependencies.append(Depends(noted(log, "application")))
    router = APIRouter(dependencies=[Depends(noted(log, "router"))])

    @router.get("/", dependencies=[Depends(noted(log, "route"))])
    async def view() -> None: ...

    app.include_router(router, dependencies=[Depends(noted(log, "inclusion"))])


def one_twice(app: FastAPI, log: Log) -> None:
    twice = noted(log, "limit")
    app.router.dependencies.append(Depends(twice))

    @app.get("/", dependencies=[Depends(noted(log, "another")), Depends(twice)])
    async def view() -> None: ...


def one_below_another_dependency_too(app: FastAPI, log: Log) -> None:
    shared = noted(log, "limit")

    def user(decision: Annotated[Decision, Depends(shared)]) -> float:
        log.append("user")
        return decision.remaining

    @app.get("/", dependencies=[Depends(shared)])
    async def view(remaining: Annotated[float, Depends(user)]) -> float:
        return remaining


def one_without_cache_too(app: FastAPI, log: Log) -> None:
    twice = noted(log, "limit")

    @app.get("/", dependencies=[Depends(twice), Depends(twice, use_cache=False)])
    async def view() -> None: ...


def with_scopes(app: FastAPI, log: Log) -> None:
    @app.get("/", dependencies=[Security(noted(log, "limit"), scopes=["items"])])
    async def view() -> None: ...


def with_a_key_of_a_dependency(app: FastAPI, log: Log) -> None:
    def user() -> str:
        log.append("user")
        return "alice"

    limits = [noted(log, "first"), limit("3/minute", key=Depends(user))]

    @app.get("/", dependencies=[Depends(one) for one in limits])
    async def view() -> None: ...


def with_a_failing_key(app: FastAPI, log: Log) -> None:
    def key(connection: HTTPConnection) -> str:
        raise KeyError("user")

    limits = [noted(log, "first"), limit("3/minute", key=key)]

    @app.get("/", dependencies=[Depends(one) for one in limits])
    async def view() -> None: ...


def of_rate_limits(app: FastAPI, log: Log) -> None:
    limits = RateLimits(app, default="2/minute", clock=ManualClock())

    @app.get("/", dependencies=[limits("3/minute"), Depends(noting(log, "other"))])
    async def view() -> None: ...

    @app.post("/")
    async def other_view(body: dict[str, int]) -> None: ...


def of_a_class_that_blocks(app: FastAPI, log: Log) -> None:
    class Blocking(RateLimit):
        def __call__(self, connection: HTTPConnection, key: Any = None) -> Any:
            log.append("main" if threading.current_thread() is threading.main_thread() else "other")
            if not self.limiter.allow("all"):
                raise HTTPException(429)

    @app.get("/", dependencies=[Depends(Blocking("3/minute", clock=ManualClock()))])
    async def view() -> None: ...


def with_a_body(app: FastAPI, log: Log) -> None:
    @app.post("/", dependencies=[Depends(noted(log, "limit"))])
    async def view(body: dict[str, int]) -> dict[str, int]:
        return body


APPLICATIONS = (
    one_first,
    one_after_another_dependency,
    several_first,
    of_application_router_and_route,
    one_twice,
    one_below_another_dependency_too,
    one_without_cache_too,
    with_scopes,
    with_a_key_of_a_dependency,
    with_a_failing_key,
    of_rate_limits,
    of_a_class_that_blocks,
    with_a_body,
)


def seen(build: Callable[[FastAPI, Log], None]) -> list[Any]:
    """Return what a client sees of some requests, and what an application notes."""
    log: Log = []
    app = FastAPI()
    build(app, log)
    client = TestClient(app, raise_server_exceptions=False)
    requests = [
        *[("GET", "/", None)] * 2,
        ("GET", "/?number=x", None),
        ("POST", "/", b"{"),
        ("POST", "/", b'{"a": "x"}'),
        *[("POST", "/", b'{"a": 1}')] * 3,
        *[("GET", "/", None)] * 2,
    ]
    answers: list[Any] = []
    for method, path, body in requests:
        headers = {"content-type": "application/json"}
        answer = client.request(method, path, content=body, headers=headers)
        answers.append((answer.status_code, answer.text, dict(answer.headers)))
    return [answers, log, app.openapi()]


@pytest.mark.parametrize("build", APPLICATIONS)
def test_no_difference_is_seen(
    build: Callable[[FastAPI, Log], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = seen(build)
    original = routing.solve_dependencies.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(routing, "solve_dependencies", original)
    assert ours == seen(build)
    expected = 500 if build is with_a_failing_key else 429
    assert expected in [status for status, *_ in ours[0]]


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> Log:
    """The names of the dependencies that FastAPI has solved."""
    solved: Log = []
    solve = utils.solve_dependencies

    def solving(**given: Any) -> Any:
        solved.append(type(given["dependant"].call).__name__)
        return solve(**given)

    monkeypatch.setattr(utils, "solve_dependencies", solving)
    return solved


def test_fastapi_does_not_solve_the_first_limits(solved: Log, log: Log) -> None:
    app = FastAPI()
    several_first(app, log)
    assert statuses(TestClient(app), "/", 4) == [200, 200, 200, 429]
    assert log == ["a", "b", "c", "d"] * 3 + ["a", "b"]
    assert solved == ["function", "RateLimit"] * 3


def test_limits_with_options_are_solved(solved: Log, log: Log) -> None:
    app = FastAPI()
    with_scopes(app, log)
    assert statuses(TestClient(app), "/", 4) == [200, 200, 200, 429]
    assert solved == ["RateLimit"] * 4


def test_overrides_count_from_the_next_request_on(log: Log) -> None:
    app = FastAPI()
    first, second = noted(log, "first"), noted(log, "second", "1/minute")

    @app.get("/", dependencies=[Depends(first), Depends(second)])
    async def view() -> None: ...

    client = TestClient(app)
    assert statuses(client, "/", 2) == [200, 429]
    app.dependency_overrides[second] = noting(log, "override")
    log.clear()
    assert statuses(client, "/", 1) == [200]
    assert log == ["first", "override"]
    app.dependency_overrides.clear()
    assert statuses(client, "/", 1) == [429]


def test_dependencies_may_change_between_requests(log: Log) -> None:
    app = FastAPI()
    route = APIRouter(route_class=routing.APIRoute)

    @app.get("/", dependencies=[Depends(noted(log, "limit"))])
    async def view() -> None: ...

    @route.get("/", dependencies=[Depends(noted(log, "added")), Depends(noting(log, "last"))])
    async def other() -> None: ...

    client = TestClient(app)
    assert statuses(client, "/", 1) == [200]
    dependant = app.routes[-1].dependant  # type: ignore[attr-defined]
    dependant.dependencies += route.routes[0].dependant.dependencies  # type: ignore[attr-defined]
    assert statuses(client, "/", 1) == [200]
    assert log == ["limit", "limit", "added", "last"]


def test_a_limit_may_be_replaced_between_requests(log: Log) -> None:
    app = FastAPI()
    limits = [noted(log, "first"), noted(log, "second")]

    @app.get("/", dependencies=[Depends(one) for one in limits])
    async def view() -> None: ...

    client = TestClient(app)
    assert statuses(client, "/", 1) == [200]
    dependant = app.routes[-1].dependant  # type: ignore[attr-defined]
    dependant.dependencies[1].call = noted(log, "another", "1/minute")
    assert statuses(client, "/", 2) == [200, 429]
    assert log == ["first", "second"] + ["first", "another"] * 2


def test_a_decision_in_the_cache_of_a_caller_counts(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    app = FastAPI()
    several_first(app, log)
    cache: dict[Any, Any] = {}
    solve = routing.solve_dependencies

    async def solving(**given: Any) -> Any:
        solved = await solve(**given, dependency_cache=cache)
        cache.update(solved.dependency_cache)  # older versions fill a copy
        return solved

    monkeypatch.setattr(routing, "solve_dependencies", solving)
    assert statuses(TestClient(app), "/", 2) == [200, 200]
    assert log == ["a", "b", "c", "d"]


def test_websockets(solved: Log, log: Log) -> None:
    app = FastAPI()

    @app.websocket("/", dependencies=[Depends(noted(log, "limit")), Depends(noting(log, "last"))])
    async def view(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    with TestClient(app).websocket_connect("/"):
        assert log == ["limit", "last"]
    assert solved == ["function"]


def test_routes_may_share_a_list_of_dependencies(log: Log) -> None:
    app = FastAPI()

    @app.get("/a", dependencies=[Depends(noted(log, "limit"))])
    async def view() -> None: ...

    @app.get("/b", dependencies=[Depends(noted(log, "other"))])
    async def view_of_number(number: int) -> int:
        return number

    client = TestClient(app)
    assert client.get("/a").status_code == 200
    one, other = [route.dependant for route in app.routes[-2:]]  # type: ignore[attr-defined]
    other.dependencies = one.dependencies
    assert client.get("/b?number=3").json() == 3
    assert log == ["limit", "limit"]
