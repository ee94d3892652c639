"""What programs import from `limits`, on the engine of this package.

from rate_limiter.compat.limits import parse, storage, strategies

limiter = strategies.MovingWindowRateLimiter(storage.storage_from_string("memory://"))
limiter.hit(parse("5/minute"), "127.0.0.1")
"""

from rate_limiter.compat.limits import errors, storage, strategies, util
from rate_limiter.compat.limits.util import (
    RateLimitItem,
    RateLimitItemPerDay,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerMonth,
    RateLimitItemPerSecond,
    RateLimitItemPerYear,
    WindowStats,
    parse,
    parse_many,
)

__all__ = [
    "RateLimitItem",
    "RateLimitItemPerDay",
    "RateLimitItemPerHour",
    "RateLimitItemPerMinute",
    "RateLimitItemPerMonth",
    "RateLimitItemPerSecond",
    "RateLimitItemPerYear",
    "WindowStats",
    "errors",
    "parse",
    "parse_many",
    "storage",
    "strategies",
    "util",
]
