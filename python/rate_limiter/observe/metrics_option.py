"""The argument `metrics=` of middleware, dependencies and extensions."""

from __future__ import annotations

import importlib

from rate_limiter.checks.arguments import checked_text
from rate_limiter.observe.registry import checked_dimension


def checked_metrics(metrics: str | None) -> str | None:
    """Return the dimension of an argument `metrics` after checking it; None stays None.

    Raises:
        TypeError, ValueError: `metrics` is no valid dimension.
        ImportError: prometheus_client is missing.
    """
    if metrics is None:
        return None
    checked_text("metrics", metrics)
    try:
        importlib.import_module("rate_limiter.observe.prometheus")
    except ImportError as error:
        raise ImportError(
            f"metrics={metrics!r} needs prometheus_client: pip install 'rate-limiter-c[metrics]'",
            name="prometheus_client",
        ) from error
    return checked_dimension(metrics)
