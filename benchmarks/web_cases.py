"""The cases of benchmarks/web.py without other packages' limiters."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Depends, FastAPI, Response
from fastapi.requests import HTTPConnection
from flask import Flask, g, request
from python_middleware import PythonMiddleware
from rate_limiter import RateLimiter
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.flask import FlaskRateLimiter
from web_drivers import HEADERS, PATH, Asgi, Call, Driver, Wsgi

FORWARDED = {"x-forwarded-for": "198.51.100.7, 10.0.0.3, 10.0.0.2"}
"""Three hops: the client and two proxies; the third proxy is the peer."""

ENOUGH = ("1000000000/second", "1000000000/minute")
ONE = ("1/day", "2/day")  # the first request passes, before measuring

NO_ASGI = "ASGI, no limiter"
NO_FASTAPI = "FastAPI, no limiter"
NO_FLASK = "Flask, no limiter"
NO_WSGI = "WSGI, no limiter"
LIMIT_HEADER = "x-ratelimit-limit"


@dataclass(frozen=True)
class Case:
    """Requests to one application.

    Attributes:
        name: the front or the package, then the configuration.
        make: builds the application.
        driver: what sends the requests.
        base: the name of the case without a limiter; empty for that one.
        status: of the responses, from the second on.
        shows: name of a header that every response has; empty if none is expected.
        headers: request headers in addition to HEADERS.
    """

    name: str
    make: Callable[[], Any]
    driver: type[Driver]
    base: str = ""
    status: int = 200
    shows: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def start(self) -> Driver:
        """Return a driver of the application.

        Raises:
            SystemExit: a response is not as expected.
        """
        driver = self.driver(self.make(), HEADERS | self.headers)
        driver.answer()
        self.check(driver)
        return driver

    def check(self, driver: Driver) -> None:
        """Raise SystemExit unless a response is as expected."""
        status, headers = driver.answer()
        if status != self.status or (self.shows and self.shows not in headers):
            raise SystemExit(f"{self.name}: unexpected response: {status}, {sorted(headers)}")


def by_base(cases: Iterable[Case]) -> list[list[Case]]:
    """Return the cases in groups: those that are compared with one base, which is the first."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.base or case.name, []).append(case)
    return [*groups.values()]


Make = Callable[[str], Any]


def allowed_and_denied(
    name: str, make: Make, driver: type[Driver], base: str, **options: Any
) -> Iterator[Case]:
    """Return the two cases of an application that is built with a limit."""
    yield Case(name, functools.partial(make, ENOUGH[0]), driver, base, **options)
    yield Case(f"{name}, denied", functools.partial(make, ONE[0]), driver, base, 429, **options)


def plain_cases() -> Iterator[Case]:
    """Return the cases without a limiter, and those with one that is written by hand."""
    yield Case(NO_ASGI, lambda: asgi_app, Asgi)
    yield Case(NO_FASTAPI, fastapi_app, Asgi)
    yield Case(NO_FLASK, flask_app, Wsgi)
    yield Case(NO_WSGI, lambda: wsgi_app, Wsgi)
    yield from allowed_and_denied(
        "ASGI, hand-written middleware",
        lambda limits: PythonMiddleware(asgi_app, RateLimiter(limits)),
        Asgi,
        NO_ASGI,
        shows=LIMIT_HEADER,
    )
    yield Case(EMPTY, lambda: fastapi_app(empty), Asgi, NO_FASTAPI)
    yield Case(f"{EMPTY}, HTTPConnection only", lambda: fastapi_app(only), Asgi, NO_FASTAPI)
    yield Case(
        "FastAPI, two empty dependencies", lambda: fastapi_app(empty, more), Asgi, NO_FASTAPI
    )
    yield Case(
        "Flask, hooks that set three headers", flask_hooks, Wsgi, NO_FLASK, shows=LIMIT_HEADER
    )
    yield from allowed_and_denied(
        "Flask, hand-written hooks", hand_written_flask, Wsgi, NO_FLASK, shows=LIMIT_HEADER
    )
    yield from allowed_and_denied(
        "WSGI, hand-written wrapper",
        lambda limits: PythonWsgiMiddleware(wsgi_app, RateLimiter(limits)),
        Wsgi,
        NO_WSGI,
        shows=LIMIT_HEADER,
    )
    yield Case(KEY_ALONE, lambda: key_of, Call)
    yield Case(COST_ALONE, lambda: cost_of, Call)
    yield Case(LIMITS_ALONE, lambda: limits_of, Call)


