"""A real OTLP exporter sends traces of docs/tracing.md and of the gateway to a collector."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.collector import Collector, Received, collector
from support.demo_servers import environment
from support.redis_servers import RedisServer, wait_until
from support.servers import ROOT, serve

PAGE = (ROOT / "docs" / "tracing.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
SERVER, CLIENT = 2, 3  # kinds of spans
ASK = """
from fastapi.testclient import TestClient

client = TestClient(app)
print([client.get("/").status_code for _ in range(3)])
provider.shutdown()
"""


@pytest.fixture
def collecting() -> Iterator[Collector]:
    with collector() as made:
        yield made


def exporting(to: Collector) -> dict[str, str]:
    """Return the environment of a program that exports to a collector."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": to.url,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


def request_that_was_denied(found: Collector) -> Received:
    (request,) = (span for span in found.spans if span.kind == SERVER and span.events)
    return request


def check_trace(found: Collector, request: Received, redis: RedisServer) -> None:
    """Check the event of a denied request, and the span of its round trip."""
    (event,) = request.events
    assert event.name == "rate_limiter.denied"
    assert event.attributes["rate_limiter.store"] == f"127.0.0.1:{redis.port}"
    assert event.attributes["rate_limiter.limit"] == 2
    assert event.attributes["rate_limiter.remaining"] < 1
    assert 0 < event.attributes["rate_limiter.retry_after"] <= 60
    assert re.fullmatch(r"[0-9a-f]{16}", event.attributes["rate_limiter.key_hash"])
    (call,) = (span for span in found.of(request.trace) if span.kind == CLIENT)
    assert call.name == f"EVALSHA 127.0.0.1:{redis.port}"
    assert call.parent == request.number
    assert call.attributes["db.system.name"] == "redis"
    assert call.attributes["server.port"] == redis.port
    assert not call.failed
    assert 0 < call.seconds <= request.seconds


def test_the_program_of_the_page(collecting: Collector, server: RedisServer) -> None:
    ((_, program),) = (block for block in BLOCKS if block[0] == "python")
    local = program.replace("redis://localhost:6379/0", server.url)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:rate_limiter", "-c", local + ASK],
        env=environment(server, ROOT) | exporting(collecting),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "[200, 200, 429]\n", done.stderr
    request = request_that_was_denied(collecting)
    assert request.events[0].attributes["rate_limiter.rule"] == "default"
    check_trace(collecting, request, server)


def test_the_command_of_the_page(
    collecting: Collector, server: RedisServer, tmp_path: Path
) -> None:
    """The gateway is traced without a change of its code, and so is the loss of its Redis."""
    ((_, line),) = (block for block in BLOCKS if block[0] == "sh")
    variables = environment(server, tmp_path) | exporting(collecting) | {"PORT": "{port}"}
    limits = {"RL_RATE_PER_SEC": "0.02", "RL_BURST": "2"}
    with serve(
        tmp_path / "log",
        *("-c", "exec env " + shlex.join(shlex.split(line))),
        program="/bin/sh",
        environment=variables | limits,
    ) as gateway:
        asked = [httpx.get(f"{gateway.url}/v1/hello").status_code for _ in range(3)]
        assert asked == [200, 200, 429]
        denied = "rate_limiter.denied"
        wait_until(
            lambda: any(one.name == denied for span in collecting.spans for one in span.events),
            "the event has arrived",
        )
    request = request_that_was_denied(collecting)
    assert request.events[0].attributes["rate_limiter.rule"] == "gateway"
    check_trace(collecting, request, server)


def test_names_on_the_page() -> None:
    """Each attribute and event that the code writes is on the page, and no other."""
    folder = ROOT / "python" / "rate_limiter"
    code = "".join(
        (folder / name).read_text("utf-8") for name in ("stores/tracing.py", "observe/tracing.py")
    )
    pattern = r"(?:rate_limiter\.[a-z_]+|(?:db|server|error)\.[a-z_.]+[a-z])"
    written = set(re.findall(rf'"({pattern})"', code)) - {"error.node"}
    assert set(re.findall(rf"`({pattern})`", PAGE)) == written
