"""Stacks of deploy/start.sh on free ports, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from support.servers import ROOT, Server, free_port

START = ROOT / "deploy" / "start.sh"
START_TIMEOUT_S = 200
ENVIRONMENT = os.environ | {"PYTHON": sys.executable}


class Stack(Server):
    """A demo and its Redis, read from the output of the deploy/start.sh that runs them."""

    @property
    def members(self) -> dict[str, tuple[int, int]]:
        """Return the port and the process id of each server, by its name."""
        rows = re.findall(r"^  (\S+) +127\.0\.0\.1:(\d+) +process (\d+)$", self.log, re.MULTILINE)
        return {name: (int(port), int(pid)) for name, port, pid in rows}

    @property
    def folder(self) -> Path:
        """Return where its logs are."""
        found = re.search(r"Logs are in (\S+)", self.log)
        assert found is not None, self.log
        return Path(found[1])

    def stop(self) -> None:
        """Stop it with the command that it printed, and wait for its end."""
        command = [START, "stop", "--port", str(self.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        self.process.wait(60)


def assert_nothing_is_left(stack: Stack) -> None:
    """Fail where processes, files or the port of a stack that was stopped are still there."""
    assert not [pid for _, pid in stack.members.values() if psutil.pid_exists(pid)]
    assert not stack.folder.exists()
    assert not (ROOT / "build" / "stack" / str(stack.port)).exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", stack.port)) != 0


@contextlib.contextmanager
def running_stack(log_file: Path, *words: str) -> Iterator[Stack]:
    """Run ``deploy/start.sh WORDS`` on a free port until the block ends.

    Raises:
        RuntimeError: it did not come up; the message has what it printed.
    """
    port = free_port()
    with log_file.open("wb") as log:
        command = [START, *words, "--port", str(port)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    stack = Stack(port, process, log_file)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C stops it all" not in stack.log:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the stack did not come up:\n{stack.log}")
            time.sleep(0.02)
        yield stack
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
