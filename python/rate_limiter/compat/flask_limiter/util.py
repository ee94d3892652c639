"""Functions that programs import from ``flask_limiter.util``."""

from __future__ import annotations

from rate_limiter.web.flask_request import current_request


def get_remote_address() -> str:
    """Return the peer's address, or ``"127.0.0.1"`` if the server does not give one."""
    return current_request().remote_addr or "127.0.0.1"
