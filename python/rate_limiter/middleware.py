"""ASGI middleware, and the classes of the token-bucket middleware and distributed demos.

from rate_limiter.middleware import RateLimitMiddleware

app.add_middleware(RateLimitMiddleware, limits="100/minute")
"""

from rate_limiter.seeds.distributed import DistributedTokenBucketMiddleware
from rate_limiter.seeds.quickstart import RateLimiterMiddleware
from rate_limiter.web.asgi_messages import ASGIApp, Receive, Scope, Send, client_of, first_forwarded
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

__all__ = [
    "ASGIApp",
    "DistributedTokenBucketMiddleware",
    "RateLimitMiddleware",
    "RateLimiterMiddleware",
    "Receive",
    "Scope",
    "Send",
    "client_of",
    "first_forwarded",
]
