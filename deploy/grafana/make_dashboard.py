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
SHADOW_SHARE = f"{SHADOW_DENIED} / ({ALLOWED} > 0)"
MOST_DENIED = (
    f"topk(10, sum by (dimension) (increase(rate_limiter_blocked_total{{{OURS}}}[$__range])))"
)
STATE = f"max by (store) (rate_limiter_fallback_active{{{OF_STORE}}})"
STORES_DOWN = f"sum({STATE}) or vector(0)"
RULES_LOADED = (
    f"sum by (job, source) (increase(rate_limiter_rules_loaded_total{{{OF_STORE}}}[1m])) > 0"
)
FIRING = 'ALERTS{alertname=~"RateLimiter.*", alertstate="firing", job=~"$job|"}'

Queries = dict[str, str]  # by legend


def panel(
    kind: str,
    title: str,
    unit: str,
    queries: Queries,
    text: str,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """Return a panel; where it stands is added later."""
    is_range = "$__range" not in "".join(queries.values())
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, **more}, "overrides": []},
        **({"options": options} if options else {}),
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "expr": query,
                "legendFormat": legend,
                "range": is_range,
                "instant": not is_range,
            }
            for i, (legend, query) in enumerate(queries.items())
        ],
    }


def row(title: str) -> Any:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def warns_above(value: float) -> dict[str, Any]:
    """Return the colours of a number that should be small."""
    steps = [{"color": "green", "value": None}, {"color": "red", "value": value}]
    return {"thresholds": {"mode": "absolute", "steps": steps}}


def words(**by_value: str) -> dict[str, Any]:
    """Return what a panel shows instead of numbers: _0="in use"."""
    options = {name.strip("_"): {"text": text} for name, text in by_value.items()}
    return {"mappings": [{"type": "value", "options": options}]}


# Height of a line of panels, and what stands in it.
LINES: list[tuple[int, list[Any]]] = [
    (
        4,
        [
            panel(
                "stat", "Requests allowed", "reqps", {"": ALL_ALLOWED}, "Allowed requests a second."
            ),
            panel(
                "stat", "Requests denied", "reqps", {"": ALL_BLOCKED}, "Denied requests a second."
            ),
            panel(
                "stat",
                "Share denied",
                "percentunit",
                {"": DENIED_SHARE},
                "Denied requests / all requests.",
                max=1,
                **warns_above(0.5),
            ),
            panel(
                "stat",
                "Slowest decisions",
                "s",
                {"": quantile(0.99)},
                "99 % of decisions take no longer (p99).",
                **warns_above(0.05),
            ),
            panel(
                "stat",
                "Stores down",
                "short",
                {"": STORES_DOWN},
                "Stores that are not available, so that on_store_error decides.",
                **warns_above(1),
            ),
        ],
    ),
    (1, [row("Which rules limit")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Requests allowed, by rule",
                "reqps",
                {"{{dimension}}": ALLOWED},
                "A dimension is a limiter, or a rule of one.",
            ),
            panel(
                "timeseries",
                "Requests denied, by rule",
                "reqps",
                {"{{dimension}}": BLOCKED},
                "Requests that got a 429 or a 503. Shadow rules are below.",
            ),
            panel(
                "bargauge",
                "Rules that denied most",
                "short",
                {"{{dimension}}": MOST_DENIED},
                "Denied requests in the time shown: the ten rules with the most.",
                options={
                    "orientation": "horizontal",
                    "displayMode": "basic",
                    "reduceOptions": {"calcs": ["lastNotNull"]},
                },
            ),
        ],
    ),
    (1, [row("What shadow rules would deny")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Requests that shadow rules would deny",
                "reqps",
                {"{{dimension}}": SHADOW_DENIED},
                "A shadow rule counts what it would deny, and allows it.",
            ),
            panel(
                "timeseries",
                "Share that shadow rules would deny",
                "percentunit",
                {"{{dimension}}": SHADOW_SHARE},
                "Of the allowed requests. If it is what you expect, remove shadow from the rule.",
                max=1,
            ),
        ],
    ),
    (1, [row("Health of the store")]),
    (
        8,
        [
            panel(
                "state-timeline",
                "State of each store",
                "short",
                {"{{store}}": STATE},
                "Down: it is not available, and on_store_error decides.",
                **warns_above(1),
                **words(_0="in use", _1="down"),
            ),
            panel(
                "timeseries",
                "Requests that the store did not answer",
                "reqps",
                {"{{store}} {{kind}}": by("store, kind", rate("store_errors_total", OF_STORE))},
                "By kind: after timeout and lost, the store may have counted the request.",
            ),
            panel(
                "timeseries",
                "Decisions without the store",
                "reqps",
                {"{{store}}": by("store", rate("fallback_decisions_total", OF_STORE))},
                "Decisions made according to on_store_error.",
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
    (1, [row("Memory of the processes")]),
    (
        8,
        [
            panel(
                "timeseries",
                "Clients in memory",
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
                "Clients evicted early",
                "reqps",
                {"{{dimension}}": by("dimension", rate("evicted_active_total"))},
                "More than 0: more clients than max_keys, or made-up clients.",
            ),
        ],
    ),
]


def annotations() -> list[Any]:
    """Return what the time axis marks: deployments, new rules, alerts."""
    deployments = {
        "name": "Deployments",
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "target": {"type": "tags", "tags": ["deployment"], "limit": 100},
        "iconColor": "blue",
        "enable": True,
    }
    queries = [
        ("Rules loaded", RULES_LOADED, "{{source}}", "purple"),
        ("Alerts", FIRING, "{{alertname}} {{dimension}} {{store}}", "red"),
    ]
    return [deployments] + [
        {
            "name": name,
            "datasource": SOURCE,
            "expr": query,
            "titleFormat": title,
            "step": "30s",
            "iconColor": color,
            "enable": True,
        }
        for name, query, title, color in queries
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
        "annotations": {"list": annotations()},
        "templating": {
            "list": [datasource, variable("job", "job"), variable("dimension", "dimension")]
        },
        "panels": placed(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
