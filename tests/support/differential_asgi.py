"""Starlette and FastAPI applications for the differential test, behind one ASGI application.

The header ``X-App`` selects one. A recorder around each adds ``X-Seen`` to every response: what
the framework reads of the request, and the route that ran.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import fastapi
import starlette
from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBasic, HTTPBearer
from rate_limiter import Limit
from rate_limiter.fastapi import RateLimit
from rate_limiter.middleware import RateLimitMiddleware
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from support.differential_routes import (
    API_KEY,
    BYPASSED,
    COOKIE,
    DEFAULT,
    RULES,
    SOURCES,
    TRUSTED,
    capacity_of,
    key_options,
)

SEEN = "differential.seen"
STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


# --- What the framework sees ---------------------------------------------------------------------


def what_is_seen(scope: Any) -> dict[str, Any]:
    """Return what Starlette reads of a request, and what the route that ran has added."""
    connection = HTTPConnection(scope)
    headers = connection.headers
    seen = {
        "route": None,
        "method": scope.get("method", "WEBSOCKET"),
        "cookie": connection.cookies.get(COOKIE),
        "api-key": headers.get(API_KEY),
        "authorization": headers.get("authorization"),
        "credentials": "authorization" in headers,
        "repeated": {
            "cookie": _occurrences(";".join(headers.getlist("cookie"))) > 1,
            "api-key": len(headers.getlist(API_KEY)) > 1,
            "authorization": len(headers.getlist("authorization")) > 1,
        },
        "cookies of other lines": [
            value
            for line in headers.getlist("cookie")[1:]
            if (value := cookie_parser(line).get(COOKIE))
        ],
        "peer": connection.client.host if connection.client else None,
        "forwarded-for": headers.getlist("x-forwarded-for"),
        "forwarded": headers.getlist("forwarded"),
        "path": scope["path"],
    }
    return seen | scope[SEEN]


def _occurrences(cookies: str) -> int:
    return sum(part.partition("=")[0].strip() == COOKIE for part in cookies.split(";"))


def recorded(app: Any) -> Any:
    """Return an application whose responses say what the framework saw."""

    async def recorder(scope: Any, receive: Any, send: Any) -> None:
        scope[SEEN] = {}

        async def sender(message: Any) -> None:
            if message["type"] in STARTS:
                text = json.dumps(what_is_seen(scope))
                headers = [*message.get("headers", ()), (b"x-seen", text.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, sender)

    return recorder


def cost_of(scope: Any) -> int:
    """Return what a request says that it costs; also of FastAPI's connection."""
    return int(HTTPConnection(getattr(scope, "scope", scope)).headers["x-cost"])


# --- Starlette -----------------------------------------------------------------------------------


