"""Metrics for Prometheus, using prometheus_client (``pip install 'rate-limiter-c[metrics]'``).

    app.add_middleware(RateLimitMiddleware, limits="100/minute", metrics="api")
    app.mount("/metrics", make_asgi_app(registry()))  # of prometheus_client

The label ``dimension`` names the limiter; keys of clients are never labels. Decisions are counted
in C and read at each scrape. See docs/metrics.md.

A gateway (``RateLimitMiddleware(app, limiter, policy)``) counts with the three objects here whose
names begin with ``rl_``. If processes share their metrics, it counts with a meter, which needs no
files of prometheus_client. Applications may use the three objects too: their counts are included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from rate_limiter._core import METER_BOUNDS_NS
from rate_limiter.checks.extras import extra_named
from rate_limiter.observe.metrics_folder import reported, shared_folder
from rate_limiter.observe.reading import Decisions, Reading
from rate_limiter.observe.registry import decisions, meter, readings, watch

with extra_named():
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString

__all__ = ["registry", "rl_allowed", "rl_blocked", "rl_latency", "watch"]

_BOUNDS_S = tuple(bound_ns / 1e9 for bound_ns in METER_BOUNDS_NS)
_BOUND_TEXTS = [*map(floatToGoString, _BOUNDS_S), "+Inf"]

ALLOWED = "rate_limiter_allowed"
BLOCKED = "rate_limiter_blocked"
SHADOW_DENIED = "rate_limiter_shadow_denied"
SECONDS = "rate_limiter_decision_seconds"
_DOCUMENTATION = {
    ALLOWED: "Decisions that allowed a request.",
    BLOCKED: "Decisions that denied a request.",
    SHADOW_DENIED: "Decisions by which a shadow rule would have denied a request; it was allowed.",
    SECONDS: "Seconds that a decision took.",
}
_READINGS = {
    "keys": ("rate_limiter_keys", "Clients whose buckets in this memory are not full."),
    "table_bytes": ("rate_limiter_table_bytes", "Bytes of memory used by buckets."),
    "evicted_active": (
        "rate_limiter_evicted_active",
        "Buckets evicted before they were full.",
    ),
    "store_errors": ("rate_limiter_store_errors", "Requests that a store did not answer."),
    "fallback_active": (
        "rate_limiter_fallback_active",
        "1 while decisions are made without the store, else 0.",
    ),
    "fallback_decisions": (
        "rate_limiter_fallback_decisions",
        "Decisions made without the store.",
    ),
    "metrics_unshared": (
        "rate_limiter_metrics_unshared",
        "Processes that count alone because PROMETHEUS_MULTIPROC_DIR cannot be used.",
    ),
    "disabled": (
        "rate_limiter_disabled",
        "Processes in which a limiter is switched off.",
    ),
    "rules_info": ("rate_limiter_rules_info", "Processes that use a version of rules."),
    "rules_stale": (
        "rate_limiter_rules_stale",
        "Processes that use old rules because the new ones were refused.",
    ),
    "rules_loaded": ("rate_limiter_rules_loaded", "Versions of rules that processes loaded."),
    "rules_refused": ("rate_limiter_rules_refused", "Versions of rules that processes refused."),
}

# Not registered: the collector below includes their counts.
rl_allowed = Counter(f"{ALLOWED}_total", _DOCUMENTATION[ALLOWED], ["dimension"], registry=None)
rl_blocked = Counter(f"{BLOCKED}_total", _DOCUMENTATION[BLOCKED], ["dimension"], registry=None)
rl_latency = Histogram(
    SECONDS, _DOCUMENTATION[SECONDS], ["dimension"], registry=None, buckets=_BOUNDS_S
)


def registry() -> CollectorRegistry:
    """Return the registry to expose: that of prometheus_client, or one for all processes.

    The latter is used if ``PROMETHEUS_MULTIPROC_DIR`` is set. It contains every metric that the
    processes share through prometheus_client, not only those of rate limiters.
    """
    folder = shared_folder()
    if folder is None:
        with contextlib.suppress(
            ValueError
        ):  # already registered, unless the application cleared the registry
            REGISTRY.register(_of_this_process)
        return REGISTRY
    made = CollectorRegistry()
    made.register(_OfAllProcesses(folder))
    return made


def recorder(dimension: str) -> Callable[[bool, float], None]:
    """Return a function (allowed, seconds) that counts a decision of a gateway."""
    if shared_folder() is not None:
        shared = meter(dimension)
        return lambda allowed, seconds: shared.record(allowed, not allowed, int(seconds * 1e9))
    counters = rl_blocked.labels(dimension), rl_allowed.labels(dimension)
    latency = rl_latency.labels(dimension)

    def record(allowed: bool, seconds: float) -> None:
        counters[allowed].inc()
        latency.observe(seconds)

    return record


def all_decisions() -> dict[str, Decisions]:
    """Return decisions() with the counts of the three objects above, in this process."""
    counts = _Counts()
    for family in [*rl_allowed.collect(), *rl_blocked.collect(), *rl_latency.collect()]:
        counts.add_samples(family)
    found = decisions()
    for dimension, more in counts.decisions().items():
        before = found.get(dimension)
        found[dimension] = more if before is None else before + more
    return found


class _OfThisProcess(Collector):
    """Collect the numbers of the engine and of the three objects above."""

    def collect(self) -> Iterator[Metric]:
        counted = [*rl_allowed.collect(), *rl_blocked.collect(), *rl_latency.collect()]
        yield from _families(counted)

    def describe(self) -> Iterable[Metric]:
        """Return the names only: limiters may be added later."""
        yield from _Counts().families()
        for name, text in _READINGS.values():
            yield CounterMetricFamily(name, text)


class _OfAllProcesses(Collector):
    """Collect the numbers of all processes from their folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        found: list[Metric] = []
        with reported(self._folder):  # the counts of this package are shown even if this fails
            found = [*MultiProcessCollector(None, str(self._folder)).collect()]  # type: ignore[no-untyped-call]
        yield from (family for family in found if family.name not in _DOCUMENTATION)
        yield from _families(family for family in found if family.name in _DOCUMENTATION)


