"""Limits that a function returns for each request, on every front."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rate_limiter import Limit, ManualClock, RateLimiter
from rate_limiter.asgi import DynamicLimits, RateLimitMiddleware
from rate_limiter.fastapi import RateLimit, RateLimits
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.observe import live
from rate_limiter.observe.dashboard import dashboard
from rate_limiter.observe.registry import followed
from rate_limiter.policy import dynamic_limits
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.redis_servers import RedisServer

fastapi = pytest.importorskip("fastapi")
flask = pytest.importorskip("flask")
testclient = pytest.importorskip("fastapi.testclient")

Get = Callable[..., tuple[int, dict[str, str]]]
PLANS: dict[str, Any] = {"free": "2/day", "pro": ["4/day", Limit.parse("3/hour")]}
OPTIONS: dict[str, Any] = {"key": "header:x-user"}


def plan_of(plan: str | None) -> Any:
    if plan == "broken":
        raise RuntimeError("no database")
    return PLANS.get(plan or "free")


def view() -> None:
    """Do nothing."""


def _of_asgi(answer: Any) -> Get:
    client = testclient.TestClient(answer)

    def get(path: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
        response = client.get(path, headers=headers)
        return response.status_code, {**response.headers, "body": response.text}

    return get


def asgi_front(limits: Any, **options: Any) -> Get:
    def asked(scope: Any) -> Any:
        return limits(dict(scope["headers"]).get(b"plan", b"").decode() or None)

    app = fastapi.FastAPI()
    app.get("/")(view)
    app.add_middleware(RateLimitMiddleware, limits=asked_with(limits, asked), **OPTIONS, **options)
    return _of_asgi(app)


def dependency_front(limits: Any, **options: Any) -> Get:
    def asked(connection: Any) -> Any:
        return limits(connection.headers.get("plan"))

    app = fastapi.FastAPI()
    limit = RateLimit(asked_with(limits, asked), **OPTIONS, **options)
    app.get("/", dependencies=[fastapi.Depends(limit)])(view)
    return _of_asgi(app)


def routes_front(limits: Any, **options: Any) -> Get:
    def asked(connection: Any) -> Any:
        return limits(connection.headers.get("plan"))

    app = fastapi.FastAPI()
    RateLimits(app, default=asked_with(limits, asked), **OPTIONS, **options)
    app.get("/")(view)
    return _of_asgi(app)


def wsgi_front(limits: Any, **options: Any) -> Get:
    def asked(environ: Any) -> Any:
        return limits(environ.get("HTTP_PLAN"))

    app = flask.Flask("wsgi")
    app.get("/")(lambda: "")
    app.wsgi_app = WsgiMiddleware(
        app.wsgi_app, limits=asked_with(limits, asked), **OPTIONS, **options
    )
    return _of_flask(app)


def flask_front(limits: Any, **options: Any) -> Get:
    app = flask.Flask("defaults")
    asked = asked_with(limits, lambda: limits(flask.request.headers.get("plan")))
    FlaskRateLimiter(app, default_limits=asked, **OPTIONS, **options)
    app.get("/")(lambda: "")
    return _of_flask(app)


def decorator_front(limits: Any, **options: Any) -> Get:
    app = flask.Flask("decorator")
    asked = asked_with(limits, lambda: limits(flask.request.headers.get("plan")))
    limiter = FlaskRateLimiter(app, **OPTIONS, **options)
    app.get("/")(limiter.limit(asked)(lambda: ""))
    return _of_flask(app)


def _of_flask(app: Any) -> Get:
    client = app.test_client()

    def get(path: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
        response = client.get(path, headers=headers)
        found = {name.lower(): one for name, one in response.headers.items()}
        return response.status_code, {**found, "body": response.text}

    return get


def asked_with(limits: Any, function: Any) -> Any:
    """Return a front's function, with the options of the given one."""
    options = getattr(limits, "options", None)
    return function if options is None else DynamicLimits(function, **options)


class With:
    """A function with options of DynamicLimits."""

    def __init__(self, function: Any = plan_of, **options: Any) -> None:
        self.function = function
        self.options = options

    def __call__(self, plan: str | None) -> Any:
        return self.function(plan)


