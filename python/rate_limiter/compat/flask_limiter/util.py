"""Functions that programs import from ``flask_limiter.util``."""

from __future__ import annotations

from rate_limiter.checks.extras import extra_named

with extra_named():
    from flask import request


def get_remote_address() -> str:
    """Return the peer's address, or ``"127.0.0.1"`` if the server does not give one."""
    return request.remote_addr or "127.0.0.1"
