"""The RATELIMIT_* settings of slowapi: environment variables, and the lines of a .env file."""

from __future__ import annotations

import json
import os
from typing import Any

from starlette.config import Config

from rate_limiter.compat.limits.errors import ConfigurationError

HEADER_SETTINGS = {
    "RATELIMIT_HEADER_LIMIT": "X-RateLimit-Limit",
    "RATELIMIT_HEADER_REMAINING": "X-RateLimit-Remaining",
    "RATELIMIT_HEADER_RESET": "X-RateLimit-Reset",
    "RATELIMIT_HEADER_RETRY_AFTER": "Retry-After",
}


class Settings:
    """Read settings.

    Args:
        config_filename: a file of ``NAME=value`` lines; None for ``.env``, if there is one.
    """

    def __init__(self, config_filename: str | None) -> None:
        if config_filename is None and os.path.isfile(".env"):
            config_filename = ".env"
        self._config = Config(config_filename)

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return a text, or the default if the setting is missing or empty."""
        return self._config(name, cast=str, default="") or default

    def flag(self, name: str, default: bool) -> bool:
        """Return a flag.

        Raises:
            ValueError: the setting is not a flag, such as ``true`` or ``0``.
        """
        return self._config(name, cast=bool, default=default) if self.text(name) else default

    def options(self, name: str) -> dict[str, Any]:
        """Return a mapping written in JSON.

        Raises:
            ConfigurationError: it is no such.
        """
        try:
            options = json.loads(self.text(name, "{}") or "")
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise ConfigurationError(f"{name} must be a JSON object")
        return options
