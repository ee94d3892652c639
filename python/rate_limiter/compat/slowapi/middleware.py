"""Middlewares that check the default limits and the application limits."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from rate_limiter.compat.slowapi.checking import SHOWN, state_of
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.extension import Limiter, _rate_limit_exceeded_handler
from rate_limiter.compat.slowapi.routes import RouteIndex
from rate_limiter.compat.slowapi.views import view_limits
from rate_limiter.web.asgi_messages import ASGIApp, Message, Receive, Scope, Send


class SlowAPIASGIMiddleware:
    """Check the default limits and the application limits of ``app.state.limiter``.

    A request for which the application has no view is not limited.

    Raises:
        RuntimeError: at a request, ``app.state.limiter`` is missing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._routes: RouteIndex | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        app = scope["app"]
        limiter = _limiter_of(app)
        view = self._view_to_check(app, limiter, scope)
        if view is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            await limiter._check_async(request, view, in_middleware=True)
        except Exception as error:
            response = await _answer(app, request, error)
            await response(scope, receive, send)
            return
        if not limiter._headers_enabled:
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                limiter._inject_asgi_headers(headers, state_of(request).get(SHOWN))
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _view_to_check(self, app: Any, limiter: Limiter, scope: Scope) -> Any:
        """Return the view of a request, or None if there is nothing to check for it."""
        if not limiter.enabled or not limiter._auto_check:
            return None
        if self._routes is None or self._routes.app is not app:
            self._routes = RouteIndex(app)
        view = self._routes.endpoint_of(scope)
        limits = view_limits(limiter, view)
        if limits is None:
            return view
        if limits.is_exempt or (limits.is_limited and not limiter._application_limits):
            return None
        return view


class SlowAPIMiddleware(SlowAPIASGIMiddleware):
    """Do what SlowAPIASGIMiddleware does; it is no BaseHTTPMiddleware."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "dispatch" in vars(cls):
            raise TypeError(
                f"{cls.__name__}.dispatch would never be called: override __call__ instead"
            )


def _limiter_of(app: Any) -> Limiter:
    limiter = getattr(app.state, "limiter", None)
    if isinstance(limiter, Limiter):
        return limiter
    raise RuntimeError(
        "app.state.limiter must be a Limiter of rate_limiter.compat.slowapi, got "
        f"{type(limiter).__module__}.{type(limiter).__qualname__}"
    )


async def _answer(app: Any, request: Request, error: Exception) -> Any:
    """Return the response of the application's handler for an error of a check."""
    handler = app.exception_handlers.get(type(error))
    if handler is None:
        if not isinstance(error, RateLimitExceeded):
            raise error
        handler = _rate_limit_exceeded_handler
    response = handler(request, error)
    return await response if inspect.isawaitable(response) else response
