"""For startup: exit with one readable line if the configuration is wrong, and begin new metrics."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rate_limiter._core import StoreError
from rate_limiter.checks.redaction import redacted
from rate_limiter.observe.metrics_folder import forget_ended_processes

__all__ = ["EXIT_STATUS", "exit_on_mistake", "forget_ended_processes"]

EXIT_STATUS = 3
"""Status at which gunicorn and uvicorn stop instead of restarting the worker."""


@contextlib.contextmanager
def exit_on_mistake() -> Iterator[None]:
    """Exit if the block raises an error of the configuration.

        with exit_on_mistake():
            app.add_middleware(RateLimitMiddleware, **Settings().middleware())
            app.middleware_stack = app.build_middleware_stack()  # now, not with the first request

    The text of the exception is printed to stderr in one line, without the secrets of addresses.

    Raises:
        SystemExit: the block raised ImportError, OSError, StoreError, TypeError or ValueError. The
            status is 3.
    """
    try:
        yield
    except (ImportError, OSError, StoreError, TypeError, ValueError) as error:
        print(f"cannot start: {redacted(one_line(error))}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_STATUS) from error


def one_line(error: Exception) -> str:
    """Return the text of an exception in one line. It may contain secrets of addresses."""
    if hasattr(error, "errors"):  # of pydantic, whose text has several lines per error
        findings = error.errors(include_input=False, include_url=False)
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in findings)
    return "; ".join(line.strip() for line in str(error).splitlines()) or type(error).__name__
