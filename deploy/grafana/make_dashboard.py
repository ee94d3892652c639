"""Print the Grafana dashboard, for `deploy/grafana/dashboard.json`.

The queries are defined only here; a test runs each in a Prometheus that scrapes a running demo.
"""

from __future__ import annotations

import json
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
OURS = 'job=~"$job", dimension=~"$dimension"'
OF_STORE = 'job=~"$job"'


def rate(metric: str, labels: str = OURS) -> str:
    """Return the increase a second of a counter of ours."""
    return f"rate(rate_limiter_{metric}{{{labels}}}[$__rate_interval])"


def by(labels: str, query: str) -> str:
    """Return a sum over all but these labels."""
    return f"sum by ({labels}) ({query})"


def quantile(share: float) -> str:
    """Return the time within which that share of the decisions is made."""
    return f"histogram_quantile({share}, {by('le', rate('decision_seconds_bucket'))})"


ALLOWED = by("dimension", rate("allowed_total"))
BLOCKED = by("dimension", rate("blocked_total"))
SHADOW_DENIED = by("dimension", rate("shadow_denied_total"))
ALL_ALLOWED = f"sum({rate('allowed_total')})"
ALL_BLOCKED = f"sum({rate('blocked_total')})"
DENIED_SHARE = f"{ALL_BLOCKED} / ({ALL_BLOCKED} + {ALL_ALLOWED})"
FALLBACK = f"max(rate_limiter_fallback_active{{{OF_STORE}}}) or vector(0)"

Queries = dict[str, str]  # by legend


def panel(kind: str, title: str, unit: str, queries: Queries, text: str, **more: Any) -> Any:
    """Return a panel; where it stands is added later."""
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, **more}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend, "range": True}
            for i, (legend, query) in enumerate(queries.items())
        ],
    }


def row(title: str) -> Any:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def warns_above(value: float) -> dict[str, Any]:
    """Return the colours of a number that should be small."""
    steps = [{"color": "green", "value": None}, {"color": "red", "value": value}]
    return {"thresholds": {"mode": "absolute", "steps": steps}}


# Height of a line of panels, and what stands in it.
LINES: list[tuple[int, list[Any]]] = [
    (
        4,
        [
            panel("stat", "Allowed", "reqps", {"": ALL_ALLOWED}, "Allowed decisions per second."),
            panel("stat", "Denied", "reqps", {"": ALL_BLOCKED}, "Denied decisions per second."),
            panel(
                "stat",
                "Share denied",
                "percentunit",
                {"": DENIED_SHARE},
                "Denied decisions / all decisions.",
                max=1,
                **warns_above(0.5),
            ),
            panel(
                "stat",
                "p99 of a decision",
                "s",
                {"": quantile(0.99)},
                "99 % of decisions take no longer.",
                **warns_above(0.05),
            ),
            panel(
                "stat",
                "Without the store",
                "short",
                {"": FALLBACK},
                "1 while a store is unavailable and on_store_error applies.",
                **warns_above(1),
            ),
        ],
    ),
    (1, [row("Decisions")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Allowed, by dimension",
                "reqps",
                {"{{dimension}}": ALLOWED},
                "A dimension is a limiter, or a rule of one.",
            ),
            panel(
                "timeseries",
                "Denied, by dimension",
                "reqps",
                {"{{dimension}}": BLOCKED, "{{dimension}} (shadow)": SHADOW_DENIED},
                "A shadow rule counts what it would have denied, and allows it.",
            ),
            panel(
                "timeseries",
                "Time of a decision",
                "s",
                {"p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99)},
                "Under a microsecond in memory; one round trip with Redis.",
            ),
        ],
    ),
    (1, [row("Store")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Errors of the store",
                "reqps",
                {"{{store}} {{kind}}": by("store, kind", rate("store_errors_total", OF_STORE))},
                "Unanswered requests to the store, by kind.",
            ),
            panel(
                "timeseries",
                "Decisions without the store",
                "reqps",
                {"{{store}}": by("store", rate("fallback_decisions_total", OF_STORE))},
                "Decisions made according to on_store_error.",
            ),
        ],
    ),
    (1, [row("Memory")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Active clients",
                "short",
                {"{{dimension}}": by("dimension", f"rate_limiter_keys{{{OURS}}}")},
                "Clients whose in-memory buckets are not full.",
            ),
            panel(
                "timeseries",
                "Memory of the buckets",
                "bytes",
                {"{{dimension}}": by("dimension", f"rate_limiter_table_bytes{{{OURS}}}")},
                "Grows with the number of active clients, up to max_keys.",
            ),
            panel(
                "timeseries",
                "Evicted active buckets",
                "reqps",
                {"{{dimension}}": by("dimension", rate("evicted_active_total"))},
                "More than 0: more clients than max_keys, or made-up clients.",
            ),
        ],
    ),
]


def placed() -> list[Any]:
    """Return all panels with their places: lines of equal widths."""
    panels = []
    y = 0
    for height, line in LINES:
        for i, one in enumerate(line):
            left, right = WIDTH * i // len(line), WIDTH * (i + 1) // len(line)
            place = {"x": left, "y": y, "w": right - left, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **one})
        y += height
    return panels


def variable(name: str, label: str) -> dict[str, Any]:
    """Return a variable that filters by a label of the decisions."""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values(rate_limiter_allowed_total, {label})",
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard, as Grafana reads it (JSON model, schema version 39)."""
    datasource = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "uid": "rate-limiter",
        "title": "Rate limiter",
        "tags": ["rate_limiter"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [datasource, variable("job", "job"), variable("dimension", "dimension")]
        },
        "panels": placed(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
