"""The configuration values of the pluggable-limiter and API-gateway demos."""

from rate_limiter.seeds.gateway.policy import RateLimitPolicy
from rate_limiter.seeds.pluggable.config import RateLimitConfig

__all__ = ["RateLimitConfig", "RateLimitPolicy"]
