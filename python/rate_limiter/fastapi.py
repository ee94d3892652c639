"""RateLimit: a limit for one FastAPI route, for a router, or for an application.

    @app.post("/upload", dependencies=[Depends(RateLimit("5/minute", cost=3))])

A dependency can neither add to the documented responses of its route, nor see the response that
is sent, and FastAPI solves it in many steps. So importing this module extends three functions of
FastAPI:

- `openapi`: documents the 429 of each route that depends on a RateLimit, unless the route
  documents one itself;
- `build_middleware_stack`: adds the headers to every response, and settles `cost_after`;
- `solve_dependencies`: calls the limits that a route depends on first directly.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

from rate_limiter._core import AsgiRecorder
from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limiting.clocks import Clock
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import DeniedRequest
from rate_limiter.policy.dynamic_limits import DynamicLimits
from rate_limiter.policy.headers import DENIED_DETAIL, HeaderStyle
from rate_limiter.policy.settling import Finished
from rate_limiter.policy.storage import Storage as Store
from rate_limiter.web.asgi_messages import ASGIApp

with extra_named():
    from fastapi import FastAPI, routing
    from starlette.middleware import Middleware

    from rate_limiter.web.fastapi_dependency import (
        RateLimit,
        RateLimitHTTPException,
        SettlingMiddleware,
    )
    from rate_limiter.web.fastapi_limits import RateLimits
    from rate_limiter.web.fastapi_routes import contexts_of, is_limited
    from rate_limiter.web.fastapi_solving import deciding_first

__all__ = [
    "RATE_LIMITED_RESPONSE",
    "ClientAddress",
    "Clock",
    "DeniedRequest",
    "DynamicLimits",
    "Finished",
    "HeaderStyle",
    "OnStoreError",
    "RateLimit",
    "RateLimitHTTPException",
    "RateLimits",
    "SettlingMiddleware",
    "Store",
    "document_limits",
]

RATE_LIMITED_RESPONSE: dict[str, Any] = {
    "description": "Rate limit exceeded",
    "headers": {
        "Retry-After": {
            "description": "Seconds until the same request would pass.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "X-RateLimit-Limit": {
            "description": "Requests allowed at once.",
            "schema": {"type": "integer"},
        },
        "X-RateLimit-Remaining": {
            "description": "Requests left.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "X-RateLimit-Reset": {
            "description": "Seconds until the limit resets.",
            "schema": {"type": "integer", "minimum": 0},
        },
    },
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"detail": {"type": "string"}},
                "required": ["detail"],
            },
            "example": {"detail": DENIED_DETAIL},
        }
    },
}
"""The description of the 429 in the OpenAPI document."""


def _recording(build: Callable[[FastAPI], ASGIApp]) -> Callable[[FastAPI], ASGIApp]:
    @functools.wraps(build)
    def recording(app: FastAPI) -> ASGIApp:
        classes: list[object] = [middleware.cls for middleware in app.user_middleware]
        if RateLimit.any_settles and SettlingMiddleware not in classes:
            app.user_middleware.insert(0, Middleware(SettlingMiddleware))
        return AsgiRecorder(build(app))

    return recording


FastAPI.build_middleware_stack = _recording(FastAPI.build_middleware_stack)  # type: ignore[method-assign,assignment]

if hasattr(routing, "solve_dependencies"):  # else all limits are solved as other dependencies are
    routing.solve_dependencies = deciding_first(routing.solve_dependencies)


# --- OpenAPI -------------------------------------------------------------------------------------


def document_limits(document: dict[str, Any], routes: Iterable[Any]) -> None:
    """Describe the 429 of every route that depends on a RateLimit.

    ``app.openapi()`` does it automatically. If your application builds its OpenAPI document in
    another way, call this with the document and ``app.routes``. Routes that document a 429 keep
    their description.
    """
    for route in contexts_of(routes):
        if not is_limited(route):
            continue
        operations = document["paths"].get(getattr(route, "path_format", None), {})
        for method in getattr(route, "methods", ()):
            responses = operations.get(method.lower(), {}).get("responses")
            if responses is not None and "4XX" not in responses:
                responses.setdefault("429", copy.deepcopy(RATE_LIMITED_RESPONSE))


def _extended(openapi: Callable[[FastAPI], dict[str, Any]]) -> Callable[[FastAPI], dict[str, Any]]:
    @functools.wraps(openapi)
    def extended(app: FastAPI) -> dict[str, Any]:
        before = app.openapi_schema
        document = openapi(app)
        if document is not before:  # newer versions rebuild it after adding routes
            document_limits(document, app.routes)
        return document

    return extended


FastAPI.openapi = _extended(FastAPI.openapi)  # type: ignore[method-assign,assignment]
