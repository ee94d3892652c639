"""Flask decorators decide when the view is called, whatever stands between them and the route."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, g, request
from flask.views import MethodView, View
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.flask import FlaskRateLimiter, FlaskRateLimitExceeded
from support.flask_app import app_of, get, limiter_of, statuses
from support.redis_servers import RedisServer
from werkzeug.exceptions import HTTPException, TooManyRequests


def careless(view: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorated view without the name and marks of the view."""
    return lambda *args, **kwargs: view(*args, **kwargs)


class Resource(MethodView):
    """Like that of Flask-RESTful: method_decorators wrap the bound method for each request."""

    method_decorators: tuple[Any, ...] = ()

    def dispatch_request(self, **kwargs: Any) -> Any:
        method = getattr(self, request.method.lower())
        for decorator in self.method_decorators:
            method = decorator(method)
        return method(**kwargs)


def below_a_careless_decorator(app: Flask, limiter: FlaskRateLimiter) -> None:
    app.add_url_rule("/", "view", careless(limiter.limit("2/hour")(lambda: "ok")))


def on_an_inner_function(app: Flask, limiter: FlaskRateLimiter) -> None:
    inner = limiter.limit("2/hour")(lambda: "ok")

    @app.get("/")
    def view() -> Any:
        return inner()


def in_method_decorators(app: Flask, limiter: FlaskRateLimiter) -> None:
    class Limited(Resource):
        method_decorators = (limiter.limit("2/hour", name="limited"),)

        def get(self) -> str:
            return "ok"

    app.add_url_rule("/", view_func=Limited.as_view("view"))


def on_a_method(app: Flask, limiter: FlaskRateLimiter) -> None:
    class Limited(Resource):
        @limiter.limit("2/hour")
        def get(self) -> str:
            return "ok"

    app.add_url_rule("/", view_func=Limited.as_view("view"))


def on_a_view_class(app: Flask, limiter: FlaskRateLimiter) -> None:
    @limiter.limit("2/hour")
    class Limited(View):
        def dispatch_request(self) -> str:
            return "ok"

    app.add_url_rule("/", view_func=Limited.as_view("view"))


def in_a_nested_blueprint(app: Flask, limiter: FlaskRateLimiter) -> None:
    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
    inner.add_url_rule("/", "view", careless(limiter.limit("2/hour")(lambda: "ok")))
    outer.register_blueprint(inner)
    app.register_blueprint(outer)


def on_an_async_view(app: Flask, limiter: FlaskRateLimiter) -> None:
    @app.get("/")
    @limiter.limit("2/hour")
    async def view() -> str:
        return "ok"


WAYS = [
    below_a_careless_decorator,
    on_an_inner_function,
    in_method_decorators,
    on_a_method,
    on_a_view_class,
    in_a_nested_blueprint,
    on_an_async_view,
]


@pytest.mark.parametrize("defaults", [None, "9/minute"])
@pytest.mark.parametrize("way", WAYS)
def test_the_decorator_limits(way: Any, defaults: str | None) -> None:
    limiter = limiter_of(default_limits=defaults)
    app = app_of(limiter)
    way(app, limiter)
    assert get(app).headers.getlist("X-RateLimit-Limit") == ["2"]
    assert statuses(app, "/", 3) == [200, 429, 429]


def test_a_denied_view_is_not_called() -> None:
    limiter = limiter_of()
    app = app_of(limiter)
    called: list[int] = []
    app.add_url_rule("/", "view", careless(limiter.limit("1/hour")(lambda: called.append(1) or "")))
    assert statuses(app, "/", 3) == [200, 429, 429]
    assert called == [1]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_key_sees_what_hooks_have_set(is_first: bool) -> None:
    limiter = limiter_of()
    app = app_of(limiter) if is_first else Flask(__name__)

    @app.before_request
    def log_in() -> None:
        g.user = request.headers.get("X-User")

    if not is_first:
        limiter.init_app(app)
    limited = limiter.limit("1/hour", key=lambda: g.user)
    app.add_url_rule("/", "view", limited(lambda: "ok"))
    assert [get(app, headers={"X-User": name}).status_code for name in "aabb"] == [
        *(200, 429),
        *(200, 429),
    ]


