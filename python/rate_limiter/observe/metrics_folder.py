"""The folder through which processes share their metrics: ``PROMETHEUS_MULTIPROC_DIR``.

Metrics never stop traffic. If the folder cannot be used, a process counts in its own memory. The
first failure is logged, and ``rate_limiter_metrics_unshared`` shows it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("rate_limiter")

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client: its documentation, "Multiprocess Mode"."""

_failed: set[Path] = set()  # folders; a forked child inherits them, so it does not log them again


def shared_folder() -> Path | None:
    """Return the folder through which processes share their numbers, None if none is set."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def is_unshared() -> bool:
    """Return True if this process failed to use the folder that is set."""
    return shared_folder() in _failed


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Log an error of a folder instead of raising it, once for each folder."""
    try:
        yield
    except Exception as error:  # a file may contain anything, so reading it may fail in any way
        if folder in _failed:
            return
        _failed.add(folder)
        logger.warning(
            "%s=%s cannot be used: %s. Requests are served as before, but this process counts in "
            "its own memory, and its metrics do not include the other processes. Set the variable "
            "to a directory that this user can write to, with free space, and restart",
            VARIABLE,
            folder,
            error,
        )