AWAITING = [asgi_front, dependency_front, routes_front]
BLOCKING = [wsgi_front, flask_front, decorator_front]
FRONTS = [*AWAITING, *BLOCKING]
FLASK = [flask_front, decorator_front]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that returns the texts about limits."""
    monkeypatch.setattr(dynamic_limits, "LOG_EVERY_S", 0.0)
    caplog.set_level(logging.ERROR, "rate_limiter")
    return lambda: [one.getMessage() for one in caplog.records if one.name == "rate_limiter"]


@pytest.mark.parametrize("front", FRONTS)
def test_each_request_has_the_limits_of_its_plan(front: Callable[..., Get]) -> None:
    get = front(plan_of, clock=ManualClock())
    for remaining in (1, 0):
        status, headers = get(**{"x-user": "a"})
        assert (status, headers["x-ratelimit-limit"]) == (200, "2")
        assert headers["x-ratelimit-remaining"] == str(remaining)
    status, headers = get(**{"x-user": "a"})
    assert (status, headers["retry-after"]) == (429, "43200")
    for _ in range(3):
        status, headers = get(**{"x-user": "b", "plan": "pro"})
        assert (status, headers["x-ratelimit-limit"]) == (200, "3")
    assert get(**{"x-user": "b", "plan": "pro"})[0] == 429


@pytest.mark.parametrize("front", FRONTS)
def test_a_client_keeps_the_share_it_has_used(front: Callable[..., Get]) -> None:
    get = front(lambda plan: f"{plan or 4}/day", clock=ManualClock())
    assert get()[0] == get()[0] == 200
    assert get(plan="40")[1]["x-ratelimit-remaining"] == "19"
    assert get(plan="2")[0] == 429


@pytest.mark.parametrize("front", FRONTS)
def test_the_fields_of_the_draft(front: Callable[..., Get]) -> None:
    get = front(plan_of, headers="both", clock=ManualClock())
    policies = get(plan="pro")[1]["ratelimit-policy"]
    assert [one.partition(";")[2] for one in policies.split(", ")] == ["q=3;w=3600", "q=4;w=86400"]
    names = [one.partition(";")[0].strip('"') for one in policies.split(", ")]
    assert [name[-2:] for name in names] == ["-2", "-1"]
    assert len(get(plan="free")[1]["ratelimit-policy"].split(", ")) == 1


BAD: list[Any] = [None, 5, b"5/s", "soon", "1/year; burst=99", ["1/s"] * 9, {}, object()]


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_no_limit_is_logged_and_the_default_counts(
    front: Callable[..., Get], log: Callable[[], list[str]]
) -> None:
    answers = iter([*BAD, RuntimeError("no database")])

    def bad(plan: str | None) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    get = front(With(bad, default="8/day"), clock=ManualClock())
    for i, _ in enumerate(BAD):
        status, headers = get()
        assert (status, headers["x-ratelimit-limit"]) == (200, "8")
        assert headers["x-ratelimit-remaining"] == str(7 - i)
    assert get()[0] == 429
    texts = log()
    assert len(texts) == len(BAD) + 1
    assert all("the limits of the rule '" in text for text in texts)
    assert all("so its default counts" in text for text in texts)
    assert "got None" in texts[0]
    assert "no database" in texts[-1]


@pytest.mark.parametrize("front", FRONTS)
def test_without_a_default_the_request_is_denied(
    front: Callable[..., Get], log: Callable[[], list[str]]
) -> None:
    get = front(plan_of, clock=ManualClock(), headers="both")
    status, headers = get(plan="broken")
    assert (status, headers["retry-after"]) == (503, "1")
    assert get(plan="unknown")[0] == 503
    assert ["the request is denied" in text for text in log()] == [True, True]
    assert get()[1]["x-ratelimit-remaining"] == "1"  # nothing was taken


@pytest.mark.parametrize("front", AWAITING)
def test_async_functions(front: Callable[..., Get], log: Callable[[], list[str]]) -> None:
    async def later(plan: str | None) -> Any:
        await asyncio.sleep(0)
        return plan_of(plan)

    get = front(With(later, default="9/day"), clock=ManualClock())
    assert get()[1]["x-ratelimit-limit"] == "2"
    assert get(**{"x-user": "b", "plan": "pro"})[1]["x-ratelimit-limit"] == "3"
    assert get(plan="broken")[1]["x-ratelimit-limit"] == "9"
    assert get(plan="unknown")[1]["x-ratelimit-limit"] == "9"
    assert len(log()) == 2


@pytest.mark.parametrize("front", BLOCKING)
def test_what_nobody_awaits(front: Callable[..., Get], log: Callable[[], list[str]]) -> None:
    async def later(plan: str | None) -> Any: ...

    get = front(With(later, default="9/day"), clock=ManualClock())  # a plain function returns it
    assert get()[1]["x-ratelimit-limit"] == "9"
    gc.collect()  # the coroutine is closed, so nothing warns of it
    assert "there is no event loop to await it" in log()[0]


async def _async_limits(*args: Any) -> str:
    return "1/day"


@pytest.mark.parametrize(
    "make",
    [
        lambda: WsgiMiddleware(lambda environ, start: (), limits=_async_limits),
        lambda: WsgiMiddleware(lambda environ, start: (), limits=DynamicLimits(_async_limits)),
        lambda: FlaskRateLimiter(default_limits=_async_limits),
        lambda: FlaskRateLimiter().limit(_async_limits),
    ],
)
def test_async_functions_are_refused_without_a_loop(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="limits must be a plain function, not an async one"):
        make()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"function": "5/s"}, "function must be a function, got '5/s'"),
        ({"default": "soon"}, "invalid limit 'soon'"),
        ({"default": Limit(5, 0)}, "must refill within 8 years"),
        ({"ttl_s": 0}, "ttl_s must be a number of seconds > 0, got 0"),
        ({"ttl_s": float("inf")}, "ttl_s must be a number of seconds > 0, got inf"),
        ({"max_clients": 0, "ttl_s": 1}, "max_clients must be 1 or more, got 0"),
        ({"max_clients": 5}, "max_clients has no effect without ttl_s"),
    ],
)
def test_options_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        DynamicLimits(**{"function": plan_of, **options})


def test_errors_that_fastapi_answers_are_raised() -> None:
    def unknown(connection: Any) -> Any:
        raise fastapi.HTTPException(401)

    app = fastapi.FastAPI()
    app.get("/", dependencies=[fastapi.Depends(RateLimit(unknown))])(view)
    assert _of_asgi(app)()[0] == 401


# --- Kept for a while ---


class Slow:
    """Count the calls of a look-up; time passes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.now_s = 1000.0
        self.fails = False
        monkeypatch.setattr(dynamic_limits, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def __call__(self, plan: str | None) -> Any:
        self.calls += 1
        if self.fails:
            raise RuntimeError("no database")
        return plan_of(plan)


@pytest.mark.parametrize("front", FRONTS)
def test_limits_are_kept_for_each_client(
    front: Callable[..., Get], monkeypatch: pytest.MonkeyPatch, log: Callable[[], list[str]]
) -> None:
    slow = Slow(monkeypatch)
    get = front(With(slow, ttl_s=60, max_clients=2), clock=ManualClock())
    for _ in range(2):
        assert get(**{"x-user": "a"})[0] == 200
        assert get(**{"x-user": "b", "plan": "pro"})[1]["x-ratelimit-limit"] == "3"
    assert slow.calls == 2
    slow.now_s += 60
    slow.fails = True
    for _ in range(3):
        assert get(**{"x-user": "a"})[0] == 429  # while it fails, what is known stays
    assert slow.calls == 3
    slow.now_s += 1
    assert get(**{"x-user": "a"})[0] == 429
    assert slow.calls == 4  # it is tried again after a second
    assert "so those known before count" in log()[0]
    assert get(**{"x-user": "new"})[0] == 503
    slow.fails = False
    for user in ("b", "c", "d"):
        assert get(**{"x-user": user})[0] == 200
    calls = slow.calls
    assert get(**{"x-user": "b"})[0] in (200, 429)
    assert slow.calls == calls + 1  # only two clients are kept


def test_tasks_share_a_call() -> None:
    calls = 0
    gate = asyncio.Event()

    async def slow(scope: Any) -> str:
        nonlocal calls
        calls += 1
        await gate.wait()
        return "5/day"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def main() -> None:
        limited = RateLimitMiddleware(app, limits=DynamicLimits(slow, ttl_s=60), key="all")
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(dict(message["headers"])[b"x-ratelimit-remaining"])

        async def request() -> None:
            await limited({"type": "http", "path": "/", "headers": []}, None, send)  # type: ignore[arg-type]

        tasks = [asyncio.ensure_future(request()) for _ in range(4)]
        await asyncio.sleep(0)
        assert calls == 1
        tasks[0].cancel()  # the others ask again
        tasks[1].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert calls == 2
        gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [
            True,
            True,
            False,
            False,
        ]
        assert sorted(sent) == [b"3", b"4"]
        assert not limited.limiter.stats()["denied"]

    asyncio.run(main())
    assert calls == 2


def test_threads_that_change_what_is_known() -> None:
    known = dynamic_limits._Known(60, 3)
    given = dynamic_limits.given_limits("1/day")

    def put() -> None:
        for i in range(5000):
            known.put(i % 50, given)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known.put("last", given)
    assert len(known._entries) <= 3
    assert known.get("last") is given


def test_a_failing_function_is_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(monkeypatch)
    slow.fails = True
    get = wsgi_front(slow, clock=ManualClock())
    for _ in range(5):
        assert get()[0] == 503
    slow.now_s += 1
    assert get()[0] == 503
    texts = [one.getMessage() for one in caplog.records if one.name == "rate_limiter"]
    assert len(texts) == 2
    assert texts[1].endswith("(4 more before it)")


# --- What else looks at limits ---


@pytest.mark.parametrize("front", [asgi_front, wsgi_front, flask_front])
def test_the_status_page_shows_them(front: Callable[..., Get]) -> None:
    get = front(lambda plan: "7/day; 5/hour", status_path="/status", clock=ManualClock())
    assert get()[0] == 200
    status, found = get("/status")
    limits = json.loads(found["body"])["limits"]
    assert status == 200
    assert [one["limit"] for one in limits] == ["7/day", "5/hour"]
    assert [one["remaining"] for one in limits] == [6, 4]
    assert [one["name"] for one in limits] == ["default-1", "default-2"]
    get = front(lambda plan: None, status_path="/status")
    assert json.loads(get("/status")[1]["body"])["allowed"] is False


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("default", [None, "9/day"])
@pytest.mark.parametrize("ttl_s", [None, 60])
def test_the_live_page_shows_them(
    front: Callable[..., Get], default: str | None, ttl_s: float | None
) -> None:
    name = f"live-{front.__name__}-{default}-{ttl_s}"
    get = front(With(default=default, ttl_s=ttl_s), metrics=name)
    get("/", **{"x-user": "a"})
    [dimension] = {one for _, one in followed() if one.startswith(name)}
    rule = next(one for one in live.snapshot()["rules"] if one["rule"] == dimension)
    shown = f"those of {'asked' if front not in FLASK else 'limits'}()"
    shown += f", default {default}" if default else ""
    assert [one["limits"] for one in rule["limits"]] == [shown]
    client = testclient.TestClient(dashboard("correct-horse-battery"))
    client.headers["Authorization"] = "Bearer correct-horse-battery"
    body = {"rule": dimension, "key": "header:x-user:a"}
    answer = client.post("/client", json=body).json()
    found = [(one["limit"], int(one["remaining"])) for one in answer["limits"]]
    assert (found, answer["unknown"]) == (([("2/day", 1)], 0) if ttl_s else ([], 1))


def test_the_record_and_templates_show_them() -> None:
    records: list[Any] = []
    app = fastapi.FastAPI()

    @app.get("/")
    def show(request: fastapi.Request) -> None:
        records.append(request.state.rate_limit)

    app.add_middleware(
        RateLimitMiddleware,
        limits=lambda scope: "1/day",
        denied={"of": "{limit}", "rule": "{rule}"},
    )
    client = testclient.TestClient(app)
    assert client.get("/").status_code == 200
    assert (records[0].limit, records[0].rule) == (1, "default")
    assert str(records[0].verdicts[0].given.limits[0]) == "1/day"
    assert client.get("/").json() == {"of": 1, "rule": "default"}


def test_a_later_denial_gives_back_what_was_taken() -> None:
    outer = RateLimiter("1/day")
    app = fastapi.FastAPI()
    inner = RateLimit("0/day")
    app.get("/", dependencies=[fastapi.Depends(inner)])(view)
    app.add_middleware(RateLimitMiddleware, limits=lambda scope: "2/day", key="all")
    client = testclient.TestClient(app)
    assert client.get("/").status_code == 429
    limiter = RateLimitMiddleware.of(app).limiter
    assert limiter.peek("all", limits="2/day").remaining == 2
    assert outer.peek("all").remaining == 1


@pytest.mark.parametrize("front", FRONTS)
def test_costs_after_the_response(front: Callable[..., Get]) -> None:
    if front is decorator_front:
        pytest.skip("a decorator has its own cost_after")
    get = front(lambda plan: "10/day", cost=3, cost_after=lambda finished: 1, clock=ManualClock())
    assert get()[1]["x-ratelimit-remaining"] == "7"
    assert get()[1]["x-ratelimit-remaining"] == "6"


def test_tiers_may_have_functions() -> None:
    limits: Any = {"free": "1/day", "pro": lambda scope: "5/day"}
    app = fastapi.FastAPI()
    app.get("/")(view)
    app.add_middleware(RateLimitMiddleware, limits=limits, tier="header:x-tier")
    client = testclient.TestClient(app)
    assert client.get("/", headers={"x-tier": "pro"}).headers["x-ratelimit-limit"] == "5"
    assert client.get("/").headers["x-ratelimit-limit"] == "1"


# --- Redis ---


@pytest.fixture
def redis_options(server: RedisServer) -> Iterator[dict[str, Any]]:
    with contextlib.nullcontext():
        yield {"store": server.url, "on_store_error": "raise"}


@pytest.mark.parametrize("front", FRONTS)
def test_on_redis(front: Callable[..., Get], redis_options: dict[str, Any]) -> None:
    if front is dependency_front:
        redis_options["name"] = "route"
    get = front(plan_of, **redis_options)
    assert [get(**{"x-user": "a"})[0] for _ in range(3)] == [200, 200, 429]
    assert get(**{"x-user": "a", "plan": "pro"})[0] == 429  # 4/day, all used
    assert get(**{"x-user": "b", "plan": "pro"})[1]["x-ratelimit-remaining"] == "2"
