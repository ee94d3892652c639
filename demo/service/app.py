"""A rate-limiting service: 20 requests a minute per API key, or per address without one.

    uvicorn demo.service.app:app --port 8000

Fixed windows in Redis, aligned to the minute, under keys that show what they count:
``rate:user:bob:2026-11-21-09:05``. The environment and .env configure Redis: see
rate_limiter.settings. While it is down, each process counts in its memory; the log and /health
show it. The pages at /docs and /redoc load nothing from other hosts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Mapping, ValuesView
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AliasChoices, BaseModel, Field, model_validator
from rate_limiter import AsyncRateLimiter, Decision, Limit, __version__
from rate_limiter.metrics import registry
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.dashboard import dashboard, page_paths
from rate_limiter.policy.headers import reset_at_s
from rate_limiter.policy.keys import header_source
from rate_limiter.proxies import ClientAddress
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake
from starlette.types import ASGIApp, Receive, Scope, Send

NAME = "Distributed Rate Limiting Service"
LIMIT = Limit.fixed_window(20, 60)  # per API key
IP_LIMIT = Limit.fixed_window(20, 60)  # per address, for requests without a key
ASSETS = "/docs/assets"
LIVE_PAGE = "/rate-limit/live"
NOT_LIMITED = (
    *("/", "/health", "/metrics", "/rate-limit/status", "/openapi.json"),
    *("/docs", "/redoc", "/docs/oauth2-redirect", f"{ASSETS}/favicon.png"),
    *(f"{ASSETS}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css")),
    f"{ASSETS}/redoc.standalone.js",
)
logger = logging.getLogger("demo")
_KEY_MAX = 128
_DEPTH_MAX = 20

_api_key = header_source("x-api-key")


def _depth(value: object) -> int:
    """Return the nesting depth of objects and lists; stop counting just above the maximum."""
    depth, level = 0, [value]
    while level and depth <= _DEPTH_MAX:
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [each for one in inner if isinstance(one, (list, ValuesView)) for each in one]
        depth += any(isinstance(one, (list, ValuesView)) for one in inner)
    return depth


class ResourceRequest(BaseModel):
    """The body of a request."""

    action: str | None = Field(default="process", max_length=200)
    data: dict[str, Any] | None = Field(
        default=None,
        validation_alias=AliasChoices("data", "user_data"),
        description="Sent back as `user_data`.",
    )

    @model_validator(mode="after")
    def _can_be_sent_back(self) -> ResourceRequest:
        try:
            text = json.dumps([self.action, self.data], ensure_ascii=False, allow_nan=False)
            text.encode()
        except ValueError:
            raise ValueError("expected text and finite numbers") from None
        if _depth(self.data) > _DEPTH_MAX:
            raise ValueError(f"expected at most {_DEPTH_MAX} objects or lists in one another")
        return self


class ResourceData(BaseModel):
    """The processed data."""

    processed: bool
    action: str | None
    user_data: dict[str, Any] | None


class ResourceResponse(BaseModel):
    """The response to an allowed request."""

    message: str
    request_id: str
    timestamp: str
    data: ResourceData


WINDOW = "Start of the window (UTC), as in the key in Redis: `2026-11-28-12:04`."


class RateLimitExceededResponse(BaseModel):
    """The response to a denied request."""

    error: str
    identifier: str
    limit: int
    retry_after: int
    window: str = Field(description=WINDOW)


class MalformedResponse(BaseModel):
    """The response to a body that is not text."""

    detail: str


class StatusResponse(BaseModel):
    """The caller's rate limit status."""

    identifier: str
    identifier_type: str
    limit: int
    remaining: int
    reset_at: str = Field(description="When the window ends (ISO 8601, UTC).")
    window: str = Field(description=WINDOW)
    current_count: int


class HealthResponse(BaseModel):
    """The health of the service."""

    status: str
    redis: str
    version: str
    timestamp: str


