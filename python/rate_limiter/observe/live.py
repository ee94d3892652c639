"""What the live page and ``rate-limiter top`` show: one document about all processes of a host.

meters ─────────────┐
readings ───────────┼──> snapshot() ──> GET <page>/data, <page>/events
live_history.py ────┤
top clients ────────┘
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import accumulate, zip_longest
from typing import Any

from rate_limiter._core import METER_BOUNDS_NS
from rate_limiter.observe import live_history
from rate_limiter.observe.live_history import (
    SPAN_S,
    STEP_S,
    Sample,
    all_decisions,
)
from rate_limiter.observe.metrics_folder import shared_folder
from rate_limiter.observe.reading import Decisions, Reading
from rate_limiter.observe.registry import readings
from rate_limiter.observe.top_clients import top_clients

VERSION = 1
RULES_MAX = 200
TOP_MAX = 20

_QUANTILES = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99}


def snapshot(*, since_s: float = 0, top: int = TOP_MAX) -> dict[str, Any]:
    """Return the numbers of all processes that share their metrics, as JSON can hold them.

    A rule is a dimension of the metrics, such as ``"api"`` or ``"api.files"``. Counts are since the
    start, and equal the metrics; rates are those of the last sample. Items:

    - ``version``: of this document. ``time``: seconds since the epoch.
    - ``host``: ``pid`` of the answering process, ``shared`` (whether processes share their
      metrics), and the numbers of ``processes``, ``unshared`` and ``disabled`` ones.
    - ``rules``: a list of ``rule``, ``allowed``, ``denied``, ``shadow_denied``, ``allowed_per_s``,
      ``denied_per_s``, ``keys``, ``bytes``, ``evicted``, and ``limits`` (a list of ``limits``,
      ``mode`` and ``store``). The rules with the most decisions first, at most 200; ``rules_left``
      is the number of the others.
    - ``totals``: the same numbers of all rules.
    - ``history``: ``step_s``, ``span_s`` and ``samples``: ``time``, ``seconds``, and ``rules``
      with ``[allowed, denied, shadow_denied]`` by rule; the name ``""`` stands for other rules.
    - ``latency``: ``bounds_s`` of the histogram, ``counts`` since the start and ``recent`` of the
      last 15 minutes (one more than bounds), ``p50_s``, ``p90_s``, ``p99_s`` of the recent ones
      (None without any), ``sum_s`` since the start.
    - ``stores``: ``store``, ``status`` (``"ok"`` or ``"degraded"``), ``breaker``, ``nodes`` (those
      that failed), ``last_error``, ``without`` (processes that decide without it),
      ``fallback_decisions``, and ``errors`` by kind.
    - ``sources``: rules that reload: ``source``, ``versions`` (``version``, ``processes``),
      ``stale`` (processes with old rules), ``loaded``, ``refused``, ``last_errors``.
    - ``top``: ``denied`` and ``allowed``, lists of ``rule``, ``key``, ``count``, ``error`` and
      ``shadow``, the largest count first: see TopClient.

    Args:
        since_s: leave out samples that are not later than this time.
        top: number of top clients in each list.
    """
    now_s = time.time()
    samples = live_history.SAMPLER.samples(now_s)
    found = all_decisions()
    read = _Readings(readings())
    is_fresh = bool(samples) and now_s - samples[-1].time_s <= 2 * STEP_S
    rules = _rules(found, read, samples[-1] if is_fresh else None)
    return {
        "version": VERSION,
        "time": now_s,
        "host": {
            "pid": os.getpid(),
            "shared": shared_folder() is not None,
            "processes": int(read.total("processes")),
            "unshared": int(read.total("metrics_unshared")),
            "disabled": int(read.total("disabled")),
        },
        "rules": rules[:RULES_MAX],
        "rules_left": max(0, len(rules) - RULES_MAX),
        "totals": _totals(rules),
        "history": {
            "step_s": STEP_S,
            "span_s": SPAN_S,
            "samples": [
                {"time": one.time_s, "seconds": one.seconds, "rules": one.rules}
                for one in samples
                if one.time_s > since_s
            ],
        },
        "latency": _latency(found.values(), samples),
        "stores": _stores(read),
        "sources": _sources(read),
        "top": {"denied": _top(top, denied=True), "allowed": _top(top, denied=False)},
    }


class _Readings:
    """Readings by their names."""

    def __init__(self, found: list[Reading]) -> None:
        self._by_name: dict[str, list[Reading]] = {}
        for one in found:
            self._by_name.setdefault(one.name, []).append(one)

    def named(self, name: str) -> list[Reading]:
        return self._by_name.get(name, [])

    def total(self, name: str) -> float:
        return sum(one.value for one in self.named(name))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a reading by one of its labels."""
        return {one.labels[label]: one.value for one in self.named(name)}

    def values(self, label: str, *names: str) -> list[str]:
        """Return the values of a label of these readings, each once."""
        all_of_them = (one.labels[label] for name in names for one in self.named(name))
        return list(dict.fromkeys(all_of_them))


