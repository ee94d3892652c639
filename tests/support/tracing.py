"""What a test traces with OpenTelemetry, in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Traces:
    """What is traced in a test."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = self.provider.get_tracer("test")

    def request(self, name: str = "request") -> Any:
        """Return a block that is traced as a request."""
        return self._tracer.start_as_current_span(name)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans that ended, whose name begins so."""
        return [one for one in self._exporter.get_finished_spans() if one.name.startswith(name)]

    def calls(self) -> list[ReadableSpan]:
        """Return the spans of calls of Redis."""
        return [*self.named("EVALSHA"), *self.named("DEL")]

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all events."""
        spans = self._exporter.get_finished_spans()  # FastAPI traces dependencies too
        return [(one.name, dict(one.attributes or {})) for each in spans for one in each.events]


def shape(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})
