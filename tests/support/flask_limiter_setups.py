"""Programs for Flask-Limiter: blueprints, classes, blocks, settings, several extensions."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from flask import Blueprint, Flask, make_response, request
from flask.views import MethodView, View
from support.flask_limiter_names import Program, Steps, flask_app


def meta(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    limiter = fl.limiter(
        app,
        default_limits=["1/minute"],
        meta_limits=["2/hour"],
        on_meta_breach=lambda limit: make_response(f"banned by {limit.limit}", 403),
    )

    @app.get("/free")
    @limiter.exempt
    def free() -> str:
        return "free"

    @app.get("/b")
    @limiter.limit("1/minute", meta_limits=["1/day"], key_func=lambda: "all")
    def b() -> str:
        return "ok"

    return app, "3x GET /a; +61; GET /a; GET /free; +3600; GET /a; 2x GET /b; +61; GET /b"


def blueprints(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["1/hour"])
    login, regular, docs = (Blueprint(name, name) for name in ("login", "regular", "docs"))
    for blueprint in (login, regular, docs):
        for path in ("x", "y"):
            blueprint.add_url_rule(f"/{blueprint.name}/{path}", path, lambda: "ok")

    @login.get("/login/own")
    @limiter.limit("3/minute")
    def own() -> str:
        return "own"

    limiter.limit("2/minute")(login)
    limiter.exempt(docs)
    for blueprint in (login, regular, docs):
        app.register_blueprint(blueprint)
    return app, (
        "4x GET /login/x; 4x GET /login/y; 4x GET /login/own; 4x GET /regular/x; 4x GET /docs/x"
    )


def nested_blueprints(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["1/hour"])
    health, parent, child, grandchild = (
        Blueprint(name, name, url_prefix=f"/{name}")
        for name in ("health", "parent", "child", "grandchild")
    )
    for blueprint in (health, parent, child, grandchild):
        blueprint.add_url_rule("/", "index", lambda: "ok")
    limiter.limit("2/hour")(parent)
    limiter.limit("5/minute", override_defaults=False)(child)
    flags = fl.ExemptionScope
    limiter.exempt(health, flags=flags.DEFAULT | flags.APPLICATION | flags.ANCESTORS)
    child.register_blueprint(grandchild)
    parent.register_blueprint(child)
    parent.register_blueprint(health)
    app.register_blueprint(parent)
    return app, (
        "3x GET /parent/; 3x GET /parent/child/; 3x GET /parent/child/grandchild/; 3x GET "
        "/parent/health/"
    )


def classes(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["1/hour"])

    class Limited(MethodView):
        decorators: ClassVar[list[Any]] = [limiter.limit("2/minute")]

        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    class Plain(View):
        decorators: ClassVar[list[Any]] = [limiter.exempt]

        def dispatch_request(self) -> str:
            return "plain"

    class Default(View):
        def dispatch_request(self) -> str:
            return "default"

    for view in (Limited, Plain, Default):
        app.add_url_rule(f"/{view.__name__}", view_func=view.as_view(view.__name__))
    return app, (
        "GET /Limited; POST /Limited; GET /Limited; GET /Plain; GET /Default; GET /Plain; "
        "GET /Default"
    )


def blocks(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)

    @app.get("/block")
    def block() -> str:
        try:
            with limiter.limit("1/minute", scope="database"):
                return "fresh"
        except fl.RateLimitExceeded as error:
            return f"cached, {error.description}"

    @app.get("/raises")
    def raises() -> str:
        with limiter.limit("1/minute"):
            return "ok"

    return app, "2x GET /block; 2x GET /raises; +61; GET /block"


def functions(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["2/hour"])

    @limiter.limit("3/minute")
    def helper() -> str:
        return "helped"

    @app.get("/a")
    def a() -> str:
        return helper()

    @app.get("/b")
    def b() -> str:
        return helper()

    return app, "5x GET /a; 5x GET /b"


def failed_logins(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)

    @app.get("/login")
    @limiter.limit("2/minute", deduct_when=lambda response: response.status_code != 200)
    def login() -> tuple[str, int]:
        return ("in", 200) if "X-Password" in request.headers else ("out", 401)

    return app, (
        "3x GET /login X-Password=1; +30; GET /login; +20; GET /login X-Password=1; 2x "
        "GET /login; GET /login X-Password=1; +11; GET /login; +30; GET /login"
    )


def settings(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a", "/b")
    app.config.update(
        RATELIMIT_DEFAULT="2/minute; 5/hour",
        RATELIMIT_APPLICATION="9/minute",
        RATELIMIT_STORAGE_URI="memory://",
        RATELIMIT_STRATEGY="fixed-window",
        RATELIMIT_HEADERS_ENABLED=True,
        RATELIMIT_HEADER_LIMIT="X-My-Limit",
        RATELIMIT_HEADER_REMAINING="X-My-Remaining",
        RATELIMIT_HEADER_RESET="X-My-Reset",
        RATELIMIT_HEADER_RETRY_AFTER="X-My-Retry",
        RATELIMIT_HEADER_RETRY_AFTER_VALUE="http-date",
        RATELIMIT_KEY_PREFIX="mine",
        RATELIMIT_DEFAULTS_COST=1,
        RATELIMIT_META="9/hour",
        RATELIMIT_REQUEST_IDENTIFIER=lambda: request.path,
        RATELIMIT_ON_BREACH_CALLBACK=lambda limit: make_response(limit.key, 429),
        RATELIMIT_DEFAULTS_PER_METHOD=True,
        RATELIMIT_SWALLOW_ERRORS=False,
    )
    fl.Limiter(fl.get_remote_address).init_app(app)
    return app, "3x GET /a; 2x POST /a; 2x GET /b; +61; GET /a"


def header_names(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    names = fl.HeaderNames
    fl.limiter(
        app,
        default_limits=["1/minute"],
        retry_after="delta-seconds",
        header_name_mapping={names.LIMIT: "X-My-Limit", names.RESET: "X-My-Reset"},
    )
    app.add_url_rule("/busy", "busy", lambda: ("busy", 503, {"Retry-After": "120"}))
    return app, "2x GET /a; GET /busy"


def without_headers(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    fl.limiter(app, default_limits=["1/minute"], headers_enabled=None)
    return app, "2x GET /a"


def switched(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    limiter = fl.limiter(app, default_limits=["1/minute"])

    @app.get("/do")
    @limiter.exempt
    def do() -> str:
        action = request.headers["X-Do"]
        if action == "reset":
            limiter.reset()
        elif action == "clear":
            limiter.storage.reset()
        elif action == "hit":
            return str(limiter.limiter.hit(fl.parse("1/minute"), "key"))
        else:
            limiter.enabled = action == "on"
        return action

    return app, (
        "2x GET /a; GET /do X-Do=reset; 2x GET /a; GET /do X-Do=off; GET /a; GET /do "
        "X-Do=on; GET /a; GET /do X-Do=clear; GET /a; 2x GET /do X-Do=hit"
    )


def off(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    app.config["RATELIMIT_ENABLED"] = False
    # Theirs lives only as long as the program refers to it.
    limiter = app.extensions["mine"] = fl.limiter(app, default_limits=["1/minute"])

    @app.get("/b")
    @limiter.limit("1/minute")
    def b() -> str:
        return "ok"

    return app, "2x GET /a; 2x GET /b"


def two_extensions(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    first = fl.limiter(app, default_limits=["3/minute"], headers_enabled=False)
    second = fl.limiter(
        app, key_func=lambda: request.headers.get("X-User", "guest"), default_limits=["2/minute"]
    )

    @app.get("/b")
    @first.limit("4/minute")
    @second.limit("1/minute")
    def b() -> str:
        return f"{first.current_limit.limit} {second.current_limit.limit}"

    return app, "3x GET /a X-User=a; 2x GET /a X-User=b; 2x GET /b; GET /b X-User=c"


def two_applications(fl: Any) -> tuple[Flask, Steps]:
    limiter = fl.limiter(default_limits=["1/minute"])
    apps = [flask_app("/a"), flask_app("/a")]
    for app in apps:
        limiter.init_app(app)
    assert limiter in apps[0].extensions["limiter"]
    return apps[1], "2x GET /a"


def dotted_endpoints(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["1/minute"])

    def a() -> str:
        return "a"

    @limiter.limit("2/minute")
    def b() -> str:
        return "b"

    app.add_url_rule("/a", "no.blueprint", a)
    app.add_url_rule("/b", "no.other", b)
    return app, "2x GET /a; 3x GET /b"


def moving_window(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    fl.limiter(app, default_limits=["2/minute"], strategy="moving-window", headers_enabled=False)
    return app, "GET /a; +30; 2x GET /a; +31; 2x GET /a; +30; GET /a"


def route_limit_objects(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=[fl.Limit("3/minute", scope="mine", shared=True)])

    @app.get("/a")
    @fl.RouteLimit("1/second", limiter=limiter)
    def a() -> str:
        return "a"

    @app.get("/b")
    def b() -> str:
        return limiter.current_limit.key

    return app, "2x GET /a; 3x GET /b"


def empty_keys(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    fl.limiter(app, key_func=lambda: request.headers.get("X-User"), default_limits=["1/minute"])
    return app, "2x GET /a; 2x GET /a X-User=a"


def swallowed(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    fl.limiter(
        app,
        key_func=lambda: request.headers["X-User"],
        default_limits=["1/minute"],
        swallow_errors=True,
    )
    return app, "2x GET /a; 2x GET /a X-User=a"


def app_factory_views(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app)

    def login_required(view: Any) -> Any:
        @functools.wraps(view)
        def inner() -> Any:
            return view() if "X-User" in request.headers else ("who?", 401)

        return inner

    @app.get("/a")
    @limiter.limit("2/minute")
    @login_required
    def a() -> str:
        return "a"

    @app.get("/b")
    @login_required
    @limiter.limit("1/minute")
    def b() -> str:
        return "b"

    return app, "3x GET /a; GET /a X-User=1; 2x GET /b; 2x GET /b X-User=1"


def asynchronous(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)

    @app.get("/a")
    @limiter.limit("1/minute")
    async def a() -> str:
        return "a"

    return app, "2x GET /a"


SETUPS: list[Program] = [
    meta,
    blueprints,
    nested_blueprints,
    classes,
    blocks,
    functions,
    failed_logins,
    settings,
    header_names,
    without_headers,
    switched,
    off,
    two_extensions,
    two_applications,
    dotted_endpoints,
    moving_window,
    route_limit_objects,
    empty_keys,
    swallowed,
    app_factory_views,
    asynchronous,
]