def _rules(found: dict[str, Decisions], read: _Readings, last: Sample | None) -> list[Any]:
    limits: dict[str, list[dict[str, str]]] = {}
    for one in read.named("limits_info"):
        labels = dict(one.labels)
        limits.setdefault(labels.pop("dimension"), []).append(labels)
    keys, sizes, evicted = (
        read.by(name, "dimension") for name in ("keys", "table_bytes", "evicted_active")
    )
    nothing = Decisions(0, 0, 0, (), 0)
    rules = []
    for name in dict.fromkeys([*found, *limits, *keys]):
        decided = found.get(name, nothing)
        now_allowed, now_denied, _ = (0, 0, 0) if last is None else last.rules.get(name, (0, 0, 0))
        rules.append(
            {
                "rule": name,
                "allowed": decided.allowed,
                "denied": decided.blocked,
                "shadow_denied": decided.shadow_denied,
                "allowed_per_s": now_allowed / last.seconds if last else 0.0,
                "denied_per_s": now_denied / last.seconds if last else 0.0,
                "keys": int(keys.get(name, 0)),
                "bytes": int(sizes.get(name, 0)),
                "evicted": int(evicted.get(name, 0)),
                "limits": limits.get(name, []),
            }
        )
    return sorted(rules, key=lambda rule: -(rule["allowed"] + rule["denied"]))


def _totals(rules: list[Any]) -> dict[str, Any]:
    names = [name for name in rules[0] if name not in ("rule", "limits")] if rules else []
    return {name: sum(rule[name] for rule in rules) for name in names}


def _latency(found: Iterable[Decisions], samples: list[Sample]) -> dict[str, Any]:
    found = list(found)
    bounds_s = [bound_ns / 1e9 for bound_ns in METER_BOUNDS_NS]
    nothing = [0] * (len(bounds_s) + 1)

    def added(histograms: Iterable[Iterable[int]]) -> list[int]:
        return [sum(each) for each in zip_longest(nothing, *histograms, fillvalue=0)]

    recent = added(one.by_duration for one in samples)
    return {
        "bounds_s": bounds_s,
        "counts": added(one.by_duration for one in found),
        "recent": recent,
        "sum_s": sum(one.sum_ns for one in found) / 1e9,
        **{name: _quantile(bounds_s, recent, share) for name, share in _QUANTILES.items()},
    }


def _quantile(bounds_s: list[float], counts: list[int], share: float) -> float | None:
    """Return the bound below which a share of the decisions is, interpolated linearly.

    As ``histogram_quantile`` of Prometheus. The last bound stands for everything above it.
    """
    rank, below, lower_s = share * sum(counts), 0, 0.0
    if rank == 0:
        return None
    for bound_s, count, upto in zip(bounds_s, counts, accumulate(counts), strict=False):
        if upto >= rank:
            return lower_s + (bound_s - lower_s) * (rank - below) / count
        below, lower_s = upto, bound_s
    return bounds_s[-1]


def _stores(read: _Readings) -> list[dict[str, Any]]:
    without = read.by("fallback_active", "store")
    decided = read.by("fallback_decisions", "store")
    stores = []
    for name in read.values("store", "fallback_active", "fallback_decisions", "store_errors"):
        states = [one.labels for one in read.named("store_state") if one.labels["store"] == name]
        errors = [one for one in read.named("store_errors") if one.labels["store"] == name]
        is_open = any(state["breaker"] == "open" for state in states)
        stores.append(
            {
                "store": name,
                "status": "degraded" if without.get(name) else "ok",
                "breaker": "open" if is_open else "closed",
                "nodes": sorted({state["nodes"] for state in states} - {""}),
                "last_error": states[-1]["error"] if states else None,
                "without": int(without.get(name, 0)),
                "fallback_decisions": int(decided.get(name, 0)),
                "errors": {one.labels["kind"]: int(one.value) for one in errors if one.value},
            }
        )
    return stores


def _sources(read: _Readings) -> list[dict[str, Any]]:
    stale, loaded, refused = (
        read.by(name, "source") for name in ("rules_stale", "rules_loaded", "rules_refused")
    )
    return [
        {
            "source": name,
            "versions": [
                {"version": one.labels["version"], "processes": int(one.value)}
                for one in read.named("rules_info")
                if one.labels["source"] == name
            ],
            "stale": int(stale.get(name, 0)),
            "loaded": int(loaded.get(name, 0)),
            "refused": int(refused.get(name, 0)),
            "last_errors": [
                one.labels["error"]
                for one in read.named("rules_error")
                if one.labels["source"] == name
            ],
        }
        for name in read.values("source", "rules_info", "rules_loaded")
    ]


def _top(count: int, *, denied: bool) -> list[dict[str, Any]]:
    return [
        {
            "rule": f"{one.meter}.{one.rule}" if one.rule else one.meter,
            "key": one.key,
            "count": one.count,
            "error": one.error,
            "shadow": one.shadow,
        }
        for one in top_clients(count, denied=denied)
    ]
