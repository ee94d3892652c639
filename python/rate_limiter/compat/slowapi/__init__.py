"""slowapi programs on the engine of this package: change the import, keep the program.

    from rate_limiter.compat.slowapi import Limiter, _rate_limit_exceeded_handler
    from rate_limiter.compat.slowapi.errors import RateLimitExceeded
    from rate_limiter.compat.slowapi.util import get_remote_address

docs/migration/slowapi.md lists the differences.
"""

from rate_limiter.compat.slowapi.extension import Limiter, _rate_limit_exceeded_handler

__all__ = ["Limiter", "_rate_limit_exceeded_handler"]
