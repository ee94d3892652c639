"""Run the commands of docs/deployment.md as printed, on other ports."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.redis_servers import wait_until
from support.servers import ROOT, free_port
from support.stacks import ENVIRONMENT, assert_nothing_is_left, running_stack

TEXT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
LINES = [re.findall(r"^\$ (.*)$", block, re.MULTILINE) for block in BLOCKS]
# Programs of this environment are found as in an activated one.
VARIABLES = ENVIRONMENT | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}


def run(line: str) -> str:
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=ROOT,
        env=VARIABLES,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_stack_and_what_is_tried_on_it(tmp_path: Path) -> None:
    (start,), others = LINES[0], LINES[1]
    program, *words = shlex.split(start)
    assert program == "deploy/start.sh"
    assert words[-2:] == ["--port", "8000"]
    with running_stack(tmp_path / "log", *words[:-2]) as stack:
        assert len(stack.members) == 7
        said = [run(line.replace("8000", str(stack.port))) for line in others]
        assert stack.process.wait(60) == 0
        assert "redis-1 ended; the others go on" in stack.log
        assert_nothing_is_left(stack)
    assert len(said) == 4
    request, tests, failover, stopped = said
    assert "Request successful" in request
    assert "passed" in tests
    # Every request during the failover got a response.
    assert re.search(r"from Redis again after .*; responses: \d+ x 200; ", failover)
    assert "stopped what was on port" in stopped


@pytest.mark.parametrize("lines", LINES[2:], ids=["gunicorn", "uvicorn"])
def test_servers(lines: list[str], tmp_path: Path) -> None:
    (line,) = lines
    port = free_port()
    local = line.replace("8000", str(port)).replace(" uvicorn ", f" uvicorn --port {port} ")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec env {local.removeprefix('env ')}"],  # to stop it by its id
            cwd=ROOT,
            env=VARIABLES,
            stdout=log,
            stderr=log,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "the server answers")
    finally:
        process.terminate()
        process.wait(60)


def test_what_is_not_run_says_so() -> None:
    assert len(LINES) == 4
    blocks = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
    assert {kind for kind, _ in blocks} == {"console", "nginx", "sh"}
    for kind, block in blocks:
        first, *commands = block.splitlines()
        assert kind == "console" or first.startswith("# Not run by the tests: ")
        if kind == "sh":
            assert all(
                re.match(r"(DEMO=\w+ )?(docker|kubectl|systemctl|cp)\b", command)
                for command in commands
            )
            for named in re.findall(r"deploy/[\w./-]+", block):
                assert (ROOT / named).exists()


def test_files_that_are_named_exist() -> None:
    for named in re.findall(r"`((?:deploy|benchmarks)/[\w./-]*)`", TEXT):
        assert (ROOT / named).exists(), named
