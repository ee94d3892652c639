"""Start the demos as their pages describe, with or without Redis, and read which they use."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from support.redis_servers import RedisServer
from support.servers import Server, serve

from demo.__main__ import Demo, demos

DEMOS = {demo.name: demo for demo in demos()}
NOBODY_PORT = 1
# A new client per request would take longer than the response, because of certificates.
ASKING = httpx.Client(verify=False, timeout=10)
# The programs of this environment come first: uvicorn, gunicorn, rate-limiter, and python itself.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@dataclass
class RunningDemo:
    """A demo that answers."""

    demo: Demo
    server: Server

    def storage(self, answer: httpx.Response) -> str:
        """Return where it keeps limits, as it says: ``redis`` or ``memory``.

        Args:
            answer: to a limited request; the pluggable limiter uses a header.
        """
        shown = answer.headers.get("X-Storage-Type")
        if shown is None:
            health = ASKING.get(f"{self.server.url}/health").json()
            shown = health.get("storage") or health["redis"]
        words = {"connected": "redis", "disconnected": "memory", "regular": "memory"}
        return str(words.get(shown, shown))


def environment(redis: RedisServer | None, folder: Path) -> dict[str, str]:
    """Return the environment that configures Redis for every demo; without Redis by default."""
    port = NOBODY_PORT if redis is None else redis.port
    return {
        "PATH": PATH,
        "REDIS_URL": f"redis://127.0.0.1:{port}/0" if redis is None else redis.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(port),
        "RATE_LIMITER_LOG": str(folder / "rate_limiter.log"),
    }


def shell(line: str) -> tuple[str, ...]:
    """Return the arguments with which sh becomes a program, so that its process id is known."""
    *before, last = line.split(" && ")
    return "-c", " && ".join([*before, f"exec env {last}"])


@contextlib.contextmanager
def running_demo(
    name: str,
    folder: Path,
    redis: RedisServer | None = None,
    which: int = 0,
    variables: dict[str, str] | None = None,
) -> Iterator[RunningDemo]:
    """Run a demo by a command of its page until the block ends; it must end well.

    Args:
        name: of the demo.
        folder: for its log.
        redis: its Redis; by default none answers.
        which: the number of the command under "By hand".
        variables: of its environment, beside those that name the Redis.
    """
    demo = DEMOS[name]
    command = shell(demo.commands("{port}")[which])
    variables = environment(redis, folder) | (variables or {})
    with serve(folder / "log", *command, program="/bin/sh", environment=variables) as server:
        yield RunningDemo(demo, server)
    # Some servers exit normally, others by the signal; neither had to be killed.
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log, server.log


def wait_for_room_in_the_minute(room_s: float) -> None:
    """Return when the minute of the clock has so much of it left."""
    while time.time() % 60 > 60 - room_s:
        time.sleep(0.05)