def views_of(limiter: FlaskRateLimiter, app: Flask) -> None:
    for path in ("/a", "/b"):

        def view() -> str:
            return "ok"

        app.add_url_rule(path, path, limiter.limit("1/hour")(view))


def test_views_of_one_factory_have_separate_buckets_in_redis(server: RedisServer) -> None:
    for codes in ([200, 429], [429, 429]):  # of a second process: the same buckets
        limiter = FlaskRateLimiter(store=server.url, on_store_error="raise")
        app = Flask("factory")
        limiter.init_app(app)
        views_of(limiter, app)
        assert [statuses(app, path, 2) for path in ("/a", "/b")] == [codes, codes]


def test_decorators_use_the_store_of_the_configuration(server: RedisServer) -> None:
    codes = []
    for _ in range(3):  # workers
        limiter = FlaskRateLimiter(on_store_error="raise")
        app = app_of(limiter, RATE_LIMITER_STORE=server.url)
        app.add_url_rule("/", "view", limiter.limit("5/day", name="of config")(lambda: "ok"))
        codes += statuses(app, "/", 5)
    assert codes == [200] * 5 + [429] * 10


# --- How a denial reaches the client -------------------------------------------------------------

HANDLED: list[Any] = [429, TooManyRequests, HTTPException, Exception, RateLimitExceeded]


def denied_twice(decorated: bool, prepare: Callable[[Flask, Any], None]) -> Any:
    """Return the response to the second request of an application that passes one."""
    app = Flask("denials")
    limiter = FlaskRateLimiter(app, default_limits=None if decorated else "1/day")
    group = Blueprint("group", "denials")
    limit = limiter.limit("1/day") if decorated else lambda view: view
    group.get("/")(limit(lambda: "ok"))
    prepare(app, group)
    app.register_blueprint(group)
    client = app.test_client()
    assert client.get("/").status_code == 200
    return client.get("/")


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("of_blueprint", [False, True])
@pytest.mark.parametrize("kind", HANDLED)
def test_error_handlers_get_each_denial(decorated: bool, of_blueprint: bool, kind: Any) -> None:
    def prepare(app: Flask, group: Any) -> None:
        owner = group if of_blueprint else app
        owner.register_error_handler(kind, lambda error: ("handled", 418))

    response = denied_twice(decorated, prepare)
    assert (response.status_code, response.text) == (418, "handled")
    assert response.headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize("decorated", [False, True])
def test_a_replaced_handle_user_exception_gets_each_denial(decorated: bool) -> None:
    def prepare(app: Flask, group: Any) -> None:
        app.handle_user_exception = lambda error: ("replaced", 418)  # type: ignore[method-assign]

    assert denied_twice(decorated, prepare).text == "replaced"


@pytest.mark.parametrize("decorated", [False, True])
def test_a_denial_that_no_handler_gets_is_not_raised(
    decorated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raising would make it the most expensive response."""
    calls: list[Any] = []
    monkeypatch.setattr(FlaskRateLimitExceeded, "__init__", lambda *arguments: calls.append(0))

    def prepare(app: Flask, group: Any) -> None:
        app.register_error_handler(404, calls.append)
        group.register_error_handler(ValueError, calls.append)

    response = denied_twice(decorated, prepare)
    assert (response.status_code, calls) == (429, [])
    assert response.json == {"detail": "Rate limit exceeded. Please try again later."}


def test_a_decorator_outside_sees_the_error_of_a_denial() -> None:
    app = Flask("outside")
    limiter = FlaskRateLimiter(app)
    seen = []

    def outside(view: Any) -> Any:
        @functools.wraps(view)
        def called() -> Any:
            try:
                return view()
            except FlaskRateLimitExceeded as error:
                seen.append(error.key)
                return "instead"

        return called

    app.get("/")(outside(limiter.limit("1/day")(lambda: "ok")))
    client = app.test_client()
    assert [client.get("/").text for _ in range(2)] == ["ok", "instead"]
    assert seen == ["127.0.0.1"]
