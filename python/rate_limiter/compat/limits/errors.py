"""Exceptions of `limits`."""

from rate_limiter._core import StoreError

__all__ = ["ConfigurationError", "StorageError"]


class ConfigurationError(Exception):
    """A storage address, an option or the name of a strategy is wrong or not supported."""


StorageError = StoreError
"""Raised when a storage gave no answer and its `on_store_error` is ``"raise"``."""
