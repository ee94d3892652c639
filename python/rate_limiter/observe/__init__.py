"""Metrics: which limiters are measured, and their numbers for Prometheus and OpenTelemetry."""
