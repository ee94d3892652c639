"""Breaker: stop sending requests to a server that keeps failing.

    working ── a failure ──> degraded ── five in a row ──> open: no requests,
       ^                         │                         except one probe per pause
       └──────── a success ──────┴──────────────────────────────┘

Each node of a cluster has its own circuit, so that keys of the other nodes are not affected.
All other stores have one, for the node ``""``. In a cluster that circuit stands for the time in
which no node is known.

An outage is logged once when it begins and once when it ends. Of a server that fails and answers
again many times a minute, a few outages are logged, and the next line has the number of those left
out. One that lasts until the next minute is logged then. A refused login is logged again every
minute, because it needs another configuration. Errors about one request (see store_errors.py) do
not change the state and are logged once a minute. All errors are counted.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from typing import Any

from rate_limiter._core import StoreError
from rate_limiter.stores.store_errors import is_about_one_request, is_about_the_login

logger = logging.getLogger("rate_limiter")

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
REPEAT_LOG_PAUSE_S = 60.0
OUTAGES_LOGGED = 3
"""Outages of a server that are logged in REPEAT_LOG_PAUSE_S; each takes two lines."""

_IN_MEMORY = "in memory, or as on_store_error says"


class _Circuit:
    """The state of one server that has failed. Guarded by the lock of its breaker."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.is_logged = False
        self.since_s = time.time()
        self._pause_s = FIRST_PAUSE_S
        self._probe_at_s = 0.0

    @property
    def is_open(self) -> bool:
        return self.failures >= FAILURES_TO_OPEN

    def add_failure(self) -> None:
        self.failures += 1
        if self.failures == FAILURES_TO_OPEN:
            self._probe_at_s = time.monotonic() + self._pause_s

    def permits_probe(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._probe_at_s:
            return False
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._probe_at_s = now_s + self._pause_s
        return True

    def give_back_probe(self) -> None:
        self._probe_at_s = 0.0


class _LogBudget:
    """The outages of one server that may be logged. Guarded by the lock of its breaker."""

    def __init__(self) -> None:
        self.left_out = 0  # since the last line
        self._logged = 0
        self._ends_at_s = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether it can be forgotten."""
        return not self.left_out and time.monotonic() >= self._ends_at_s

    def permits(self) -> bool:
        """Return True if an outage may be logged now."""
        now_s = time.monotonic()
        if now_s >= self._ends_at_s:
            self._ends_at_s = now_s + REPEAT_LOG_PAUSE_S
            self._logged = 0
        self._logged += self._logged <= OUTAGES_LOGGED
        return self._logged <= OUTAGES_LOGGED

    def take_left_out(self) -> str:
        """Return the end of a line, with the number of outages left out before it."""
        n, self.left_out = self.left_out, 0
        return f" ({n} short outages before were not logged)" if n else ""


class Breaker:
    """Track the health of a store. Safe to share between threads.

    Args:
        store: name of the store in the log.
        has_nodes: whether errors of different nodes are independent.

    Attributes:
        is_working: False while a node has failed and not succeeded since.
        last_failure: the text of the last failure of the store, None before the first.
    """

    def __init__(self, store: str, *, has_nodes: bool = False) -> None:
        self.is_working = True  # read without the lock, which guards the rest
        self.last_failure: str | None = None
        self._store = store
        self._has_nodes = has_nodes
        # Re-entrant, because a signal handler may use the store.
        self._lock = threading.RLock()
        self._failing: dict[str, _Circuit] = {}
        self._log_budgets: dict[str, _LogBudget] = {}
        self._log_refusal_at_s = -math.inf
        self._since_s = time.time()
        self._log_request_at_s = -math.inf
        self._errors: dict[str, int] = {}
        self._last_error: str | None = None
        self._fallbacks = 0

    def after_fork_in_child(self) -> None:
        """Reset the counts, which the parent reports, and the lock, which its threads may hold."""
        self._lock = threading.RLock()
        self._errors.clear()
        self._fallbacks = 0

    def permits(self, node: str = "") -> bool:
        """Return True if a node may be used. While open, one caller per pause may probe."""
        with self._lock:
            circuit = self._failing.get(node)
            return circuit is None or not circuit.is_open or circuit.permits_probe()

    def succeeded(self, node: str = "", known: Collection[str] = ()) -> None:
        """Record an answer of a node. Only needed while `is_working` is False.

        Args:
            node: the node that answered.
            known: the nodes that keys have now. Failures of others are forgotten: another node has
                taken over. Empty if it is not known.
        """
        with self._lock:
            ended = [
                (name, self._failing.pop(name))
                for name in list(self._failing)
                if name in (node, "") or (known and name not in known)
            ]
            self._update()
            logged = [
                (name, circuit, self._log_budget(name).take_left_out())
                for name, circuit in ended
                if self._is_logged(name, circuit)
            ]
        for name, circuit, left_out in logged:
            logger.warning(
                "%s %s, after %.1f s and %d failures%s",
                self._name(name),
                "answers again" if name in (node, "") else "has no keys any more",
                time.time() - circuit.since_s,
                circuit.failures,
                left_out,
            )

    def failed(self, error: StoreError) -> None:
        """Record an error: the store gave no answer, or answered with an error."""
        message = str(error)
        node = error.node if self._has_nodes else ""
        with self._lock:
            self._errors[error.kind] = self._errors.get(error.kind, 0) + 1
            self._last_error = message
        if is_about_one_request(error):
            self._request_failed(node, message)
        else:
            self._node_failed(node, message, is_refusal=is_about_the_login(error))

    def give_back_probe(self, node: str = "") -> None:
        """Let the next caller probe: the last request did not test the node."""
        with self._lock:
            if node in self._failing:
                self._failing[node].give_back_probe()

    def _request_failed(self, node: str, message: str) -> None:
        self.give_back_probe(node)
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

    def _node_failed(self, node: str, message: str, *, is_refusal: bool) -> None:
        with self._lock:
            circuit = self._failing.setdefault(node, _Circuit())
            circuit.add_failure()
            self.last_failure = message
            self._update()
            now_s = time.monotonic()
            is_repeated = is_refusal and now_s >= self._log_refusal_at_s
            budget = self._log_budget(node)
            is_new = not circuit.is_logged and budget.permits()
            if not is_new and not is_repeated:
                return
            circuit.is_logged = True
            if is_refusal:
                self._log_refusal_at_s = now_s + REPEAT_LOG_PAUSE_S
            left_out = budget.take_left_out()
        logger.log(
            logging.ERROR if is_refusal else logging.WARNING,
            "%s %s. Until it answers, %s decided %s: %s%s",
            self._name(node),
            "refuses the user, the password or the database" if is_refusal else "failed",
            "requests for its keys are" if node else "requests are",
            _IN_MEMORY,
            _escaped(message),
            left_out,
        )

    def _log_budget(self, node: str) -> _LogBudget:
        for name in [name for name, budget in self._log_budgets.items() if budget.is_over]:
            del self._log_budgets[name]
        return self._log_budgets.setdefault(node, _LogBudget())

    def _is_logged(self, node: str, circuit: _Circuit) -> bool:
        """Return True if the end of an outage is logged, as its beginning was."""
        if not circuit.is_logged:
            self._log_budget(node).left_out += 1
        return circuit.is_logged

    def _update(self) -> None:
        if self.is_working is bool(self._failing):
            self.is_working = not self._failing
            self._since_s = time.time()

    def _name(self, node: str) -> str:
        return f"{self._store}: {node}" if node else self._store

    def count_fallback(self) -> None:
        """Count a decision made without the store."""
        with self._lock:
            self._fallbacks += 1

    def health(self) -> dict[str, Any]:
        """Return the state and the counts so far. See RedisStore.health."""
        with self._lock:
            failing = self._failing
            return {
                "status": "degraded" if failing else "ok",
                "breaker": "open" if any(one.is_open for one in failing.values()) else "closed",
                "since": self._since_s,
                "failures": max((one.failures for one in failing.values()), default=0),
                "failed_nodes": tuple(sorted(filter(None, failing))),
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