def _families(counted: Iterable[Metric]) -> Iterator[Metric]:
    """Return the metrics of meters and limiters, and the counts of other sources."""
    found = _Counts()
    for dimension, each in decisions().items():
        found.add_decisions(dimension, each)
    for family in counted:
        found.add_samples(family)
    yield from found.families()
    yield from _reading_families(readings())


class _Counts:
    """Decisions by dimension, from several sources."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], float] = {}  # by metric and dimension
        self._buckets: dict[str, dict[str, float]] = {}  # by dimension and bound, cumulative
        self._sums: dict[str, float] = {}

    def add_decisions(self, dimension: str, found: Decisions) -> None:
        self._add_total(ALLOWED, dimension, found.allowed)
        self._add_total(BLOCKED, dimension, found.blocked)
        self._add_total(SHADOW_DENIED, dimension, found.shadow_denied)
        counts = accumulate(found.by_duration)
        for bound, count in zip(_BOUND_TEXTS, counts, strict=True):
            self._add_bucket(dimension, bound, count)
        self._sums[dimension] = self._sums.get(dimension, 0) + found.sum_ns / 1e9

    def add_samples(self, family: Metric) -> None:
        for sample in family.samples:
            dimension = sample.labels["dimension"]
            if sample.name.endswith("_total"):
                self._add_total(family.name, dimension, sample.value)
                self._add_total(SHADOW_DENIED, dimension, 0)  # a series from the start
            elif sample.name.endswith("_bucket"):
                self._add_bucket(dimension, sample.labels["le"], sample.value)
            elif sample.name.endswith("_sum"):
                self._sums[dimension] = self._sums.get(dimension, 0) + sample.value

    def _add_total(self, metric: str, dimension: str, value: float) -> None:
        place = (metric, dimension)
        self._totals[place] = self._totals.get(place, 0) + value

    def _add_bucket(self, dimension: str, bound: str, value: float) -> None:
        buckets = self._buckets.setdefault(dimension, dict.fromkeys(_BOUND_TEXTS, 0.0))
        if bound in buckets:  # else written by another version
            buckets[bound] += value

    def decisions(self) -> dict[str, Decisions]:
        return {
            dimension: Decisions(
                int(self._totals.get((ALLOWED, dimension), 0)),
                int(self._totals.get((BLOCKED, dimension), 0)),
                int(self._totals.get((SHADOW_DENIED, dimension), 0)),
                self._by_duration(dimension),
                int(self._sums.get(dimension, 0) * 1e9),
            )
            for dimension in dict.fromkeys(dimension for _, dimension in self._totals)
        }

    def _by_duration(self, dimension: str) -> tuple[int, ...]:
        counts = [int(count) for count in self._buckets.get(dimension, {}).values()]
        return tuple(count - before for before, count in zip([0, *counts], counts, strict=False))

    def families(self) -> Iterator[Metric]:
        for name in (ALLOWED, BLOCKED, SHADOW_DENIED):
            family = CounterMetricFamily(name, _DOCUMENTATION[name], labels=["dimension"])
            for (metric, dimension), value in self._totals.items():
                if metric == name:
                    family.add_metric([dimension], value)
            yield family
        seconds = HistogramMetricFamily(SECONDS, _DOCUMENTATION[SECONDS], labels=["dimension"])
        for dimension, buckets in self._buckets.items():
            seconds.add_metric([dimension], list(buckets.items()), self._sums.get(dimension, 0))
        yield seconds


def _reading_families(found: Iterable[Reading]) -> Iterator[Metric]:
    families: dict[str, Any] = {}
    for one in found:
        if one.name not in _READINGS:  # for the live page
            continue
        family = families.get(one.name)
        if family is None:
            make = GaugeMetricFamily if one.is_gauge else CounterMetricFamily
            family = families[one.name] = make(*_READINGS[one.name], labels=list(one.labels))
        family.add_metric(list(one.labels.values()), one.value)
    yield from families.values()


_of_this_process = _OfThisProcess()
REGISTRY.register(_of_this_process)
