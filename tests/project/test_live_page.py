"""The live page in a browser, of real servers with two workers under load."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import httpx
import psutil
import pytest
from support.chromium import Page, browser_page
from support.redis_servers import wait_until
from support.servers import Server, serve

TOKEN = "a-token-of-the-browser"
AXE = (files("axe_core_python") / "axe.min.js").read_text("utf-8")
MARKUP = '<img src=x onerror="window.injected = 1">'
LIMIT = 20
PREFIX = "header:x-api-key:"
# The key and the number of its requests.
CLIENTS = {"carol": 50, "bob": 35, MARKUP: 25, "dave": 10, "erin": 3}
ALLOWED = sum(min(LIMIT, count) for count in CLIENTS.values())
DENIED = sum(CLIENTS.values()) - ALLOWED
COMMON = """
import os

OPTIONS = dict(
    rules={
        "default": {"limits": "20/day; window=fixed"},
        "quiet": {"path": "/quiet", "deny": True},
    },
    key="header:X-API-Key",
    metrics="api",
    top=100,
    top_keys="plain",
    store=os.environ["STORE"],
    name="live",
    setup_checks=False,
)
"""
ASGI = """
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.metrics import registry
from rate_limiter.observe.dashboard import dashboard, page_paths

page = dashboard(os.environ["TOKEN"], allow_reset=True)
routes = [
    Route("/", lambda request: PlainTextResponse("ok")),
    Mount("/live", page),
    Mount("/metrics", make_asgi_app(registry())),
]
exempt = {"/metrics/"} | page_paths("/live")
app = RateLimitMiddleware(Starlette(routes=routes), exempt_paths=exempt, **OPTIONS)
"""
WSGI = """
from flask import Flask
from prometheus_client import make_wsgi_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from rate_limiter.metrics import registry
from rate_limiter.observe.dashboard import wsgi_dashboard
from rate_limiter.wsgi import RateLimitMiddleware

flask = Flask(__name__)
flask.add_url_rule("/", view_func=lambda: "ok")
limited = RateLimitMiddleware(flask, **OPTIONS)
page = wsgi_dashboard(os.environ["TOKEN"], allow_reset=True)
app = DispatcherMiddleware(limited, {"/live": page, "/metrics": make_wsgi_app(registry())})
"""
SERVERS = {
    "uvicorn": (ASGI, ("-m", "uvicorn", "app:app", "--port={port}", "--workers=2")),
    "gunicorn": (
        WSGI,
        ("-m", "gunicorn", "app:app", "--bind=127.0.0.1:{port}", "--workers=2", "--threads=4"),
    ),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as page:
        page.resize(1280, 900)
        yield page


@contextmanager
def served(name: str, folder: Path) -> Iterator[Server]:
    """Start a server with two workers that share buckets and metrics."""
    text, arguments = SERVERS[name]
    (folder / "app.py").write_text(COMMON + text)
    (folder / "metrics").mkdir()
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "STORE": f"shared://{folder}/buckets",
        "TOKEN": TOKEN,
    }
    with serve(folder / "log", *arguments, cwd=folder, environment=environment) as server:
        yield server


def load(server: Server) -> None:
    """Send the requests of all clients, from several threads."""

    def send(key: str, count: int) -> None:
        with httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=60) as client:
            for _ in range(count):
                assert client.get("/").status_code in (200, 429)

    threads = [threading.Thread(target=send, args=each) for each in CLIENTS.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_in(page: Page, server: Server) -> None:
    """Log in by the keyboard alone."""
    page.call("Network.clearBrowserCookies")
    page.messages.clear()
    page.open(f"{server.url}/live/")
    page.wait("document.activeElement.id === 'token'")
    page.call("Input.insertText", text=TOKEN)
    page.press("Enter", 13)
    page.wait("document.querySelector('#rules tr button') !== null")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds, with the elements."""
    if not page.value("typeof axe === 'object'"):
        page.value(f"{AXE}; 0")
    text = page.value("axe.run().then((found) => JSON.stringify(found.violations))")
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in json.loads(text)]


def metrics(server: Server) -> dict[str, int]:
    """Return the numbers of decisions that a scrape has."""
    text = httpx.get(f"{server.url}/metrics/").text
    found = re.findall(r'^rate_limiter_(\w+)_total{dimension="api.default"} (\S+)$', text, re.M)
    return {name: int(float(value)) for name, value in found}


@pytest.mark.parametrize("name", SERVERS)
def test_a_live_page(name: str, page: Page, tmp_path: Path) -> None:
    with served(name, tmp_path) as server:
        log_in(page, server)
        load(server)
        shows_the_top_clients(page)
        shows_the_metrics(page, server)
        shows_a_client_and_resets_it(page, server)
        runs_nothing_that_is_injected(page)
        survives_a_killed_worker(page, server)
        mode = page.text("#mode")
        assert mode == ("Live" if name == "uvicorn" else "Live, every 2 s")
        if name == "uvicorn":  # the other page differs in nothing that is seen
            is_accessible(page)
        page.click("header form button")
        page.wait("document.querySelector('#token') !== null")
        assert violations(page) == []
    assert "Traceback" not in server.log


