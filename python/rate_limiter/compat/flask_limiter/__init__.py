"""The import paths of Flask-Limiter, on the engine of this package.

from rate_limiter.compat.flask_limiter import Limiter
from rate_limiter.compat.flask_limiter.util import get_remote_address

limiter = Limiter(get_remote_address, app=app, default_limits=["200/day", "50/hour"])
"""

from rate_limiter.compat.flask_limiter.constants import ExemptionScope, HeaderNames
from rate_limiter.compat.flask_limiter.definitions import (
    ApplicationLimit,
    Limit,
    MetaLimit,
    RequestLimit,
    RouteLimit,
)
from rate_limiter.compat.flask_limiter.errors import RateLimitExceeded
from rate_limiter.compat.flask_limiter.extension import Limiter

__all__ = [
    "ApplicationLimit",
    "ExemptionScope",
    "HeaderNames",
    "Limit",
    "Limiter",
    "MetaLimit",
    "RateLimitExceeded",
    "RequestLimit",
    "RouteLimit",
]
