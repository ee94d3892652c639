"""Flask on TokenBucketRateLimiter: `python demo/flaskapp/app.py [--use-redis] [--port PORT]`.

With --use-redis, or USE_REDIS=1 in the environment, buckets are in the Redis at REDIS_URL
(redis://localhost:6379/0) while it answers, else in memory.
"""

import argparse
import functools
import logging
import math
import os
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, make_response, request
from rate_limiter import RateLimitConfig, TokenBucketRateLimiter
from rate_limiter.memory_store import InMemoryStore
from rate_limiter.redis_store import RedisStore
from rate_limiter.startup import exit_on_mistake

logger = logging.getLogger("demo")
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

config = RateLimitConfig(capacity=5, refill_rate=1.0)
app = Flask(__name__)


def make_limiter(use_redis: bool) -> TokenBucketRateLimiter:
    """Return a limiter in Redis, or in memory."""
    if not use_redis:
        logger.info("buckets are in: regular (memory; no Redis was asked for)")
        return TokenBucketRateLimiter(config, InMemoryStore())
    with exit_on_mistake():
        store = RedisStore(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
    where = "redis" if store.ping() else "regular"
    logger.info("buckets are in: %s (Redis: %s)", where, store.health()["servers"][0])
    return TokenBucketRateLimiter(config, store)


limiter = make_limiter(os.environ.get("USE_REDIS") == "1")


def storage() -> str:
    """Return which store made the last decision."""
    store = limiter.store
    in_redis = isinstance(store, RedisStore) and store.health()["status"] == "ok"
    return "redis" if in_redis else "regular"


def spend(weight: float) -> Callable[[Callable[[], Any]], Callable[[], Response]]:
    """Return a decorator that takes `weight` tokens from the client, or responds with 429."""

    def decorate(view: Callable[[], Any]) -> Callable[[], Response]:
        @functools.wraps(view)
        def limited() -> Response:
            client = client_of_request()
            allowed = limiter.allow_request(client, weight)
            headers = limiter.get_headers(client)
            headers["X-Storage-Type"] = storage()
            logger.info(
                "[%s] %s on %s | remaining=%s",
                "ALLOWED" if allowed else "BLOCKED",
                client,
                request.path,
                headers["X-RateLimit-Remaining"],
            )
            if allowed:
                response = make_response(view())
            else:
                missing = weight - limiter.get_remaining_tokens(client)
                headers["Retry-After"] = str(max(1, math.ceil(missing / config.refill_rate)))
                body = jsonify(error="Rate limit exceeded", storage=storage())
                response = make_response(body, 429)
            response.headers.update(headers)
            return response

        return limited

    return decorate


def client_of_request() -> str:
    """Return the address of the peer."""
    return request.remote_addr or "unknown"


@app.get("/api/ping")
@spend(1)
def ping() -> Response:
    """Respond quickly, for one token."""
    return jsonify(message="pong", storage=storage())


@app.post("/api/upload")
@spend(3)
def upload() -> Response:
    """Pretend to store something, for three tokens."""
    return jsonify(message="upload received", storage=storage())


@app.get("/api/heavy-report")
@spend(5)
def heavy_report() -> Response:
    """Pretend to compute something, for all five tokens."""
    return jsonify(message="report ready", storage=storage())


@app.get("/api/stats")
def stats() -> Response:
    """Return what a client has left, without taking tokens."""
    client = request.args.get("ip") or client_of_request()
    return jsonify(
        ip=client,
        capacity=config.capacity,
        refill_rate=config.refill_rate,
        remaining_tokens=limiter.get_remaining_tokens(client),
        headers=limiter.get_headers(client),
        storage=storage(),
    )


def main() -> None:
    """Serve the demo with Flask's development server."""
    parser = argparse.ArgumentParser(description="Flask behind a token bucket limiter.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--use-redis", action="store_true", help="keep state in Redis")
    arguments = parser.parse_args()
    if arguments.use_redis:
        global limiter
        limiter = make_limiter(use_redis=True)
    app.run(host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
