"""A limit for a fleet, by rules in a file: `uvicorn demo.distributed.app:app --port 8000`.

The rules are in RATE_LIMIT_RULES_PATH (rate_limits.json), Redis is at REDIS_HOST, REDIS_PORT and
REDIS_DB; .env may set them. Decisions are logged to the console and to rate_limiter.log. While
Redis is down, each process keeps the limits in its memory; the log and /health show it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from logging.handlers import RotatingFileHandler

import redis.asyncio
from fastapi import FastAPI
from rate_limiter.middleware import DistributedTokenBucketMiddleware
from rate_limiter.redis_store import RedisStore
from rate_limiter.startup import exit_on_mistake

from demo.distributed.config import load_rules, settings

LOG_FILE = os.environ.get("RATE_LIMITER_LOG", "rate_limiter.log")
with exit_on_mistake():
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[
            logging.StreamHandler(),
            RotatingFileHandler(LOG_FILE, maxBytes=1_000_000, backupCount=3),
        ],
    )


logger = logging.getLogger("demo")


async def storage(app: FastAPI) -> str:
    """Ping Redis; return where buckets are."""
    store = RedisStore(app.state.redis)  # on the same connection as the middleware
    return "redis" if await asyncio.to_thread(store.ping) else "memory"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the Redis client of the middleware, and close it at the end."""
    app.state.redis = redis.asyncio.Redis.from_url(settings.redis_address)
    where = RedisStore(app.state.redis).health()["servers"][0]
    logger.info("buckets are in: %s (Redis: %s)", await storage(app), where)
    yield
    await app.state.redis.aclose()


app = FastAPI(title="Distributed rate limiter", lifespan=lifespan)
limit, rules = load_rules()
app.add_middleware(
    DistributedTokenBucketMiddleware,
    capacity=limit.capacity,
    refill_rate=limit.refill_rate,
    rules=rules,
)


@app.get("/")
async def index() -> dict[str, str]:
    """Greet clients that are within the default rule."""
    return {"message": "You are within the limit."}


@app.get("/health")
async def health() -> dict[str, str]:
    """Return the status of the application and where buckets are; the rules exempt it."""
    return {"status": "ok", "storage": await storage(app)}


@app.get("/special_path")
async def special_path() -> dict[str, str]:
    """Greet clients that are within the rule of this path."""
    return {"message": "This path has its own limit."}


# Build it now, not on the first request: a configuration mistake must stop the start.
with exit_on_mistake():
    app.middleware_stack = app.build_middleware_stack()
