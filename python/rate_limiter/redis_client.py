"""get_redis: a redis-py client for the Redis that the environment names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis

DEFAULT_URL = "redis://localhost:6379/0"


def get_redis(url: str | None = None) -> redis.Redis:
    """Return a redis-py client; it connects when first used.

    Args:
        url: an address; by default the environment's ``REDIS_URL``, else
            ``redis://localhost:6379/0``.

    Raises:
        ImportError: redis-py is not installed.
    """
    try:
        import redis
    except ImportError as error:
        raise ImportError(
            "get_redis() needs redis-py: pip install 'rate_limiter[redis]'"
        ) from error
    client: redis.Redis = redis.Redis.from_url(url or os.environ.get("REDIS_URL") or DEFAULT_URL)
    return client
