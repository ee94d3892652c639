"""The Redis client of the API-gateway demo."""

from rate_limiter.seeds.gateway.redis_client import get_redis

__all__ = ["get_redis"]
