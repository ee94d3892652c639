"""Slots: numbered places in a folder for the readings of processes. A process holds one slot.

    7.rate_limiter_lock       locked by the process that holds slot 7, until it ends or crashes
    7.rate_limiter_readings   the last readings of that process, or of the previous holder

A process takes the first free slot and continues from its counts. So there are never more files
than processes at one time, however often workers are replaced. Process ids are no alternative: the
system reuses them, and each container starts at 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from rate_limiter.observe.metrics_folder import locked, reported

_LOCK_ENDING = ".rate_limiter_lock"
_TEXT_ENDING = ".rate_limiter_readings"


class Slot:
    """The slot of this process, if it holds one. Not safe to share between threads."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._number = 0
        self._fd: int | None = None  # of the lock
        self._written: str | None = None

    def hold(self, folder: Path) -> bool:
        """Hold a slot of a folder; return True if it is a different one than before.

        Raises:
            OSError: the files cannot be used.
        """
        if self.is_of(folder) and self._is_there():
            return False
        if not self.is_of(folder):
            self.leave()
            self._folder = folder
        before = self._number
        for self._number in itertools.chain([before], itertools.count()):
            self._unlock()
            self._fd = os.open(self._file(_LOCK_ENDING), os.O_RDWR | os.O_CREAT, 0o600)
            if locked(self._fd, fcntl.LOCK_EX):
                break
        return True

    def is_of(self, folder: Path) -> bool:
        """Return True if the held slot is in this folder."""
        return self._fd is not None and self._folder == folder

    def leave(self) -> None:
        """Release the slot. In a forked child, the parent continues to hold it."""
        self._unlock()
        self._written = None

    def left(self) -> str | None:
        """Return the text of the previous holder of this slot, None if there is none."""
        text = _text(self._file(_TEXT_ENDING))
        return None if text == self._written else text

    def write(self, text: str) -> None:
        """Replace the text of the slot atomically."""
        half_made = self._file(".new")
        half_made.write_text(text, "utf-8")
        half_made.replace(self._file(_TEXT_ENDING))
        self._written = text

    def others(self, folder: Path) -> Iterator[tuple[str, bool]]:
        """Yield the text of each other slot of a folder, and whether a process holds the slot."""
        for file in folder.glob(f"*{_TEXT_ENDING}"):
            number = file.name.removesuffix(_TEXT_ENDING)
            if self.is_of(folder) and number == str(self._number):
                continue
            with reported(folder):
                text = _text(file)
                if text is not None:
                    yield text, _is_held(file.with_suffix(_LOCK_ENDING))

    def _unlock(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _file(self, ending: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._number}{ending}"

    def _is_there(self) -> bool:
        """Return True if the lock file exists. After its removal, another process may hold one."""
        assert self._fd is not None
        return os.fstat(self._fd).st_nlink > 0


def _is_held(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _text(file: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text("utf-8")
    return None