def our_cases() -> Iterator[Case]:
    """Return the cases with this package.

    Importing rate_limiter.fastapi extends FastAPI, so all other cases have to be started first.
    """
    yield from asgi_cases()
    yield from fastapi_cases()
    yield from flask_cases()
    if importlib.util.find_spec("rate_limiter.wsgi"):
        yield from wsgi_cases()


# --- ASGI ------------------------------------------------------------------------------------


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def rules_of(count: int, limits: str, **conditions: Any) -> dict[str, Any]:
    """Return so many rules, of which one has these limits and is for PATH."""
    rules: dict[str, Any] = {"default": {"limits": ENOUGH[0]}}
    rules["items"] = {"path": "/api/items/{id}", "limits": limits, **conditions}
    for i in range(count - 2):
        rules[f"service{i}"] = {"path": f"/api/service{i}/{{id}}", "limits": ENOUGH[0]}
    return rules


def configurations(one: str, two: str) -> dict[str, dict[str, Any]]:
    """Return the arguments of RateLimitMiddleware by the names of the cases."""
    several = f"{one}; {two}"
    plain = {"limits": one}
    proxies = {"trusted_proxies": ["10.0.0.0/8"]}
    bypass = {"bypass": "ip:172.16.0.0/12"}
    tier = {"tier": "header:X-Tier"}
    return {
        "plain": plain,
        "header key chain": {**plain, "key": ["header:X-API-Key", "ip"]},
        "cookie key": {**plain, "key": ["cookie:session", "ip"]},
        "trusted proxies, three hops": {**plain, **proxies},
        "bypass by network": {**plain, **bypass},
        "2 rules": {"rules": rules_of(2, one)},
        "1,000 rules": {"rules": rules_of(1000, one)},
        "tier by header": {"limits": {"free": ENOUGH[0], "pro": one}, **tier},
        'two limits, headers="both"': {"limits": several, "headers": "both"},
        "epoch reset": {**plain, "reset": "epoch"},
        "cors=True": {**plain, "cors": True},
        "all at once": {
            "rules": rules_of(1000, several, tier="pro"),
            "key": ["header:X-API-Key", "cookie:session", "ip"],
            "headers": "both",
            "reset": "epoch",
            "cors": True,
            **proxies,
            **bypass,
            **tier,
        },
    }


CONFIGURATIONS = tuple(configurations(*ONE))
KEY_ALONE = "the key callable alone"
COST_ALONE = "the cost callable alone"
LIMITS_ALONE = "the limits callable alone"


def key_of(scope: Any) -> Any:
    return scope["client"][0]


def cost_of(scope: Any) -> float:
    return 1


def limits_of(scope: Any) -> str:
    return ENOUGH[0]


def few_limits_of(scope: Any) -> str:
    return ONE[0]


def limited_asgi(options: dict[str, Any], limits: str | None = None) -> Any:
    limiting = options if limits is None else options | {"limits": limits}
    return RateLimitMiddleware(asgi_app, setup_checks=False, **limiting)


def asgi_cases() -> Iterator[Case]:
    for limits, status, ending in ((ENOUGH, 200, ""), (ONE, 429, ", denied")):
        for name, options in configurations(*limits).items():
            yield Case(
                f"ASGI, {name}{ending}",
                functools.partial(limited_asgi, options),
                Asgi,
                NO_ASGI,
                status,
                shows=LIMIT_HEADER,
                headers=FORWARDED if "trusted_proxies" in options else {},
            )
    bypassed = {"limits": ONE[0], "bypass": "ip:10.0.0.0/8"}
    yield Case("ASGI, bypassed by network", lambda: limited_asgi(bypassed), Asgi, NO_ASGI)
    for name, callables in (("key", {"key": key_of}), ("cost", {"cost": cost_of})):
        yield from allowed_and_denied(
            f"ASGI, callable {name}",
            functools.partial(limited_asgi, callables),
            Asgi,
            NO_ASGI,
            shows=LIMIT_HEADER,
        )
    for function, status, ending in ((limits_of, 200, ""), (few_limits_of, 429, ", denied")):
        yield Case(
            f"ASGI, callable limits{ending}",
            functools.partial(limited_asgi, {"limits": function}),
            Asgi,
            NO_ASGI,
            status,
            shows=LIMIT_HEADER,
        )


# --- FastAPI ---------------------------------------------------------------------------------

EMPTY = "FastAPI, empty dependency"


async def empty(connection: HTTPConnection, response: Response) -> None:
    """Do nothing, with the parameters of a RateLimit."""


async def more(connection: HTTPConnection, response: Response) -> None:
    """Do the same; FastAPI calls one function once per request."""


async def only(connection: HTTPConnection) -> None:
    """Do nothing."""


