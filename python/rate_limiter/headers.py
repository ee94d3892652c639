"""Header styles."""

from rate_limiter.policy.headers import HeaderStyle, header_values

__all__ = ["HeaderStyle", "header_values"]