class ServiceResponse(BaseModel):
    """A description of the service."""

    service: str
    version: str
    status: str
    documentation: str


HEADERS = {
    "X-RateLimit-Limit": {"description": "Requests in a window.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "Requests left.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {
        "description": "When the window ends, in seconds since the epoch.",
        "schema": {"type": "integer"},
    },
}
DENIED: dict[int | str, dict[str, Any]] = {
    200: {"headers": HEADERS},
    400: {"model": MalformedResponse, "description": "The body cannot be decoded"},
    429: {
        "model": RateLimitExceededResponse,
        "description": "Rate limit exceeded",
        "headers": HEADERS
        | {
            "Retry-After": {
                "description": "Seconds until the window ends.",
                "schema": {"type": "integer", "minimum": 1},
            }
        },
    },
}


class LimitByKind:
    """Limit requests with an API key by the key, all others by address.

    Args:
        app: the ASGI application.
        limiters: the limiters of ``"user"`` and ``"ip"``.
        options: arguments of RateLimitMiddleware.
    """

    def __init__(
        self, app: ASGIApp, /, *, limiters: Mapping[str, RedisRateLimiter], **options: Any
    ) -> None:
        """Create a middleware for each kind of client."""
        self._apps = {
            kind: RateLimitMiddleware(app, limiter=limiter, **options)
            for kind, limiter in limiters.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the middleware of its kind."""
        has_key = scope["type"] == "http" and _api_key(scope)
        await self._apps["user" if has_key else "ip"](scope, receive, send)


def create_app(
    settings: Settings | None = None, limit: Limit = LIMIT, ip_limit: Limit = IP_LIMIT
) -> FastAPI:
    """Return the service.

    Args:
        settings: read from the environment by default.
        limit: fixed window per API key.
        ip_limit: fixed window per address, for requests without a key.
    """
    settings = settings or Settings()
    for name in ("demo", "rate_limiter"):
        logging.getLogger(name).setLevel(settings.log_level.upper())
    address = settings.store or (
        settings.address if settings.redis_sentinel_hosts else settings.redis_address
    )
    limiters = {
        kind: RedisRateLimiter(
            one,
            store=address,
            on_store_error=settings.on_store_error,
            # A cluster cannot place keys with a date in them: it uses the keys of other limiters.
            exact_prefix=None if "+cluster://" in address else "rate:",
            max_keys=settings.max_keys,
            tracing=settings.tracing,
        )
        for kind, one in {"user": limit, "ip": ip_limit}.items()
    }
    store = limiters["user"].store
    clients = ClientAddress(
        settings.trusted_proxies,
        header=settings.proxy_header,
        ipv6_prefix=settings.ipv6_prefix,
    )

    def identify(scope: Any) -> tuple[str, str]:
        """Return the kind and the name of a client: its API key, else its address."""
        api_key = _api_key(scope)
        if not api_key:
            return "ip", clients.key_of_scope(scope)
        if len(api_key) > _KEY_MAX:
            api_key = "sha256:" + sha256(api_key.encode()).hexdigest()
        return "user", api_key

    def key(scope: Any) -> str:
        return ":".join(identify(scope))

    def denied(scope: Any, decision: Decision) -> JSONResponse:
        kind, name = identify(scope)
        window = limiters[kind].limits[0]
        return JSONResponse(
            {
                "error": "Rate limit exceeded",
                "identifier": name,
                "limit": int(decision.limit),
                "retry_after": max(1, math.ceil(decision.retry_after)),
                "window": _window_name(reset_at_s(decision, window), window),
            },
            429,
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Log at the start where requests are counted."""
        where = "redis" if await asyncio.to_thread(store.ping) else "memory"
        servers = ", ".join(store.health()["servers"])
        level = logging.INFO if where == "redis" else logging.WARNING
        logger.log(level, "requests are counted in: %s (Redis: %s)", where, servers)
        yield

    token = os.environ.get("LIVE_PAGE_TOKEN")
    app = FastAPIOffline(title=NAME, version=__version__, lifespan=lifespan, static_url=ASSETS)
    app.add_middleware(
        LimitByKind,
        limiters=limiters,
        key=key,
        denied=denied,
        reset="epoch",
        exempt_paths=(page_paths(LIVE_PAGE) if token else frozenset()).union(NOT_LIMITED),
        metrics="service",
        tracing=settings.tracing,
        top=100,
    )
    app.add_exception_handler(RequestValidationError, _malformed)
    _add_routes(app, limiters, identify)
    if token:
        behind_proxy = bool(settings.trusted_proxies)
        page = dashboard(token, allow_reset=True, client=clients, secure_cookie=behind_proxy)
        app.mount(LIVE_PAGE, page)
    return app


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    """Describe an invalid request without echoing its input, which may not be encodable."""
    assert isinstance(error, RequestValidationError)
    detail = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
    return JSONResponse({"detail": detail}, 422)


def _add_routes(app: FastAPI, limiters: Mapping[str, RedisRateLimiter], identify: Any) -> None:
    awaited = {kind: AsyncRateLimiter.of(limiter) for kind, limiter in limiters.items()}

    @app.post("/api/resource", responses=DENIED)
    async def resource(body: ResourceRequest | None = None) -> ResourceResponse:
        """Process a request; the limit protects this endpoint."""
        given = body or ResourceRequest()
        data = ResourceData(processed=True, action=given.action, user_data=given.data)
        return ResourceResponse(
            message="Request successful",
            request_id=f"req_{secrets.token_hex(6)}",
            timestamp=_now(),
            data=data,
        )

    @app.get("/rate-limit/status")
    async def status(request: Request) -> StatusResponse:
        """Return the caller's rate limit status, without counting a request."""
        kind, name = identify(request.scope)
        limit = limiters[kind].limits[0]
        decision = await awaited[kind].peek(f"{kind}:{name}", 0)
        remaining = math.floor(decision.remaining)
        reset_at = reset_at_s(decision, limit)
        return StatusResponse(
            identifier=name,
            identifier_type=kind,
            limit=int(limit.capacity),
            remaining=remaining,
            reset_at=_iso(datetime.fromtimestamp(reset_at, timezone.utc), "seconds"),
            window=_window_name(reset_at, limit),
            current_count=int(limit.capacity) - remaining,
        )

    @app.get("/health")
    async def health() -> HealthResponse:
        """Return the health of the service and its Redis."""
        connected = await asyncio.to_thread(limiters["user"].store.ping)
        return HealthResponse(
            status="healthy" if connected else "degraded",
            redis="connected" if connected else "disconnected",
            version=__version__,
            timestamp=_now(),
        )

    @app.get("/")
    async def index() -> ServiceResponse:
        """Return a description of the service."""
        return ServiceResponse(
            service=NAME, version=__version__, status="running", documentation="/docs"
        )

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)


def _now() -> str:
    return _iso(datetime.now(timezone.utc), "milliseconds")


def _iso(time: datetime, precision: str) -> str:
    return time.isoformat(timespec=precision).replace("+00:00", "Z")


def _window_name(reset_at: int, window: Limit) -> str:
    """Return the name of the window that ends at `reset_at`, as in its key in Redis."""
    start = datetime.fromtimestamp(reset_at - window.window_s, timezone.utc)
    seconds = ":%S" if window.window_s % 60 else ""
    return start.strftime(f"%Y-%m-%d-%H:%M{seconds}")


logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
with exit_on_mistake():
    app = create_app()
    app.middleware_stack = app.build_middleware_stack()

if __name__ == "__main__":
    found = Settings()
    uvicorn.run(
        app,
        lifespan="on",
        host=found.api_host,
        port=found.api_port,
        log_level=found.log_level.lower(),
    )
