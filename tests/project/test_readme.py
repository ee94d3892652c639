"""The README's examples, run as they are printed."""

import asyncio
import contextlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_limiter.depends import RateLimiter as FastApiLimiter
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket
from rate_limiter.cli.main import main as command
from rate_limiter.fastapi import RateLimit
from support.redis_servers import RedisServer, redis_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


def run(name: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(EXAMPLES[name], f"README.md ({name})", "exec"), names)
    return names


def test_every_python_block_is_tested() -> None:
    assert README.count("```python\n") == len(EXAMPLES) == 5


def test_fastapi_example() -> None:
    transport = httpx.ASGITransport(app=run("fastapi")["app"])  # type: ignore[arg-type]

    async def drive() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.post("/upload") for _ in range(2)]

    passed, denied = asyncio.run(drive())
    assert passed.json() == {"stored": True}
    assert passed.headers["X-RateLimit-Remaining"] == "2"
    check_denied(denied.status_code, dict(denied.headers), denied.text)


def test_api_example() -> None:
    transport = httpx.ASGITransport(app=run("api")["app"], client=("10.0.0.1", 1))  # type: ignore[arg-type]

    async def drive() -> list[httpx.Response]:
        headers = {"X-Forwarded-For": "203.0.113.9"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            return [await client.get(path) for path in ("/nothing", "/rate-limit/status")]

    missing, status = asyncio.run(drive())
    assert missing.headers["X-RateLimit-Remaining"] == "99"
    assert missing.headers["RateLimit-Policy"] == '"default";q=100;w=3600'
    assert status.json()["key"] == "ip:203.0.113.9"
    assert status.json()["limits"][0]["remaining"] == 100  # a failure costs nothing


def test_flask_example() -> None:
    client = run("flask")["app"].test_client()  # type: ignore[attr-defined]
    assert client.post("/api/upload").json == {"stored": True}
    denied = client.post("/api/upload")
    check_denied(denied.status_code, dict(denied.headers), denied.text)


def check_denied(status: int, headers: dict[str, str], body: str) -> None:
    """Compare with the response that the README shows."""
    block = re.search(r"```http\n(.*?)\n\n(.*?)\n```", README, re.DOTALL)
    assert block is not None
    first, *lines = block.group(1).splitlines()
    assert str(status) in first
    shown = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
    given = {name.lower(): value for name, value in headers.items()}
    assert {name: given.get(name) for name in shown} == shown
    assert body.replace(" ", "").strip() == block.group(2).replace(" ", "")


def test_plain_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("plain")
    allowed, remaining, retry_after = capsys.readouterr().out.split()
    assert (allowed, retry_after) == ("True", "0.0")
    assert 6 <= float(remaining) < 7
    assert names["bucket"].peek("k").remaining == 20  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(([\w./]+)\)", README), ids=lambda path: path.rpartition("/")[2]
)
def test_linked_file_is_there(path: str) -> None:
    assert (Path(__file__).parents[2] / path).is_file()


def test_redis_example(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    text = EXAMPLES["redis"]
    assert "redis://localhost:6379/0" in text
    exec(compile(text.replace("redis://localhost:6379/0", server.url), "README.md", "exec"), {})
    assert capsys.readouterr().out == "ok\n"
    assert command(["inspect", "user:42", "--store", server.url]) == 0
    assert "of 100 tokens, full in 0." in capsys.readouterr().out


# --- Figures ---------------------------------------------------------------------------------


def benchmark(name: str) -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def row(first: str) -> list[str]:
    """Return the cells of the feature table after the first: ours and those of three others."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
    assert README.index("rivals-light.svg") < 2000


def test_charts_are_drawn_from_the_figures() -> None:
    for name, content in benchmark("chart").charts().items():
        assert (ROOT / "docs" / "images" / name).read_text(encoding="utf-8") == content


def test_figures_of_the_table() -> None:
    text = (ROOT / "benchmarks" / "results" / "web.json").read_text(encoding="utf-8")
    figures = json.loads(text)
    added = {each["name"]: each["added_us"] for each in figures["cases"] if each["base"]}

    def shown(name: str) -> str:
        return f"{added[name]['median']:.0f} µs" if name else ""

    fastapi = ("FastAPI, dependency", "slowapi, decorator", "", "fastapi-limiter, dependency")
    flask = ("Flask, decorator", "", "Flask-Limiter, decorator", "")
    assert row("added to a FastAPI route") == [shown(name) for name in fastapi]
    assert row("added to a Flask view") == [shown(name) for name in flask]
    assert figures["machine"] in README


def test_marks_of_the_table() -> None:
    peers = benchmark("web_peers")
    ours = run("fastapi")["app"]
    others = (peers.slowapi_decorator, peers.flask_limiter_decorator, peers.fastapi_limiter)
    remaining, retry = [], []
    for app in (ours, *(make("1/day") for make in others)):
        method, path = ("POST", "/upload") if app is ours else ("GET", peers.PATH)
        http: Any = TestClient(app) if isinstance(app, FastAPI) else app.test_client()
        passed, denied = (
            http.request(method, path) if isinstance(app, FastAPI) else http.open(path)
            for _ in range(2)
        )
        assert (passed.status_code, denied.status_code) == (200, 429)
        remaining.append("yes" if "x-ratelimit-remaining" in passed.headers else "no")
        retry.append("yes" if "retry-after" in denied.headers else "no")
    assert row("`X-RateLimit-Remaining` on responses") == remaining
    assert row("`Retry-After` on a 429") == retry


def status_of(app: Any, client: str) -> int:
    """Return the status that a client gets."""
    path = benchmark("web_peers").PATH
    if isinstance(app, FastAPI):
        http = TestClient(app, raise_server_exceptions=False, client=(client, 1))
        return http.get(path).status_code
    app.testing = False
    environ = {"REMOTE_ADDR": client}
    return int(app.test_client().get(path, environ_overrides=environ).status_code)


def test_clients_have_their_own_limits() -> None:
    peers = benchmark("web_peers")
    ours = benchmark("web_cases").fastapi_app(RateLimit("1/day"))
    others = (peers.slowapi_decorator, peers.flask_limiter_decorator, peers.fastapi_limiter)
    marks = []
    for app in (ours, *(make("1/day") for make in others)):
        assert [status_of(app, "192.0.2.1") for _ in range(2)] == [200, 429]
        marks.append("yes" if status_of(app, "192.0.2.2") == 200 else "no")
    assert row("separate limit for each client") == marks


# A thread of pyrate-limiter raises when Redis is down.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_redis_is_down(tmp_path: Path) -> None:
    peers = benchmark("web_peers")
    with redis_server(tmp_path) as server:
        store = RateLimit("1/day", store=server.url, name="item")
        bucket = RedisBucket.init([Rate(1, Duration.DAY)], redis.Redis.from_url(server.url), "key")
        limiter = Limiter(bucket)
        apps = (
            benchmark("web_cases").fastapi_app(store),
            peers.slowapi_decorator("1/day", storage_uri=server.url),
            peers.flask_limiter_decorator("1/day", storage_uri=server.url),
            benchmark("web_cases").fastapi_app(FastApiLimiter(limiter=limiter)),
        )
    with contextlib.closing(limiter):
        shown = [str(status_of(app, "192.0.2.1")) for app in apps]
    assert row("status when Redis is down") == shown
    assert status_of(apps[0], "192.0.2.1") == 429  # it still limits
