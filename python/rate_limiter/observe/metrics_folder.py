"""The folder through which processes share their metrics: ``PROMETHEUS_MULTIPROC_DIR``.

Metrics never stop traffic. If the folder cannot be used, a process counts in its own memory. The
first failure is logged, and ``rate_limiter_metrics_unshared`` shows it.

The processes of one start, and those of a new start that replaces them without a pause (gunicorn's
USR2), use the same files. A start after all of them have ended begins with an empty folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("rate_limiter")

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client: its documentation, "Multiprocess Mode"."""

_USED = "rate_limiter.lock"
"""The file that forget_ended_processes locks."""

_used_fd: int | None = None  # of the lock; a forked child inherits it

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


def forget_ended_processes() -> None:
    """Delete the metrics in the folder if all processes that wrote them have ended.

    Call this in the process that forks the workers, before it makes a metric: in gunicorn's
    configuration, for example. The caller holds a lock from then on, until it and all processes
    forked from it have ended. While another caller holds the lock, nothing is deleted, so a new
    gunicorn that takes over from a running one continues with its counts. Further calls in the same
    process have no effect, nor has a call without a folder that can be used.
    """
    global _used_fd
    folder = shared_folder()
    if folder is None or _used_fd is not None:
        return
    with contextlib.suppress(OSError):  # the first metric logs it
        _used_fd = os.open(folder / _USED, os.O_RDWR | os.O_CREAT, 0o600)
        if locked(_used_fd, fcntl.LOCK_EX):
            _delete_metrics(folder)
        fcntl.flock(_used_fd, fcntl.LOCK_SH)


def _delete_metrics(folder: Path) -> None:
    for pattern in ("*.db", "*.rate_limiter_*"):
        for file in folder.glob(pattern):
            file.unlink()


def locked(fd: int, kind: int) -> bool:
    """Lock a file; return False if another process holds it. `kind` is that of flock."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
