"""SettlingApp: a WSGI application whose requests are settled when their response has been sent.

    server ── SettlingApp ── application    the application puts a Settlement into the environ
                  └── CountedBody           counts the bytes that the server reads, and settles

The body is passed on chunk by chunk, so streaming still works. See PEP 3333 for the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from rate_limiter.policy.policy import Finished

SETTLEMENT = "rate_limiter.settlement"
"""The key of a request's Settlement in its WSGI environ."""


class Settlement:
    """A request that has to be settled.

    Args:
        finished: the request; the Settlement adds the response.
        settle: called once with a Finished when the response is over. Must not raise.
    """

    def __init__(self, finished: Finished, settle: Callable[[Finished], None]) -> None:
        self.finished = finished
        self._settle: Callable[[Finished], None] | None = settle

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Record the status and headers of the response."""
        self.finished.status = int(status[:3])
        self.finished.headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in headers
        ]

    def fail(self, error: BaseException) -> None:
        """Settle a request whose application raised.

        It settles at once: keeping the error would keep the frames of its traceback alive.
        """
        self._finish(replace(self.finished, error=error))

    def finish(self, *, has_sent_all: bool) -> None:
        """Settle the request, unless it is settled already.

        Args:
            has_sent_all: the server has read the whole body.
        """
        self._finish(replace(self.finished, disconnected=not has_sent_all))

    def _finish(self, finished: Finished) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(finished)


def settle_failed(environ: dict[str, Any], error: BaseException) -> None:
    """Settle the request of an application that raised, unless it is settled already."""
    settlement: Settlement | None = environ.pop(SETTLEMENT, None)
    if settlement is not None:
        settlement.fail(error)


class SettlingApp:
    """Call a WSGI application and settle its requests.

    Args:
        app: the WSGI application.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            settlement: Settlement | None = environ.get(SETTLEMENT)
            if settlement is not None:
                settlement.start(status, headers)
            return start_response(status, headers, *error)

        try:
            body = self._app(environ, start)
        except BaseException as error:
            settle_failed(environ, error)
            raise
        settlement = environ.pop(SETTLEMENT, None)
        return body if settlement is None else CountedBody(body, settlement)


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
        self._length = 0 if settlement.finished.is_bodyless else settlement.finished.content_length
        if self._length == 0:
            settlement.finish(has_sent_all=True)

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
