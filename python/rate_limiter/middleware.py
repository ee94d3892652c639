"""ASGI middleware.

from rate_limiter.middleware import RateLimitMiddleware

app.add_middleware(RateLimitMiddleware, limits="100/minute")
"""

from typing import TYPE_CHECKING

from rate_limiter.checks.lazy_names import lazy_names
from rate_limiter.web.asgi_messages import ASGIApp, Receive, Scope, Send, client_of, first_forwarded
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

if TYPE_CHECKING:
    from rate_limiter.seeds.distributed import (
        DistributedTokenBucketMiddleware as DistributedTokenBucketMiddleware,
    )
    from rate_limiter.seeds.quickstart import RateLimiterMiddleware as RateLimiterMiddleware

__all__ = [
    "ASGIApp",
    "RateLimitMiddleware",
    "Receive",
    "Scope",
    "Send",
    "client_of",
    "first_forwarded",
]

# Names of demos, for programs that were written for these: see rate_limiter/__init__.py.
_LAZY = {
    "DistributedTokenBucketMiddleware": "rate_limiter.seeds.distributed",
    "RateLimiterMiddleware": "rate_limiter.seeds.quickstart",
}

__getattr__ = lazy_names(__name__, _LAZY)
