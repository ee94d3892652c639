"""Run the blocks of a guide as the comment before each of them says.

    <!-- test: before -->        builds `app`, with another limiter
    <!-- test: after -->         builds `app` with this package
    <!-- test: requests -->      what each `app` since the last such block answers, line by line:
                                     GET /path Header: value -> 200 200 429 | Header: value
                                     SEND /websocket one two -> answer answer
                                 Behind the bar stands what the last answer has: a header, or
                                 `body: text`.
    <!-- test: run -->           has its own assertions
    <!-- test: file NAME -->     is written to the folder that everything runs in
    <!-- test: commands -->      `$ command`, and what it prints; decimals may differ
    <!-- test: commands app -->  likewise, while uvicorn serves app.py of the folder on port 8000

``before 0.1`` is run with an old package: see .ci/old_packages.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from flask import Flask
from flask.testing import FlaskClient
from support.redis_servers import RedisServer, wait_until
from support.servers import serve

DOCS = Path(__file__).parents[2] / "docs"
OLD = {"0.1": Path(sys.prefix) / "fastapi-limiter-0.1"}
LOCAL_REDIS = "redis://localhost:6379/0"

_BLOCK = re.compile(
    r"(?:<!-- test: (?P<how>\w+)(?: (?P<what>[^\n]+?))? -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_REQUEST = re.compile(
    r"(?P<method>[A-Z]+) +(?P<path>/\S*)(?P<rest>.*?) -> (?P<expected>[^|]+?)(?: +\| (?P<last>.+))?"
)
_HEADER = re.compile(r"([\w-]+): (\S+)")


@dataclass(frozen=True)
class Block:
    """A block of a guide, and the line on which it begins."""

    how: str | None
    what: str | None
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            found["how"],
            found["what"],
            found["language"],
            found["text"],
            text.count("\n", 0, found.start("language")) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


class Guide:
    """A page, run in a folder.

    Args:
        page: the page.
        folder: where its files are written, and its commands run.
        server: stands for the Redis that the page names.
    """

    def __init__(self, page: Path, folder: Path, server: RedisServer) -> None:
        self.page, self.folder, self.server = page, folder, server
        self.redis_url = server.address
        self.ran: list[int] = []
        self._apps: list[tuple[Block, Any]] = []

    def run(self) -> None:
        """Run all blocks.

        Raises:
            AssertionError: one does not do what the page says, or does not say how it is tested.
        """
        for block in blocks_of(self.page):
            if block.how is None:
                raise AssertionError(self._place(block, "nothing runs this"))
            getattr(self, f"_{block.how}")(block)
            self.ran.append(block.line)
        assert not self._apps, self._place(self._apps[-1][0], "no requests follow")

    def _place(self, block: Block, what: object) -> str:
        return f"{self.page.name}:{block.line}: {what}"

    def _local(self, block: Block) -> str:
        return block.text.replace(LOCAL_REDIS, self.redis_url).replace(
            "redis://localhost:6379", self.redis_url.removesuffix("/0")
        )

    def _execute(self, block: Block) -> dict[str, Any]:
        module = types.ModuleType(f"guide_{block.line}")
        # Errors and failed assertions show the line of the page.
        source = "\n" * block.line + self._local(block)
        code = compile(source, str(self.page), "exec", dont_inherit=True)
        # Litestar finds the module of a handler there, to resolve its annotations.
        sys.modules[module.__name__] = module
        try:
            exec(code, vars(module))
        finally:
            del sys.modules[module.__name__]
        return vars(module)

    # --- How blocks are tested ---

    def _before(self, block: Block) -> None:
        with old_package(block.what):
            self._apps.append((block, self._execute(block)["app"]))

    _after = _before

    def _run(self, block: Block) -> None:
        assert "assert " in block.text, self._place(block, "it asserts nothing")
        if "fixed_window(" in block.text:
            wait_for_room(60)
        self._execute(block)

    def _file(self, block: Block) -> None:
        assert block.what is not None, self._place(block, "the file has no name")
        is_mentioned = f"`{block.what}`" in self.page.read_text(encoding="utf-8")
        assert is_mentioned, self._place(block, f"the page does not mention {block.what}")
        (self.folder / block.what).write_text(self._local(block))

    def _requests(self, block: Block) -> None:
        assert self._apps, self._place(block, "no application is before it")
        texts = "".join(built.text for built, _ in self._apps)
        wait_for_room(60 if "minute; window" in texts else 1800)
        for built, app in self._apps:
            with contextlib.closing(self.server.admin()) as admin:
                admin.flushall()
            with _client(app) as client:
                for line in block.text.splitlines():
                    received = answers(client, line)
                    assert received == expected(line), self._place(built, f"{line!r}: {received}")
        self._apps.clear()

    def _commands(self, block: Block) -> None:
        if block.what is None:
            self._check_commands(block, {LOCAL_REDIS: self.redis_url})
            return
        log, module = self.folder / "server.log", f"{block.what}:app"
        arguments = ("-m", "uvicorn", module, "--port", "{port}", "--no-access-log")
        with serve(log, *arguments, cwd=self.folder) as served:
            self._check_commands(block, {"http://127.0.0.1:8000": served.url})

    def _check_commands(self, block: Block, addresses: dict[str, str]) -> None:
        printed = dict(re.findall(r"^\$ (.+)\n((?:(?!\$ ).+\n)*)", block.text, re.MULTILINE))
        assert printed, self._place(block, "no command begins with '$ '")
        for command, shown in printed.items():
            for named, local in addresses.items():
                command = command.replace(named, local)
            done = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, self._place(block, done.stdout + done.stderr)
            assert _shape(done.stdout) == _shape(shown), self._place(block, done.stdout)


# --- Requests ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _client(app: Any) -> Iterator[Any]:
    if isinstance(app, Flask):
        yield app.test_client()
    else:
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


def _parsed(line: str) -> re.Match[str]:
    found = _REQUEST.fullmatch(line.rstrip())
    assert found is not None, f"not a request: {line!r}"
    return found


def expected(line: str) -> tuple[list[str], list[str]]:
    """Return what a line of requests says of the answers, and of the last one."""
    found = _parsed(line)
    return found["expected"].split(), [found["last"]] if found["last"] else []


def answers(client: Any, line: str) -> tuple[list[str], list[str]]:
    """Send what a line says; return what it should say of the answers."""
    request = _parsed(line)
    n = len(request["expected"].split())
    if request["method"] == "SEND":
        return _echoes(client, request["path"], request["rest"].split()), []
    headers = dict(_HEADER.findall(request["rest"]))
    responses = [_send(client, request["method"], request["path"], headers) for _ in range(n)]
    statuses = [str(response.status_code) for response in responses]
    return statuses, [_told(responses[-1], request["last"])] if request["last"] else []


def _send(client: Any, method: str, path: str, headers: dict[str, str]) -> Any:
    if isinstance(client, FlaskClient):
        return client.open(path, method=method, headers=headers)
    return client.request(method, path, headers=headers)


def _told(response: Any, last: str) -> str:
    """Return the values of a response that `last` describes; `last` itself if it has them."""
    name, _, value = last.partition(": ")
    if name == "body":
        return last if value in str(response.text) else f"body: {response.text}"
    return f"{name}: {response.headers.get(name, 'none')}"


def _echoes(client: TestClient, path: str, texts: list[str]) -> list[str]:
    with client.websocket_connect(path) as socket:
        received = []
        for text in texts:
            socket.send_text(text)
            received.append(socket.receive_text())
        return received


# --- The rest ------------------------------------------------------------------------------------


def wait_for_room(window_s: int) -> None:
    """Wait until no window of this length, which starts at a multiple of it, is about to end."""
    wait_until(lambda: time.time() % window_s < window_s - 10, "the next window has begun")


def _environment() -> dict[str, str]:
    folder = Path(sys.executable).parent
    # A guide's tests need none of the plugins that are installed here.
    added = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return os.environ | added


def _shape(text: str) -> str:
    return re.sub(r"\d+\.\d+", "0.0", text).strip()


@contextlib.contextmanager
def old_package(version: str | None) -> Iterator[None]:
    if version is None:
        yield
        return
    folder = OLD[version]
    assert folder.is_dir(), f"{folder} is missing: .ci/old_packages.py makes it"
    package = folder.name.rpartition("-")[0].replace("-", "_")
    before = _forget(package)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _forget(package)
        sys.modules.update(before)


def _forget(package: str) -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}
