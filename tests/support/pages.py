"""Run what a page of the documentation shows, in the order in which a reader would.

    ```python     is executed, in one namespace for the page
    ```console    each line that begins with "$ " is run; what is shown below it must come out
    ```text       is what the block before has printed
    ```json       (toml, yaml) must be well-formed
    <!-- file: NAME --> before a block: it is put into that file instead

Anything else is an error, so no page has an untested block. A page names Redis as
redis://localhost:6379/0 and its own servers by the ports 8000 (uvicorn) and 5000 (flask); others
are put in their place.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.servers import ROOT, serve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FENCE = re.compile(r"( *)```(\w*)\s*$")
_FILE = re.compile(r" *<!-- file: (\S+) -->$")
_COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class Block:
    """A block of code; `language` is "indented" for one without a fence."""

    page: str
    line: int
    language: str
    text: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line} ({self.language or 'no language'})"


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is not None:
            end = next(n for n in range(at + 1, len(lines)) if lines[n] == f"{fence[1]}```")
            text = "\n".join(line[len(fence[1]) :] for line in lines[at + 1 : end]) + "\n"
            named = _FILE.match(lines[at - 1]) if at else None
            if named is not None:  # readers do not see the comment
                assert f"`{named[1]}`" in "".join(lines), f"{path.name} does not name {named[1]}"
            blocks.append(Block(path.name, at + 1, fence[2], text, named and named[1]))
            at = end
        elif _begins_indented(lines, at):
            end = next((n for n in range(at, len(lines)) if lines[n][:4].strip()), len(lines))
            blocks.append(Block(path.name, at + 1, "indented", "\n".join(lines[at:end])))
            at = end
        at += 1
    return blocks


def _begins_indented(lines: list[str], at: int) -> bool:
    """Return whether an indented block is code, not part of a list item, an admonition or a tab."""
    if not lines[at].startswith("    ") or at == 0 or lines[at - 1].strip():
        return False
    before = next((line for line in reversed(lines[:at]) if line.strip()), "")
    return not re.match(r" *([-*]|\d+\.|!!!|===) |  ", before)


@dataclass
class PageRun:
    """One page that is being run; use it in a ``with``.

    Args:
        folder: where its files are, and its commands run.
        redis_url: of a server that is empty.
        special: what to do with blocks that are neither run nor read, by page and language.

    Attributes:
        names: the namespace of the page.
        apps: what the page has called `app`, each once.
    """

    folder: Path
    redis_url: str
    special: dict[tuple[str, str], Callable[[PageRun, Block], None]] = field(default_factory=dict)
    apps: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module = types.ModuleType("page")
        self.module.__file__ = str(self.folder / "page.py")
        self.names = vars(self.module)
        self._own_app: FastAPI | None = None
        self._printed: str | None = None
        self._ports: dict[int, int] = {}

    def __enter__(self) -> PageRun:
        self._servers = contextlib.ExitStack()
        sys.modules["page"] = self.module  # frameworks look there for where an object was made
        return self

    def __exit__(self, *error: object) -> None:
        del sys.modules["page"]
        self._servers.close()

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: its result differs from the page, or it cannot be run.
        """
        special = self.special.get((block.page, block.language))
        if special is not None:
            special(self, block)
        elif block.file is not None:
            (self.folder / block.file).write_text(self.local(block.text), encoding="utf-8")
        elif block.language == "python":
            self._python(block)
        elif block.language == "console":
            for command, shown in commands(block.text):
                self._command(block, command, shown)
        elif block.language == "text":
            assert self._printed is not None, f"{block}: there is no output before it"
            self._compare(block, block.text, self._printed)
            self._printed = None
        elif block.language in _WELL_FORMED:
            _WELL_FORMED[block.language](block.text)
        else:
            raise AssertionError(f"{block}: nothing runs this")

    def local(self, text: str) -> str:
        """Return a text with what is here instead of what the page calls it."""
        text = re.sub(r"redis://localhost(:6379/0)?", self.redis_url, text)
        text = text.replace("/dev/shm/app", str(self.folder / "shared"))
        for shown, port in self._ports.items():
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{shown}\b", f"127.0.0.1:{port}", text)
        return text

    # --- Python ---

    def _python(self, block: Block) -> None:
        if self.names.get("app") is self._own_app:  # pages show what is done to an application
            self.names["app"] = self._own_app = FastAPI()
            self._own_app.get("/{path:path}")(lambda: "ok")
        # Errors show the line of the page.
        code = "\n" * block.line + self.local(block.text)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, block.page, "exec"), self.names)
        self._printed = printed.getvalue()
        app = self.names["app"]
        if not any(app is one for one in self.apps):
            self.apps.append(app)
        if app is self._own_app and app.user_middleware:
            assert TestClient(app).get("/").status_code == 200, block

    # --- Commands ---

    def _command(self, block: Block, command: str, shown: str) -> None:
        for pattern, handle in _HANDLERS:
            if re.match(pattern, command):
                handle(self, block, shlex.split(command, comments=True))
                assert not shown, f"{block}: output of {command!r} is not compared"
                return
        done = subprocess.run(
            ["bash", "-c", self.local(command)],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block}: {command}\n{done.stdout}{done.stderr}"
        if shown:
            self._compare(block, shown, done.stdout)

    def _environment(self) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": programs, "REDIS_URL": self.redis_url}

    def _install(self, block: Block, words: list[str]) -> None:
        """Check the named extras; they are installed in this environment."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for word in words[words.index("install") + 1 :]:
            found = re.fullmatch(r"(?:\.|rate-limiter-c|uvicorn)(?:\[(.*)\])?", word)
            assert found is not None, f"{block}: what is {word!r}?"
            for extra in (found[1] or "").split(",") if found[1] else ():
                assert extra in project["optional-dependencies"], f"{block}: extra {extra!r}"

    def _make_environment(self, block: Block, words: list[str]) -> None:
        command = [sys.executable, *words[1:-1], "--without-pip", str(self.folder / words[-1])]
        subprocess.run(command, check=True, timeout=_COMMAND_TIMEOUT_S)

    def _make(self, block: Block, words: list[str]) -> None:
        """Ask make what it would do: its targets are other tests' affair."""
        done = subprocess.run(
            ["make", "--dry-run", *words[1:]],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block}: {done.stderr}"

    def _serve(self, block: Block, words: list[str]) -> None:
        """Serve until the page ends, on a free port instead of the usual one."""
        usual = {"uvicorn": 8000, "flask": 5000}[words[0]]
        self._ports.pop(usual, None)
        log = self.folder / f"{words[0]}-{block.line}.log"
        arguments = ["-m", *words, "--port", "{port}"]
        server = self._servers.enter_context(serve(log, *arguments, cwd=self.folder))
        self._ports[usual] = server.port

    def _compare(self, block: Block, shown: str, printed: str) -> None:
        printed = printed.replace("\r", "").strip()
        expected = pattern_of(self.local(shown.strip()))
        assert re.fullmatch(expected, printed), f"{block} shows\n{shown}\nbut there came\n{printed}"


_HANDLERS: list[tuple[str, Callable[[PageRun, Block, list[str]], None]]] = [
    (r"(python3? -m )?pip install ", PageRun._install),
    (r"python3? -m venv ", PageRun._make_environment),
    (r"make ", PageRun._make),
    (r"(uvicorn|flask) ", PageRun._serve),
]
_WELL_FORMED: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Return each command of a console block, and the output that is shown below it."""
    assert text.startswith("$ "), f"a console block begins with a command: {text!r}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = re.split(r"(?<!\\)\n", part, maxsplit=1)
        yield command.strip(), "".join(shown).strip()


def pattern_of(shown: str) -> str:
    """Return a pattern for output: ``...`` is anything, and times may be others."""
    pattern = re.escape(shown).replace(r"\.\.\.", ".*")
    pattern = re.sub(r"(?i)(retry\\-after|x\\-ratelimit\\-reset):\\ \d+", r"\1:\\ \\d+", pattern)
    pattern = re.sub(r"\d+\\ of\\ (\d+)\\ tokens", r"[\\d.]+\\ of\\ \1\\ tokens", pattern)
    return re.sub(r"full\\ in\\ \d+\\\.\d+", r"full\\ in\\ [\\d.]+", pattern)
