"""Rate limits for WSGI applications.

from rate_limiter.wsgi import RateLimitMiddleware

app = RateLimitMiddleware(app, limits="100/minute")
"""

from rate_limiter.web.wsgi_app import WsgiApp
from rate_limiter.web.wsgi_middleware import RateLimitMiddleware

__all__ = ["RateLimitMiddleware", "WsgiApp"]
