"""The cases of benchmarks/web.py with other packages' limiters, on their stores in memory.

Each limits by the peer's address and adds headers if the package can. The packages are imported
when a case is built, so that a run of other cases does not need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from flask import Flask, request
from web_cases import (
    NO_ASGI,
    NO_FASTAPI,
    NO_FLASK,
    Case,
    allowed_and_denied,
    asgi_app,
    fastapi_app,
    flask_app,
    our_cases,
    plain_cases,
)
from web_drivers import PATH, Asgi, Wsgi

PACKAGES = (
    *("asgi-ratelimit", "fastapi-limiter", "pyrate-limiter", "Flask-Limiter", "slowapi", "limits"),
    "throttled-py",
)
FLASK_LIMITER = "Flask-Limiter, default limits"
SLOWAPI = "slowapi, decorator"
COMPAT = "rate_limiter.compat.slowapi"
FLASK_COMPAT = "rate_limiter.compat.flask_limiter"
REMAINING = "x-ratelimit-remaining"


def all_cases() -> list[Case]:
    """Return all cases, in the order in which they have to be started."""
    return [*plain_cases(), *peer_cases(), *our_cases()]


def peer_cases() -> Iterator[Case]:
    """Return the cases of all packages."""
    yield from allowed_and_denied("asgi-ratelimit", asgi_ratelimit, Asgi, NO_ASGI)
    for name, make, shows in (
        ("slowapi, ASGI middleware", slowapi_middleware, ""),  # its 429 has no headers
        (SLOWAPI, slowapi_decorator, REMAINING),
        (f"{COMPAT}, ASGI middleware", partial(slowapi_middleware, package=COMPAT), REMAINING),
        (f"{COMPAT}, decorator", partial(slowapi_decorator, package=COMPAT), REMAINING),
        ("fastapi-limiter, dependency", fastapi_limiter, ""),
        ("throttled-py, hand-written dependency", throttled_dependency, REMAINING),
    ):
        yield from allowed_and_denied(name, make, Asgi, NO_FASTAPI, shows=shows)
    for name, make_flask, shows in (
        (FLASK_LIMITER, flask_limiter_defaults, REMAINING),
        ("Flask-Limiter, decorator", flask_limiter_decorator, REMAINING),
        (
            f"{FLASK_COMPAT}, default limits",
            partial(flask_limiter_defaults, package=FLASK_COMPAT),
            REMAINING,
        ),
        (
            f"{FLASK_COMPAT}, decorator",
            partial(flask_limiter_decorator, package=FLASK_COMPAT),
            REMAINING,
        ),
        ("throttled-py, Flask decorator", throttled_flask, "ratelimit-limit"),
    ):
        yield from allowed_and_denied(name, make_flask, Wsgi, NO_FLASK, shows=shows)


def _parsed(limits: str) -> tuple[int, str]:
    """Return 5 and "day" for "5/day"."""
    count, _, period = limits.partition("/")
    return int(count), period


def asgi_ratelimit(limits: str) -> Any:
    from ratelimit import RateLimitMiddleware, Rule
    from ratelimit.backends.simple import MemoryBackend

    async def client(scope: Any) -> tuple[str, str]:
        return scope["client"][0], "default"

    count, period = _parsed(limits)
    config: Any = {"^/": [Rule(**{period: count})]}  # type: ignore[arg-type]
    return RateLimitMiddleware(asgi_app, client, MemoryBackend(), config)  # type: ignore[no-untyped-call]


# --- FastAPI ---------------------------------------------------------------------------------


def _slowapi(package: str, app: FastAPI, **options: Any) -> Any:
    """Return a Limiter of slowapi or of its stand-in, which `app` uses."""
    made = import_module(package)
    key = import_module(f"{package}.util").get_remote_address
    limiter = app.state.limiter = made.Limiter(key, headers_enabled=True, **options)
    error = import_module(f"{package}.errors").RateLimitExceeded
    app.add_exception_handler(error, made._rate_limit_exceeded_handler)
    return limiter


def slowapi_middleware(limits: str, package: str = "slowapi") -> FastAPI:
    app = fastapi_app()
    _slowapi(package, app, default_limits=[limits])
    app.add_middleware(import_module(f"{package}.middleware").SlowAPIASGIMiddleware)
    return app


def slowapi_decorator(limits: str, package: str = "slowapi", **options: Any) -> FastAPI:
    app = FastAPI()
    limiter = _slowapi(package, app, **options)

    async def item(request: Request, response: Response) -> dict[str, str]:
        return {"message": "hello"}

    # FastAPI resolves annotations that are texts in the module of the function.
    item.__annotations__ = {"request": Request, "response": Response, "return": dict[str, str]}
    app.get(PATH)(limiter.limit(limits)(item))
    return app


def fastapi_limiter(limits: str) -> FastAPI:
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate

    count, period = _parsed(limits)
    return fastapi_app(RateLimiter(limiter=Limiter(Rate(count, Duration[period.upper()]))))


def throttled_dependency(limits: str) -> FastAPI:
    from throttled.asyncio import MemoryStore, Throttled

    throttled = Throttled(quota=limits, using="token_bucket", store=MemoryStore())

    async def limit(request: Request, response: Response) -> None:
        result = await throttled.limit(request.client.host)  # type: ignore[union-attr]
        headers = {
            "X-RateLimit-Limit": str(result.state.limit),
            "X-RateLimit-Remaining": str(result.state.remaining),
            "X-RateLimit-Reset": str(result.state.reset_after),
        }
        if result.limited:
            raise HTTPException(429, "Too Many Requests", headers)
        response.headers.update(headers)

    return fastapi_app(limit)


# --- Flask -----------------------------------------------------------------------------------


def _flask_limiter(package: str, **options: Any) -> Any:
    """Return a Limiter of Flask-Limiter or of its stand-in."""
    key = import_module(f"{package}.util").get_remote_address
    options = {"headers_enabled": True, "storage_uri": "memory://"} | options
    return import_module(package).Limiter(key, **options)


def flask_limiter_defaults(limits: str, package: str = "flask_limiter") -> Flask:
    app = flask_app()
    _flask_limiter(package, app=app, default_limits=[limits])
    return app


def flask_limiter_decorator(
    limits: str, package: str = "flask_limiter", storage_uri: str = "memory://"
) -> Flask:
    limiter = _flask_limiter(package, storage_uri=storage_uri)
    app = flask_app(limiter.limit(limits))
    limiter.init_app(app)
    return app


def throttled_flask(limits: str) -> Flask:
    from throttled.contrib.flask import Limiter

    limiter = Limiter(limits, key_func=lambda: request.remote_addr or "unknown")
    app = flask_app(limiter.limit())
    limiter.init_app(app)
    return app
