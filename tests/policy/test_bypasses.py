"""Ways round a limit: requests that the framework routes like others, or that no rule expects.

A test first shows where the framework routes a request, then that it is counted by that route's
rule.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from flask import Blueprint, Flask
from flask.views import MethodView
from hypothesis import example, given
from hypothesis import strategies as st
from rate_limiter import ManualClock
from rate_limiter.cli.main import main
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import DistributedTokenBucketMiddleware, RateLimitMiddleware
from rate_limiter.policy.rule_files import check_rules
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from support.fronts import PEER, ask_asgi, ask_flask, on_asgi
from support.redis_servers import RedisServer
from werkzeug.test import EnvironBuilder, run_wsgi_app

# --- Paths ---

RULES = {
    "default": {"limits": "1000/hour"},
    "root": {"path": "/", "limits": "1000/hour"},
    "login": {"path": "/login", "limits": "1000/hour"},
    "slash": {"path": "/slash/", "limits": "1000/hour"},
    "health": {"path": "/health", "exempt": True},
    "ready": {"path": "/ready/", "exempt": True},
    "special": {"path": "/items/special", "limits": "1000/hour"},
    "item": {"path": "/items/{id}", "limits": "1000/hour"},
    "static": {"path": "/static/{file:path}", "exempt": True},
    "files": {"path": "/files/{name:path}", "limits": "1000/hour"},
    "pair": {"path": "/{a}/{b}", "limits": "1000/hour"},
}
TABLE = check_rules(RULES)


def routed_path(name: str) -> str:
    return str(RULES[name].get("path", "/{rest:path}"))


ROUTE_NAMES = [*(name for name in RULES if name != "default"), "default"]


def endpoint(name: str) -> Callable[[Any], PlainTextResponse]:
    return lambda request: PlainTextResponse(name)


def websocket_endpoint(name: str) -> Any:
    async def view(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(name)

    return view


STARLETTE = Starlette(
    routes=[
        *(Route(routed_path(name), endpoint(name)) for name in ROUTE_NAMES),
        *(WebSocketRoute(routed_path(name), websocket_endpoint(name)) for name in ROUTE_NAMES),
    ]
)


def view(route: str, /, **_: Any) -> str:
    return route


def flask_of_rules(*, strict_slashes: bool) -> Flask:
    app = Flask("bypasses", static_folder=None)
    app.url_map.strict_slashes = strict_slashes
    for name in ROUTE_NAMES:
        path = routed_path(name).replace("{", "<").replace("}", ">")
        for kind in ("file", "name", "rest"):
            path = path.replace(f"<{kind}:path>", f"<path:{kind}>")
        app.add_url_rule(path, name, functools.partial(view, name))
    return app


FLASKS = [flask_of_rules(strict_slashes=True), flask_of_rules(strict_slashes=False)]

WORDS = ["login", "slash", "health", "ready", "items", "special", "static", "files", "7", "LOGIN"]
ODD = ["", "/", ".", "..", "\n", "a\nb", "login\n", "health\n", "%2f", "é"]
pieces = st.sampled_from(WORDS + ODD)
paths = st.lists(pieces, max_size=5).map(lambda found: "/" + "/".join(found))


def counted(path: str, *, like_werkzeug: bool = False) -> set[str]:
    return {rule.name for rule in TABLE.limiting(path, "GET", like_werkzeug=like_werkzeug)}


def is_counted(name: str, path: str, *, like_werkzeug: bool = False) -> bool:
    """Return whether every request that reaches a limited route is counted by its rule."""
    return "exempt" in RULES[name] or name in counted(path, like_werkzeug=like_werkzeug)


@given(paths)
@example("/login\n")
@example("/items/special\n")
@example("/static/a\nb")
@example("/health/")
@example("//health")
@example("/ready")
@example("/static")
@example("/x/../health")
def test_whatever_reaches_a_route_of_starlette_is_counted_by_its_rule(path: str) -> None:
    for kind in ("http", "websocket"):
        status, name = ask_asgi(STARLETTE, type=kind, path=path)
        assert status not in (200, 101) or is_counted(name, path), (kind, name)


@given(paths, st.sampled_from(FLASKS))
@example("/login/", FLASKS[1])
@example("/slash", FLASKS[1])
@example("/static/", FLASKS[0])
@example("/login/./", FLASKS[1])
@example("/static/login\n", FLASKS[0])
def test_whatever_reaches_a_route_of_flask_is_counted_by_its_rule(path: str, app: Flask) -> None:
    status, name = ask_flask(app, path=path)
    if status == 200:
        as_read = "/" + path.lstrip("/")  # `request.path` of Werkzeug
        assert is_counted(name, as_read, like_werkzeug=True), name


@given(paths)
def test_what_the_middleware_counts_are_the_rules_of_the_table(path: str) -> None:
    gate = RateLimitMiddleware(STARLETTE, rules=RULES, clock=ManualClock())
    ask_asgi(gate, path=path)
    assert gate.governor is not None
    used = {
        name for name, one in gate.governor.limiters().items() if one.peek(PEER).remaining < 1000
    }
    assert used == counted(path)


def on_asgi_rules(rules: Any, **arguments: Any) -> Any:
    gate = RateLimitMiddleware(STARLETTE, rules=rules, clock=ManualClock(), **arguments)
    return lambda headers=(), **scope: ask_asgi(gate, list(headers), **scope)


def on_flask_rules(rules: Any, **arguments: Any) -> Any:
    app = flask_of_rules(strict_slashes=False)
    FlaskRateLimiter(app, rules=rules, clock=ManualClock(), **arguments)
    return lambda headers=(), **environ: ask_flask(app, list(headers), **environ)


rule_fronts = pytest.mark.parametrize("front", [on_asgi_rules, on_flask_rules])


def statuses(ask: Any, *paths: str, **more: Any) -> list[int]:
    return [ask(path=path, **more)[0] for path in paths]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_newline_at_the_end_passes_no_rule(kind: str) -> None:
    ask = on_asgi_rules({"login": {"path": "/login", "limits": "1/hour"}})
    assert ask(path="/login\n", type=kind) == ask_asgi(STARLETTE, path="/login", type=kind)
    denied = 429 if kind == "http" else 403
    assert statuses(ask, "/login", "/login\n", "//login\n", type=kind) == [denied] * 3
    ask = on_asgi_rules({"default": {"limits": "1/hour"}, "/health": {"exempt": True}})
    first = ask(path="/health\n", type=kind)
    assert first == ask_asgi(STARLETTE, path="/health", type=kind)
    assert statuses(ask, "/health\n", type=kind) == [denied]


@rule_fronts
@pytest.mark.parametrize("path", ["/health/", "/health//", "/x/../health", "/./health"])
def test_an_exempt_rule_frees_no_other_spelling(front: Any, path: str) -> None:
    ask = front({"default": {"limits": "1/hour"}, "health": {"path": "/health", "exempt": True}})
    assert statuses(ask, path, path) == [200, 429]
    assert statuses(ask, "/health", "/health") == [200, 200]


@rule_fronts
def test_an_exempt_rule_with_a_slash_at_the_end_frees_that(front: Any) -> None:
    ask = front({"default": {"limits": "1/hour"}, "ready": {"path": "/ready/", "exempt": True}})
    assert statuses(ask, "/ready/", "/ready/", "/ready/") == [200] * 3
    assert statuses(ask, "/ready", "/ready") == [200, 429]


@rule_fronts
def test_an_exempt_folder_frees_what_is_below_it(front: Any) -> None:
    rules = {"default": {"limits": "1/hour"}, "static": {"path": "/static/**", "exempt": True}}
    ask = front(rules)
    assert statuses(ask, "/static/a", "/static/b/c", "/static/a") == [200] * 3
    assert statuses(ask, "/static/../a", "/static/../a") == [200, 429]


@rule_fronts
def test_a_generous_rule_frees_no_other_spelling(front: Any) -> None:
    """`/items/` reaches another route than `/items`, or the same one: both rules count."""
    ask = front({"default": {"limits": "2/hour"}, "7": {"path": "/items/7", "limits": "4/hour"}})
    assert statuses(ask, "/items/7/", "/items/7/", "/items/7/") == [200, 200, 429]
    assert statuses(ask, "/items/7", "/items/7", "/items/7") == [200, 200, 429]  # none for a denial


@rule_fronts
def test_a_strict_rule_holds_for_every_spelling(front: Any) -> None:
    ask = front({"default": {"limits": "9/hour"}, "login": {"path": "/login", "limits": "2/hour"}})
    assert statuses(ask, "/login", "/login/", "/login/", "/./login/") == [200, 200, 429, 429]
    assert statuses(ask, *["/x"] * 9) == [200] * 8 + [429]  # what was denied took nothing


@rule_fronts
def test_a_slash_at_the_end_of_a_rule_is_one_rule(front: Any) -> None:
    ask = front({"default": {"limits": "1/hour"}, "slash": {"path": "/slash/", "limits": "3/hour"}})
    assert statuses(ask, "/slash/", "/slash/", "/slash/", "/slash/") == [200, 200, 200, 429]


def settle_by_status(path: str, rules: Any, **arguments: Any) -> dict[str, float]:
    app = Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse("", 500))])
    gate = RateLimitMiddleware(app, rules=rules, clock=ManualClock(), **arguments)
    ask_asgi(gate, path=path)
    assert gate.governor is not None
    return {name: one.peek(PEER).remaining for name, one in gate.governor.limiters().items()}


def test_each_of_two_rules_is_settled() -> None:
    rules = {
        "default": {"limits": "9/hour", "cost": 2},
        "login": {"path": "/login", "limits": "5/hour", "refund": "5xx"},
    }
    assert settle_by_status("/login/", rules) == {"default": 7, "login": 5}
    asked = []

    def cost_after(finished: Any) -> float:
        asked.append(finished)
        return 3

    left = settle_by_status("/login/", rules, cost_after=cost_after)
    assert left == {"default": 6, "login": 5}
    assert len(asked) == 1


def test_headers_are_those_of_the_tighter_rule() -> None:
    rules = {"default": {"limits": "3/hour"}, "login": {"path": "/login", "limits": "9/hour"}}
    for style, expected in (("x-ratelimit", "3"), ("ietf", None)):
        gate = RateLimitMiddleware(STARLETTE, rules=rules, headers=style, clock=ManualClock())
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/login/", "client": (PEER, 1)}
        asyncio.run(gate(scope | {"headers": []}, None, send))
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        assert found.get("x-ratelimit-limit") == expected
        assert expected or found["ratelimit-policy"].count("q=") == 2


def test_exempt_paths_are_exact() -> None:
    ask = on_asgi_rules({"default": {"limits": "1/hour"}}, exempt_paths=["/health"])
    assert statuses(ask, "/health", "/health", "/health") == [200] * 3
    odd = statuses(ask, "/health/", "//health", "/health\n", "/x/../health", "/HEALTH")
    assert odd == [200, 429, 429, 429, 429]


def test_paths_below_a_mount() -> None:
    def login(request: Any) -> PlainTextResponse:
        return PlainTextResponse("login")

    inner: Any = Starlette(routes=[Route("/login", login), Route("/{rest:path}", login)])
    rules = {"default": {"limits": "9/hour"}, "login": {"path": "/login", "limits": "2/hour"}}
    limited = RateLimitMiddleware(inner, rules=rules, clock=ManualClock())
    app = Starlette(routes=[Mount("/app", limited)])
    paths = ["/app/login", "/app//login", "/app/login/", "/app/x"]
    assert [ask_asgi(app, path=path)[0] for path in paths] == [200, 200, 429, 200]


def test_paths_below_a_root_path() -> None:
    app = FastAPI()
    rules = {"login": {"path": "/login", "limits": "2/hour"}}
    app.add_middleware(RateLimitMiddleware, rules=rules, clock=ManualClock())
    app.get("/login")(lambda: "in")
    paths = ("/login", "/api/login", "/api/login\n")
    found = [ask_asgi(app, path=path, root_path="/api") for path in paths]
    assert found[:2] == [(200, '"in"')] * 2
    assert found[2][0] == 429


def test_the_distributed_middleware_counts_both_rules(server: RedisServer) -> None:
    rules = {
        "login": {"path": "/login", "limits": "1/hour"},
        "health": {"path": "/health", "exempt": True},
    }
    app = Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse(""))])
    app.state.redis = server.url
    app.add_middleware(DistributedTokenBucketMiddleware, capacity=3, refill_rate=1e-3, rules=rules)

    async def answered(path: str) -> int:
        found: list[int] = []

        async def send(message: Any) -> None:
            found.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "client": (PEER, 1)}
        await app(scope, None, send)  # type: ignore[arg-type]
        return found[0]

    async def all_of(*paths: str) -> list[int]:
        return [await answered(path) for path in paths]

    paths = ["/health", "/health/", "/login/", "/login/", "/health\n", "/health\n", "/health"]
    assert asyncio.run(all_of(*paths)) == [200, 200, 200, 429, 200, 429, 200]


def test_what_explain_says(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.json"
    file.write_text(
        '{"default": {"limits": "9/hour"}, "login": {"path": "/login", "limits": "1/hour"},'
        ' "health": {"path": "/health", "exempt": true}}'
    )

    def said(path: str) -> list[str]:
        assert main(["rules", "explain", str(file), "--path", path]) == 0
        return capsys.readouterr().out.splitlines()[1:]

    assert [line[:10] for line in said("/login/")] == ["=> login: ", "=> default", "'login' an"]
    assert [line[:10] for line in said("/health/")] == ["   health:", "=> default", "'default' "]
    assert [line[:10] for line in said("/health")] == ["=> health:", "   default", "'health' w"]


# --- Methods ---


class Login:
    """Find the method in lower case, as the HTTPEndpoint of Starlette before 1.0 does."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.arguments = scope, receive, send

    def __await__(self) -> Any:
        found = getattr(self, self.arguments[0]["method"].lower())
        return found()(*self.arguments).__await__()

    def post(self) -> Any:
        return PlainTextResponse("in")


