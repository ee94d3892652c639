"""RedisTracing: OpenTelemetry's client spans around the round trips to a Redis, and its failures.

    span of the request
       ├── EVALSHA 10.0.0.1:6379                      a span: from the request to its answer
       └── rate_limiter.store_error, .fallback        events

Each call has its own span, a child of the span that is current where it is made. Tasks of one turn
of an event loop share a script: their spans overlap, and each belongs to its own request.

Attributes are those of the semantic conventions for Redis
(https://opentelemetry.io/docs/specs/semconv/db/redis/); ``rate_limiter.operation`` is the method of
the limiter. Spans contain no client keys, and so no texts of Redis' errors, which may quote one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from rate_limiter import _core
from rate_limiter._core import StoreError
from rate_limiter.checks.extras import extra_named

with extra_named():
    from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span, get_tracer

_CODE = re.compile(r"[A-Z]{2,}\b")
_SERVER = re.compile(r"\[?([^\[\]]+)\]?:(\d+)", re.ASCII)  # else the path of a socket


class RedisTracing:
    """Trace the calls of one limiter.

    Args:
        client: the client of its store.
        buckets: its buckets.
    """

    def __init__(self, client: _core.RedisClient, buckets: _core.RedisBuckets) -> None:
        self._tracer = get_tracer("rate_limiter")
        self._servers = ", ".join(client.servers)
        self._is_cluster = client.kind == "cluster"
        self._buckets = buckets

    def answered(
        self,
        source: Any,
        command: str,
        method: str,
        args: tuple[Any, ...],
        answer: Callable[[], Any],
    ) -> Any:
        """Return what a blocking call returns, and trace it.

        Args:
            source: the client or the loop that sends it.
            command: the command of Redis.
            method: the method of the limiter.
            args: its arguments; the first is the key, or several.
            answer: makes the call.

        Raises:
            What the call raises.
        """
        began_ns = time.time_ns()
        try:
            result = answer()
        except (TypeError, ValueError):  # a wrong argument: nothing was sent
            raise
        except BaseException as error:
            _end(self._started(source, command, method, args, began_ns), error)
            raise
        self._started(source, command, method, args, began_ns).end()
        return result

    def follow(
        self,
        source: Any,
        command: str,
        method: str,
        args: tuple[Any, ...],
        answer: asyncio.Future[Any],
    ) -> None:
        """Trace a call until its answer, which an event loop waits for. See answered()."""
        span = self._started(source, command, method, args, None)
        if span.is_recording():
            answer.add_done_callback(lambda done: self._answered(span, source, method, args, done))

    def failed(self, error: StoreError) -> None:
        """Add an event to the current span: the store gave no answer."""
        self._note("rate_limiter.store_error", {"error.type": _type_of(error)})

    def fell_back(self, on_store_error: str) -> None:
        """Add an event to the current span: a decision is made without the store."""
        self._note("rate_limiter.fallback", {"rate_limiter.on_store_error": on_store_error})

    def _note(self, event: str, attributes: dict[str, str]) -> None:
        span = get_current_span()
        if span.is_recording():
            span.add_event(event, {"rate_limiter.store": self._servers, **attributes})

    def _started(
        self,
        source: Any,
        command: str,
        method: str,
        args: tuple[Any, ...],
        began_ns: int | None,
    ) -> Span:
        server = self._server(source, method, args)
        attributes: dict[str, str | int] = {
            "db.system.name": "redis",
            "db.operation.name": command,
            "rate_limiter.operation": method,
            **_of_server(server),
        }
        if method == "allow_many" and len(args[0]) > 1:
            attributes["db.operation.batch.size"] = len(args[0])
        return self._tracer.start_span(
            f"{command} {server}" if server else command,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=began_ns,
        )

    def _server(self, source: Any, method: str, args: tuple[Any, ...]) -> str:
        """Return the server of a call, such as ``"10.0.0.1:6379"``; empty if it is not known."""
        if not self._is_cluster:
            return str(source.node_of(b""))
        if method == "allow_many":  # on several nodes
            return ""
        key = args[0][0] if method == "hit_all" else args[0]
        return str(source.node_of(self._buckets.keys(key)[0]))

    def _answered(
        self,
        span: Span,
        source: Any,
        method: str,
        args: tuple[Any, ...],
        answer: asyncio.Future[Any],
    ) -> None:
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is None:
            # Of a Sentinel or a cluster the server is not known before the first answer.
            with contextlib.suppress(RuntimeError):  # a loop that was closed
                span.set_attributes(_of_server(self._server(source, method, args)))
        _end(span, error)


def _end(span: Span, error: BaseException | None) -> None:
    """End the span of a call."""
    if isinstance(error, StoreError):
        if error.kind == "answer":
            span.set_attribute("db.response.status_code", _type_of(error))
            span.set_status(StatusCode.ERROR)
        else:
            span.set_status(StatusCode.ERROR, str(error))
        span.set_attributes({"error.type": _type_of(error), **_of_server(error.node)})
    elif isinstance(error, Exception):
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
    elif error is not None:  # the caller left, which is no failure of Redis
        span.set_attribute("rate_limiter.cancelled", True)
    span.end()


def _type_of(error: StoreError) -> str:
    """Return the class of an error: how Redis' answer begins, else the kind."""
    code = _CODE.match(str(error)) if error.kind == "answer" else None
    return error.kind if code is None else code[0]


def _of_server(server: str) -> dict[str, str | int]:
    found = _SERVER.fullmatch(server)
    if found is not None:
        return {"server.address": found[1], "server.port": int(found[2])}
    return {"server.address": server} if server else {}
