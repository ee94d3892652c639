"""What the guides say of other limiters without showing it, and that a wrong guide is found out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient
from flask import Flask
from support.guides import DOCS, OLD, Guide, old_package
from support.redis_servers import RedisServer

# --- The other limiters ---


def slowapi_app(**arguments: Any) -> TestClient:
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, **arguments)
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]

    def cost(request: Request) -> int:
        return int(request.headers.get("X-Cost", "1"))

    @app.get("/")
    @limiter.limit("5/hour", cost=cost)
    def index(request: Request) -> Any:
        from fastapi.responses import PlainTextResponse

        return PlainTextResponse("ok")

    return TestClient(app, raise_server_exceptions=False)


def test_slowapi_counts_what_it_denies() -> None:
    client = slowapi_app()
    costs = ["3", "3", "1"]
    assert [client.get("/", headers={"X-Cost": cost}).status_code for cost in costs] == [
        200,
        429,
        429,
    ]


def test_headers_and_body_of_slowapi() -> None:
    plain, with_headers = slowapi_app(), slowapi_app(headers_enabled=True)
    assert "X-RateLimit-Limit" not in plain.get("/").headers
    headers = with_headers.get("/").headers
    assert 3590 <= int(headers["Retry-After"]) <= 3601
    assert float(headers["X-RateLimit-Reset"]) > 1_700_000_000
    denied = plain.get("/", headers={"X-Cost": "9"})
    assert denied.json() == {"error": "Rate limit exceeded: 5 per 1 hour"}


@pytest.mark.parametrize(
    ("arguments", "statuses"),
    [
        ({}, [500] * 6),
        ({"in_memory_fallback_enabled": True}, [200] * 5 + [429]),
        ({"swallow_errors": True}, [500] * 6),  # it swallows one error, and trips over the next
    ],
)
def test_slowapi_without_redis(arguments: dict[str, Any], statuses: list[int]) -> None:
    client = slowapi_app(storage_uri="redis://127.0.0.1:1/0", **arguments)
    assert [client.get("/").status_code for _ in range(6)] == statuses


def test_flask_limiter() -> None:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    app = Flask(__name__)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", headers_enabled=True)
    app.get("/")(limiter.limit("1 per hour")(lambda: "ok"))
    client = app.test_client()
    passed, denied = client.get("/"), client.get("/")
    assert 3590 <= int(passed.headers["Retry-After"]) <= 3601
    assert int(passed.headers["X-RateLimit-Reset"]) > 1_700_000_000
    assert denied.mimetype == "text/html"
    assert "1 per 1 hour" in denied.text


def old_limit(url: str) -> tuple[FastAPI, Any]:
    with old_package("0.1"):
        from fastapi_limiter import FastAPILimiter
        from fastapi_limiter.depends import RateLimiter

        asyncio.run(_init(FastAPILimiter, url))
        return FastAPI(), RateLimiter(times=5, hours=1)


async def _init(limiter: Any, url: str) -> None:
    async with redis.asyncio.Redis.from_url(url) as client:
        await limiter.init(client)


def new_limit(url: str) -> tuple[FastAPI, Any]:
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate

    return FastAPI(), RateLimiter(limiter=Limiter(Rate(5, Duration.HOUR)))


@pytest.mark.parametrize("make", [old_limit, new_limit])
def test_fastapi_limiter_trips_over_included_routers(
    make: Callable[[str], tuple[FastAPI, Any]], server: RedisServer
) -> None:
    app, limit = make(server.url)
    app.get("/", dependencies=[Depends(limit)])(lambda: "ok")
    router = APIRouter()
    router.get("/other")(lambda: "ok")
    app.include_router(router)
    has_one_without_path = any(not hasattr(route, "path") for route in app.routes)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").status_code == (500 if has_one_without_path else 200)


def test_a_429_of_the_new_fastapi_limiter_does_not_say_when() -> None:
    app, limit = new_limit("")
    app.get("/", dependencies=[Depends(limit)])(lambda: "ok")
    client = TestClient(app)
    denied = [client.get("/") for _ in range(6)][-1]
    assert denied.status_code == 429
    assert "Retry-After" not in denied.headers


def test_versions_are_those_that_the_guides_name() -> None:
    named = {
        "slowapi": ("slowapi", "slowapi {}"),
        "flask-limiter": ("flask-limiter", "Flask-Limiter {}"),
        "fastapi-limiter": ("fastapi-limiter", "with {} and pyrate-limiter"),
    }
    for page, (package, text) in named.items():
        page_text = (DOCS / "migration" / f"{page}.md").read_text(encoding="utf-8")
        assert text.format(version(package)) in page_text
    assert (OLD["0.1"] / "fastapi_limiter-0.1.6.dist-info").is_dir()
    assert "fastapi_limiter" not in sys.modules or not hasattr(
        sys.modules["fastapi_limiter"], "FastAPILimiter"
    )


# --- The mechanism itself ---

APP = """<!-- test: after -->
```python
from fastapi import FastAPI

app = FastAPI()
app.get("/")(lambda: "ok")
```
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n```\n", "page.md:1: nothing runs this"),
        ("text\n\n```console\n$ true\n```\n", "page.md:3: nothing runs this"),
        ("```text\nprinted by no command\n```\n", "page.md:1: nothing runs this"),
        ("```bash\ntrue\n```\n", "page.md:1: nothing runs this"),
        ("<!-- test: run -->\n```python\nx = 1\n```\n", "it asserts nothing"),
        ("<!-- test: run -->\n```python\nassert 1 == 2\n```\n", "^$"),
        (APP, "page.md:2: no requests follow"),
        (APP + "<!-- test: requests -->\n```text\nGET / -> 429\n```\n", r"GET / -> 429.*200"),
        (APP + "<!-- test: requests -->\n```text\nGET / -> 200 | A: b\n```\n", "A: none"),
        (APP + "<!-- test: requests -->\n```text\nGET / -> 200 | body: no\n```\n", 'body: "ok"'),
        (APP + "<!-- test: requests -->\n```text\nGET it\n```\n", "not a request"),
        ("<!-- test: requests -->\n```text\nGET / -> 200\n```\n", "no application"),
        ("<!-- test: commands -->\n```console\n$ echo 1\n2\n```\n", "page.md:2: 1"),
        ("<!-- test: commands -->\n```console\n$ false\n```\n", "page.md:2"),
    ],
)
def test_a_wrong_guide_is_found_out(
    text: str, message: str, server: RedisServer, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=message):
        Guide(page, tmp_path, server).run()