METHODS = {
    "login": {"path": "/login", "methods": ["POST"], "limits": "1/hour"},
    "socket": {"path": "/login", "methods": ["WEBSOCKET"], "exempt": True},
    "default": {"limits": "9/hour"},
}


def test_a_method_in_any_case_has_one_rule_on_asgi() -> None:
    gate = RateLimitMiddleware(Login, rules=METHODS, clock=ManualClock())
    found = [ask_asgi(gate, path="/login", method=one) for one in ("post", "POST", "Post")]
    assert [status for status, _ in found] == [200, 429, 429]
    assert found[0][1] == "in"


def test_a_method_in_any_case_has_one_rule_in_flask() -> None:
    app = Flask("bypasses")

    class View(MethodView):
        def post(self) -> str:
            return "in"

    app.add_url_rule("/login", view_func=View.as_view("login"))
    FlaskRateLimiter(app, rules=METHODS, clock=ManualClock())
    found = []
    for method in ("post", "POST", "Post"):
        environ = EnvironBuilder("/login", method="POST").get_environ()
        body, status, _ = run_wsgi_app(app, environ | {"REQUEST_METHOD": method})
        found.append((int(status.split()[0]), b"".join(body)[:2]))
    assert [status for status, _ in found] == [200, 429, 429]
    assert found[0][1] == b"in"


