"""The client address behind proxies."""

from rate_limiter.policy.client_address import ClientAddress

__all__ = ["ClientAddress"]
