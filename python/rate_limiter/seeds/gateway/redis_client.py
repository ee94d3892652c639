"""get_redis: a redis-py client for the Redis of the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rate_limiter.checks.redaction import shown

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
        ValueError: the address is wrong.
    """
    try:
        import redis
    except ImportError as error:
        raise ImportError(
            "get_redis() needs redis-py: pip install 'rate-limiter-c[redis]'"
        ) from error
    address = url or os.environ.get("REDIS_URL") or DEFAULT_URL
    try:
        client: redis.Redis = redis.Redis.from_url(address)
    except ValueError:  # its text may contain a part of the password
        raise ValueError(
            f"the address of the Redis is wrong, got {shown(address)}: "
            f"expected one such as {DEFAULT_URL!r}"
        ) from None
    return client
