"""The middleware with rules, tiers, bypasses, costs after the answer, headers and answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import Decision, Limit, ManualClock, RateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.headers import HeaderStyle, LimitState
from rate_limiter.policy.settling import Finished, run_now, run_to_the_end
from starlette.responses import PlainTextResponse, StreamingResponse
from support.redis_servers import RedisServer, redis_server
from support.rules_app import APP, RULES, sf
from support.tokens import HS, token


class Client:
    """Ask an application, each time from a clock that stands still."""

    def __init__(self, app: Any = APP, peer: str = "192.0.2.1", **arguments: Any) -> None:
        if "limiter" not in arguments and "store" not in arguments:
            arguments.setdefault("clock", ManualClock(10**9))
        self.middleware = RateLimitMiddleware(app, setup_checks=False, **arguments)
        self.peer = peer

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(
                self.middleware, client=(self.peer, 5), raise_app_exceptions=False
            )
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                names = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, path, headers=names)

        return asyncio.run(asked())

    def statuses(self, n: int, *arguments: Any, **headers: str) -> list[int]:
        return [self.ask(*arguments, **headers).status_code for _ in range(n)]

    def left(self, *arguments: Any, **headers: str) -> int:
        return int(self.ask(*arguments, **headers).headers["X-RateLimit-Remaining"])


# --- Rules ---


def test_rules() -> None:
    client = Client(rules=RULES, tier="header:X-Plan")
    assert client.ask().headers["X-RateLimit-Limit"] == "100"
    assert client.ask("/files/7", "POST").headers["X-RateLimit-Remaining"] == "7"
    assert client.ask("/files/8", "POST").headers["X-RateLimit-Remaining"] == "4"
    assert client.ask("/files/8").headers["X-RateLimit-Limit"] == "100"
    assert client.ask("/", X_Plan="pro").headers["X-RateLimit-Limit"] == "1000"
    assert client.ask("/", X_Plan="gold").headers["X-RateLimit-Limit"] == "100"
    assert "X-RateLimit-Limit" not in client.ask("/health").headers
    client.peer = "203.0.113.50"
    assert client.ask().headers["X-RateLimit-Limit"] == "7"


def test_each_rule_has_separate_buckets() -> None:
    client = Client(rules={"/a": {"limits": "1/minute"}, "/b": {"limits": "1/minute"}})
    assert client.statuses(2, "/a") == client.statuses(2, "/b") == [200, 429]
    assert client.statuses(3, "/c") == [200] * 3  # no rule matches


def test_keys_of_rules() -> None:
    client = Client(rules=RULES)
    assert client.left("/keyed", X_API_Key="one") == 4
    assert client.left("/keyed", X_API_Key="two") == 4
    assert client.left("/keyed", X_API_Key="one") == 3
    assert client.left("/keyed") == 4


def test_shadow_rules_count_and_never_deny() -> None:
    client = Client(rules=RULES)
    first, *others = (client.ask("/new") for _ in range(4))
    assert first.headers["X-RateLimit-Remaining"] == "0"
    assert {one.status_code for one in others} == {200}
    assert "X-RateLimit-Limit" not in others[0].headers
    assert client.middleware.governor is not None
    assert client.middleware.governor.shadow_denied == 3


def test_a_file_of_rules_that_changes(tmp_path: Path) -> None:
    from rate_limiter.policy.rule_sources import FileRules

    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"capacity": 20, "refill_rate": 5}}')
    source = FileRules(path)
    client = Client(rules=source)
    assert client.left() == 19
    path.write_text('{"default": {"capacity": 30, "refill_rate": 5}}  ')
    source.reload()
    assert client.left() == 28


def test_rules_in_redis_keep_their_state(tmp_path: Path, server: RedisServer) -> None:
    from rate_limiter.policy.rule_sources import FileRules

    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"capacity": 20, "refill_rate": 0.001}}')
    arguments = {"store": server.url, "on_store_error": "raise"}
    source = FileRules(path)
    client = Client(rules=FileRules(path), **arguments)
    other = Client(rules=source, **arguments)
    assert client.left() == 19
    assert other.left() == 18
    path.write_text('{"default": {"capacity": 30, "refill_rate": 0.001}}  ')
    source.reload()
    assert other.left() == 27


def test_without_a_store_each_rule_has_its_policy(tmp_path: Path) -> None:
    rules = {
        "default": {"limits": "2/minute"},
        "open": {"path": "/open", "limits": "2/minute", "on_store_error": "allow"},
        "shut": {"path": "/shut", "limits": "2/minute", "on_store_error": "deny"},
    }
    with redis_server(tmp_path) as redis:
        client = Client(rules=rules, store=redis.url)
        assert client.statuses(1, "/open") == client.statuses(1, "/shut") == [200]
        redis.kill()
        assert client.statuses(4, "/open") == [200] * 4
        assert client.statuses(2, "/shut") == [503] * 2
        assert client.statuses(3, "/") == [200, 200, 429]  # in memory


def test_rules_hold_for_routes_whatever_the_application_is_mounted_at() -> None:
    from fastapi import FastAPI

    app = FastAPI()
    app.get("/login")(lambda: "ok")
    app.add_middleware(
        RateLimitMiddleware,
        rules={"/login": {"limits": "2/hour"}},
        status_path="/me",
        clock=ManualClock(),
    )

    async def asked() -> list[int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, root_path="/api"), base_url="http://test"
        ) as client:
            paths = ("/login", "/api/login", "/login", "/api/login", "/me", "/api/me")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(asked()) == [200, 200, 429, 429, 200, 200]


# --- Tiers and bypass ---


def test_tiers() -> None:
    client = Client(
        limits={"free": "2/minute", "pro": "5/minute", "enterprise": "9/minute"},
        tier="jwt:plan",
        jwt=HS,
        key=["jwt:sub", "ip"],
    )

    def limit(**claims: Any) -> str:
        bearer = f"Bearer {token(claims)}"
        return str(client.ask(Authorization=bearer).headers["X-RateLimit-Limit"])

    assert limit(sub="a", plan="pro") == "5"
    assert limit(sub="b", plan="enterprise") == "9"
    assert limit(sub="c", plan="free") == limit(sub="d", plan="gold") == limit(sub="e") == "2"
    assert client.ask(Authorization="Bearer forged").headers["X-RateLimit-Limit"] == "2"


async def test_rules_that_change_while_a_tier_is_looked_up() -> None:
    """The request goes by the rules that held when it came, and is not without any."""
    from rate_limiter.policy.rule_files import parse_rules
    from rate_limiter.policy.rule_sources import RuleSource

    source = RuleSource(
        parse_rules('{"default": {"limits": "1/hour"}, "p": {"tier": "p", "limits": "5/s"}}')
    )

    async def tier(scope: Any) -> str:
        source._table = parse_rules('{"other": {"path": "/other", "limits": "1/hour"}}')
        assert middleware.governor is not None
        middleware.governor._refresh()
        await asyncio.sleep(0)
        return "none"

    middleware = RateLimitMiddleware(APP, rules=source, tier=tier)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(middleware), base_url="http://test"
    ) as client:
        assert (await client.get("/")).headers["X-RateLimit-Limit"] == "1"


async def test_tiers_by_look_up() -> None:
    async def plan(scope: Any) -> str:
        await asyncio.sleep(0)
        return "pro" if scope["path"] == "/pro" else "free"

    middleware = RateLimitMiddleware(APP, limits={"free": "2/minute", "pro": "5/minute"}, tier=plan)
    transport = httpx.ASGITransport(middleware)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/pro")).headers["X-RateLimit-Limit"] == "5"
        assert (await client.get("/")).headers["X-RateLimit-Limit"] == "2"


def test_bypass() -> None:
    client = Client(
        limits="1/minute",
        bypass=["header:X-Admin=s3cret", "ip:10.0.0.0/8", "jwt:role=admin"],
        jwt=HS,
    )
    assert client.statuses(3, X_Admin="s3cret") == [200] * 3
    assert client.statuses(3, Authorization=f"Bearer {token({'role': 'admin'})}") == [200] * 3
    assert client.statuses(2, X_Admin="guess") == [200, 429]
    client.peer = "10.1.2.3"
    response = client.ask()
    assert response.status_code == 200
    assert "X-RateLimit-Limit" not in response.headers


# --- Charging after the answer ---


def test_refund_by_status() -> None:
    client = Client(rules=RULES)
    assert [client.left("/login?status=200") for _ in range(5)] == [2] * 5  # came back each time
    assert client.statuses(4, "/login?status=401") == [401, 401, 401, 429]


@pytest.mark.parametrize("is_async", [False, True])
def test_cost_after(is_async: bool) -> None:
    seen: list[Finished] = []

    def cost(finished: Finished) -> float | None:
        seen.append(finished)
        return {500: 0, 200: 5, 404: None}[finished.status or 0]

    async def cost_later(finished: Finished) -> float | None:
        await asyncio.sleep(0)
        return cost(finished)

    client = Client(limits="20/minute", cost=2, cost_after=cost_later if is_async else cost)
    assert client.left() == 18
    assert client.left("/?status=500") == 13  # five were charged before
    assert client.left("/?status=404") == 13  # nothing was
    assert client.left("/?status=404") == 11
    assert seen[0].status == 200
    assert seen[0].body_bytes == len(b'{"path":"/"}')
    assert seen[0].key == "192.0.2.1"
    assert not seen[0].failed
    assert seen[1].failed
    assert (b"content-type", b"application/json") in seen[0].headers


def test_cost_after_runs_into_debt() -> None:
    client = Client(limits="10/minute", cost_after=lambda finished: 15)
    assert client.statuses(2) == [200, 429]
    assert client.ask().headers["Retry-After"] == "36"  # six tokens at one in 6 s


def test_cost_after_of_an_application_that_fails() -> None:
    seen: list[Finished] = []

    def cost(finished: Finished) -> float:
        seen.append(finished)
        return 0 if finished.failed else 1

    client = Client(limits="2/minute", cost_after=cost)
    assert client.statuses(4, "/broken") == [500] * 4
    assert all(isinstance(one.error, RuntimeError) for one in seen)


TWO_RULES = {
    "default": {"limits": "9/hour"},
    "login": {"path": "/login", "limits": "5/hour", "refund": "2xx"},
}


def left_of_two_rules(client: Client) -> dict[str, float]:
    """Return what is left after requests that both rules count, because of the last slash."""
    assert client.middleware.governor is not None
    limiters = client.middleware.governor.limiters()
    return {name: one.peek("192.0.2.1").remaining for name, one in limiters.items()}


def test_a_cost_that_raises_takes_nothing_of_another_rule() -> None:
    costs = iter([2, "much"])
    client = Client(rules=TWO_RULES, cost=lambda scope: next(costs))
    assert client.ask("/login/").status_code == 500
    assert left_of_two_rules(client) == {"default": 9, "login": 5}


def test_a_cost_after_that_fails_keeps_no_refund_back(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(rules=TWO_RULES, cost_after=lambda finished: 1 / 0)
    assert client.ask("/login/").status_code == 200
    assert left_of_two_rules(client) == {"default": 8, "login": 5}
    assert "could not be settled" in caplog.text


def test_a_cost_after_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(limits="2/minute", cost_after=lambda finished: 1 / 0)
    assert client.statuses(1) == [200]
    assert "the cost of a request could not be settled" in caplog.text


async def drip() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b"x" * 10
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["send fails", "cancelled", "disconnect message"])
async def test_a_client_that_leaves(how: str) -> None:
    """The bytes sent until then are charged once, although the task is cancelled."""
    charged = asyncio.Event()
    seen: list[Finished] = []

    async def cost(finished: Finished) -> float:
        await asyncio.sleep(0.01)
        seen.append(finished)
        charged.set()
        return finished.body_bytes / 10

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(drip())(scope, receive, send)

    limiter = RateLimiter("1000/hour", clock=ManualClock())
    middleware = RateLimitMiddleware(stream, limiter=limiter, cost_after=cost)
    sent = 0
    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        if message["type"] == "http.response.body":
            sent += 1
            if sent == 5 and how == "send fails":
                raise OSError("the client is gone")
            if sent == 5:
                gone.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "client": ("192.0.2.1", 1),
        "asgi": {"version": "3.0", "spec_version": "2.4" if how == "send fails" else "2.1"},
    }
    task = asyncio.ensure_future(middleware(scope, receive, send))
    if how == "cancelled":
        await gone.wait()
        task.cancel()
    with pytest.raises(BaseException) if how != "disconnect message" else _nothing():  # noqa: PT011
        await task
    await asyncio.wait_for(charged.wait(), 60)
    await asyncio.sleep(0.01)
    assert len(seen) == 1
    assert 40 <= seen[0].body_bytes < 1000
    assert seen[0].disconnected
    assert not seen[0].failed
    assert limiter.peek("192.0.2.1").remaining == 1000 - seen[0].body_bytes / 10


async def test_a_request_that_is_cancelled_is_not_given_back() -> None:
    began = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await asyncio.sleep(30)

    middleware = RateLimitMiddleware(slow, rules={"default": {"limits": "2/hour", "refund": "5xx"}})
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("1.2.3.4", 1)}
    task = asyncio.ensure_future(middleware(scope, None, None))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert middleware.governor is not None
    assert middleware.governor.limiters()["default"].peek("1.2.3.4").remaining == pytest.approx(
        1, abs=0.1
    )


async def test_a_websocket_that_the_application_closes_is_not_left_by_its_client() -> None:
    seen: list[Finished] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        await receive()

    middleware = RateLimitMiddleware(app, limits="9/hour", cost_after=lambda one: seen.append(one))

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None: ...

    await middleware(
        {"type": "websocket", "path": "/", "headers": [], "client": ("1.2.3.4", 1)}, receive, send
    )
    assert not seen[0].disconnected


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


async def test_cost_after_in_redis(server: RedisServer) -> None:
    middleware = RateLimitMiddleware(
        APP, limits="20/hour", store=server.url, cost_after=lambda finished: 6
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(middleware), base_url="http://test"
    ) as client:
        left = [(await client.get("/")).headers["X-RateLimit-Remaining"] for _ in range(3)]
    assert left == ["19", "13", "7"]


def test_run_now_refuses_to_wait() -> None:
    with pytest.raises(TypeError, match="an async function cannot be used here"):
        run_now(asyncio.sleep(0))


async def test_run_to_the_end_outlives_its_caller() -> None:
    ended = asyncio.Event()

    async def steps() -> None:
        await asyncio.sleep(0.05)
        ended.set()

    task = asyncio.ensure_future(run_to_the_end(steps()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 60)


# --- Headers ---


def test_ietf_headers() -> None:
    client = Client(limits="10/second; 100/minute; burst=50", headers="ietf")
    headers = client.ask().headers
    assert "X-RateLimit-Limit" not in headers
    assert sf(headers["RateLimit-Policy"]) == [
        ("default-1", {"q": 10, "w": 1}),
        ("default-2", {"q": 50, "w": 30}),
    ]
    assert sf(headers["RateLimit"]) == [
        ("default-1", {"r": 9, "t": 1}),
        ("default-2", {"r": 49, "t": 1}),
    ]


def test_both_headers_of_a_denied_request() -> None:
    client = Client(limits="2/minute; 100/hour; window=fixed", headers="both")
    client.statuses(2)
    headers = client.ask().headers
    assert headers["X-RateLimit-Limit"] == "2"
    assert headers["Retry-After"] == "30"
    assert sf(headers["RateLimit"]) == [
        ("default-1", {"r": 0, "t": 30}),
        ("default-2", {"r": 98, "t": 3599}),
    ]


def test_no_headers() -> None:
    client = Client(rules=RULES, headers="off")
    assert not any("ratelimit" in name.lower() for name in client.ask().headers)


def test_names_of_rules_become_strings() -> None:
    client = Client(rules={'/a"b\\cé/**': {"limits": "1/minute"}}, headers="ietf")
    (item,) = sf(client.ask("/a%22b%5Cc%C3%A9/x").headers["RateLimit"])
    assert item == ('/a"b\\c_/**', {"r": 0, "t": 60})


def test_reset_as_epoch() -> None:
    import time

    limiter = RateLimiter(Limit.fixed_window(20, 3600))
    client = Client(limiter=limiter, reset="epoch")
    assert int(client.ask().headers["X-RateLimit-Reset"]) % 3600 == 0
    bucket = Client(limits="60/minute", reset="epoch", clock="monotonic")
    reset = int(bucket.ask().headers["X-RateLimit-Reset"])
    assert reset == pytest.approx(time.time() + 1, abs=2)


def test_jitter() -> None:
    client = Client(limits="1/minute", retry_jitter_s=30)
    client.ask()
    waits = {int(client.ask().headers["Retry-After"]) for _ in range(50)}
    assert len(waits) > 5
    assert min(waits) >= 60
    assert max(waits) <= 90


def test_jitter_is_the_same_in_header_and_body() -> None:
    client = Client(limits="1/hour", retry_jitter_s=1000, denied={"wait": "{retry_after}"})
    client.ask()
    for _ in range(5):
        denied = client.ask()
        assert int(denied.headers["Retry-After"]) == denied.json()["wait"]


def test_cors() -> None:
    client = Client(limits="1/minute", cors=True)
    exposed = client.ask().headers["Access-Control-Expose-Headers"]
    assert exposed == "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
    assert "Retry-After" in client.ask().headers["Access-Control-Expose-Headers"]
    preflight = {"Origin": "https://a.b", "Access_Control_Request_Method": "GET"}
    assert client.statuses(3, "/", "OPTIONS", **preflight) == [200] * 3
    assert client.statuses(1, "/", "OPTIONS", Origin="https://a.b") == [429]


decisions = st.builds(
    Decision,
    st.booleans(),
    st.floats(0, 1e15),
    limit=st.floats(1, 4e15),
    retry_after=st.floats(0, 1e9) | st.just(math.inf),
    reset_after=st.floats(0, 1e9) | st.just(math.inf),
)
limits = st.builds(Limit, st.floats(1, 4e15), st.floats(0, 1e9)) | st.builds(
    Limit.sliding_window, st.integers(1, 10**9), st.integers(1, 10**9)
)


@given(
    each=st.lists(
        st.builds(LimitState, st.text(max_size=20), limits, decisions), min_size=1, max_size=4
    ),
    reset=st.sampled_from(["seconds", "epoch"]),
)
def test_any_headers_are_well_formed(each: list[LimitState], reset: str) -> None:
    values = HeaderStyle("both", reset, 5, cors=True).values(each[0].decision, each)
    for name in ("RateLimit-Policy", "RateLimit"):
        found = sf(values[name])
        assert len(found) == len(each)
        for _, parameters in found:
            assert all(isinstance(value, int) and value >= 0 for value in parameters.values())
    for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "Retry-After", "X-RateLimit-Reset"):
        assert values.get(name, "0").isdigit()
    assert all(value.isascii() and value.isprintable() for value in values.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": "all"}, "headers must be one of 'x-ratelimit', 'ietf', 'both', 'off'"),
        ({"reset": "date"}, "reset must be 'seconds' or 'epoch', got 'date'"),
        ({"retry_jitter_s": -1}, "retry_jitter_s must be a number of seconds >= 0, got -1"),
        ({"retry_jitter_s": math.nan}, "retry_jitter_s"),
    ],
)
def test_bad_styles(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeaderStyle(**arguments)


# --- Answers ---


def test_problem() -> None:
    client = Client(limits="1/minute; 5/hour", denied="problem")
    client.ask()
    answer = client.ask()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": "Rate limit exceeded. Please try again later.",
        "violated-policies": ["default-1"],
        "retry_after": 60,
    }


def test_templates() -> None:
    template = {
        "error": "Rate limit exceeded",
        "limit": "{limit}",
        "text": "{rule}: wait {retry_after} s of {window}, {remaining} left",
        "more": ["{key}", 5, None],
    }
    client = Client(limits="2/minute", denied=template)
    client.statuses(2)
    answer = client.ask()
    assert answer.status_code == 429
    assert answer.json() == {
        "error": "Rate limit exceeded",
        "limit": 2,
        "text": "default: wait 30 s of 60, 0 left",
        "more": ["192.0.2.1", 5, None],
    }
    text = Client(limits="1/minute", denied="Slow down: {retry_after} s.")
    text.ask()
    answer = text.ask()
    assert (answer.text, answer.headers["Content-Type"]) == (
        "Slow down: 60 s.",
        "text/plain; charset=utf-8",
    )


def test_a_hostile_key_in_a_template_stays_text() -> None:
    client = Client(limits="1/minute", key="header:x", denied={"who": "{key}"})
    client.ask(x='{limit}"\\')
    assert client.ask(x='{limit}"\\').json() == {"who": 'header:x:{limit}"\\'}


def test_an_answer_of_ones_own() -> None:
    def denied(scope: Any, decision: Decision) -> Any:
        return PlainTextResponse(f"{scope['path']} {decision.retry_after:.0f}", 420)

    client = Client(limits="1/minute", denied=denied, headers="both")
    client.ask("/x")
    answer = client.ask("/x")
    assert (answer.status_code, answer.text) == (420, "/x 60")
    assert "RateLimit" in answer.headers


@pytest.mark.parametrize(
    ("denied", "error", "message"),
    [
        ({"a": "{colour}"}, ValueError, r"denied: there is no field \{colour\}; known are detail"),
        ("{nothing}", ValueError, "no field"),
        ({"a": object()}, TypeError, "a template is made of texts"),
        (5, TypeError, "denied must be 'json', 'problem', a template"),
    ],
)
def test_bad_templates(denied: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Client(limits="1/minute", denied=denied)


# --- Status ---


def test_status() -> None:
    client = Client(rules=RULES, status_path="/rate-limit/status")
    client.statuses(3)
    client.ask("/files/1", "POST")
    for _ in range(3):  # takes nothing
        answer = client.ask("/rate-limit/status")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json() == {
            "limited": True,
            "rule": "default",
            "key": "192.0.2.1",
            "allowed": True,
            "limits": [
                {
                    "name": "default",
                    "limit": "100/minute",
                    "algorithm": "token_bucket",
                    "capacity": 100,
                    "remaining": 97,
                    "reset_after": 1.8,
                }
            ],
        }
    decision = client.ask("/rate-limit/status?path=/files/9&method=post").json()
    assert (decision["rule"], decision["limits"][0]["remaining"]) == ("upload", 7)
    assert client.ask("/rate-limit/status?path=/health").json() == {
        "limited": False,
        "rule": None,
        "limits": [],
    }
    assert client.ask("/rate-limit/status", "POST").status_code == 405
    off = Client(rules=RULES)
    assert off.ask("/rate-limit/status").json() == {"path": "/rate-limit/status"}


def test_status_shows_whether_the_next_request_passes() -> None:
    rules = {
        "default": {"limits": "3/minute"},
        "free": {"path": "/free", "limits": "1/minute", "cost": 0},
        "new": {"path": "/new", "limits": "1/minute", "shadow": True},
    }
    client = Client(rules={**rules, "new": {**rules["new"], "cost": 1}}, cost=2, status_path="/me")
    assert client.ask("/me").json()["allowed"]
    client.ask("/")
    assert not client.ask("/me").json()["allowed"]
    client.ask("/new")
    assert client.ask("/me?path=/new").json()["allowed"]
    assert client.ask("/me?path=/free").json()["allowed"]


async def test_status_is_nothing_for_a_websocket() -> None:
    middleware = RateLimitMiddleware(APP, rules=RULES, status_path="/me")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await middleware(
        {"type": "websocket", "path": "/me", "headers": [], "client": None}, receive, send
    )
    assert sent == ["websocket.close"]


def test_status_of_what_is_never_full() -> None:
    client = Client(limits=Limit(5, 0), status_path="/status")
    client.ask()
    assert client.ask("/status").json()["limits"][0]["reset_after"] is None


# --- Websockets ---


async def test_websockets_fall_under_rules() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    middleware = RateLimitMiddleware(
        app, rules={"ws": {"path": "/ws", "methods": ["WEBSOCKET"], "limits": "1/minute"}}
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    for _ in range(2):
        scope = {"type": "websocket", "path": "/ws", "headers": [], "client": ("192.0.2.1", 1)}
        await middleware(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert (b"x-ratelimit-remaining", b"0") in sent[0]["headers"]


# --- Plain limits stay in C ---


def test_what_is_plain_is_not_governed() -> None:
    plain = [
        {"limits": "1/s"},
        {"limits": "1/s", "key": ["header:x", "ip"], "trusted_proxies": ["10.0.0.0/8"]},
        {"limits": "1/s", "headers": "off", "denied": lambda scope, decision: None},
    ]
    for arguments in plain:
        assert RateLimitMiddleware(APP, **arguments).governor is None  # type: ignore[arg-type]
    for more in ({"headers": "ietf"}, {"denied": "problem"}, {"status_path": "/s"}, {"cors": True}):
        assert RateLimitMiddleware(APP, limits="1/s", **more).governor is not None  # type: ignore[arg-type]


def test_logging_of_new_rules(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from rate_limiter.policy.rule_sources import FileRules

    path = tmp_path / "r.json"
    path.write_text(json.dumps(RULES))
    source = FileRules(path)
    path.write_text(json.dumps({"default": {"limits": "1/s"}}))
    with caplog.at_level(logging.INFO, "rate_limiter"):
        source.reload()
    assert f"loaded new rules from {path}: default" in caplog.text
