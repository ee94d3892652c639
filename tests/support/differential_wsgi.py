"""Flask applications for the differential test, behind one WSGI application.

The header ``X-App`` selects one. A recorder around each adds ``X-Seen`` to every response: what
Flask reads of the request, and the view that ran.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, request
from flask.views import MethodView
from rate_limiter import Limit
from rate_limiter.flask import FlaskRateLimiter
from support.differential_routes import (
    API_KEY,
    BYPASSED,
    COOKIE,
    DEFAULT,
    RULES,
    SOURCES,
    capacity_of,
    key_options,
)
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Request, Response

SEEN = "differential.seen"


def what_is_seen(environ: Any) -> dict[str, Any]:
    """Return what Werkzeug reads of a request, and what the view that ran has added."""
    seen = Request(environ)
    try:
        authorization = seen.authorization
    except ValueError:  # what Werkzeug says of Basic credentials that are not ASCII
        authorization = None
    found = {
        "route": None,
        "method": seen.method,
        "cookie": seen.cookies.get(COOKIE),
        "api-key": seen.headers.get(API_KEY),
        "authorization": None,
        "credentials": "Authorization" in seen.headers,
        "repeated": {"cookie": len(seen.cookies.getlist(COOKIE)) > 1},
        "peer": seen.remote_addr,
        "forwarded-for": seen.headers.getlist("X-Forwarded-For"),
        "forwarded": seen.headers.getlist("Forwarded"),
        "path": seen.path,
    }
    if authorization is not None and authorization.type == "basic":
        found["basic"] = [authorization.username, authorization.password]
    elif authorization is not None and authorization.type == "bearer" and authorization.token:
        found["authorization"] = f"Bearer {authorization.token}"
    return found | environ[SEEN]


def recorded(app: Any) -> Any:
    """Return an application whose responses say what the framework saw."""

    def recorder(environ: Any, start_response: Any) -> Any:
        environ[SEEN] = {}

        def started(status: str, headers: Any, *rest: Any) -> Any:
            seen = ("X-Seen", json.dumps(what_is_seen(environ)))
            return start_response(status, [*headers, seen], *rest)

        result = app(environ, started)
        try:
            # One chunk always: Hypercorn answers 500 where there is none.
            return [b"".join(result)]
        finally:
            getattr(result, "close", lambda: None)()

    return recorder


def cost_of() -> int:
    """Return what a request says that it costs."""
    return int(request.headers["X-Cost"])


# --- Views ---------------------------------------------------------------------------------------


def ran(name: str) -> Callable[..., str]:
    """Return a view that records that it ran."""

    def view(**values: str) -> str:
        request.environ[SEEN]["route"] = name
        return ""

    view.__name__ = name
    return view


class Account(MethodView):
    """A view class, which dispatches to its own methods."""

    def get(self) -> str:
        return ran("account")()

    post = get


Decorate = Callable[[Any, str, str], Any]


def flask_app(*, catch_all: bool, decorate: Decorate = lambda view, *_: view) -> Flask:
    """Return an application; `decorate` gets every view, its route and its method."""
    app = Flask(__name__, static_folder=None)

    def add(path: str, name: str, *methods: str) -> None:
        view = decorate(ran(name), name, methods[0])
        app.add_url_rule(path, name, view, methods=list(methods))

    add("/health", "health", "GET")
    add("/bulk", "bulk", "GET")
    add("/files/<path:path>", "files", "GET")
    add("/items/<id>", "item", "GET")
    add("/login", "page", "GET")
    add("/login", "login", "POST")
    add("/tight", "tight", "GET")
    add("/sub/data", "mounted", "GET")
    add("/sub/<path:rest>", "below", "GET")
    app.add_url_rule("/account", view_func=decorate(Account.as_view("account"), "account", "POST"))
    # Views that have the name of Flask's own view for files.
    app.add_url_rule("/static-view", "static", decorate(ran("static"), "static", "GET"))
    blueprint = Blueprint("blueprint", __name__, url_prefix="/blueprint")
    view = decorate(ran("blueprint static"), "blueprint static", "GET")
    blueprint.add_url_rule("/static-view", "static", view)
    app.register_blueprint(blueprint)
    if catch_all:
        add("/", "root", "GET", "POST")
        add("/<path:rest>", "rest", "GET", "POST")
    return app


def decorated_app(source: str) -> Flask:
    """Return an application whose views have limits of their own."""
    limiter = FlaskRateLimiter(headers="both", **key_options(source))

    @functools.cache
    def limit(capacity: float) -> Any:
        return limiter.limit(Limit(capacity, 0), cost=cost_of)

    def decorate(view: Any, name: str, method: str) -> Any:
        if name == "health":
            return limiter.exempt(view)
        return limit(capacity_of(name, method))(view)

    app = flask_app(catch_all=True, decorate=decorate)
    limiter.init_app(app)
    return app


# --- All of them ---------------------------------------------------------------------------------


def limited(app: Flask, **options: Any) -> Flask:
    FlaskRateLimiter(app, cost=cost_of, **options)
    return app


def all_apps() -> dict[str, Any]:
    """Return the applications by name: framework, limiter, source."""
    apps: dict[str, Any] = {}
    for source in SOURCES:
        options = {"rules": RULES, "headers": "both", **key_options(source)}
        apps[f"rules {source}"] = limited(flask_app(catch_all=True), **options)
        apps[f"decorated {source}"] = decorated_app(source)
        if source in ("cookie", "forwarded-for"):
            apps[f"redirecting {source}"] = limited(flask_app(catch_all=False), **options)
        if source in ("api-key", "forwarded"):
            mounted = limited(flask_app(catch_all=True), **options)
            apps[f"mounted {source}"] = DispatcherMiddleware(Response("", 404), {"/v1": mounted})
        if source in ("cookie", "authorization"):
            plain = {"default_limits": Limit(DEFAULT, 0), **key_options(source)}
            apps[f"plain {source}"] = limited(flask_app(catch_all=True), **plain)
        if source == "forwarded-for":
            bypass = f"ip:{BYPASSED}"
            apps[f"bypass {source}"] = limited(flask_app(catch_all=True), bypass=bypass, **options)
    return {f"flask {name}": app for name, app in apps.items()}


APPS = all_apps()
RECORDED = {name: recorded(app) for name, app in APPS.items()}
DESCRIBED = Response(json.dumps({"apps": list(APPS)}), mimetype="application/json")


def app(environ: Any, start_response: Any) -> Any:
    """Hand a request to the application that it names; describe all where it names none."""
    chosen = RECORDED.get(environ.get("HTTP_X_APP", ""), DESCRIBED)
    return chosen(environ, start_response)
