"""The command rate-limiter top, against a server that plays the live page."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rate_limiter.cli import top
from rate_limiter.cli.main import main as command

TOKEN = "a-token-of-the-live-page"
RULE = {
    "rule": "api.[b]login[/b]",
    "allowed": 12345,
    "denied": 67,
    "shadow_denied": 0,
    "keys": 5,
    "allowed_per_s": 3.25,
    "denied_per_s": 0.5,
    "bytes": 1,
    "evicted": 0,
    "limits": [],
}
CLIENT = {"rule": "api.login", "key": "\x1b[2J\u202e<b>", "count": 1234, "error": 5, "shadow": True}
STORE = {
    "store": "localhost:6379",
    "status": "degraded",
    "breaker": "open",
    "nodes": [],
    "last_error": "cannot connect",
    "without": 1,
    "fallback_decisions": 9,
    "errors": {},
}
DOCUMENT: dict[str, Any] = {
    "version": 1,
    "time": 1.0,
    "host": {"processes": 4},
    "rules": [RULE],
    "top": {"denied": [CLIENT], "allowed": []},
    "stores": [STORE],
}


class Page(BaseHTTPRequestHandler):
    """Answers by path; `requests` has what it was asked."""

    requests: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Authorization"]))
        place = self.path.removesuffix("/data")
        if place == "/moved":
            self.send_response(302)
            self.send_header("Location", "/live/data")
            self.end_headers()
            return
        body = {"/live": json.dumps(DOCUMENT), "/odd": "<html>", "/other": '{"version": 1}'}
        authorized = self.headers["Authorization"] == f"Bearer {TOKEN}"
        status = 401 if not authorized else 200 if place in body else 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.get(place, "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the page, and yield its address."""
    Page.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(top.TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv("COLUMNS", "160")


def test_tables(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["top", "--url", f"{url}/live/", "--once"]) == 0
    shown = capsys.readouterr().out
    assert Page.requests[-1] == ("/live/data", f"Bearer {TOKEN}")
    assert "4 processes" in shown
    for text in ("api.[b]login[/b]", "12,345", "3.2", "1,234", "api.login (shadow)", "degraded"):
        assert text in shown
    assert "\\x1b[2J\\u202e<b>" in shown  # escaped, and no markup
    assert "\x1b[2J" not in shown


def test_json(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(top.TOKEN_VARIABLE)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = ["--url", f"{url}/live", "--token-file", str(tmp_path / "token"), "--once", "--json"]
    assert command(["top", *words]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/nowhere", "there is no live page (status 404)"),
        ("/moved", "expected a live page (status 302)"),
        ("/odd", "is not the data of a live page"),
        ("/other", "the data is not that of a live page: KeyError"),
    ],
)
def test_pages_without_data(
    place: str, message: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["top", "--url", url + place, "--once"]) == 1
    assert message in capsys.readouterr().err
    assert Page.requests[-1][0] == f"{place}/data"  # a redirect was not followed


def test_a_wrong_token(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(top.TOKEN_VARIABLE, "not-the-token")
    assert command(["top", "--url", f"{url}/live", "--once"]) == 1
    error = capsys.readouterr().err
    assert "the token is wrong (status 401)" in error
    assert "not-the-token" not in error


@pytest.mark.parametrize(
    ("token", "words", "message"),
    [
        ("", ["--once"], "no token: give --token-file, or set RATE_LIMITER_LIVE_TOKEN"),
        ("se cret", ["--once"], "expected one line of printable ASCII"),
        ("secrét", ["--once"], "expected one line of printable ASCII"),
        (TOKEN, ["--json"], "--json needs --once"),
        (TOKEN, [], "the output is no terminal: give --once"),
        (TOKEN, ["--once", "--every", "0"], "at least 0.1 seconds"),
        (TOKEN, ["--url", "ftp://h/"], "must be the address of a live page"),
        (TOKEN, ["--url", "http://h/?token=x"], "the token goes into --token-file"),
        (TOKEN, ["--once", "--token-file", "/nowhere/token"], "No such file"),
        (TOKEN, ["--once"], "http://127.0.0.1:1/live: no answer: [Errno 111] "),
    ],
)
def test_mistakes(
    token: str,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(top.TOKEN_VARIABLE, token)
    try:
        status = command(["top", "--url", "http://127.0.0.1:1/live", *words])
    except SystemExit as left:
        status = int(left.code or 0)
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert message in error
    assert error.count("\n") == 1
    assert "cret" not in error


def test_updates_until_the_page_is_gone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that fails for a while stays on the screen; one that refuses the token ends it."""
    answers = iter([DOCUMENT, top.PageError("refused"), DOCUMENT])

    def fetched(*_: object) -> Any:
        answer = next(answers, top.PageError("the token is wrong", is_final=True))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(top, "fetch", fetched)
    with pytest.raises(top.PageError, match="token is wrong"):
        top._follow(f"{url}/live", TOKEN, 0.001)
    assert next(answers, None) is None
