"""FlaskRateLimiter: default limits, decorators, blueprints, classes, configuration."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, g, request
from flask.views import MethodView
from rate_limiter import ManualClock, RateLimitExceeded
from rate_limiter.flask import FlaskRateLimitExceeded
from support.flask_app import app_of, get, limiter_of, statuses
from werkzeug.exceptions import TooManyRequests

# --- default limits --------------------------------------------------------------------------


def test_default_limits_count_for_every_view() -> None:
    app = app_of(limiter_of(default_limits="3/minute"))
    app.get("/a", endpoint="a")(lambda: "a")
    app.get("/b", endpoint="b")(lambda: "b")
    assert statuses(app, "/a", 2) + statuses(app, "/b", 2) == [200, 200, 200, 429]


def test_headers_and_body() -> None:
    app = app_of(limiter_of(default_limits="3/minute", cost=2))
    app.get("/")(lambda: "ok")
    passed, denied = get(app), get(app)
    assert passed.data == b"ok"
    assert {name: passed.headers.get(name) for name in ("X-RateLimit-Limit", "Retry-After")} == {
        "X-RateLimit-Limit": "3",
        "Retry-After": None,
    }
    assert passed.headers["X-RateLimit-Remaining"] == "1"
    assert passed.headers["X-RateLimit-Reset"] == "40"
    assert denied.status_code == 429
    assert denied.json == {"detail": "Rate limit exceeded. Please try again later."}
    assert denied.headers.getlist("Retry-After") == ["20"]
    assert denied.headers["X-RateLimit-Remaining"] == "1"
    assert denied.headers["Cache-Control"] == "no-store"


def test_without_defaults_only_decorated_views_are_limited() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    app.get("/free", endpoint="free")(lambda: "ok")
    app.get("/limited", endpoint="limited")(limiter.limit("1/minute")(lambda: "ok"))
    assert statuses(app, "/free", 3) == [200] * 3
    assert "X-RateLimit-Limit" not in get(app, "/free").headers
    assert statuses(app, "/limited", 2) == [200, 429]


def test_unknown_urls_and_static_files_are_not_limited(tmp_path: Any) -> None:
    (tmp_path / "file.txt").write_text("static")
    app = Flask(__name__, static_folder=str(tmp_path), static_url_path="/static")
    limiter_of(app=app, default_limits="1/minute")
    assert statuses(app, "/nowhere", 3) == [404] * 3
    assert statuses(app, "/static/file.txt", 3) == [200] * 3


def test_error_responses_carry_headers() -> None:
    app = app_of(limiter_of(default_limits="9/minute"))
    app.get("/abort", endpoint="abort")(lambda: abort(404))
    app.get("/raise", endpoint="raise")(lambda: 1 / 0)
    assert get(app, "/abort").headers["X-RateLimit-Remaining"] == "8"
    failed = get(app, "/raise")
    assert (failed.status_code, failed.headers["X-RateLimit-Remaining"]) == (500, "7")


# --- decorators ------------------------------------------------------------------------------


def test_decorator_replaces_the_defaults() -> None:
    limiter = limiter_of(default_limits="1/minute")
    app = app_of(limiter)

    @app.post("/api/upload")
    @limiter.limit("5/minute", cost=3)
    def upload() -> str:
        """Keep its own name and text."""
        return "stored"

    assert upload.__doc__ == "Keep its own name and text."
    assert upload() == "stored"  # and can be called outside of requests
    assert statuses(app, "/api/upload", 2, "POST") == [200, 429]


def test_stacked_decorators_take_all_or_nothing() -> None:
    limiter = limiter_of()
    app = app_of(limiter)

    @app.get("/")
    @limiter.limit("4/minute")
    @limiter.limit("3/hour", cost=2)
    def view() -> str:
        return "ok"

    assert get(app).headers["X-RateLimit-Limit"] == "3"
    assert statuses(app, "/", 5) == [429] * 5
    limiters = [
        limiter
        for limit in view._rate_limiter_limits  # type: ignore[attr-defined]
        for policy in limit.policies()
        for limiter in policy.limiters().values()
    ]
    assert [one.peek("127.0.0.1").remaining for one in limiters] == [3, 1]


def test_views_with_the_same_text_have_separate_buckets() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    for path in ("/a", "/b"):
        view = limiter.limit("1/minute")(lambda: "ok")
        app.add_url_rule(path, path, view)
    assert statuses(app, "/a", 2) == statuses(app, "/b", 2) == [200, 429]


def test_exempt() -> None:
    limiter = limiter_of(default_limits="1/minute")
    app = app_of(limiter)
    app.get("/")(limiter.exempt(lambda: "ok"))
    assert statuses(app, "/", 5) == [200] * 5


def test_blueprint_limits_its_views_together() -> None:
    limiter = limiter_of(default_limits="9/minute")
    blueprint, child = Blueprint("b", __name__), Blueprint("child", __name__, url_prefix="/c")
    blueprint.get("/a", endpoint="a")(lambda: "a")
    blueprint.add_url_rule("/own", "own", limiter.limit("1/hour")(lambda: "own"))
    child.get("/c", endpoint="c")(lambda: "c")
    blueprint.register_blueprint(child)
    limiter.limit("2/minute")(blueprint)
    app = app_of(limiter)
    app.register_blueprint(blueprint, url_prefix="/b", name="renamed")
    app.get("/")(lambda: "default")
    assert statuses(app, "/b/a", 1) + statuses(app, "/b/c/c", 2) == [200, 200, 429]
    assert statuses(app, "/b/own", 2) == [200, 429]
    assert get(app).headers["X-RateLimit-Limit"] == "9"


def test_exempt_blueprint_but_for_a_view() -> None:
    limiter = limiter_of(default_limits="1/minute")
    blueprint = limiter.exempt(Blueprint("b", __name__))
    blueprint.get("/a", endpoint="a")(lambda: "a")
    blueprint.add_url_rule("/own", "own", limiter.limit("1/hour")(lambda: "own"))
    app = app_of(limiter)
    app.register_blueprint(blueprint)
    assert statuses(app, "/a", 3) == [200] * 3
    assert statuses(app, "/own", 2) == [200, 429]


def test_method_view_by_class_method_and_decorators() -> None:
    limiter = limiter_of(default_limits="9/minute")

    class ByMethod(MethodView):
        def get(self) -> str:
            return "free"

        @limiter.limit("1/minute")
        def post(self) -> str:
            return "limited"

    @limiter.limit("2/minute")
    class ByClass(MethodView):
        def get(self) -> str:
            return "ok"

        def post(self) -> str:
            return "ok"

    class ByDecorators(MethodView):
        decorators = (limiter.limit("1/minute"),)

        def get(self) -> str:
            return "ok"

    app = app_of(limiter)
    for view in (ByMethod, ByClass, ByDecorators):
        app.add_url_rule(f"/{view.__name__}", view_func=view.as_view(view.__name__))
    assert statuses(app, "/ByMethod", 2, "POST") == [200, 429]
    assert statuses(app, "/ByMethod", 2) == [200, 200]
    assert statuses(app, "/ByClass", 1) + statuses(app, "/ByClass", 2, "POST") == [200, 200, 429]
    assert statuses(app, "/ByDecorators", 1, "HEAD") + statuses(app, "/ByDecorators", 1) == [
        200,
        429,
    ]


def test_async_view() -> None:
    limiter = limiter_of()
    app = app_of(limiter)

    @app.get("/")
    @limiter.limit("1/minute")
    async def view() -> str:
        return "ok"

    assert statuses(app, "/", 2) == [200, 429]


def test_streamed_response_and_hooks() -> None:
    app = app_of(limiter_of(default_limits="1/minute"))
    seen: list[str] = []
    app.teardown_request(lambda error: seen.append("teardown"))
    app.get("/")(lambda: Response(iter(["a", "b"])))
    assert get(app).data == b"ab"
    assert get(app).status_code == 429
    assert seen == ["teardown", "teardown"]


# --- key and cost ----------------------------------------------------------------------------


def test_key_callable_and_fallback() -> None:
    limiter = limiter_of(default_limits="1/minute", key=lambda: request.headers.get("X-User"))
    app = app_of(limiter)
    app.get("/")(lambda: "ok")
    assert statuses(app, "/", 2, headers={"X-User": "a"}) == [200, 429]
    assert statuses(app, "/", 2, headers={"X-User": "\xff"}) == [200, 429]
    assert statuses(app, "/", 2) == [200, 429]


def test_key_of_one_decorator() -> None:
    limiter = limiter_of(key=lambda: "everybody")
    app = app_of(limiter)
    app.get("/")(limiter.limit("1/minute", key="ip")(lambda: "ok"))
    for address in ("192.0.2.1", "192.0.2.2"):
        assert statuses(app, "/", 2, environ_base={"REMOTE_ADDR": address}) == [200, 429]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("", "", True),
    ],
)
def test_addresses(first: str, second: str, same: bool) -> None:
    app = app_of(limiter_of(default_limits="1/minute"))
    app.get("/")(lambda: "ok")
    assert statuses(app, "/", 1, environ_base={"REMOTE_ADDR": first}) == [200]
    expected = [429] if same else [200]
    assert statuses(app, "/", 1, environ_base={"REMOTE_ADDR": second}) == expected


def test_cost_callable() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    app.get("/")(limiter.limit("5/minute", cost=lambda: float(request.args["n"]))(lambda: "ok"))
    assert statuses(app, "/?n=4", 1) + statuses(app, "/?n=2", 1) == [200, 429]


# --- handlers, applications, configuration ---------------------------------------------------


@pytest.mark.parametrize("handled", [RateLimitExceeded, TooManyRequests, 429])
@pytest.mark.parametrize("before", [True, False])
def test_error_handler_of_ones_own(handled: Any, before: bool) -> None:
    app = Flask(__name__)

    def handler(error: FlaskRateLimitExceeded) -> tuple[str, int]:
        return f"{error.retry_after:g} s, {error.key!r}", 420

    if before:
        app.register_error_handler(handled, handler)
    limiter_of(app=app, default_limits="1/minute")
    if not before:
        app.register_error_handler(handled, handler)
    app.get("/")(lambda: "ok")
    get(app)
    answer = get(app)
    assert (answer.status_code, answer.text) == (420, "60 s, '127.0.0.1'")
    assert answer.headers["Retry-After"] == "60"


def test_header_of_the_view_stays() -> None:
    app = app_of(limiter_of(default_limits="5/minute"))
    app.get("/")(lambda: ("ok", {"X-RateLimit-Limit": "mine"}))
    answer = get(app)
    assert answer.headers.getlist("X-RateLimit-Limit") == ["mine"]
    assert "X-RateLimit-Remaining" not in answer.headers


def test_several_applications() -> None:
    limiter = limiter_of()
    one = app_of(limiter, RATE_LIMITER_DEFAULT_LIMITS="1/minute")
    two = app_of(limiter, RATE_LIMITER_DEFAULT_LIMITS="2/minute")
    three = app_of(limiter, RATE_LIMITER_DEFAULT_LIMITS="1/minute", RATE_LIMITER_ENABLED=False)
    for app in (one, two, three):
        app.get("/")(lambda: "ok")
    assert statuses(one, "/", 3) == [200, 429, 429]
    assert statuses(two, "/", 3) == [200, 200, 429]
    assert statuses(three, "/", 3) == [200, 200, 200]


def test_configuration_counts_before_arguments() -> None:
    limiter = limiter_of(default_limits="1/minute", headers="x-ratelimit", max_keys=5)
    app = app_of(
        limiter,
        RATE_LIMITER_DEFAULT_LIMITS=["2/minute", "3/hour"],
        RATE_LIMITER_HEADERS="off",
        RATE_LIMITER_STORE="memory://",
        RATE_LIMITER_MAX_KEYS=10,
    )
    app.get("/")(lambda: "ok")
    assert "X-RateLimit-Limit" not in get(app).headers
    assert statuses(app, "/", 2) == [200, 429]


def now_in_module() -> float:
    return NOW[0]


NOW = [0.0]


@pytest.mark.parametrize(
    "clock", [ManualClock(), now_in_module, "test_flask_clock:now"], ids=["manual", "call", "text"]
)
def test_clock_of_the_configuration(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("test_flask_clock")
    module.now = now_in_module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    limiter = limiter_of(default_limits="1/minute")
    app = app_of(limiter, RATE_LIMITER_CLOCK=clock)
    app.get("/")(lambda: "ok")
    app.get("/decorated", endpoint="decorated")(limiter.limit("2/minute")(lambda: "ok"))
    assert statuses(app, "/", 2) == [200, 429]
    assert statuses(app, "/decorated", 3) == [200, 200, 429]
    if isinstance(clock, ManualClock):
        clock.advance(60)
    else:
        NOW[0] += 60
    assert statuses(app, "/", 2) == [200, 429]
    assert statuses(app, "/decorated", 3) == [200, 200, 429]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DEFAULT_LIMITS", "often", "RATE_LIMITER_DEFAULT_LIMITS: invalid limit 'often'"),
        ("DEFAULT_LIMITS", 5, "RATE_LIMITER_DEFAULT_LIMITS: expected a Limit"),
        (
            "STORE",
            "redis",
            "RATE_LIMITER_STORE: store must be 'memory://' or the",
        ),
        ("STORE", "redis://h:x", "RATE_LIMITER_STORE: the address of the store is wrong: the port"),
        ("ON_STORE_ERROR", "pass", "RATE_LIMITER_ON_STORE_ERROR: on_store_error must be one of"),
        ("MAX_KEYS", 0, "RATE_LIMITER_MAX_KEYS: must be a whole number from 1 on, got 0"),
        ("CLOCK", "sundial", "RATE_LIMITER_CLOCK: the value must be 'monotonic', 'coarse'"),
        ("CLOCK", 5, "RATE_LIMITER_CLOCK: the value must be 'monotonic', .* got 5"),
        ("CLOCK", "time:sundial", "RATE_LIMITER_CLOCK: 'time:sundial' cannot be imported: module"),
        ("CLOCK", "no.module:now", "RATE_LIMITER_CLOCK: 'no.module:now' cannot be imported: No"),
        ("CLOCK", ":now", "RATE_LIMITER_CLOCK: ':now' cannot be imported: Empty module name"),
        ("HEADERS", "all", "RATE_LIMITER_HEADERS: headers must be one of 'x-ratelimit', 'ietf'"),
        ("ENABLED", "yes", "RATE_LIMITER_ENABLED: must be True or False, got 'yes'"),
        ("DEFAULT_LIMIT", "1/s", "unknown setting RATE_LIMITER_DEFAULT_LIMIT; known are"),
        ("DEFAULT_LIMIT", "1/s", "RATE_LIMITER_ENABLED; did you mean RATE_LIMITER_DEFAULT_LIMITS?"),
    ],
)
def test_bad_configuration(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        app_of(limiter_of(), **{f"RATE_LIMITER_{name}": value})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"default_limits": "often"}, ValueError, "invalid limit"),
        ({"default_limits": "1/s", "cost": 2}, ValueError, "cost 2 is above the capacity"),
        ({"key": "name"}, ValueError, "key must be 'ip', 'all', 'user', 'header:NAME'"),
        ({"headers": "all"}, ValueError, "headers must be"),
        ({"strategy": "fixed"}, TypeError, "strategy"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        limiter_of(**arguments)


def test_bad_decorator() -> None:
    with pytest.raises(ValueError, match="cost 6 is above the capacity of the limit '5/minute'"):
        limiter_of().limit("5/minute", cost=6)
    with pytest.raises(TypeError, match="expected a view, a MethodView or a Blueprint, got 5"):
        limiter_of().limit("5/minute")(5)


def test_async_key_is_refused() -> None:
    async def key() -> str:
        return "k"

    with pytest.raises(TypeError, match="must be a plain function, not an async one"):
        limiter_of(default_limits="1/minute", key=key)


def test_one_limiter_counts_once_for_an_application() -> None:
    limiter = limiter_of(default_limits="2/minute")
    app = app_of(limiter)
    app.get("/")(lambda: "ok")
    with pytest.raises(RuntimeError, match="has this FlaskRateLimiter already"):
        limiter.init_app(app)
    assert statuses(app, "/", 3) == [200, 200, 429]


@pytest.mark.parametrize("is_decorated", [False, True])
def test_an_endpoint_with_dots_but_without_a_blueprint(is_decorated: bool) -> None:
    limiter = limiter_of(default_limits=None if is_decorated else "1/minute")
    app = app_of(limiter)
    view = limiter.limit("1/minute")(lambda: "ok") if is_decorated else lambda: "ok"
    app.add_url_rule("/x", "_teapot.iam.here", view)
    assert statuses(app, "/x", 2) == [200, 429]


def test_an_endpoint_with_dots_below_a_blueprint() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    blueprint = limiter.limit("1/minute")(Blueprint("b", __name__))
    app.register_blueprint(blueprint)
    app.add_url_rule("/x", "b.iam.here", lambda: "ok")
    assert statuses(app, "/x", 2) == [200, 429]


@pytest.fixture
def app_context() -> Iterator[Flask]:
    app = app_of(limiter_of(default_limits="1/minute"))
    with app.app_context():
        yield app


def test_requests_within_one_application_context_do_not_mix(app_context: Flask) -> None:
    app_context.get("/")(lambda: "ok")
    assert statuses(app_context, "/", 2) == [200, 429]
    missing = get(app_context, "/nowhere")
    assert missing.status_code == 404
    assert "X-RateLimit-Limit" not in missing.headers
    assert "rate_limiter" not in str(list(g))
