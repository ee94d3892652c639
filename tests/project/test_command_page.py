"""The page of the command, docs/command.md: each of its lines is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import RateLimiter, TokenBucket
from support.redis_servers import RedisServer
from support.servers import ROOT, free_port, serve

TEXT = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def shell(server: RedisServer, tmp_path: Path) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Yield what runs a line of the page where all that it talks of is there."""
    rules = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "rules.md").read_text(), re.DOTALL)
    assert rules is not None
    (tmp_path / "rate_limits.json").write_text(rules[1])
    programs = str(Path(sys.executable).parent)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "REDIS_URL": server.url}
    unreachable = {"REDIS_URL": "redis://127.0.0.1:1", "REDIS_PORT": "1"}
    uvicorn = ("-m", "uvicorn", "--port", "{port}", "--log-level", "warning")
    with (
        serve(tmp_path / "g", *uvicorn, "demo.gateway.app:app", environment=unreachable) as gateway,
        serve(tmp_path / "s", *uvicorn, "demo.service.app:app", environment=unreachable) as service,
    ):
        places = {
            "redis://localhost:6379/0": server.address,
            "localhost:8080": f"localhost:{gateway.port}",
            "localhost:8000": f"localhost:{service.port}",
            "localhost:1": f"localhost:{free_port()}",
        }

        def run(line: str) -> tuple[int, str]:
            for printed, here in places.items():
                line = re.sub(re.escape(printed) + r"(?!\d)", here, line)
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            out = done.stdout + done.stderr
            for printed, here in places.items():
                out = out.replace(here, printed)
            return done.returncode, out

        yield run


def shape(value: Any) -> Any:
    """Return the shape of JSON: its fields, and the kinds of its values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


def normal(out: str) -> list[str]:
    """Return lines without their figures; rows of a histogram, however many, are one."""
    lines: list[str] = []
    for line in out.strip().splitlines():
        # The name of a machine is no figure, and not that of this one.
        plain = "MACHINE" if re.search(r", \d+ cores$", line) else line.strip()
        plain = re.sub(r"^[\d.,]+ +[\d,]+( +[█.]+)?$", "BAR", plain)
        plain = re.sub(r"\d[\d.,]*", "0", plain)
        plain = " ".join(re.sub(r"(CPython|Linux|Darwin) \S+", r"\1", plain).split())
        if not lines or lines[-1] != plain or plain != "BAR":
            lines.append(plain)
    return lines


def test_every_console_line_of_the_page(
    shell: Callable[[str], tuple[int, str]], server: RedisServer
) -> None:
    status, ran = 0, 0
    for block in BLOCKS:
        for line, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            ran += 1
            if line == "echo $?":
                assert printed.strip() == str(status)
                continue
            if "inspect" in line or "list" in line:
                bucket = RateLimiter("100/minute", store=server.url, on_store_error="raise")
                bucket.reset("user:42")
                bucket.hit("user:42", 63)
                TokenBucket(server.url, 10, 0.1).consume("203.0.113.7", 4)
            status, out = shell(line)
            assert status == 0 or f"{line}\n{printed}$ echo $?\n{status}\n" in block, (line, out)
            if printed.startswith(("{", "[")):
                assert shape(json.loads(out)) == shape(json.loads(printed)), line
            else:
                assert normal(out) == normal(printed), line
    assert ran == sum(len(re.findall(r"^\$ ", block, re.MULTILINE)) for block in BLOCKS) >= 20
