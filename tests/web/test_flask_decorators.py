"""Flask decorators decide when the view is called, whatever stands between them and the route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, g, request
from flask.views import MethodView, View
from rate_limiter.flask import FlaskRateLimiter
from support.flask_app import app_of, get, limiter_of, statuses
from support.redis_servers import RedisServer


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


def test_views_of_one_factory_have_buckets_of_their_own_in_redis(server: RedisServer) -> None:
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