def shows_the_top_clients(page: Page) -> None:
    """Counts halve every minute, so only their order is known."""
    page.wait("document.querySelector('#top-denied').rows.length === 3")
    page.wait("document.querySelector('#top-allowed').rows.length === 5")
    denied, allowed = (page.cells(f"#top-{kind} tr") for kind in ("denied", "allowed"))
    assert [row[0] for row in denied] == [PREFIX + key for key in ("carol", "bob", MARKUP)]
    assert {row[0] for row in allowed[:3]} == {row[0] for row in denied}  # 20 each
    assert [row[0] for row in allowed[3:]] == [f"{PREFIX}dave", f"{PREFIX}erin"]
    assert {row[1] for row in denied + allowed} == {"api.default"}
    counts = [int(row[2]) for row in denied]
    assert 30 >= counts[0] > counts[1] > counts[2] > 0


def shows_the_metrics(page: Page, server: Server) -> None:
    page.wait(f"document.querySelector('#rules tr').cells[5].innerText === '{DENIED}'")
    counts = metrics(server)
    assert (counts["allowed"], counts["blocked"]) == (ALLOWED, DENIED)
    (row,) = (row for row in page.cells("#rules tr") if row[0] == "api.default")
    assert row[4:9] == [str(ALLOWED), str(DENIED), "0", str(len(CLIENTS)), "0"]
    assert row[9:] == ["20/day; window=fixed", "shared"]
    # Samples arrive every five seconds, and together have all requests.
    total = (
        "[...state.samples.values()].map((one) => one.rules['api.default'] || [0, 0])"
        ".reduce((sum, one) => sum + one[0] + one[1], 0)"
    )
    page.wait(f"{total} === {ALLOWED + DENIED}")
    assert sum(int(row[1]) for row in page.cells("#minutes tr")) == ALLOWED
    durations = page.cells("#durations tr")
    assert sum(int(row[2].replace(",", "")) for row in durations) == ALLOWED + DENIED


def shows_a_client_and_resets_it(page: Page, server: Server) -> None:
    def left(key: str) -> str:
        page.value("document.querySelector('#client-rule').value = 'api.default'")
        page.fill("#client-key", key)
        page.press("Enter", 13)
        page.wait("!document.querySelector('#reset').disabled")
        return page.cells("#client-answer tbody tr")[0][1]

    assert left(f"{PREFIX}erin") == "17 of 20"
    assert left(PREFIX + MARKUP) == "0 of 20"
    assert page.text("#client-answer bdi") == PREFIX + MARKUP
    assert left("\u202e\u0007x") == "20 of 20"
    assert page.text("#client-answer bdi") == "\\u{202e}\\u{7}x"
    assert left("k" * 10_000) == "20 of 20"
    assert page.text("#client-answer bdi") == "k" * 300 + "… (10,000 characters)"
    assert left(f"{PREFIX}carol") == "0 of 20"
    page.click("#reset")
    page.wait(
        f"document.querySelector('#client-answer').innerText.startsWith('Reset: {PREFIX}carol')"
    )
    assert page.cells("#client-answer tbody tr")[0][1] == "20 of 20"
    answers = [httpx.get(server.url, headers={"X-API-Key": "carol"}) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200}  # in both workers


def runs_nothing_that_is_injected(page: Page) -> None:
    page.value(
        """
        for (const text of ["window.injected = 1", "fetch('http://127.0.0.1:9/')"]) {
          const script = document.createElement("script");
          script.textContent = text;
          script.className = "injected";
          document.body.append(script);
        }
        const holder = document.createElement("div");
        holder.className = "injected";
        holder.innerHTML = '<img src="data:," onerror="window.injected = 2">';
        document.body.append(holder);
        """
    )
    page.wait("new Promise((done) => setTimeout(() => done(true), 100))")
    assert page.value("window.injected") is None
    blocked = [text for text in page.messages if "Content Security Policy" in text]
    assert len(blocked) >= 2
    expected = ("Content Security Policy", "Failed to load resource", "[DOM]")
    assert [text for text in page.messages if not any(each in text for each in expected)] == []
    page.value("document.querySelectorAll('.injected').forEach((one) => one.remove())")


def survives_a_killed_worker(page: Page, server: Server) -> None:
    parent = psutil.Process(server.process.pid)
    workers = {one.pid for one in parent.children() if "resource_tracker" not in str(one.cmdline())}
    os.kill(min(workers), signal.SIGKILL)
    wait_until(lambda: psutil.pid_exists(min(workers)) is False, "the worker has ended")
    time = page.value("state.doc.time")
    page.wait(f"state.doc.time > {time} + 2")
    (row,) = (row for row in page.cells("#rules tr") if row[0] == "api.default")
    assert row[4:6] == [str(ALLOWED + 4), str(DENIED)]


def is_accessible(page: Page) -> None:
    for scheme in ("dark", "light"):
        page.prefer(color_scheme=scheme, reduced_motion="reduce")
        assert violations(page) == [], scheme
    duration = "getComputedStyle(document.querySelector('#pause')).transitionDuration"
    assert page.value(duration) == "0s"
    page.resize(400, 900)
    assert page.value("document.documentElement.scrollWidth") == 400
    assert violations(page) == []
    page.resize(1280, 900)
    page.value("document.querySelector('#pause').focus()")
    page.press("Enter", 13)
    assert page.text("#mode") == "Paused"
    page.press("Enter", 13)
    page.wait("document.querySelector('#mode').innerText !== 'Paused'")
