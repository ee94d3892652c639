"""Rate limits for ASGI applications.

from rate_limiter.asgi import RateLimitMiddleware

app.add_middleware(RateLimitMiddleware, limits="100/minute")
"""

from rate_limiter.checks.words import OnStoreError
from rate_limiter.limiting.clocks import Clock
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import DeniedRequest
from rate_limiter.policy.dynamic_limits import DynamicLimits
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.settling import Finished
from rate_limiter.policy.storage import Storage as Store
from rate_limiter.web.asgi_messages import ASGIApp, Message, Receive, Scope, Send
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

__all__ = [
    "ASGIApp",
    "ClientAddress",
    "Clock",
    "DeniedRequest",
    "DynamicLimits",
    "Finished",
    "HeaderStyle",
    "Message",
    "OnStoreError",
    "RateLimitMiddleware",
    "Receive",
    "Scope",
    "Send",
    "Store",
]
