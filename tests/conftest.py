"""What the Python tests share: Hypothesis profiles, a Redis, programs in separate processes."""

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import trace
from rate_limiter import AsyncRateLimiter, RateLimiter, StoreError
from support.environment import catch_ignored_signals, forget_other_variables
from support.redis_servers import RedisServer, redis_server
from support.tracing import Traces

forget_other_variables()
catch_ignored_signals()

# The same examples every time, so that a change is never blamed for an old mistake. Run
# HYPOTHESIS_PROFILE=thorough now and then, to look for new ones. A slow machine is no mistake.
patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", **patient, derandomize=True, max_examples=100)
settings.register_profile("thorough", **patient, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


# These run first, so that no process is still busy with one of them when the others have ended.
LONG_FILES = (
    "project/test_snippets.py",
    "project/test_instructions.py",
    "project/test_differential.py",
    "project/test_gunicorn.py",
    "project/test_web_benchmark.py",
    "redis/test_chaos.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, for .ci/pytest."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collections, which many tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what an application of a test does to the root logger: Litestar sets it up by itself."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Return a function that runs a program and returns what it printed.

    It fails the test when the program fails, or writes to stderr.
    """

    def run(program: str, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *args],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def redis_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run one redis-server for all tests that leave it as it was."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(redis_of_session: RedisServer) -> RedisServer:
    """Return that server, emptied."""
    with contextlib.closing(redis_of_session.admin()) as client:
        client.flushall()
        client.script_flush()
    return redis_of_session


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    """Trace with a provider that is the global one during the test."""
    made = Traces()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made.provider)
    yield made
    made.provider.shutdown()


@pytest.fixture(params=["threads", "tasks"])
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return a function that hits a limiter, blocking or in one event loop, and times it."""
    loop = asyncio.new_event_loop()

    def call(limiter: RateLimiter, key: str = "k", cost: float = 1) -> tuple[Any, float]:
        started = time.monotonic()
        try:
            if request.param == "threads":
                answer: Any = limiter.hit(key, cost)
            else:
                answer = loop.run_until_complete(AsyncRateLimiter.of(limiter).hit(key, cost))
        except StoreError as error:
            answer = error
        return answer, time.monotonic() - started

    yield call
    loop.close()
