"""Breaker: stop sending requests to a store that keeps failing.

    working ── a failure ──> degraded ── five in a row ──> open: no requests,
       ^                         │                         except one probe per pause
       └──────── a success ──────┴──────────────────────────────┘

Each change between working and degraded is logged once. A refused login is logged again every
minute, because it needs another configuration. Errors about one request (see store_errors.py) do
not change the state and are logged once a minute. All errors are counted.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from rate_limiter._core import StoreError
from rate_limiter.stores.store_errors import is_about_one_request, is_about_the_login

logger = logging.getLogger("rate_limiter")

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
REPEAT_LOG_PAUSE_S = 60.0

_IN_MEMORY = "in memory, or as on_store_error says"


class Breaker:
    """Track the health of a store. Safe to share between threads.

    Args:
        store: name of the store in the log.

    Attributes:
        is_working: False from the first failure to the next success.
        is_open: whether requests to the store are stopped.
        last_failure: the text of the last failure of the store, None before the first.
    """

    def __init__(self, store: str) -> None:
        self.is_working = True
        self.is_open = False
        self.last_failure: str | None = None
        self._store = store
        # Guards all but the first two, which are read without it. Re-entrant, because a signal
        # handler may use the store.
        self._lock = threading.RLock()
        self._failures = 0  # in a row
        self._pause_s = FIRST_PAUSE_S
        self._probe_at_s = 0.0
        self._log_request_at_s = -math.inf
        self._log_refusal_at_s = -math.inf
        self._since_s = time.time()
        self._errors: dict[str, int] = {}
        self._last_error: str | None = None
        self._fallbacks = 0

    def after_fork_in_child(self) -> None:
        """Reset the counts, which the parent reports, and the lock, which its threads may hold."""
        self._lock = threading.RLock()
        self._errors.clear()
        self._fallbacks = 0

    def permits(self) -> bool:
        """Return True if the store may be used. While open, one caller per pause may probe."""
        if not self.is_open:
            return True
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._probe_at_s:
                return False
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._probe_at_s = now_s + self._pause_s
            return True

    def succeeded(self) -> None:
        """Record an answer of the store. Only needed while `is_working` is False."""
        with self._lock:
            if self.is_working:
                return
            self.is_working, self.is_open = True, False
            failures, self._failures = self._failures, 0
            self._pause_s = FIRST_PAUSE_S
            degraded_s = time.time() - self._since_s
            self._since_s = time.time()
        logger.warning(
            "%s answers again, after %.1f s and %d failures", self._store, degraded_s, failures
        )

    def failed(self, error: StoreError) -> None:
        """Record an error: the store gave no answer, or answered with an error."""
        message = str(error)
        with self._lock:
            self._errors[error.kind] = self._errors.get(error.kind, 0) + 1
            self._last_error = message
        if is_about_one_request(error):
            self._request_failed(message)
        else:
            self._store_failed(message, is_refusal=is_about_the_login(error))

    def give_back_probe(self) -> None:
        """Let the next caller probe: the last request did not test the store."""
        with self._lock:
            self._probe_at_s = 0.0

    def _request_failed(self, message: str) -> None:
        self.give_back_probe()
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._log_request_at_s:
                return
            self._log_request_at_s = now_s + REPEAT_LOG_PAUSE_S
        logger.warning(
            "%s gave no decision for one request, which is decided %s; others are not affected: %s",
            self._store,
            _IN_MEMORY,
            _escaped(message),
        )

    def _store_failed(self, message: str, *, is_refusal: bool) -> None:
        with self._lock:
            self._failures += 1
            self.last_failure = message
            if not self.is_open and self._failures >= FAILURES_TO_OPEN:
                self.is_open = True
                self._probe_at_s = time.monotonic() + self._pause_s
            if self.is_working:
                self.is_working = False
                self._since_s = time.time()
            elif not is_refusal or time.monotonic() < self._log_refusal_at_s:
                return
            if is_refusal:
                self._log_refusal_at_s = time.monotonic() + REPEAT_LOG_PAUSE_S
        logger.log(
            logging.ERROR if is_refusal else logging.WARNING,
            "%s %s. Until it answers, requests are decided %s: %s",
            self._store,
            "refuses the user, the password or the database" if is_refusal else "failed",
            _IN_MEMORY,
            _escaped(message),
        )

    def count_fallback(self) -> None:
        """Count a decision made without the store."""
        with self._lock:
            self._fallbacks += 1

    def health(self) -> dict[str, Any]:
        """Return the state and the counts so far. See RedisStore.health."""
        with self._lock:
            return {
                "status": "ok" if self.is_working else "degraded",
                "breaker": "open" if self.is_open else "closed",
                "since": self._since_s,
                "failures": self._failures,
                "errors": dict(self._errors),
                "last_error": self._last_error,
                "fallback_decisions": self._fallbacks,
            }


def _escaped(text: str) -> str:
    """Return a text from outside with line ends and control characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
