"""FlaskRateLimiter: several limiters of one application, and cost_after of decorators."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from rate_limiter import RateLimitExceeded
from rate_limiter.asgi import Store
from rate_limiter.flask import FlaskRateLimiter
from support.flask_app import app_of, get, limiter_of, statuses
from support.redis_servers import RedisServer

# --- several limiters of one application -----------------------------------------------------


@pytest.fixture(params=["redis", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a store that several applications can share."""
    if request.param == "shared":
        return f"shared://{tmp_path}/buckets"
    server: RedisServer = request.getfixturevalue("server")
    return server.url


def two_limiters(**config: Any) -> tuple[Flask, FlaskRateLimiter, FlaskRateLimiter]:
    """Return an application that limits each user and each address."""
    by_user = limiter_of(default_limits="2/minute", key="header:X-User")
    by_address = limiter_of(default_limits="3/hour", denied={"address": "{key}"})
    app = app_of(by_user, **config)
    by_address.init_app(app)
    app.get("/")(lambda: "ok")
    return app, by_user, by_address


def test_all_limiters_of_an_application_count() -> None:
    app, _, _ = two_limiters()
    passed = [get(app, headers={"X-User": name}) for name in "aab"]
    assert [one.status_code for one in passed] == [200, 200, 200]
    limits = [
        (one.headers["X-RateLimit-Limit"], one.headers["X-RateLimit-Remaining"]) for one in passed
    ]
    assert limits == [("2", "1"), ("2", "0"), ("3", "0")]  # the tightest one
    denied = get(app, headers={"X-User": "b"})
    assert (denied.status_code, denied.json) == (429, {"address": "127.0.0.1"})
    assert denied.headers.getlist("X-RateLimit-Limit") == ["3"]
    other = {"REMOTE_ADDR": "192.0.2.7"}
    assert statuses(app, "/", 2, headers={"X-User": "b"}, environ_base=other) == [200, 429]


@pytest.mark.parametrize("is_first", [True, False])
def test_what_one_limiter_denies_takes_nothing_from_another(is_first: bool) -> None:
    narrow = limiter_of(default_limits="1/hour", key="header:X-User")
    wide = limiter_of(default_limits="9/hour")
    app = app_of(narrow if is_first else wide)
    (wide if is_first else narrow).init_app(app)
    app.get("/")(lambda: "ok")
    assert statuses(app, "/", 5, headers={"X-User": "a"}) == [200, 429, 429, 429, 429]
    codes = [get(app, headers={"X-User": str(n)}).status_code for n in range(9)]
    assert codes == [200] * 8 + [429]


def test_the_name_of_a_store_separates_its_limits(store: str) -> None:
    def app_named(name: str) -> Flask:
        limiter = FlaskRateLimiter(default_limits="1/hour", store=Store(store, name=name))
        app = app_of(limiter)
        app.get("/default")(lambda: "ok")
        app.add_url_rule("/decorated", view_func=limiter.limit("1/hour")(decorated))
        return app

    def decorated() -> str:
        return "ok"

    shop, blog, again = app_named("shop"), app_named("blog"), app_named("shop")
    for path in ("/default", "/decorated"):
        assert [get(app, path).status_code for app in (shop, blog, again)] == [200, 200, 429]


def test_a_request_that_counts_several_times_keeps_what_ran() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    item = limiter.limit("3/hour")(lambda: "done")

    def done() -> str:
        try:
            return str(item())
        except RateLimitExceeded:
            return "denied"

    app.get("/")(lambda: [done() for _ in range(8)])
    assert get(app, "/").json == ["done"] * 3 + ["denied"] * 5


def test_decorators_replace_only_the_default_limits_of_their_limiter() -> None:
    app, by_user, by_address = two_limiters()
    app.get("/own", endpoint="own")(by_user.limit("5/minute")(lambda: "own"))
    app.get("/free", endpoint="free")(by_address.exempt(lambda: "free"))
    stray = limiter_of().limit("1/minute")  # of a limiter that has no init_app here
    app.get("/stray", endpoint="stray")(stray(lambda: "stray"))
    assert statuses(app, "/own", 4) == [200, 200, 200, 429]
    assert get(app, "/own").headers["X-RateLimit-Limit"] == "3"
    headers = {"X-User": "a"}
    assert statuses(app, "/free", 3, headers=headers) == [200, 200, 429]
    other = {"REMOTE_ADDR": "192.0.2.7"}
    assert statuses(app, "/stray", 2, environ_base=other) == [200, 429]


def test_a_limiter_without_headers_is_not_described_by_another() -> None:
    app = app_of(limiter_of(default_limits="9/minute"))
    limiter_of(default_limits="2/minute", headers="off").init_app(app)
    app.get("/")(lambda: "ok")
    assert get(app).headers["X-RateLimit-Limit"] == "9"


