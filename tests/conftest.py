"""What the Python tests share: Hypothesis profiles, a Redis, programs in a process of their own."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from rate_limiter import AsyncRateLimiter, RateLimiter, StoreError
from redis_servers import RedisServer, redis_server

# The same examples every time, so that a change is never blamed for an old mistake. Run
# HYPOTHESIS_PROFILE=thorough now and then, to look for new ones.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("thorough", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def catch_ignored_signals() -> None:
    """Give the programs that tests start the default action of every signal.

    ``nohup`` and the background of a script ignore SIGHUP and SIGINT, and a program inherits what
    is ignored. What is caught is reset for it, so this process catches them and does nothing.
    """
    # Python itself ignores these two, and resets them for what it starts.
    by_python = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)}
    for number in signal.valid_signals() - by_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


catch_ignored_signals()


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
