"""What programs may do with the policy, the decisions and the limiters of the API gateway."""

from __future__ import annotations

import dataclasses
import json
import math
import pprint
import time
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock, Mock

import pytest
import redis
from fastapi.encoders import jsonable_encoder
from rate_limiter import Decision, RateLimitPolicy, TokenBucketLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.token_bucket import Decision as DecisionOfModule
from starlette.responses import PlainTextResponse
from support.asgi_requests import CLIENT, get, get_at_once
from support.redis_servers import RedisServer

NO_SERVER = "redis://127.0.0.1:1/0"
plain_app = PlainTextResponse("here")


# --- The API gateway: RateLimitPolicy ---

FIELDS = {"rate_per_sec": 5.0, "burst": 10, "ttl_seconds": 3600, "cost": 1, "prefix": "rl:tb"}


@pytest.mark.parametrize(
    ("given", "differs"),
    [
        ({"rate_per_sec": 5, "burst": 10}, {}),
        ({"rate_per_sec": "5", "burst": "10"}, {}),
        ({"rate_per_sec": " 5.0 ", "burst": "10.0"}, {}),
        ({"rate_per_sec": "5e0", "burst": 10.0}, {}),
        ({"rate_per_sec": Decimal(5), "burst": Decimal(10)}, {}),
        ({"rate_per_sec": "0.5", "burst": 10}, {"rate_per_sec": 0.5}),
        ({"rate_per_sec": 5, "burst": 10, "ttl_seconds": "60"}, {"ttl_seconds": 60}),
        ({"rate_per_sec": 5, "burst": 10, "cost": "2"}, {"cost": 2}),
        ({"rate_per_sec": 5, "burst": 10, "cost": 2.0, "prefix": "p"}, {"cost": 2, "prefix": "p"}),
    ],
)
def test_what_a_policy_accepts(given: dict[str, Any], differs: dict[str, Any]) -> None:
    policy = RateLimitPolicy(**given)
    expected = FIELDS | differs
    assert policy.model_dump() == dataclasses.asdict(policy) == expected
    for name, value in expected.items():
        assert type(getattr(policy, name)) is type(value)
    assert json.loads(policy.model_dump_json()) == expected
    assert RateLimitPolicy.model_validate(expected) == policy == RateLimitPolicy(**expected)
    assert policy.model_copy() == policy
    assert policy.model_copy(update={"burst": "20"}).burst == 20


@pytest.mark.parametrize("name", ["rate_per_sec", "burst", "ttl_seconds", "cost"])
@pytest.mark.parametrize("value", ["ten", "", None, True, math.nan, math.inf, -1, 0, [], b"5"])
def test_what_a_policy_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}|refill_rate"):
        RateLimitPolicy(**FIELDS | {name: value})


