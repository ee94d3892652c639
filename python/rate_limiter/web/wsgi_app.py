"""RecordingApp: a WSGI application whose responses get the headers of all limits of a request.

    server ── RecordingApp ── application    limits put their verdicts into the environ's record
                  └── CountedBody            counts the bytes that the server reads, and settles

The body is passed on chunk by chunk, so streaming still works. See PEP 3333 for the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any, TypeAlias

from rate_limiter._core import RateLimitRecord, WsgiRecorder
from rate_limiter.policy.denials import Answer
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.request_fields import scope_of_environ
from rate_limiter.policy.settling import Finished, errors_logged, record_of, run_now, settle

WsgiApp: TypeAlias = Callable[[dict[str, Any], Any], Iterable[bytes]]
SETTLEMENT = "rate_limiter.settlement"
"""The key of a request's Settlement in its WSGI environ."""

_REASONS = {200: "OK", 405: "Method Not Allowed", 429: "Too Many Requests"}


def recording(app: WsgiApp) -> WsgiApp:
    """Return an application that adds headers to the responses of another, and settles requests."""
    return WsgiRecorder(app, _settled, Settlement.fail)


class Settlement:
    """A request whose cost may change when the response is over.

    Args:
        environ: the request.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self.finished = Finished(scope_of_environ(environ), 0, "")
        self.policies: list[Policy] = []
        self.error: BaseException | None = None  # which the framework has answered
        self._record: RateLimitRecord | None = record_of(environ)
        self._context: Context = copy_context()

    def start(self) -> None:
        """Take the status and headers of the response, if it has begun."""
        record = self._record
        if record is not None and record._status is not None:
            self.finished.status = int(record._status[:3])
            self.finished.headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in record._response or ()
            ]

    def fail(self, error: BaseException) -> None:
        """Settle a request whose application raised.

        It settles at once: keeping the error would keep the frames of its traceback alive.
        """
        self.error = None
        self.start()
        self._finish(replace(self.finished, error=error))

    def finish(self, *, has_sent_all: bool) -> None:
        """Settle the request, unless it is settled already.

        Args:
            has_sent_all: the server has read the whole body.
        """
        self._finish(replace(self.finished, disconnected=not has_sent_all))

    def _finish(self, finished: Finished) -> None:
        record, self._record = self._record, None
        if record is None:
            return
        for policy in self.policies:
            verdicts = [one for one in record.verdicts if one.policy is policy]
            with errors_logged():
                self._context.run(run_now, settle(verdicts, finished))


def settle_later(environ: dict[str, Any], policy: Policy) -> None:
    """Settle what a policy took for a request after its response."""
    settlement = environ.get(SETTLEMENT)
    if settlement is None:
        settlement = environ[SETTLEMENT] = Settlement(environ)
    if policy not in settlement.policies:  # it settles all its verdicts at once
        settlement.policies.append(policy)


def note_error(environ: dict[str, Any], error: BaseException) -> None:
    """Note an error of the application that the framework answers."""
    settlement: Settlement | None = environ.get(SETTLEMENT)
    if settlement is not None:
        settlement.error = error


def _settled(body: Iterable[bytes], settlement: Settlement) -> Iterable[bytes]:
    """Return the body of a response that settles its request."""
    if settlement.error is None:
        return CountedBody(body, settlement)
    settlement.fail(settlement.error)
    return body


class CountedBody:
    """The body of a response. Counts the bytes that the server reads, and settles.

    A response without a body, or with a Content-Length, is settled when the server reads its last
    byte, so the client's next request sees the final cost. Any other response is settled when the
    server closes it or, if it does not, when the body is deleted.
    """

    def __init__(self, body: Iterable[bytes], settlement: Settlement) -> None:
        self._settlement = settlement
        self._is_at_end = False
        self._body = body
        self._chunks = iter(body)
        self._length: int | None = None
        self._start()

    def _start(self) -> None:
        """Look at the headers; an application may send them with its first chunk."""
        finished = self._settlement.finished
        if finished.status is not None:
            return
        self._settlement.start()
        if finished.status is not None:
            self._length = 0 if finished.is_bodyless else finished.content_length
            if self._length == 0:
                self._settlement.finish(has_sent_all=True)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        finished = self._settlement.finished
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._is_at_end = True
            raise
        except BaseException as error:
            self._settlement.fail(error)
            raise
        self._start()
        finished.body_bytes += len(chunk)
        if self._length is not None and finished.body_bytes >= self._length:
            self._settlement.finish(has_sent_all=True)
        return chunk

    def close(self) -> None:
        """Close the body, as servers must, and settle."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._settlement.finish(has_sent_all=self._is_at_end)

    def __del__(self) -> None:
        self._settlement.finish(has_sent_all=self._is_at_end)


def is_preflight(environ: dict[str, Any]) -> bool:
    """Return whether a CORS extension answers a request as a preflight request."""
    return (
        environ.get("REQUEST_METHOD") == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )


def wsgi_answer(
    answer: Answer, environ: dict[str, Any], start_response: Any, more: Any = ()
) -> list[bytes]:
    """Start a whole response and return its body."""
    reason = _REASONS.get(answer.status, "Service Unavailable")
    headers = [
        *more,
        ("Content-Type", answer.media_type),
        ("Content-Length", str(len(answer.body))),
    ]
    start_response(f"{answer.status} {reason}", headers)
    return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else answer.body]
