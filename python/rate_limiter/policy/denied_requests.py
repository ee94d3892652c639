"""Report denied requests: to a user's function, to the log, and to the trace of the request."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from rate_limiter._core import Decision, Verdict
from rate_limiter.policy.request_fields import Framework, method_of

RECORDS_PER_S = 10
"""The most records of denied requests in a second; the next record has the number left out."""
_SHOWN = 200  # characters of a client's value
logger = logging.getLogger("rate_limiter.denied")
package_logger = logging.getLogger("rate_limiter")


@dataclass(frozen=True)
class DeniedRequest:
    """A denied request: the argument of `on_denied`.

    Attributes:
        key: who it counted for; it may be a credential, such as an API key.
        rule: the name of the rule or limit.
        decision: the Decision; its `store_unavailable` is True if there was none.
        path: the path, as the client sent it.
        method: in upper case; ``"WEBSOCKET"`` for a websocket.
    """

    key: str | bytes
    rule: str
    decision: Decision
    path: str
    method: str


OnDenied: TypeAlias = Callable[[DeniedRequest], "Awaitable[object] | object"]


class DeniedLog:
    """Write a record for each denied request, but for at most RECORDS_PER_S in a second.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._second = -1
        self._written = 0
        self._left_out = 0

    @property
    def is_on(self) -> bool:
        """Whether the logger itself, and not only one above it, has the level INFO or below."""
        return 0 < logger.level <= logging.INFO and logger.isEnabledFor(logging.INFO)

    def write(self, denied: DeniedRequest) -> None:
        """Log a denied request. The client's values are escaped and shortened."""
        left_out = self._counted()
        if left_out is None:
            return
        wait_s = denied.decision.retry_after_s
        logger.info(
            "denied %s %s: rule=%s key=%s retry_after=%s%s",
            _shown(denied.method),
            _shown(denied.path),
            _shown(denied.rule),
            _shown(denied.key),
            "never" if wait_s is None else wait_s,
            f" ({left_out} more before it)" if left_out else "",
        )

    def _counted(self) -> int | None:
        """Count a request; return the number left out before its record, None for no record."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._written = second, 0
            if self._written >= RECORDS_PER_S:
                self._left_out += 1
                return None
            self._written += 1
            left_out, self._left_out = self._left_out, 0
            return left_out

    def after_fork_in_child(self) -> None:
        """Make a new lock: another thread may have held the old one."""
        self._lock = threading.Lock()


denied_log = DeniedLog()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=denied_log.after_fork_in_child)


class DeniedRequests:
    """Report denied requests. No error there changes a response.

    Args:
        on_denied: the function; None: no function gets reports.
        framework: reads requests.
        blocking: there is no event loop.
        tracing: add an event to the current span.
    """

    def __init__(
        self,
        on_denied: OnDenied | None,
        framework: Framework,
        *,
        blocking: bool,
        tracing: bool = False,
    ) -> None:
        self._on_denied = on_denied
        self._framework = framework
        self._blocking = blocking
        self._trace = _tracer() if tracing else None
        self._has_failed = False

    @property
    def is_on(self) -> bool:
        """Whether anything gets reports."""
        is_called = self._trace is not None or self._on_denied is not None
        return is_called or denied_log.is_on

    async def report(self, request: Any, verdict: Verdict) -> None:
        """Report a request that a verdict has denied."""
        if self._trace is not None:
            self._trace(verdict)
        if self._on_denied is None and not denied_log.is_on:
            return
        scope = self._framework.scope(request)
        path = scope.get("path")
        denied = DeniedRequest(
            verdict.key,
            verdict.active.rule.name,
            verdict.decision,
            path if isinstance(path, str) else "",
            method_of(scope),
        )
        if denied_log.is_on:
            with contextlib.suppress(Exception):  # of a filter
                denied_log.write(denied)
        if self._on_denied is not None:
            await self._call(self._on_denied, denied)

    async def _call(self, on_denied: OnDenied, denied: DeniedRequest) -> None:
        try:
            result = on_denied(denied)
            if isinstance(result, Awaitable):
                await self._awaited(result)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                package_logger.exception("on_denied failed; later failures are not logged")

    async def _awaited(self, result: Awaitable[object]) -> None:
        if not self._blocking:
            await result
            return
        if isinstance(result, Coroutine):
            result.close()
        raise TypeError("on_denied is async, and there is no event loop")


def _tracer() -> Callable[[Verdict], None]:
    from rate_limiter.observe.tracing import trace_verdict  # needs OpenTelemetry

    return trace_verdict


def _shown(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
    more = "..." if len(text) > _SHOWN else ""
    return repr(text[:_SHOWN] + more)
