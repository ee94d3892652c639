"""Metrics of limiters, for Prometheus and OpenTelemetry."""
