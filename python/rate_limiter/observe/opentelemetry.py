"""Metrics through OpenTelemetry (``pip install 'rate-limiter-c[otel]'``): the same numbers.

    from rate_limiter.observe.opentelemetry import instrument, watch

    instrument()
    watch(limiter, "api")

The engine counts, and OpenTelemetry reads the counts when it collects, so a decision costs no more
than with rate_limiter.metrics. Asynchronous instruments have no histogram (OpenTelemetry
specification, "Asynchronous instruments"), so only the sum of decision times is exported.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable

from rate_limiter import __version__
from rate_limiter.checks.extras import extra_named
from rate_limiter.observe.metrics_folder import shared_folder
from rate_limiter.observe.reading import Reading
from rate_limiter.observe.registry import decisions, readings, watch

with extra_named():
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

__all__ = ["instrument", "watch"]

Observe = Callable[[CallbackOptions], Iterable[Observation]]

COLLECTION_MAX_S = 1.0
"""Time after which another instrument reads the numbers again."""

_GAUGES = {
    "keys": ("{key}", "Clients whose buckets in memory are not full."),
    "table_bytes": ("By", "Memory used by buckets."),
    "fallback_active": ("1", "1 while decisions are made without the store, else 0."),
    "metrics_unshared": (
        "{process}",
        "Processes that count alone because PROMETHEUS_MULTIPROC_DIR cannot be used.",
    ),
    "disabled": ("{process}", "Processes in which a limiter is switched off."),
    "rules_info": ("{process}", "Processes that use a version of rules."),
    "rules_stale": (
        "{process}",
        "Processes that use old rules because the new ones were refused.",
    ),
}
_COUNTERS = {
    "evicted_active": ("{key}", "Buckets evicted before they were full."),
    "fallback_decisions": ("{decision}", "Decisions made without the store."),
    "store_errors": ("{error}", "Requests that a store did not answer."),
    "rules_loaded": ("{version}", "Versions of rules that processes loaded."),
    "rules_refused": ("{version}", "Versions of rules that processes refused."),
}


def instrument(provider: MeterProvider | None = None) -> None:
    """Export the metrics through OpenTelemetry.

    Instruments are ``rate_limiter.decisions`` (attributes ``dimension`` and ``outcome``, which is
    ``allowed``, ``blocked`` or ``shadow_denied``), ``rate_limiter.decision.time`` (the sum, in
    seconds), and the others in docs/metrics.md, with its labels as attributes.

    Args:
        provider: provider of meters, by default the global one. Without the SDK, which your program
            installs and sets up, nothing is exported.

    Raises:
        RuntimeError: processes share their numbers (``PROMETHEUS_MULTIPROC_DIR``). Each would
            export the numbers of all, and the sum would be too large.
    """
    if shared_folder() is not None:
        raise RuntimeError(
            "with PROMETHEUS_MULTIPROC_DIR each process exports the numbers of all, which "
            "OpenTelemetry would add up again: unset the variable, or expose "
            "rate_limiter.metrics.registry() instead"
        )
    made = get_meter("rate_limiter", __version__, provider)
    numbers = _Numbers()
    made.create_observable_counter(
        "rate_limiter.decisions", [numbers.decisions], "{decision}", "Decisions by outcome."
    )
    made.create_observable_counter(
        "rate_limiter.decision.time", [numbers.seconds], "s", "Total time of decisions."
    )
    for name, (unit, text) in _GAUGES.items():
        reading = numbers.reading(name)
        made.create_observable_gauge(f"rate_limiter.{name}", [reading], unit, text)
    for name, (unit, text) in _COUNTERS.items():
        reading = numbers.reading(name)
        made.create_observable_counter(f"rate_limiter.{name}", [reading], unit, text)


class _Numbers:
    """The numbers of a collection: read for its first instrument, kept for the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the three below
        self._found: list[Reading] = []
        self._shown: set[str] = set()  # an instrument that asks again begins a new collection
        self._read_s = -math.inf

    def decisions(self, options: CallbackOptions) -> Iterable[Observation]:
        for dimension, found in decisions().items():
            for outcome, count in (
                ("allowed", found.allowed - found.shadow_denied),
                ("blocked", found.blocked),
                ("shadow_denied", found.shadow_denied),
            ):
                yield Observation(count, {"dimension": dimension, "outcome": outcome})

    def seconds(self, options: CallbackOptions) -> Iterable[Observation]:
        for dimension, found in decisions().items():
            yield Observation(found.sum_ns / 1e9, {"dimension": dimension})

    def reading(self, name: str) -> Observe:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            found = self._readings(name)
            return [Observation(one.value, one.labels) for one in found if one.name == name]

        return observe

    def _readings(self, name: str) -> list[Reading]:
        with self._lock:
            now_s = time.monotonic()
            if name in self._shown or now_s - self._read_s > COLLECTION_MAX_S:
                self._found, self._read_s = readings(), now_s
                self._shown.clear()
            self._shown.add(name)
            return self._found
