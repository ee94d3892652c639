"""Rate limits for WSGI applications.

from rate_limiter.wsgi import RateLimitMiddleware

app = RateLimitMiddleware(app, limits="100/minute")
"""

from rate_limiter.checks.words import OnStoreError
from rate_limiter.limiting.clocks import Clock
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import DeniedRequest
from rate_limiter.policy.dynamic_limits import DynamicLimits
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.settling import Finished
from rate_limiter.policy.storage import Storage as Store
from rate_limiter.web.wsgi_app import WsgiApp
from rate_limiter.web.wsgi_middleware import Environ, RateLimitMiddleware

__all__ = [
    "ClientAddress",
    "Clock",
    "DeniedRequest",
    "DynamicLimits",
    "Environ",
    "Finished",
    "HeaderStyle",
    "OnStoreError",
    "RateLimitMiddleware",
    "Store",
    "WsgiApp",
]
