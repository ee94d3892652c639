"""Metrics through OpenTelemetry (``pip install 'rate_limiter[otel]'``): the same numbers.

    from rate_limiter.observe.opentelemetry import instrument, watch

    instrument()
    watch(limiter, "api")

The engine counts, and OpenTelemetry reads the counts when it collects, so a decision costs no more
than with rate_limiter.metrics. Asynchronous instruments have no histogram (OpenTelemetry
specification, "Asynchronous instruments"), so only the sum of decision times is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from rate_limiter import __version__
from rate_limiter.observe.metrics_folder import shared_folder
from rate_limiter.observe.registry import meters, readings, watch

__all__ = ["instrument", "watch"]

Observe = Callable[[CallbackOptions], Iterable[Observation]]

_GAUGES = {
    "keys": ("{key}", "Clients whose buckets in memory are not full."),
    "table_bytes": ("By", "Memory used by buckets."),
    "fallback_active": ("1", "1 while decisions are made without the store, else 0."),
    "metrics_unshared": (
        "{process}",
        "Processes that count alone because PROMETHEUS_MULTIPROC_DIR cannot be used.",
    ),
}
_COUNTERS = {
    "evicted_active": ("{key}", "Buckets evicted before they were full."),
    "fallback_decisions": ("{decision}", "Decisions made without the store."),
    "store_errors": ("{error}", "Requests that a store did not answer."),
}


def instrument(provider: MeterProvider | None = None) -> None:
    """Export the metrics through OpenTelemetry.

    Instruments are ``rate_limiter.decisions`` (attributes ``dimension`` and ``outcome``, which is
    ``allowed`` or ``blocked``), ``rate_limiter.decision.time`` (the sum, in seconds), and the
    others in docs/metrics.md, with its labels as attributes.

    Args:
        provider: provider of meters; by default the global one.

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
    made.create_observable_counter(
        "rate_limiter.decisions", [_decisions], "{decision}", "Decisions by outcome."
    )
    made.create_observable_counter(
        "rate_limiter.decision.time", [_seconds], "s", "Total time of decisions."
    )
    for name, (unit, text) in _GAUGES.items():
        made.create_observable_gauge(f"rate_limiter.{name}", [_reading(name)], unit, text)
    for name, (unit, text) in _COUNTERS.items():
        made.create_observable_counter(f"rate_limiter.{name}", [_reading(name)], unit, text)


def _decisions(options: CallbackOptions) -> Iterable[Observation]:
    for dimension, meter in meters().items():
        allowed, blocked, _ = meter.read()
        yield Observation(sum(allowed), {"dimension": dimension, "outcome": "allowed"})
        yield Observation(sum(blocked), {"dimension": dimension, "outcome": "blocked"})


def _seconds(options: CallbackOptions) -> Iterable[Observation]:
    for dimension, meter in meters().items():
        yield Observation(meter.read()[2] / 1e9, {"dimension": dimension})


def _reading(name: str) -> Observe:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(one.value, one.labels) for one in readings() if one.name == name]

    return observe
