"""rate_limiter.testing: reset the limits of a process, and the fixture of pytest."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter import AsyncRateLimiter, RateLimiter
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.limiting.made_limiters import limiters_in_use
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.testing import reset_all
from support.fronts import ask_asgi, ask_flask
from support.redis_servers import RedisServer

LIMITS = "1/hour; 1/day; window=fixed; 1/day; window=sliding"


def test_limiters_of_every_store(server: RedisServer, tmp_path: Path) -> None:
    limiters = [
        RateLimiter(LIMITS),
        AsyncRateLimiter(LIMITS)._limiter,
        RateLimiter(LIMITS, store=f"shared://{tmp_path / 'table'}"),
        RateLimiter(LIMITS, store=server.url, name="a", on_store_error="raise"),
        RateLimiter(LIMITS).with_limits(LIMITS),
    ]
    for limiter in limiters:
        assert [limiter.allow("k") for _ in range(2)] == [True, False]
    reset_all()
    for limiter in limiters:
        assert [limiter.allow("k") for _ in range(2)] == [True, False], limiter


def test_keys_of_others_in_redis_stay(server: RedisServer) -> None:
    limiter = RateLimiter("1/hour", store=server.url, name="mine", on_store_error="raise")
    theirs = RateLimiter("1/hour", store=server.url, name="theirs", on_store_error="raise")
    assert limiter.allow("k")
    assert theirs.allow("k")
    del theirs
    gc.collect()
    reset_all()
    again = RateLimiter("1/hour", store=server.url, name="theirs", on_store_error="raise")
    assert limiter.allow("k")
    assert not again.allow("k")


def test_a_limiter_without_a_prefix_empties_no_database(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RedisRateLimiter("1/hour", store=server.url, exact_prefix="")
    assert limiter.allow("k")
    with contextlib.closing(server.admin()) as client:
        client.set("of others", "kept")
        for call in (limiter.reset, limiter.keys):
            with pytest.raises(ValueError, match="cannot be distinguished from all others"):
                call()
        reset_all()
        assert any("cannot be distinguished" in message for message in caplog.messages)
        assert client.get("of others") == b"kept"
        limiter.reset(prefix="k")
        assert client.keys("*") == [b"of others"]


def test_a_redis_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It keeps no other limiter from being reset. What was decided in memory is reset there."""
    limiters = [RateLimiter("1/hour", store="redis://127.0.0.1:1/0") for _ in range(2)]
    limiters.append(RateLimiter("1/hour"))
    for limiter in limiters:
        assert [limiter.allow("k") for _ in range(2)] == [True, False]
    with caplog.at_level(logging.WARNING, "rate_limiter"):
        caplog.clear()
        reset_all()
    assert "RedisRateLimiter('1/hour') was reset in memory alone: " in caplog.text
    for limiter in limiters:
        assert limiter.allow("k")


def test_limiters_of_fronts() -> None:
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("2/hour"))])(lambda: "ok")
    flask = Flask(__name__)
    flask.get("/")(FlaskRateLimiter(flask, default_limits="1/hour").limit("2/hour")(lambda: "ok"))
    gate = RateLimitMiddleware(app, rules={"default": {"limits": "1/hour"}})
    for _ in range(2):
        assert [ask_asgi(gate)[0] for _ in range(2)] == [200, 429]
        assert [ask_asgi(app)[0] for _ in range(2)] == [200, 429]
        assert [ask_flask(flask)[0] for _ in range(3)] == [200, 200, 429]
        reset_all()


def test_those_who_wait_go_on() -> None:
    limiter = RateLimiter("1/hour")
    limiter.acquire("k")
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(limiter.acquire, "k")
        while not limiter._lines.costs(b"k"):
            pass
        reset_all()
        assert waiter.result(60).allowed


def test_a_subclass_with_its_own_reset() -> None:
    class Own(RateLimiter):
        def reset(self, key: str) -> None:  # type: ignore[override]
            raise AssertionError

    limiter = Own("1/hour")
    assert limiter.allow("k")
    reset_all()
    assert limiter.allow("k")


def test_limiters_that_are_not_used_any_more_are_freed() -> None:
    before = len(limiters_in_use())
    limiter = RateLimiter("1/hour")
    assert limiter in limiters_in_use()
    del limiter
    gc.collect()
    assert len(limiters_in_use()) <= before


def test_without_pytest(run_python: Callable[..., str]) -> None:
    printed = run_python("""
import sys
sys.modules["pytest"] = None
from rate_limiter import RateLimiter
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.testing import reset_all
limiter = RateLimiter("1/hour")
print(limiter.allow("k"), limiter.allow("k"), reset_all(), limiter.allow("k"))
""")
    assert printed == "True False None True\n"


CONFTEST = """
pytest_plugins = ["rate_limiter.testing"]
"""
TESTS = """
import pytest
from rate_limiter import RateLimiter
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.testing import reset_all

limiter = RateLimiter("1/hour")

@pytest.mark.usefixtures("reset_rate_limits")
@pytest.mark.parametrize("i", range(3))
def test_with(i):
    assert [limiter.allow("k") for _ in range(2)] == [True, False]

def test_value(reset_rate_limits):
    assert limiter.allow("k")
    reset_rate_limits()
    assert limiter.allow("k")

def test_it_is_reset_after_a_test_too():
    assert limiter.allow("k")

def test_without():
    assert not limiter.allow("k")
"""


def test_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
