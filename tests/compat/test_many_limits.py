"""Limits of the compat modules: any number of texts, and all limits of a request in one step."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from rate_limiter.compat.flask_limiter import Limiter as FlaskLimiter
from rate_limiter.compat.flask_limiter.util import get_remote_address as flask_address
from rate_limiter.compat.limits import parse
from rate_limiter.compat.limits.storage import MemoryStorage, Storage, storage_from_string
from rate_limiter.compat.limits.strategies import STRATEGIES, FixedWindowRateLimiter
from rate_limiter.compat.limits.util import KEPT
from rate_limiter.compat.slowapi import Limiter
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.util import get_remote_address
from rate_limiter.limiting.made_limiters import limiters_in_use
from redis import Redis
from starlette.requests import Request
from support.redis_servers import RedisServer
from werkzeug.test import EnvironBuilder

TEXTS = 10_000
Ask = Callable[[], int]


def limited_by(limiter: FlaskLimiter, limits: tuple[Any, ...]) -> Callable[[], str]:
    def view() -> str:
        return "a"

    for limit in limits:
        view = limiter.limit(limit)(view)
    return view


def flask_program(*limits: Any, **options: Any) -> Ask:
    """Return what sends a request to a Flask view with these limits, and returns the status."""
    app = Flask("app")
    limiter = FlaskLimiter(flask_address, **options)
    view = limited_by(limiter, limits)
    app.add_url_rule("/a", "a", view)
    limiter.init_app(app)
    environ = EnvironBuilder("/a", environ_base={"REMOTE_ADDR": "192.0.2.1"}).get_environ()

    def ask() -> int:
        answers: list[int] = []
        body = app(dict(environ), lambda status, *_: answers.append(int(status[:3])))
        b"".join(body)
        return answers[0]

    return ask


def slowapi_program(*limits: Any, **options: Any) -> Ask:
    """Return what checks a request against these limits as a decorator of slowapi does."""
    limiter = Limiter(get_remote_address, **options)

    def view(request: Request) -> str:
        return "a"

    limited: Any = view
    for limit in limits:
        limited = limiter.limit(limit)(limited)

    def ask() -> int:
        scope = {"type": "http", "method": "GET", "path": "/a", "client": ("192.0.2.1", 1)}
        try:
            limited(Request(scope))
        except RateLimitExceeded:
            return 429
        return 200

    return ask


PROGRAMS = {"Flask-Limiter": flask_program, "slowapi": slowapi_program}


measures_memory = pytest.mark.unsanitized(
    reason="memory that is freed stays in the sanitizer's quarantine"
)


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def check_growth(ask: Callable[[], object]) -> None:
    """Ask often; check that neither limiters nor memory are added."""
    for _ in range(KEPT):
        ask()
    gc.collect()
    limiters, before_mb = len(limiters_in_use()), memory_mb()
    for _ in range(TEXTS):
        ask()
    gc.collect()
    assert len(limiters_in_use()) <= limiters
    assert memory_mb() - before_mb < 20


@measures_memory
@pytest.mark.parametrize("package", PROGRAMS)
def test_any_number_of_texts_needs_bounded_memory(package: str) -> None:
    amounts = itertools.count(100)
    ask = PROGRAMS[package](lambda: f"{next(amounts)}/day")
    check_growth(ask)
    assert ask() == 200


@measures_memory
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_number_of_items_needs_bounded_memory(strategy: str) -> None:
    limiter, amounts = STRATEGIES[strategy](MemoryStorage()), itertools.count(100)
    check_growth(lambda: limiter.hit(parse(f"{next(amounts)}/day"), "a"))


@measures_memory
def test_any_number_of_window_lengths_needs_bounded_memory() -> None:
    limiter, multiples = FixedWindowRateLimiter(MemoryStorage()), itertools.count(1)
    check_growth(lambda: limiter.hit(parse(f"5/{next(multiples)} minutes"), "a"))


def test_the_count_of_a_limit_in_use_stays_whatever_others_there_are() -> None:
    limiter, amounts = FixedWindowRateLimiter(MemoryStorage()), itertools.count(100)
    item = parse("3/day")
    passed = []
    for _ in range(4):
        passed.append(limiter.hit(item, "a"))
        for _ in range(2 * KEPT):
            limiter.hit(parse(f"{next(amounts)}/day"), "a")
    assert passed == [True, True, True, False]


def test_texts_of_a_callable_count_apart_and_keep_their_counts() -> None:
    texts = itertools.cycle(["2/day", "3/day"])
    for make in PROGRAMS.values():
        ask = make(lambda: next(texts))
        assert [ask() for _ in range(8)] == [200, 200, 200, 200, 429, 200, 429, 429]


# --- one step ---


def scripts_run(server: RedisServer) -> int:
    stats: Any = Redis.from_url(server.url).info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


@pytest.mark.parametrize("package", PROGRAMS)
def test_redis_decides_all_limits_of_a_request_at_once(server: RedisServer, package: str) -> None:
    ask = PROGRAMS[package]("5/minute", "20/hour", "100/day", storage_uri=server.url)
    assert ask() == 200
    before = scripts_run(server)
    assert [ask() for _ in range(4)] == [200] * 4
    assert scripts_run(server) - before == 4
    assert ask() == 429
    assert scripts_run(server) - before == 5


@pytest.fixture(params=["memory", "redis", "count_denied"])
def storage(request: pytest.FixtureRequest) -> Storage:
    if request.param == "redis":
        return storage_from_string(request.getfixturevalue("server").url)
    return MemoryStorage(count_denied=request.param == "count_denied")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_denied_request_takes_nothing_from_the_other_limits(
    storage: Storage, strategy: str
) -> None:
    limiter = STRATEGIES[strategy](storage)
    items = [parse("9/minute"), parse("2/minute"), parse("1/hour")]

    def hit(cost: int, stop: bool) -> list[bool]:
        hits = [limiter.hit_of(item, ["a"], cost) for item in items]
        return [one.allowed for one in limiter.decide_all(hits, stop=stop)]

    assert hit(1, True) == [True, True, True]
    assert hit(3, True) == [True, False]
    assert hit(2, False) == [True, False, False]
    assert limiter.get_window_stats(items[0], "a").remaining == 8
