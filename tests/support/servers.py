"""Start servers for tests on free loopback ports, and stop them by process id."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120
# Below the ports of outgoing connections. One of those may take a port before its server does, and
# a client that asks for it again and again, while the server is down, may get connected to itself.
PORTS = range(10_000, 22_000)


@dataclass
class Server:
    """A running server process."""

    port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Return what it has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    """Return a free loopback port. The port 10,000 above is free too: a cluster's bus takes it."""
    while True:
        port = secrets.choice(PORTS)
        if _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False


@contextlib.contextmanager
def serve(
    log_file: Path,
    *arguments: str,
    program: str = sys.executable,
    cwd: Path = ROOT,
    ready: Callable[[], bool] | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run ``python ARGUMENTS`` until the block ends; ``{port}`` stands for a free port.

    Args:
        log_file: what it prints goes there.
        arguments: of Python.
        program: another program than Python.
        cwd: where it runs.
        ready: returns whether it responds; by default, whether its port accepts connections.
        environment: variables to add; ``{port}`` stands for the port in them too.

    Yields:
        The server, once its port accepts connections, or once `ready` says so.

    Raises:
        RuntimeError: it ended, or did not answer in time; the message has its log.
    """
    port = free_port()
    command = [program, *(part.format(port=port) for part in arguments)]
    added = {
        name: value.replace("{port}", str(port)) for name, value in (environment or {}).items()
    }
    variables = os.environ | {"PYTHONUNBUFFERED": "1"} | added
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    server = Server(port, process, log_file)
    try:
        _wait(server, ready or (lambda: _accepts(port)))
        yield server
    finally:
        _stop(process)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait(server: Server, ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if server.process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"the server does not answer; its log:\n{server.log}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
