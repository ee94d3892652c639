"""What `cost_after` receives."""

from rate_limiter.policy.policy import Finished

__all__ = ["Finished"]
