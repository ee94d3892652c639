"""LimitedApp: an ASGI application behind a Policy.

A request without limits goes straight to the application. The response to a limited request gets
headers. Its cost is settled when it is over: answered, failed or disconnected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rate_limiter.policy.denials import Answer, DenialRenderer
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.policy import Policy, Verdict
from rate_limiter.policy.request_fields import route_path
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.web.asgi_messages import (
    DENIED,
    NO_STORE,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    send_answer,
    send_users_answer,
    starts_response,
    turned_away,
    with_headers,
)
from rate_limiter.web.watching import Watch


class LimitedApp:
    """Call an application behind a Policy.

    Args:
        app: the ASGI application.
        policy: decides about requests.
        style: the style of the headers.
        renderer: renders the body of a denied response; None: the default body.
        denied: a user's callable that gets the scope and the Decision of a denied request and
            returns an ASGI application; used instead of `renderer`.
        status_path: path at which callers see their own state; None: no such path.
        checks: check the first requests.
        conclude: calls the application and adds the headers of a Decision: a method of the
            engine, used if the engine can write headers of this style.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: Policy,
        style: HeaderStyle,
        *,
        renderer: DenialRenderer | None = None,
        denied: Callable[..., Any] | None = None,
        status_path: str | None = None,
        checks: SetupChecks | None = None,
        conclude: Callable[..., Any] | None = None,
    ) -> None:
        self.app = app
        self.policy = policy
        self.style = style
        self._renderer = renderer
        self._denied = denied
        self._status_path = status_path
        self._checks = checks
        self._conclude = conclude if style.is_plain else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._status_path is not None and route_path(scope) == self._status_path:
            if not await turned_away(scope, receive, send):
                await self._status(scope, send)
            return
        if self.style.cors and _is_preflight(scope):
            await self.app(scope, receive, send)
            return
        verdict = await self.policy.decide(scope)
        if verdict is None:
            await self.app(scope, receive, send)
            return
        if self._checks is not None and not self._checks.is_done:
            self._checks.look(scope, verdict.key)
        if verdict.is_denial:
            await self._deny(verdict, scope, receive, send)
        elif self.policy.settles(verdict):
            watch = Watch(scope, receive, _sender(send, verdict.headers(self.style)))
            watch.start()
            await watch.run(self.app, partial(self.policy.settle, verdict))
        elif self._conclude is not None and verdict.decision.allowed:
            await self._conclude(scope, receive, send, verdict.decision)
        else:
            await self.app(scope, receive, _sender(send, verdict.headers(self.style)))

    async def _deny(self, verdict: Verdict, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _sender(send, verdict.headers(self.style))
        if await turned_away(scope, receive, sender):
            return
        if verdict.store_unavailable:
            await send_answer(NO_STORE, scope, sender)
        elif self._denied is not None:
            await send_users_answer(self._denied(scope, verdict.decision), scope, receive, sender)
        else:
            made = DENIED if self._renderer is None else self._renderer(verdict.denial(self.style))
            await send_answer(made, scope, sender)

    async def _status(self, scope: Scope, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            answer = Answer(405, "application/json", b'{"detail": "Method Not Allowed"}')
            await send_answer(answer, scope, _sender(send, {"Allow": "GET, HEAD"}))
            return
        body = json.dumps(await self.policy.status(scope)).encode()
        answer = Answer(200, "application/json", body)
        await send_answer(answer, scope, _sender(send, {"Cache-Control": "no-store"}))


def _sender(send: Send, values: Mapping[str, str]) -> Send:
    if not values:
        return send

    async def sender(message: Message) -> None:
        await send(with_headers(message, values) if starts_response(message) else message)

    return sender


def _is_preflight(scope: Scope) -> bool:
    """Return whether Starlette's CORSMiddleware answers a request as a preflight request."""
    if scope.get("method") != "OPTIONS":
        return False
    names = {name for name, _ in scope.get("headers", ())}
    return b"origin" in names and b"access-control-request-method" in names