def test_a_limiter_that_is_turned_off_beside_another() -> None:
    app = app_of(limiter_of(default_limits="2/minute"))
    limiter_of(default_limits="1/minute", enabled=False).init_app(app)
    app.get("/")(lambda: "ok")
    assert statuses(app, "/", 3) == [200, 200, 429]


def test_limiters_of_an_application_have_separate_buckets_in_redis(
    server: RedisServer,
) -> None:
    arguments = {"default_limits": "9/hour", "store": server.url, "on_store_error": "raise"}
    app = Flask("shop")
    for _ in range(2):
        FlaskRateLimiter(app, **arguments)
    app.get("/")(lambda: "ok")
    assert get(app).headers["X-RateLimit-Remaining"] == "8"


def test_a_key_that_raises_takes_nothing() -> None:
    limiter = limiter_of()
    app = app_of(limiter)

    @app.get("/")
    @limiter.limit("2/minute")
    @limiter.limit("9/minute", key=lambda: request.headers["X-User"])
    def view() -> str:
        return "ok"

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert statuses(app, "/", 4) == [500] * 4
    assert statuses(app, "/", 3, headers={"X-User": "a"}) == [200, 200, 429]


# --- cost_after of decorators ----------------------------------------------------------------


def test_cost_after_of_a_decorator() -> None:
    limiter = limiter_of(default_limits="9/minute", cost_after=lambda finished: 1 / 0)
    app = app_of(limiter)
    seen: list[Any] = []

    def cost(finished: Any) -> float:
        seen.append(finished)
        return 0 if finished.failed else finished.body_bytes

    @app.get("/<int:status>")
    @limiter.limit("20/minute", cost=2, cost_after=cost, key=lambda: "me")
    @limiter.limit("99/hour")
    def view(status: int) -> tuple[str, int]:
        return "12345", status

    remaining = [get(app, f"/{n}").headers["X-RateLimit-Remaining"] for n in (200, 404, 200, 200)]
    assert remaining == ["18", "13", "13", "8"]
    assert [(one.status, one.cost, one.key, one.body_bytes) for one in seen[:2]] == [
        (200, 2, "me", 5),
        (404, 2, "me", 5),
    ]


def test_a_cost_after_that_raises_does_not_touch_the_response_or_other_limits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = limiter_of()
    app = app_of(limiter)

    @app.get("/")
    @limiter.limit("9/minute", cost_after=lambda finished: 1 / 0)
    @limiter.limit("6/minute", cost_after=lambda finished: asyncio.sleep(0))
    @limiter.limit("8/minute", cost_after=lambda finished: "much")  # type: ignore[arg-type,return-value]
    @limiter.limit("7/minute", cost_after=lambda finished: 0)
    def view() -> str:
        return "ok"

    for _ in range(3):
        with app.test_client().get("/") as answer:
            assert (answer.status_code, answer.text) == (200, "ok")
    messages = [record.message for record in caplog.records if record.name == "rate_limiter"]
    assert messages == ["the cost of a request could not be settled"] * 9
    limiters = [
        limiter
        for limit in view._rate_limiter_limits  # type: ignore[attr-defined]
        for policy in limit.policies()
        for limiter in policy.limiters().values()
    ]
    assert [one.peek("127.0.0.1").remaining for one in limiters] == [6, 3, 5, 7]


def test_a_decorator_that_counts_twice_for_a_request_settles_each_once() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    shared = limiter.limit("20/minute", cost_after=lambda finished: 0 if finished.failed else None)
    helper = shared(lambda: "ok")

    @app.get("/<int:status>")
    @shared
    def view(status: int) -> tuple[str, int]:
        return helper(), status

    for status in (200, 200, 404, 404):
        get(app, f"/{status}")
    (limited,) = (
        limiter
        for limit in view._rate_limiter_limits  # type: ignore[attr-defined]
        for policy in limit.policies()
        for limiter in policy.limiters().values()
    )
    assert limited.peek("127.0.0.1").remaining == 16


def test_an_async_cost_after_is_refused() -> None:
    async def cost(finished: Any) -> float:
        return 1

    expected = "cost_after must be a plain function, not an async one"
    with pytest.raises(TypeError, match=expected):
        limiter_of(default_limits="1/s", cost_after=cost)
    with pytest.raises(TypeError, match=expected):
        limiter_of().limit("1/s", cost_after=cost)


def test_a_limiter_keeps_no_application() -> None:
    """A limiter of a module outlives the applications that a factory makes for each test."""
    limiter = FlaskRateLimiter(default_limits="5/minute")

    def made() -> weakref.ref[Flask]:
        app = Flask(__name__)
        limiter.init_app(app)
        app.add_url_rule("/", view_func=limiter.limit("1/minute")(lambda: "ok"))
        assert [app.test_client().get("/").status_code for _ in range(2)] == [200, 429]
        limiter.reset()
        assert app.test_client().get("/").status_code == 200
        return weakref.ref(app)

    apps = [made() for _ in range(3)]
    gc.collect()
    assert [app() for app in apps] == [None] * 3
    assert len(limiter._states) == 0
