"""Metrics of a gateway, by prometheus_client (``pip install 'rate_limiter[metrics]'``).

``dimension`` says which limiter it was; keys of clients are never labels.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

rl_allowed = Counter("rate_limiter_allowed_total", "Requests that were allowed.", ["dimension"])
rl_blocked = Counter("rate_limiter_blocked_total", "Requests that were denied.", ["dimension"])
rl_latency = Histogram(
    "rate_limiter_decision_seconds",
    "Time that a decision took.",
    ["dimension"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
