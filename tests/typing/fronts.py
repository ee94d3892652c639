"""Types that programs name in annotations. Checked by mypy --strict, never executed."""

from collections.abc import Callable
from typing import Any, TypedDict

import rate_limiter.asgi as asgi
import rate_limiter.fastapi as fastapi
import rate_limiter.flask as flask
import rate_limiter.wsgi as wsgi
from fastapi import FastAPI, Request, WebSocket
from fastapi.requests import HTTPConnection
from rate_limiter.compat.slowapi import _rate_limit_exceeded_handler
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from typing_extensions import assert_type


def final_cost(finished: asgi.Finished) -> float:
    assert_type(finished.status, int | None)
    return 0 if finished.failed else 1


same: Callable[[fastapi.Finished], float] = final_cost
same_in_flask: Callable[[flask.Finished], float] = final_cost
same_in_wsgi: Callable[[wsgi.Finished], float] = final_cost


def create(clock: fastapi.Clock, on_store_error: flask.OnStoreError) -> None:
    asgi.Store("redis://a", on_store_error=on_store_error)
    fastapi.RateLimit("5/minute", clock=clock, cost_after=final_cost)
    flask.FlaskRateLimiter(default_limits="5/minute", clock=clock, on_store_error=on_store_error)


# --- Functions get what they ask for ---


def of_any(connection: HTTPConnection) -> int:
    return 1


async def of_request(request: Request) -> int:
    return 1


def of_websocket(websocket: WebSocket) -> tuple[int, int]:
    return 1, 2


def of_scope(scope: asgi.Scope) -> int:
    return 1


def of_environ(environ: wsgi.Environ) -> int:
    return 1


def of_text(text: str) -> int:
    return 1


fastapi.RateLimit("5/minute", cost=of_any)
fastapi.RateLimit("5/minute", cost=of_request)
fastapi.RateLimits()("5/minute", cost=of_websocket)
fastapi.RateLimit("5/minute", cost=of_text)  # type: ignore[arg-type]
fastapi.RateLimit("5/minute", cost=lambda connection: 5)


# --- Applications of frameworks with their own types ---


class OwnScope(TypedDict):
    type: str


class OwnApp:
    async def __call__(
        self, scope: OwnScope, receive: Callable[[], object], send: Callable[[object], object]
    ) -> None:
        send(receive())


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return [b"ok"]


asgi.RateLimitMiddleware(OwnApp(), limits="5/minute", cost=of_scope)
asgi.RateLimitMiddleware(wsgi_app, limits="5/minute")  # type: ignore[arg-type]
wsgi.RateLimitMiddleware(wsgi_app, limits="5/minute", cost=of_environ)

FastAPI().add_middleware(asgi.RateLimitMiddleware, limits="5/minute")
FastAPI().add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