def test_a_method_in_any_case_has_one_rule_in_the_distributed_middleware() -> None:
    middleware = DistributedTokenBucketMiddleware(STARLETTE, 3, 1, rules=METHODS)
    for method in ("post", "POST"):
        scope = {"type": "http", "method": method, "path": "/login"}
        assert [rule.name for rule in middleware._rules(scope)] == ["login"]


def test_an_http_request_is_no_websocket() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("in")(scope, receive, send)

    gate = RateLimitMiddleware(app, rules=METHODS | {"default": {"limits": "1/hour"}})
    found = [ask_asgi(gate, path="/login", method="WEBSOCKET")[0] for _ in range(3)]
    assert found == [200, 429, 429]


def test_what_cors_middleware_does_not_answer_is_limited() -> None:
    ask = on_asgi("1/hour", lambda request: "", cors=True)
    asked = ("Access-Control-Request-Method", "GET")
    app = [ask(("Origin", "https://a.b"), asked, method="OPTIONS")[0] for _ in range(3)]
    assert app == [405] * 3
    assert [ask(asked, method="OPTIONS")[0] for _ in range(2)] == [405, 429]


# --- Static files of Flask ---


def static_app(tmp_path: Any) -> tuple[Flask, FlaskRateLimiter]:
    (tmp_path / "a.txt").write_text("a")
    app = Flask("bypasses", static_folder=str(tmp_path), static_url_path="/static")
    limiter = FlaskRateLimiter(app, default_limits="1/hour", clock=ManualClock())
    return app, limiter


