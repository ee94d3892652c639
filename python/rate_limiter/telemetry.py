"""Metrics through OpenTelemetry."""

from rate_limiter.observe.opentelemetry import instrument, watch

__all__ = ["instrument", "watch"]
