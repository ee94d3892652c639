"""OpenTelemetry collects what the engine has counted."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from rate_limiter import RateLimiter
from rate_limiter.observe.opentelemetry import instrument, watch
from rate_limiter.observe.prometheus import _READINGS


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, str, str], float]:
    """Return what is collected now, by name, dimension or store, and outcome or kind."""
    data: Any = reader.get_metrics_data()
    found = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    labels = point.attributes
                    what = labels.get("dimension") or labels.get("store")
                    how = labels.get("outcome") or labels.get("kind") or ""
                    found[metric.name, what, how] = point.value
    return found


def test_instruments() -> None:
    reader = InMemoryMetricReader()
    instrument(MeterProvider([reader]))
    dimension = f"telemetry-{uuid.uuid4()}"
    limiter = RateLimiter("2/hour")
    watch(limiter, dimension)
    for _ in range(5):
        limiter.allow("k")
    found = collected(reader)
    assert found["rate_limiter.decisions", dimension, "allowed"] == 2
    assert found["rate_limiter.decisions", dimension, "blocked"] == 3
    assert 0 < found["rate_limiter.decision.time", dimension, ""] < 1
    assert found["rate_limiter.keys", dimension, ""] == 1
    assert found["rate_limiter.table_bytes", dimension, ""] == limiter.stats()["bytes"]
    assert found["rate_limiter.evicted_active", dimension, ""] == 0
    limiter.allow("k")
    assert collected(reader)["rate_limiter.decisions", dimension, "blocked"] == 4


def test_a_collection_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from rate_limiter.observe import opentelemetry, registry

    asked = 0

    def counting() -> list[registry.Reading]:
        nonlocal asked
        asked += 1
        return registry.readings()

    monkeypatch.setattr(opentelemetry, "readings", counting)
    monkeypatch.setattr(opentelemetry, "COLLECTION_MAX_S", 1e9)
    readers = [InMemoryMetricReader() for _ in range(2)]
    instrument(MeterProvider(readers))
    for i in range(1, 4):
        for reader in readers:
            collected(reader)
        assert asked == 2 * i


def test_a_store_that_fails() -> None:
    reader = InMemoryMetricReader()
    instrument(MeterProvider([reader]))
    limiter = RateLimiter("2/hour", store="redis://127.0.0.1:9")
    watch(limiter, f"telemetry-{uuid.uuid4()}")
    limiter.allow("k")
    found = collected(reader)
    assert found["rate_limiter.fallback_active", "127.0.0.1:9", ""] == 1
    assert found["rate_limiter.fallback_decisions", "127.0.0.1:9", ""] == 1
    assert found["rate_limiter.store_errors", "127.0.0.1:9", "connect"] == 1


def test_processes_that_share_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"PROMETHEUS_MULTIPROC_DIR .* add up again"):
        instrument(MeterProvider())


def test_every_reading_has_an_instrument() -> None:
    from rate_limiter.observe import opentelemetry as telemetry

    assert set(telemetry._GAUGES) | set(telemetry._COUNTERS) == set(_READINGS)
