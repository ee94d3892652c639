"""Rate limits for ASGI applications.

from rate_limiter.asgi import RateLimitMiddleware

app.add_middleware(RateLimitMiddleware, limits="100/minute")
"""

from rate_limiter.web.asgi_messages import ASGIApp, Message, Receive, Scope, Send
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

__all__ = ["ASGIApp", "Message", "RateLimitMiddleware", "Receive", "Scope", "Send"]
