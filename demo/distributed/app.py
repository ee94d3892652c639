"""A limit for a fleet, by rules in a file: `uvicorn demo.distributed.app:app --port 8000`.

The rules are in RATE_LIMIT_RULES_PATH (rate_limits.json), Redis is at REDIS_HOST, REDIS_PORT and
REDIS_DB; .env may set them. Decisions are logged to the console and to rate_limiter.log.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from logging.handlers import RotatingFileHandler

import redis.asyncio
from fastapi import FastAPI
from rate_limiter.middleware import DistributedTokenBucketMiddleware

from demo.distributed.config import default_limit, settings

LOG_FILE = os.environ.get("RATE_LIMITER_LOG", "rate_limiter.log")
logging.basicConfig(
    level=settings.log_level.upper(),
    format="%(asctime)s %(levelname)s %(message)s",
    handlers=[
        logging.StreamHandler(),
        RotatingFileHandler(LOG_FILE, maxBytes=1_000_000, backupCount=3),
    ],
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Give the middleware its client of Redis."""
    app.state.redis = redis.asyncio.Redis.from_url(settings.redis_address)
    yield
    await app.state.redis.aclose()


app = FastAPI(title="Distributed rate limiter", lifespan=lifespan)
limit = default_limit()
app.add_middleware(
    DistributedTokenBucketMiddleware,
    capacity=limit.capacity,
    refill_rate=limit.refill_rate,
    rules=settings.rules,
)


@app.get("/")
async def index() -> dict[str, str]:
    """Fall under the default rule."""
    return {"message": "You are within the limit."}


@app.get("/special_path")
async def special_path() -> dict[str, str]:
    """Fall under the rule of this path."""
    return {"message": "This path has a limit of its own."}
