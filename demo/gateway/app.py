"""An API gateway: limits by API key, else user, else address: `python -m demo.gateway.app`.

The environment configures it: PORT (8080), RL_RATE_PER_SEC (5), RL_BURST (10) and REDIS_URL
(redis://localhost:6379/0).
While Redis is down, each process keeps the limits in its memory; the log and /health show it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from rate_limiter import RateLimitPolicy, TokenBucketLimiter
from rate_limiter.metrics import registry
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.dashboard import dashboard, page_paths
from rate_limiter.proxies import ClientAddress
from rate_limiter.redis_client import get_redis
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake

LIVE_PAGE = "/rate-limit/live"
logger = logging.getLogger("demo")
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with exit_on_mistake():
    settings = Settings()
    limit = settings.limit()
    policy = RateLimitPolicy(
        rate_per_sec=limit.refill_rate if limit else 5.0, burst=int(limit.capacity) if limit else 10
    )
    limiter = TokenBucketLimiter(get_redis(), policy, tracing=settings.tracing)
    live_page = None
    if token := os.environ.get("LIVE_PAGE_TOKEN"):
        behind_proxy = bool(settings.trusted_proxies)
        clients = ClientAddress(settings.trusted_proxies, header=settings.proxy_header)
        live_page = dashboard(token, allow_reset=True, client=clients, secure_cookie=behind_proxy)

store = limiter.limiter.store


async def storage() -> str:
    """Ping Redis; return where buckets are."""
    return "redis" if await asyncio.to_thread(store.ping) else "memory"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Log at the start where buckets are."""
    logger.info("buckets are in: %s (Redis: %s)", await storage(), store.health()["servers"][0])
    yield


app = FastAPI(title="Rate limited gateway", lifespan=lifespan)
app.add_middleware(
    RateLimitMiddleware,
    limiter=limiter,
    policy=policy,
    dimension_label="gateway",
    exempt_paths=policy.exempt_paths | (page_paths(LIVE_PAGE) if live_page else frozenset()),
    tracing=settings.tracing,
)


@app.get("/health")
async def health() -> dict[str, str]:
    """Return the status of the gateway and where buckets are."""
    return {"status": "ok", "storage": await storage()}


@app.get("/v1/hello")
async def hello() -> dict[str, str]:
    """Greet clients that are within the limit."""
    return {"message": "hello"}


if live_page is not None:
    app.mount(LIVE_PAGE, live_page)


@app.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """Return the metrics for Prometheus."""
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)


# Build it now, not on the first request: a configuration mistake must stop the start.
with exit_on_mistake():
    app.middleware_stack = app.build_middleware_stack()

if __name__ == "__main__":
    uvicorn.run(
        app,
        lifespan="on",
        host=settings.api_host,
        port=settings.api_port if "api_port" in settings.model_fields_set else 8080,
    )
