"""The arguments `metrics=`, `top=` and `top_keys=` of middleware, dependencies and extensions."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rate_limiter.checks.arguments import checked_text
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.registry import checked_dimension


def dimension_of(given: Mapping[str, Any]) -> Dimension | None:
    """Return the dimension that some arguments stand for after checking it; None without metrics.

    Args:
        given: has ``metrics``, and may have ``top`` and ``top_keys``.

    Raises:
        TypeError, ValueError: `metrics` is no valid dimension.
        ImportError: prometheus_client is missing.
    """
    metrics = given["metrics"]
    if metrics is None or isinstance(metrics, Dimension):
        return metrics
    checked_text("metrics", metrics)
    try:
        importlib.import_module("rate_limiter.observe.prometheus")
    except ImportError as error:
        raise ImportError(
            f"metrics={metrics!r} needs prometheus_client: pip install 'rate-limiter-c[metrics]'",
            name="prometheus_client",
        ) from error
    top, top_keys = given.get("top"), given.get("top_keys", "masked")
    return Dimension(checked_dimension(metrics), top=top, top_keys=top_keys)