def ran(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that records that it ran."""

    async def endpoint(request: Request) -> Response:
        request.scope[SEEN]["route"] = name
        return JSONResponse({})

    return endpoint


class Account(HTTPEndpoint):
    """A view class, which dispatches to its own methods."""

    async def get(self, request: Request) -> Response:
        return await ran("account")(request)

    post = get


def accepted(name: str) -> Callable[[WebSocket], Awaitable[None]]:
    """Return a websocket endpoint that records that it ran."""

    async def endpoint(websocket: WebSocket) -> None:
        websocket.scope[SEEN]["route"] = name
        await websocket.accept()
        await websocket.close()

    return endpoint


class AnyConvertor(StringConvertor):
    """Match every path, also one with line ends inside.

    A websocket that no route takes is closed without headers, so nothing would say how it counted.
    """

    regex = r"[\s\S]*"


register_url_convertor("any", AnyConvertor())


def sub_application() -> Starlette:
    """Return what is mounted at /sub."""
    return Starlette(routes=[Route("/data", ran("mounted")), Route("/{rest:path}", ran("below"))])


def routes(*, catch_all: bool) -> list[BaseRoute]:
    """Return the routes; with `catch_all`, one that takes all other paths."""
    found: list[BaseRoute] = [
        Route("/health", ran("health")),
        Route("/bulk", ran("bulk")),
        Route("/files/{path:path}", ran("files")),
        Route("/items/{id}", ran("item")),
        Route("/account", Account),
        Route("/login", ran("page"), methods=["GET"]),
        Route("/login", ran("login"), methods=["POST"]),
        Route("/tight", ran("tight")),
        Mount("/sub", app=sub_application()),
        WebSocketRoute("/ws", accepted("websocket")),
        WebSocketRoute("/{rest:any}", accepted("any websocket")),
    ]
    if catch_all:
        found.append(Route("/{rest:path}", ran("rest"), methods=["GET", "POST"]))
    return found


def starlette_app(catch_all: bool) -> Any:
    return Starlette(routes=routes(catch_all=catch_all))


# --- FastAPI -------------------------------------------------------------------------------------


async def security(
    request: Request,
    cookie: Annotated[str | None, Security(APIKeyCookie(name=COOKIE, auto_error=False))],
    api_key: Annotated[str | None, Security(APIKeyHeader(name=API_KEY, auto_error=False))],
    bearer: Annotated[Any, Security(HTTPBearer(auto_error=False))],
) -> None:
    """Record what FastAPI's own security classes read."""
    seen = request.scope[SEEN]
    seen |= {"cookie": cookie, "api-key": api_key, "authorization": None}
    if bearer is not None:
        seen["authorization"] = f"Bearer {bearer.credentials}"
        return
    try:
        basic = await HTTPBasic(auto_error=False)(request)
    except HTTPException:
        return
    if basic is not None:
        seen["basic"] = [basic.username, basic.password]


def fastapi_app(catch_all: bool, limits: dict[str, list[Any]] | None = None) -> FastAPI:
    """Return a FastAPI application; `limits` are dependencies by route."""
    app = FastAPI(openapi_url=None)

    def add(path: str, name: str, *methods: str) -> None:
        async def endpoint(request: Request) -> dict[str, str]:
            request.scope[SEEN]["route"] = name
            return {}

        dependencies = [Depends(security), *(limits or {}).get(name, [])]
        app.add_api_route(path, endpoint, methods=list(methods), dependencies=dependencies)

    add("/health", "health", "GET")
    add("/bulk", "bulk", "GET")
    add("/files/{path:path}", "files", "GET")
    add("/items/{id}", "item", "GET")
    add("/login", "page", "GET")
    add("/login", "login", "POST")
    add("/tight", "tight", "GET")
    if limits is None:
        app.add_route("/account", Account)
        app.mount("/sub", sub_application())
        app.add_api_websocket_route("/ws", accepted("websocket"))
        app.add_api_websocket_route("/{rest:any}", accepted("any websocket"))
    if catch_all:
        add("/{rest:path}", "rest", "GET", "POST")
    return app


def dependent_app(source: str) -> FastAPI:
    """Return an application whose routes have limits of their own."""

    @functools.cache
    def limit(capacity: float) -> Any:
        options = {"headers": "both", **key_options(source)}
        return Depends(RateLimit(Limit(capacity, 0), cost=cost_of, **options))

    methods = {"login": "POST"}
    names = ("bulk", "files", "item", "page", "login", "tight", "rest")
    limits = {name: [limit(capacity_of(name, methods.get(name, "GET")))] for name in names}
    return fastapi_app(True, limits)


# --- All of them ---------------------------------------------------------------------------------


PLAIN = {"limits": Limit(DEFAULT, 0), "exempt_paths": ["/health"]}


def limited(app: Any, **options: Any) -> Any:
    """Add the middleware as applications do."""
    app.add_middleware(RateLimitMiddleware, cost=cost_of, **options)
    return app


def apps_of(framework: str, make: Callable[[bool], Any]) -> dict[str, Any]:
    """Return the applications of a framework by name: framework, limiter, source."""
    apps = {}
    for source in SOURCES:
        options = {"rules": RULES, "headers": "both", **key_options(source)}
        apps[f"rules {source}"] = limited(make(True), **options)
        if source in ("cookie", "forwarded-for"):
            apps[f"redirecting {source}"] = limited(make(False), **options)
        if source in ("api-key", "forwarded"):
            mounted = Mount("/v1", app=limited(make(True), **options))
            apps[f"mounted {source}"] = Starlette(routes=[mounted])
        if source in ("cookie", "authorization"):
            apps[f"plain {source}"] = limited(make(True), **PLAIN, **key_options(source))
        if source == "forwarded-for":
            bypass = f"ip:{BYPASSED}"
            apps[f"bypass {source}"] = limited(make(True), bypass=bypass, **options)
    nothing = {"key": lambda scope: None, "trusted_proxies": TRUSTED}
    apps["nothing forwarded-for"] = limited(make(True), **PLAIN, **nothing)
    return {f"{framework} {name}": app for name, app in apps.items()}


APPS = apps_of("starlette", starlette_app) | apps_of("fastapi", fastapi_app)
APPS |= {f"fastapi depends {source}": dependent_app(source) for source in SOURCES}
RECORDED = {name.encode(): recorded(app) for name, app in APPS.items()}
VERSIONS = {"apps": list(APPS), "fastapi": fastapi.__version__, "starlette": starlette.__version__}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the application that it names; describe all where it names none."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    name = next((value for header, value in scope["headers"] if header == b"x-app"), b"")
    chosen = RECORDED.get(name, JSONResponse(VERSIONS))
    await chosen(scope, receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
