"""A token bucket around FastAPI: `uvicorn demo.quickstart.app:app --port 8000`.

Or `uvicorn app:app --port 8000` from inside this folder. Each client can send 10 requests at
once, and 2 per second on average. Buckets are in the Redis of the environment (REDIS_URL, or
REDIS_HOST and REDIS_PORT; localhost:6379) while it answers, else in memory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from rate_limiter import RateLimiterMiddleware, __version__
from rate_limiter.redis_client import get_redis
from rate_limiter.redis_store import RedisStore
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake

CAPACITY = 10
REFILL_RATE = 2.0  # tokens per second

logger = logging.getLogger("demo")
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with exit_on_mistake():
    settings = Settings()
    redis_client = get_redis(settings.store or settings.redis_address)
    store = RedisStore(redis_client)  # on the same connection as the middleware


async def storage() -> str:
    """Ping Redis; return where buckets are."""
    return "redis" if await asyncio.to_thread(store.ping) else "memory"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Log at the start where buckets are."""
    logger.info("buckets are in: %s (Redis: %s)", await storage(), store.health()["servers"][0])
    yield


app = FastAPI(title="Token bucket quickstart", version=__version__, lifespan=lifespan)
app.add_middleware(
    RateLimiterMiddleware,
    redis_client=redis_client,
    capacity=CAPACITY,
    refill_rate=REFILL_RATE,
)


@app.get("/")
async def index() -> dict[str, str]:
    """Greet, for one token."""
    return {"message": "You are within the limit."}


@app.get("/api/data")
async def data() -> dict[str, list[int]]:
    """Return some data, for one token."""
    return {"data": [1, 2, 3]}


@app.post("/api/submit")
async def submit(received: dict[str, Any]) -> dict[str, Any]:
    """Send an object back, for one token."""
    return {"message": "Submitted.", "received": received}


@app.get("/health")
async def health() -> dict[str, str]:
    """Return the status of the application and where buckets are; not limited."""
    return {"status": "healthy", "storage": await storage()}


# Build it now, not on the first request: a configuration mistake must stop the start.
with exit_on_mistake():
    app.middleware_stack = app.build_middleware_stack()
