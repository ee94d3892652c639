"""Prometheus metrics: expose `registry()`. See docs/metrics.md."""

from rate_limiter.observe.prometheus import registry, rl_allowed, rl_blocked, rl_latency, watch
from rate_limiter.observe.top_clients import TopClient, top_clients

__all__ = [
    "TopClient",
    "registry",
    "rl_allowed",
    "rl_blocked",
    "rl_latency",
    "top_clients",
    "watch",
]
