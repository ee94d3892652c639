"""A collector of OpenTelemetry: the spans that an OTLP exporter sends to it over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Event:
    """An event of a span."""

    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Received:
    """A span, as it came over the wire."""

    name: str
    kind: int
    trace: bytes
    number: bytes
    parent: bytes
    attributes: dict[str, Any]
    events: list[Event]
    failed: bool
    seconds: float


@dataclass
class Collector:
    """A running collector.

    Attributes:
        url: the value of OTEL_EXPORTER_OTLP_ENDPOINT.
        spans: what was received so far.
    """

    url: str
    spans: list[Received] = field(default_factory=list)

    def of(self, trace: bytes) -> list[Received]:
        """Return the spans of one trace."""
        return [span for span in self.spans if span.trace == trace]


def value_of(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def attributes_of(pairs: Any) -> dict[str, Any]:
    return {one.key: value_of(one.value) for one in pairs}


def spans_of(body: bytes) -> Iterator[Received]:
    """Yield the spans in a request of an exporter."""
    sent = ExportTraceServiceRequest.FromString(body)
    for resource in sent.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    span.kind,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    attributes_of(span.attributes),
                    [Event(one.name, attributes_of(one.attributes)) for one in span.events],
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                found.spans.extend(spans_of(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield found
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
