"""A cost for each limit, and a final cost for each, on every front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.redis_servers import RedisServer

LIMITS = "3/day; 1000/day"

# Returns the statuses of some requests.
Ask = Callable[[int], list[int]]


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def plain_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"ok"]


def ask_asgi(app: Any) -> Ask:
    async def statuses(n: int) -> list[int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://a"
        ) as client:
            return [(await client.get("/")).status_code for _ in range(n)]

    return lambda n: asyncio.run(statuses(n))


def ask_wsgi(app: Any) -> Ask:
    def statuses(n: int) -> list[int]:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://a") as client:
            return [client.get("/").status_code for _ in range(n)]

    return statuses


def callable_of(takes_argument: bool, cost: Any) -> Any:
    if not callable(cost):
        return cost
    return (lambda request: cost()) if takes_argument else cost


def by_asgi(cost: Any, cost_after: Any = None, **store: Any) -> Ask:
    options = {"cost": callable_of(True, cost), "cost_after": cost_after, "key": "all"}
    return ask_asgi(RateLimitMiddleware(plain_asgi, limits=LIMITS, **options, **store))


def by_wsgi(cost: Any, cost_after: Any = None, **store: Any) -> Ask:
    options = {"cost": callable_of(True, cost), "cost_after": cost_after, "key": "all"}
    return ask_wsgi(WsgiMiddleware(plain_wsgi, limits=LIMITS, **options, **store))


def by_fastapi(cost: Any, cost_after: Any = None, **store: Any) -> Ask:
    limit = RateLimit(
        LIMITS,
        cost=callable_of(True, cost),
        cost_after=cost_after,
        key="all",
        name="costs",
        **store,
    )
    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit)])
    def root() -> str:
        return "ok"

    return ask_asgi(app)


def by_flask(cost: Any, cost_after: Any = None, **store: Any) -> Ask:
    app = Flask("costs")
    app.route("/")(lambda: "ok")
    FlaskRateLimiter(
        app, default_limits=LIMITS, key="all", cost=cost, cost_after=cost_after, **store
    )
    return ask_wsgi(app)


def by_flask_decorator(cost: Any, cost_after: Any = None, **store: Any) -> Ask:
    app = Flask("costs")
    limiter = FlaskRateLimiter(app, key="all", **store)

    @app.route("/")
    @limiter.limit(LIMITS, cost=cost, cost_after=cost_after)
    def root() -> str:
        return "ok"

    return ask_wsgi(app)


FRONTS = [by_asgi, by_wsgi, by_fastapi, by_flask, by_flask_decorator]
front = pytest.mark.parametrize("by", FRONTS)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "memory":
        return {}
    server: RedisServer = request.getfixturevalue("server")
    return {"store": server.url}


@front
@pytest.mark.parametrize(
    ("cost", "cost_after", "statuses"),
    [
        ((1, 400), None, [200, 200, 429]),
        (lambda: (1, 400), None, [200, 200, 429]),
        ((1, 400), lambda finished: (1, 100), [200, 200, 200, 429]),
        ((1, 100), lambda finished: (1, 500), [200, 200, 429]),
        ((1, 400), lambda finished: (finished.cost[0], 0), [200, 200, 200, 429]),
        ((2, 400), lambda finished: (0, 500), [200, 200, 429]),
        (1, lambda finished: (1, 1000), [200, 429]),
        ((3, 1000), lambda finished: 1, [200, 429]),
        ((3, 1000), lambda finished: None, [200, 429]),
        ((0, 1000), lambda finished: (0, 0), [200] * 5),
    ],
)
def test_costs(
    by: Callable[..., Ask], store: dict[str, str], cost: Any, cost_after: Any, statuses: list[int]
) -> None:
    assert by(cost, cost_after, **store)(len(statuses)) == statuses


@front
@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ((1, 2, 3), r"one number for each limit, 2 in all, got \(1, 2, 3\)"),
        ((1, -2), "finite number >= 0, got -2"),
        ((4, 1), "cost 4 is above the capacity of the limit '3/day'"),
        ((), r"one number for each limit, 2 in all, got \(\)"),
    ],
)
def test_constant_costs_are_checked(by: Callable[..., Ask], cost: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by(cost)(1)


@front
def test_a_final_cost_of_the_wrong_length_is_logged(
    by: Callable[..., Ask], caplog: pytest.LogCaptureFixture
) -> None:
    assert by((1, 400), lambda finished: (1, 2, 3))(3) == [200, 200, 429]
    errors = [one.exc_info[1] for one in caplog.records if one.exc_info]
    assert len(errors) == 2
    assert all("2 in all, got (1, 2, 3)" in str(error) for error in errors)