@pytest.mark.parametrize("name", ["burst", "ttl_seconds", "cost"])
@pytest.mark.parametrize("value", [11.5, "11.5"])
def test_whole_numbers_of_a_policy(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number from"):
        RateLimitPolicy(**FIELDS | {name: value})


def test_a_policy_that_changes_is_followed() -> None:
    policy = RateLimitPolicy(rate_per_sec=0.01, burst=1)
    limiter = TokenBucketLimiter(NO_SERVER, policy)
    app = RateLimitMiddleware(plain_app, limiter, policy)
    assert [one.status_code for one in get(app, "/v1", "/v1")] == [200, 429]
    policy.burst = 3
    answers = get(app, *["/v1"] * 4, **{"x-user-id": "bob"})
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert {one.headers["X-RateLimit-Limit"] for one in answers} == {"3"}


def test_a_policy_of_another_class() -> None:
    policy = SimpleNamespace(**FIELDS | {"burst": 1, "rate_per_sec": 0.01})
    limiter = TokenBucketLimiter(NO_SERVER, policy)  # type: ignore[arg-type]
    assert [limiter.check("k").allowed for _ in range(2)] == [True, False]
    with pytest.raises(TypeError, match="policy must be a RateLimitPolicy, got"):
        TokenBucketLimiter(NO_SERVER, SimpleNamespace(burst=1))  # type: ignore[arg-type]


# --- The API gateway: Decision ---


def test_a_decision_is_a_dataclass(capsys: pytest.CaptureFixture[str]) -> None:
    assert DecisionOfModule is Decision
    decision = Decision(allowed=False, remaining=0.5, retry_after_ms=100)
    fields = {"allowed": False, "remaining": 0.5, "retry_after_ms": 100}
    assert dataclasses.is_dataclass(decision)
    assert dataclasses.asdict(decision) == jsonable_encoder(decision) == fields
    assert dataclasses.astuple(decision) == (False, 0.5, 100)
    assert [one.name for one in dataclasses.fields(decision)] == list(fields)
    assert dataclasses.replace(decision, allowed=True).allowed is True
    match decision:
        case Decision(allowed, remaining, wait_ms):
            assert (allowed, remaining, wait_ms) == (False, 0.5, 100)
    pprint.pprint(decision)
    assert capsys.readouterr().out.startswith("Decision(allowed=False")


def test_decisions_of_a_limiter_are_json() -> None:
    limiter = TokenBucketLimiter(NO_SERVER, RateLimitPolicy(rate_per_sec=0.01, burst=2))
    first, *_, last = [json.dumps(dataclasses.asdict(limiter.check("k"))) for _ in range(3)]
    assert json.loads(first) == {"allowed": True, "remaining": 1.0, "retry_after_ms": 0}
    assert json.loads(last)["retry_after_ms"] > 90_000


# --- The API gateway: limiters of a program ---

POLICY = RateLimitPolicy(rate_per_sec=0.5, burst=7)


@dataclasses.dataclass
class OwnDecision:
    allowed: Any
    remaining: Any
    retry_after_ms: Any


class TupleDecision(NamedTuple):
    allowed: bool
    remaining: float
    retry_after_ms: int


class Plain:
    def __init__(self, decision: Any) -> None:
        self.decision = decision

    def check(self, key: str) -> Any:
        assert key == f"rl:tb:ip:{CLIENT}"
        return self.decision


class Asynchronous(Plain):
    async def check(self, key: str) -> Any:
        return super().check(key)


class Overriding(TokenBucketLimiter):
    def __init__(self, decision: Any) -> None:
        super().__init__(NO_SERVER, POLICY)
        self.decision = decision

    def check(self, key: str) -> Any:
        return self.decision


class WithoutRedis(TokenBucketLimiter):
    def __init__(self, decision: Any) -> None:  # nothing of the base class is used
        self.decision = decision

    def check(self, key: str) -> Any:
        return self.decision


def mocked(kind: Any, **options: Any) -> Callable[[Any], Any]:
    def make(decision: Any) -> Any:
        limiter = kind(**options)
        limiter.check.return_value = decision
        return limiter

    return make


def patched(decision: Any) -> TokenBucketLimiter:
    limiter = TokenBucketLimiter(NO_SERVER, POLICY)
    limiter.check = lambda key: decision  # type: ignore[method-assign]
    return limiter


LIMITERS = {
    "object": Plain,
    "asynchronous": Asynchronous,
    "subclass": Overriding,
    "subclass without Redis": WithoutRedis,
    "Mock": mocked(Mock),
    "MagicMock": mocked(MagicMock),
    "Mock with a spec": mocked(Mock, spec=TokenBucketLimiter),
    "Mock with an object as spec": mocked(Mock, spec=TokenBucketLimiter(NO_SERVER, POLICY)),
    "replaced method": patched,
}
DECISIONS: dict[str, Callable[..., Any]] = {
    "Decision": Decision,
    "dataclass": OwnDecision,
    "tuple": TupleDecision,
    "namespace": lambda *fields: SimpleNamespace(**vars(OwnDecision(*fields))),
    "Mock": lambda *fields: Mock(**vars(OwnDecision(*fields))),
    "Mock with a spec": lambda *fields: Mock(spec=Decision, **vars(OwnDecision(*fields))),
}


@pytest.mark.parametrize("limiter", LIMITERS)
@pytest.mark.parametrize("decision", DECISIONS)
def test_limiters_of_a_program(limiter: str, decision: str) -> None:
    made = LIMITERS[limiter](DECISIONS[decision](True, 2.9, 0))
    (allowed,) = get(RateLimitMiddleware(plain_app, made, POLICY), "/v1")
    assert (allowed.status_code, allowed.text) == (200, "here")
    assert allowed.headers["X-RateLimit-Limit"] == "7"
    assert allowed.headers["X-RateLimit-Remaining"] == "2"
    assert "Retry-After" not in allowed.headers

    made = LIMITERS[limiter](DECISIONS[decision](False, 0.25, 1500))
    (denied,) = get(RateLimitMiddleware(plain_app, made, POLICY), "/v1")
    assert denied.status_code == 429
    assert denied.json() == {"error": "rate_limited", "retry_after_seconds": 2}
    assert denied.headers["X-RateLimit-Limit"] == "7"
    assert denied.headers["X-RateLimit-Remaining"] == "0"
    assert denied.headers["Retry-After"] == "2"


def test_a_class_whose_check_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    app = RateLimitMiddleware(plain_app, TokenBucketLimiter(NO_SERVER, POLICY), POLICY)
    assert get(app, "/v1")[0].headers["X-RateLimit-Remaining"] == "6"
    monkeypatch.setattr(TokenBucketLimiter, "check", lambda self, key: OwnDecision(False, 0, 9000))
    assert get(app, "/v1")[0].headers["Retry-After"] == "9"


def test_a_limiter_that_calls_its_base_class() -> None:
    class Counting(TokenBucketLimiter):
        calls = 0

        def check(self, key: str) -> Decision:
            self.calls += 1
            return super().check(key)

    limiter = Counting(NO_SERVER, RateLimitPolicy(rate_per_sec=0.01, burst=2))
    app = RateLimitMiddleware(plain_app, limiter, POLICY)
    assert [one.status_code for one in get(app, *["/v1"] * 3)] == [200, 200, 429]
    assert limiter.calls == 3


def test_a_limiter_is_asked_one_request_at_a_time() -> None:
    class Slow:
        """Between reading and writing, another call would read the same count."""

        passed = 0

        def check(self, key: str) -> OwnDecision:
            passed = self.passed
            time.sleep(0.001)
            self.passed = passed + 1
            return OwnDecision(passed < 3, max(0, 2 - passed), 1000)

    app = RateLimitMiddleware(plain_app, Slow(), POLICY)
    codes = [one.status_code for one in get_at_once(app, *["/v1"] * 20)]
    assert (codes.count(200), codes.count(429)) == (3, 17)


@pytest.mark.parametrize(
    ("remaining", "shown"),
    [(2, "2"), (2.999, "2"), (-1, "0"), (Decimal("2.5"), "2"), ("2.5", "2"), (math.nan, "0"),
     (math.inf, "0"), (-math.inf, "0"), (1e30, "18446744073709551615")],
)  # fmt: skip
def test_what_a_limiter_leaves(remaining: Any, shown: str) -> None:
    app = RateLimitMiddleware(plain_app, Plain(OwnDecision(1, remaining, None)), POLICY)
    (answer,) = get(app, "/v1")
    assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, shown)
    assert int(answer.headers["X-RateLimit-Reset"]) >= 0


