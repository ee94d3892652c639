"""The folder through which processes share their metrics: ``PROMETHEUS_MULTIPROC_DIR``.

Metrics never stop traffic. Numbers that cannot be kept in the folder are counted in the memory of
their process. The first failure is logged, and ``rate_limiter_metrics_unshared`` shows it.
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

_failed: set[Path] = set()  # folders; a child of a fork inherits what its parent has logged


def shared_folder() -> Path | None:
    """Return the folder through which processes share their numbers, None where none is set."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def is_unshared() -> bool:
    """Return True if this process failed to use the folder that is set."""
    return shared_folder() in _failed


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Log what goes wrong with a folder instead of raising it, once for each folder."""
    try:
        yield
    except Exception as error:  # a file may hold anything, and fail its reader in any way
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
