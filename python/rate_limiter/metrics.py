"""Prometheus metrics: expose `registry()`. See docs/metrics.md."""

from rate_limiter.observe.prometheus import registry, rl_allowed, rl_blocked, rl_latency, watch

__all__ = ["registry", "rl_allowed", "rl_blocked", "rl_latency", "watch"]