@pytest.mark.parametrize(
    ("wait_ms", "seconds"),
    [(0, 1), (1, 1), (1000, 1), (1000.5, 2), (1001, 2), (-5, 1), ("2500", 3), (Decimal(60000), 60),
     (math.inf, None), (math.nan, None)],
)  # fmt: skip
def test_how_long_a_limiter_lets_wait(wait_ms: Any, seconds: int | None) -> None:
    (answer,) = get(
        RateLimitMiddleware(plain_app, Plain(OwnDecision(0, 0, wait_ms)), POLICY), "/v1"
    )
    assert answer.json() == {"error": "rate_limited", "retry_after_seconds": seconds}
    assert answer.headers.get("Retry-After") == (None if seconds is None else str(seconds))


@pytest.mark.parametrize("limiter", [None, 5, "x", object(), SimpleNamespace(check=5)])
def test_what_is_no_limiter(limiter: Any) -> None:
    with pytest.raises(TypeError, match="limiter must be a TokenBucketLimiter"):
        RateLimitMiddleware(plain_app, limiter, POLICY)


def test_the_client_of_a_limiter(server: RedisServer) -> None:
    client = redis.Redis(port=server.port)
    limiter = TokenBucketLimiter(r=client, policy=POLICY)
    assert limiter.r is client
    limiter.r.ping()
    client.close()
