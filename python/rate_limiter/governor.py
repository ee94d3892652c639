"""The argument of `cost_after`."""

from rate_limiter.policy.settling import Finished

__all__ = ["Finished"]
