"""FastAPI on AsyncTokenBucketRateLimiter: `uvicorn demo.fastapi.app:app --port 5000`.

Buckets are in the Redis at REDIS_URL (redis://localhost:6379/0) while it answers, else in memory.
"""

import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from rate_limiter import AsyncTokenBucketRateLimiter, RateLimitConfig
from rate_limiter.redis_store_async import AsyncRedisStore
from rate_limiter.startup import exit_on_mistake

logger = logging.getLogger("demo")
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

config = RateLimitConfig(capacity=5, refill_rate=1.0)
with exit_on_mistake():
    store = AsyncRedisStore(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
limiter = AsyncTokenBucketRateLimiter(config, store)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Log at the start where buckets are."""
    where = "redis" if await store.ping() else "memory"
    logger.info("buckets are in: %s (Redis: %s)", where, store.health()["servers"][0])
    yield


app = FastAPI(title="Token bucket demo", lifespan=lifespan)


def storage() -> str:
    """Return which store made the last decision."""
    return "redis" if store.health()["status"] == "ok" else "memory"


def spend(weight: float) -> Callable[[Request, Response], Awaitable[None]]:
    """Return a dependency that takes `weight` tokens from the client, or responds with 429."""

    async def dependency(request: Request, response: Response) -> None:
        client = client_of(request)
        allowed = await limiter.allow_request(client, weight)
        headers = await limiter.get_headers(client)
        headers["X-Storage-Type"] = storage()
        logger.info(
            "[%s] %s on %s | remaining=%s",
            "ALLOWED" if allowed else "BLOCKED",
            client,
            request.url.path,
            headers["X-RateLimit-Remaining"],
        )
        if not allowed:
            missing = weight - await limiter.get_remaining_tokens(client)
            headers["Retry-After"] = str(max(1, math.ceil(missing / config.refill_rate)))
            detail = {"error": "Rate limit exceeded", "storage": storage()}
            raise HTTPException(429, detail, headers)
        response.headers.update(headers)

    return dependency


def client_of(request: Request) -> str:
    """Return the address of the peer."""
    return request.client.host if request.client else "unknown"


@app.get("/api/ping", dependencies=[Depends(spend(1))])
async def ping() -> dict[str, str]:
    """Respond quickly, for one token."""
    return {"message": "pong", "storage": storage()}


@app.post("/api/upload", dependencies=[Depends(spend(3))])
async def upload() -> dict[str, str]:
    """Pretend to store something, for three tokens."""
    return {"message": "upload received", "storage": storage()}


@app.get("/api/stats")
async def stats(request: Request, response: Response, ip: str | None = None) -> dict[str, object]:
    """Return what a client has left, without taking tokens."""
    client = ip or client_of(request)
    state = {
        "ip": client,
        "capacity": config.capacity,
        "refill_rate": config.refill_rate,
        "remaining_tokens": await limiter.get_remaining_tokens(client),
        "headers": await limiter.get_headers(client),
    }
    response.headers["X-Storage-Type"] = storage()
    return state | {"storage": storage()}
