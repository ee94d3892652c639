"""The argument of `cost_after`."""

from rate_limiter.policy.policy import Finished

__all__ = ["Finished"]
