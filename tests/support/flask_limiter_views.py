"""Programs for Flask-Limiter: limits of views, their keys, costs and messages."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, jsonify, make_response, request
from support.flask_limiter_names import Program, Steps, flask_app


def quickstart(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/medium")
    limiter = fl.limiter(app, default_limits=["200 per day", "3 per hour"])

    @app.get("/slow")
    @limiter.limit("1 per day")
    def slow() -> str:
        return ":("

    @app.get("/ping")
    @limiter.exempt
    def ping() -> str:
        return "PONG"

    return app, (
        "GET /slow; GET /medium; GET /ping; GET /slow; GET /medium; GET /ping; GET /slow; "
        "GET /medium; GET /ping; GET /slow; GET /medium; GET /ping; GET /medium "
        "From=10.0.0.2; GET /missing; +3599; GET /medium; +2; GET /medium; GET /slow"
    )


def stacked(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app, default_limits=["1/hour"])

    @app.get("/expensive")
    @limiter.limit("4/day")
    @limiter.limit("3 per hour;1/second")
    def expensive() -> Response:
        return jsonify([str(one.limit) for one in limiter.current_limits])

    return app, (
        "2x GET /expensive; +1.5; GET /expensive; +1.5; GET /expensive; +1.5; GET "
        "/expensive; +3600; GET /expensive; +86400; GET /expensive"
    )


def keys(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app)

    @app.get("/user")
    @limiter.limit("2/minute", key_func=lambda: request.headers.get("X-User", "guest"))
    def user() -> str:
        return limiter.current_limit.key

    return app, (
        "3x GET /user X-User=a; GET /user X-User=b; GET /user From=1.2.3.4; GET /user "
        "From=1.2.3.5; GET /user From=1.2.3.6"
    )


def key_sees_hooks(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    order: list[str] = []
    app.before_request(lambda: order.append("before the limiter"))
    limiter = fl.limiter(
        app,
        key_func=lambda: order.append("key") or getattr(g, "user", "anonymous"),
        application_limits=["9/minute"],
        on_breach=lambda limit: order.append("breach"),
        default_limits=["9/minute"],
    )

    @app.before_request
    def load_user() -> None:
        order.append("user")
        g.user = request.headers.get("X-User")

    @app.get("/decorated")
    @limiter.limit("1/minute")
    def decorated() -> str:
        order.append("view")
        return " ".join(order)

    @app.get("/default")
    def default() -> str:
        return " ".join(order)

    app.after_request(lambda response: order.append("after") or response)
    return app, "2x GET /decorated X-User=a; GET /decorated X-User=b; 2x GET /default"


def methods_and_costs(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app, default_limits=["2/hour"])
    both = ["GET", "POST"]

    @app.route("/per-method", methods=both)
    @limiter.limit("1/minute", per_method=True)
    def per_method() -> str:
        return "ok"

    @app.route("/posts", methods=both)
    @limiter.limit("1/minute", methods=["post"])
    def posts() -> str:
        return "ok"

    @app.get("/cost")
    @limiter.limit("10/minute", cost=lambda: int(request.headers["X-Cost"]))
    def cost() -> str:
        return "ok"

    return app, (
        "GET /per-method; POST /per-method; GET /per-method; POST /per-method; GET "
        "/per-method; POST /per-method; GET /posts; POST /posts; GET /posts; POST /posts; "
        "GET /posts; POST /posts; GET /cost X-Cost=4; GET /cost X-Cost=6; GET /cost "
        "X-Cost=1; +61; GET /cost X-Cost=2"
    )


def conditions(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    limiter = fl.limiter(
        app,
        default_limits=["1/hour"],
        default_limits_exempt_when=lambda: request.headers.get("X-Role") == "admin",
    )

    @limiter.request_filter
    def internal() -> bool:
        return request.headers.get("X-Internal") == "true"

    @app.get("/b")
    @limiter.limit("1/hour", exempt_when=lambda: "X-Trusted" in request.headers)
    def b() -> str:
        return "ok"

    @app.get("/c")
    @limiter.limit("2/minute", override_defaults=False)
    def c() -> str:
        return "ok"

    return app, (
        "2x GET /a; GET /a X-Role=admin; GET /a X-Internal=true; 2x GET /b; GET /b "
        "X-Trusted=1; GET /b X-Internal=true; 2x GET /c"
    )


def default_options(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a", "/b")
    fl.limiter(
        app,
        default_limits=["4/hour", fl.Limit("1/minute", per_method=True)],
        default_limits_cost=2,
        default_limits_per_method=True,
        default_limits_deduct_when=lambda response: "X-Free" not in request.headers,
    )
    return app, "GET /a X-Free=1; 2x GET /a; POST /a; +61; GET /a; +61; GET /a; GET /b"


def application_limits(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    limiter = fl.limiter(app, application_limits=["4/hour"], default_limits=["3/minute"])

    @app.get("/b")
    @limiter.limit("2/minute")
    def b() -> str:
        return "ok"

    @app.get("/free")
    @limiter.exempt(flags=fl.ExemptionScope.APPLICATION)
    def free() -> str:
        return "ok"

    return app, "GET /a; GET /b; GET /a; GET /b; GET /a; GET /b; 4x GET /free"


def application_options(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a", "/b")
    fl.limiter(
        app,
        application_limits=["2/hour", fl.ApplicationLimit("4/day", cost=2)],
        application_limits_per_method=True,
        application_limits_exempt_when=lambda: "X-Free" in request.headers,
    )
    return app, "GET /a; POST /b; GET /b; GET /a X-Free=1"


def shared(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app)
    mysql = limiter.shared_limit("2/hour", scope="mysql")
    by_host = limiter.shared_limit("1/hour", scope=lambda endpoint: request.headers["X-Tenant"])

    @app.get("/r1")
    @mysql
    def r1() -> str:
        return limiter.current_limit.key

    @app.get("/r2")
    @mysql
    def r2() -> str:
        return "r2"

    @app.get("/t1")
    @by_host
    def t1() -> str:
        return "t1"

    @app.get("/t2")
    @by_host
    @limiter.limit("5/minute", scope="own")
    def t2() -> str:
        return limiter.current_limit.key

    return app, "GET /r1; GET /r2; GET /r1; GET /r2; GET /t1 X-Tenant=a; GET /t2 X-Tenant=b"


def dynamic(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/default")
    texts = {"free": "1/minute", "pro": "3/minute", "broken": "many", "none": ""}

    def of_plan() -> str:
        return texts[request.headers.get("X-Plan", "free")]

    limiter = fl.limiter(app, default_limits=[of_plan], key_prefix="app")

    @app.get("/dynamic")
    @limiter.limit(of_plan)
    def view() -> str:
        return limiter.current_limit.key if limiter.current_limit else "unlimited"

    @app.get("/broken")
    @limiter.limit("2 every so often")
    def broken() -> str:
        return "the defaults apply"

    return app, (
        "2x GET /dynamic; 4x GET /dynamic X-Plan=pro; 2x GET /default; GET /dynamic "
        "X-Plan=none; 3x GET /default X-Plan=pro; 4x GET /broken X-Plan=pro"
    )


def messages(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app)

    @app.get("/text")
    @limiter.limit("1/minute", error_message="chill!")
    def text() -> str:
        return "ok"

    @app.get("/callable")
    @limiter.limit("1/minute", error_message=lambda: f"chill, {request.path}!")
    def by_callable() -> str:
        return "ok"

    @app.get("/plain")
    @limiter.limit("1 per 2 minutes")
    def plain() -> str:
        return "ok"

    @app.errorhandler(429)
    def handler(error: Any) -> Response:
        limit = error.limit.limit
        return make_response(
            jsonify(
                error=f"ratelimit exceeded {error.description}",
                amount=limit.amount,
                expiry=limit.get_expiry(),
                limit=repr(limit),
            ),
            429,
        )

    return app, "2x GET /text; 2x GET /callable; 2x GET /plain"


def breaches(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")

    def respond(limit: Any) -> Response:
        return make_response(f"{limit.limit} {limit.breached} {limit.remaining} {limit.key}", 418)

    limiter = fl.limiter(app, default_limits=["1/minute"], on_breach=respond)
    seen: list[str] = []

    @app.get("/b")
    @limiter.limit("1/minute", on_breach=lambda limit: seen.append(str(limit.limit)))
    def b() -> str:
        return "ok"

    @app.get("/seen")
    @limiter.exempt
    def refused() -> str:
        return " ".join(seen)

    return app, "2x GET /a; 2x GET /b; GET /seen"


def every_breach(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    seen: list[str] = []
    limiter = fl.limiter(
        app, fail_on_first_breach=False, on_breach=lambda limit: seen.append(str(limit.limit))
    )

    @app.get("/a")
    @limiter.limit("1/minute;1/hour;5/day")
    def a() -> str:
        return "ok"

    app.errorhandler(fl.RateLimitExceeded)(lambda error: (f"{seen} {error.description}", 429))
    return app, "2x GET /a"


VIEWS: list[Program] = [
    quickstart,
    stacked,
    keys,
    key_sees_hooks,
    methods_and_costs,
    conditions,
    default_options,
    application_limits,
    application_options,
    shared,
    dynamic,
    messages,
    breaches,
    every_breach,
]
