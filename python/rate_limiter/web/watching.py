"""Watch: record the messages of an ASGI request, and settle its cost when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from rate_limiter.policy.settling import Finished, run_to_the_end
from rate_limiter.web.asgi_messages import ASGIApp, Message, Receive, Scope, Send, starts_response


class Watch:
    """Record the messages of one request, from `start` on.

    Attributes:
        finished: the request and its response so far; None before `start`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.finished: Finished | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_over = False

    def start(self) -> None:
        """Start to record messages. The response must not have begun."""
        if self.finished is None:
            self.finished = Finished(self._scope, 0, "")

    async def run(
        self, app: ASGIApp, settle: Callable[[Finished], Coroutine[Any, Any, None]]
    ) -> None:
        """Call an application, then settle once if `start` was called.

        Args:
            app: the ASGI application.
            settle: settles the request. It runs to its end even if the server cancels the
                request; what it raises is logged.
        """
        # An error must not stay in a variable or attribute: its traceback refers to this frame.
        try:
            await app(self._scope, self._receive_noted, self._send_noted)
        except asyncio.CancelledError:  # by the server, after a disconnect
            await self._settle(settle, disconnected=True)
            raise
        except BaseException as error:
            await self._settle(settle, error=error)
            raise
        await self._settle(settle)

    async def _settle(
        self,
        settle: Callable[[Finished], Coroutine[Any, Any, None]],
        *,
        disconnected: bool = False,
        error: BaseException | None = None,
    ) -> None:
        finished = self.finished
        if finished is not None:
            disconnected |= finished.disconnected
            error = None if disconnected else error
            known = replace(finished, disconnected=disconnected, error=error)
            await run_to_the_end(settle(known))

    def _receive_noted(self) -> Awaitable[Message]:
        return self._receive() if self.finished is None else self._note_received(self.finished)

    async def _note_received(self, finished: Finished) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            finished.disconnected |= not self._is_over
        return message

    def _send_noted(self, message: Message) -> Awaitable[None]:
        finished = self.finished
        return self._send(message) if finished is None else self._note_sent(message, finished)

    async def _note_sent(self, message: Message, finished: Finished) -> None:
        kind = message["type"]
        if starts_response(message):
            finished.status = message.get("status", 101)
            finished.headers = list(message.get("headers") or ())
        elif kind.endswith("http.response.body"):
            self._is_over = not message.get("more_body", False)
        elif kind in ("http.response.pathsend", "websocket.close"):
            self._is_over = True
        try:
            await self._send(message)
        except OSError:  # servers raise it after a disconnect (ASGI, "Disconnected client")
            finished.disconnected = True
            raise
        if not finished.disconnected and not finished.is_bodyless:
            is_file = kind == "http.response.pathsend"  # the server sends a file by its path
            size = finished.content_length if is_file else len(message.get("body", b""))
            finished.body_bytes += size or 0