def fastapi_app(*dependencies: Any) -> FastAPI:
    app = FastAPI()

    @app.get(PATH, dependencies=[Depends(one) for one in dependencies])
    async def item() -> dict[str, str]:
        return {"message": "hello"}

    return app


def fastapi_with_dependencies(count: int, limits: str, **options: Any) -> FastAPI:
    rate_limit = importlib.import_module("rate_limiter.fastapi").RateLimit
    return fastapi_app(*(rate_limit(limits, **options) for _ in range(count)))


def fastapi_with_middleware(limits: str) -> FastAPI:
    app = fastapi_app()
    app.add_middleware(RateLimitMiddleware, limits=limits, setup_checks=False)
    return app


def fastapi_cases() -> Iterator[Case]:
    makers: dict[str, Make] = {
        "middleware": fastapi_with_middleware,
        "dependency": functools.partial(fastapi_with_dependencies, 1),
        "two dependencies": functools.partial(fastapi_with_dependencies, 2),
    }
    for name, make in makers.items():
        yield from allowed_and_denied(
            f"FastAPI, {name}", make, Asgi, NO_FASTAPI, shows=LIMIT_HEADER
        )
    settled = functools.partial(
        fastapi_with_dependencies, 1, ENOUGH[0], cost_after=lambda finished: 0
    )
    name = "FastAPI, dependency with cost_after"
    yield Case(name, settled, Asgi, NO_FASTAPI, shows=LIMIT_HEADER)


# --- Flask -----------------------------------------------------------------------------------


def flask_app(decorate: Callable[[Any], Any] = lambda view: view) -> Flask:
    app = Flask("web")

    @app.get(PATH)
    @decorate
    def item() -> str:
        return "ok"

    return app


def flask_hooks() -> Flask:
    """Return an application with hooks that decide nothing."""
    app = flask_app()
    app.before_request(lambda: None)

    @app.after_request
    def add_headers(response: Any) -> Any:
        response.headers["X-RateLimit-Limit"] = "100"
        response.headers["X-RateLimit-Remaining"] = "99"
        response.headers["X-RateLimit-Reset"] = "1"
        return response

    return app


def hand_written_flask(limits: str) -> Flask:
    app = flask_app()
    limiter = RateLimiter(limits)

    @app.before_request
    def decide() -> Any:
        g.decision = limiter.hit(request.remote_addr or "unknown")
        return None if g.decision else ({"error": "rate limit exceeded"}, 429)

    @app.after_request
    def add_headers(response: Any) -> Any:
        for name, value in header_values(g.decision):
            response.headers[name] = value
        return response

    return app


def header_values(decision: Any) -> Iterable[tuple[str, str]]:
    return (
        ("X-RateLimit-Limit", str(decision.limit)),
        ("X-RateLimit-Remaining", str(decision.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(decision.reset_after))),
    )


def flask_with_defaults(limits: str) -> Flask:
    app = flask_app()
    FlaskRateLimiter(app, default_limits=limits, setup_checks=False)
    return app


def flask_with_decorator(limits: str) -> Flask:
    limiter = FlaskRateLimiter(setup_checks=False)
    app = flask_app(limiter.limit(limits))
    limiter.init_app(app)
    return app


def flask_cases() -> Iterator[Case]:
    makers = {"default limits": flask_with_defaults, "decorator": flask_with_decorator}
    for name, make in makers.items():
        yield from allowed_and_denied(f"Flask, {name}", make, Wsgi, NO_FLASK, shows=LIMIT_HEADER)


# --- WSGI ------------------------------------------------------------------------------------


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


class PythonWsgiMiddleware:
    """Limit by the peer's address and add headers, all in Python."""

    def __init__(self, app: Any, limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter

    def __call__(self, environ: Any, start_response: Any) -> Any:
        decision = self._limiter.hit(environ.get("REMOTE_ADDR", "unknown"))

        def start_with_headers(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *header_values(decision)], exc_info)

        if decision:
            return self._app(environ, start_with_headers)
        start_with_headers("429 Too Many Requests", [("Content-Length", "0")])
        return []


def limited_wsgi(key: Any, limits: str) -> Any:
    middleware = importlib.import_module("rate_limiter.wsgi").RateLimitMiddleware
    return middleware(wsgi_app, limits=limits, key=key)


def wsgi_cases() -> Iterator[Case]:
    keys: dict[str, Any] = {"plain": "ip", "header key chain": ["header:X-API-Key", "ip"]}
    for name, key in keys.items():
        yield from allowed_and_denied(
            f"WSGI, {name}",
            functools.partial(limited_wsgi, key),
            Wsgi,
            NO_WSGI,
            shows=LIMIT_HEADER,
        )