def blueprint_of(tmp_path: Any, **arguments: Any) -> Blueprint:
    return Blueprint("pages", "bypasses", url_prefix="/pages", **arguments)


def test_static_files_are_not_limited(tmp_path: Any) -> None:
    app, _ = static_app(tmp_path)
    app.register_blueprint(
        blueprint_of(tmp_path, static_folder=str(tmp_path), static_url_path="/files")
    )
    for path in ("/static/a.txt", "/pages/files/a.txt"):
        assert [ask_flask(app, path=path) for _ in range(3)] == [(200, "a")] * 3


def test_a_view_named_static_is_limited(tmp_path: Any) -> None:
    app = Flask("bypasses", static_folder=None)
    FlaskRateLimiter(app, default_limits="2/hour", clock=ManualClock())
    pages = blueprint_of(tmp_path)
    app.get("/static", endpoint="static")(lambda: "app")
    pages.get("/static", endpoint="static")(lambda: "blueprint")
    app.register_blueprint(pages)
    found = [ask_flask(app, path=path) for path in ("/static", "/pages/static", "/static")]
    assert found[:2] == [(200, "app"), (200, "blueprint")]
    assert found[2][0] == 429


def test_a_decorated_view_named_static_is_limited(tmp_path: Any) -> None:
    app = Flask("bypasses", static_folder=None)
    limiter = FlaskRateLimiter(app, clock=ManualClock())

    @app.get("/static")
    @limiter.limit("1/hour")
    def static() -> str:
        return "view"

    class View(MethodView):
        decorators: ClassVar = [limiter.limit("1/hour")]

        def get(self) -> str:
            return "class"

    pages = blueprint_of(tmp_path)
    pages.add_url_rule("/static", view_func=View.as_view("static"))
    app.register_blueprint(pages)
    for path in ("/static", "/pages/static"):
        assert [ask_flask(app, path=path)[0] for _ in range(2)] == [200, 429]


def test_static_files_with_a_decorator_are_limited(tmp_path: Any) -> None:
    app, limiter = static_app(tmp_path)
    app.view_functions["static"] = limiter.limit("2/hour")(app.view_functions["static"])
    assert [ask_flask(app, path="/static/a.txt")[0] for _ in range(3)] == [200, 200, 429]


def test_another_view_that_sends_static_files_is_limited(tmp_path: Any) -> None:
    app, _ = static_app(tmp_path)
    app.add_url_rule("/a", view_func=lambda: app.send_static_file("a.txt"), endpoint="a")
    assert [ask_flask(app, path="/a")[0] for _ in range(2)] == [200, 429]
