"""Decision.store_unavailable: set only where `on_store_error` decided without the store."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter import AsyncRateLimiter, Decision, RateLimiter
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.limiting.redis_caller import DENIED_RETRY_S
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from support.fronts import ask_asgi, ask_flask
from support.redis_asking import limiter_on

GONE = "redis://127.0.0.1:1/0?timeout=0.2"  # where no Redis is
POLICIES = [("allow", True), ("deny", False)]
LIMITS = "5/minute; 50/hour"


def _sync(limiter: RateLimiter, method: str) -> Any:
    return getattr(limiter, method)("k")


def _async(limiter: RateLimiter, method: str) -> Any:
    return asyncio.run(getattr(AsyncRateLimiter.of(limiter), method)("k"))


ways = pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])


@ways
@pytest.mark.parametrize(("policy", "allowed"), POLICIES)
@pytest.mark.parametrize("method", ["hit", "peek", "charge"])
def test_one_decision(call: Callable[..., Any], policy: str, allowed: bool, method: str) -> None:
    decision = call(limiter_on(GONE, policy, LIMITS), method)
    assert decision.store_unavailable is True
    assert decision.allowed is (allowed or method == "charge")
    assert decision.retry_after == (0.0 if decision.allowed else DENIED_RETRY_S)


@ways
@pytest.mark.parametrize(("policy", "allowed"), POLICIES)
@pytest.mark.parametrize("method", ["hit_each", "peek_each"])
def test_decisions_of_each_limit(
    call: Callable[..., Any], policy: str, allowed: bool, method: str
) -> None:
    decisions = call(limiter_on(GONE, policy, LIMITS), method)
    assert [one.limit for one in decisions] == [5, 5, 50]
    assert [one.store_unavailable for one in decisions] == [True] * 3
    assert [one.allowed for one in decisions] == [allowed] * 3


@ways
def test_memory_decides_by_limits(call: Callable[..., Any]) -> None:
    limiter = limiter_on(GONE, "memory", "1/hour")
    decisions = [call(limiter, "hit"), call(limiter, "hit"), *call(limiter, "hit_each")]
    assert [one.allowed for one in decisions] == [True, False, False, False]
    assert [one.store_unavailable for one in decisions] == [False] * 4


@ways
def test_a_store_that_answers(call: Callable[..., Any], server: Any) -> None:
    limiter = limiter_on(server.url, "deny", "1/hour")
    decisions = [call(limiter, "hit"), call(limiter, "hit"), *call(limiter, "hit_each")]
    assert [one.allowed for one in decisions] == [True, False, False, False]
    assert [one.store_unavailable for one in decisions] == [False] * 4


def test_copies_keep_it_and_comparisons_see_it() -> None:
    decision = limiter_on(GONE, "deny").hit("k")
    for same in (pickle.loads(pickle.dumps(decision)), copy.copy(decision)):
        assert same.store_unavailable is True
        assert (same, hash(same)) == (decision, hash(decision))
    genuine = Decision(False, limit=decision.limit, retry_after=DENIED_RETRY_S)
    assert genuine.store_unavailable is False
    assert pickle.loads(pickle.dumps(genuine)).store_unavailable is False
    assert genuine != decision
    assert genuine == Decision(False, limit=decision.limit, retry_after=DENIED_RETRY_S)


async def unlimited(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def on_asgi() -> int:
    return ask_asgi(RateLimitMiddleware(unlimited, limits="5/minute", **STORE))[0]


def on_rules() -> int:
    rules = {"default": {"limits": "5/minute"}}
    return ask_asgi(RateLimitMiddleware(unlimited, rules=rules, **STORE))[0]


def on_fastapi() -> int:
    app = FastAPI()
    dependency = Depends(RateLimit("5/minute", name="r", **STORE))
    app.get("/", dependencies=[dependency])(lambda: "passed")
    return ask_asgi(app)[0]


def on_flask() -> int:
    app = Flask("unavailable")
    app.get("/")(lambda: "passed")
    FlaskRateLimiter(app, default_limits="5/minute", **STORE)
    status: int = ask_flask(app)[0]
    return status


STORE: dict[str, Any] = {"store": GONE, "on_store_error": "deny"}
fronts = pytest.mark.parametrize("front", [on_asgi, on_rules, on_fastapi, on_flask])


@fronts
def test_a_denial_without_the_store_is_503(front: Callable[[], int]) -> None:
    assert front() == 503


@fronts
def test_a_genuine_denial_is_429(front: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the flag separates this denial from one without the store."""
    denial = Decision(False, limit=5, retry_after=DENIED_RETRY_S)
    assert (denial.retry_after, denial.reset_after) == (1.0, 0.0)

    def answer(limiter: RedisRateLimiter, method: str, *args: Any) -> Any:
        return (denial, denial) if method.endswith("_each") else denial

    async def answer_async(limiter: RedisRateLimiter, method: str, *args: Any) -> Any:
        return answer(limiter, method, *args)

    monkeypatch.setattr(RedisRateLimiter, "_call_unmeasured", answer)
    monkeypatch.setattr(RedisRateLimiter, "_call_async_unmeasured", answer_async)
    assert front() == 429
