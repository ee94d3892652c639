"""GovernedApp: an ASGI application behind a Governor.

A request that is not limited goes straight to the application. Of one that is, the response gets
headers, and what it costs is settled when it is over: answered, failed, or left by its client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rate_limiter.answers import Answer, Answerer
from rate_limiter.asgi import (
    DENIED,
    NO_STORE,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    route_path,
    send_answer,
    send_users_answer,
    starts_response,
    turned_away,
    with_headers,
)
from rate_limiter.governor import Governor, Outcome
from rate_limiter.headers import HeaderStyle
from rate_limiter.setup_checks import SetupChecks
from rate_limiter.watching import Watch


class GovernedApp:
    """Call an application behind a Governor.

    Args:
        app: the ASGI application.
        governor: decides.
        style: of the headers.
        denied: makes the answer to a denied request: an Answerer, or a callable of the user's
            that gets the scope and the Decision and returns an ASGI application.
        status_path: where callers see their own state; None: nowhere.
        conclude: calls the application so that the response tells of a Decision; the engine's,
            for headers that it can write by itself.
        checks: look at the first requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        governor: Governor,
        style: HeaderStyle,
        *,
        answer: Answerer | None = None,
        denied: Callable[..., Any] | None = None,
        status_path: str | None = None,
        checks: SetupChecks | None = None,
        conclude: Callable[..., Any] | None = None,
    ) -> None:
        self.app = app
        self.governor = governor
        self.style = style
        self._answer = answer
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
        outcome = await self.governor.decide(scope)
        if outcome is None:
            await self.app(scope, receive, send)
            return
        if self._checks is not None and not self._checks.is_done:
            self._checks.look(scope, outcome.key)
        if outcome.is_denial:
            await self._deny(outcome, scope, receive, send)
        elif self.governor.settles(outcome):
            watch = Watch(scope, receive, _sender(send, outcome.headers(self.style)))
            watch.start()
            await watch.run(self.app, partial(self.governor.settle, outcome))
        elif self._conclude is not None and outcome.told.allowed:
            await self._conclude(scope, receive, send, outcome.told)
        else:
            await self.app(scope, receive, _sender(send, outcome.headers(self.style)))

    async def _deny(self, outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _sender(send, outcome.headers(self.style))
        if await turned_away(scope, receive, sender):
            return
        if outcome.wants_store:
            await send_answer(NO_STORE, scope, sender)
        elif self._denied is not None:
            await send_users_answer(self._denied(scope, outcome.told), scope, receive, sender)
        else:
            made = DENIED if self._answer is None else self._answer(outcome.denial(self.style))
            await send_answer(made, scope, sender)

    async def _status(self, scope: Scope, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            answer = Answer(405, "application/json", b'{"detail": "Method Not Allowed"}')
            await send_answer(answer, scope, _sender(send, {"Allow": "GET, HEAD"}))
            return
        body = json.dumps(await self.governor.status(scope)).encode()
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
