"""Folders for metrics that cannot be used, each in another way, also by root."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WITHOUT_OVERRIDE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # permissions count for root too, after exec
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Files cannot grow, as on a full disk. The log goes through a process that may still write.
_FULL = 'exec > >(cat) 2>&1; ulimit -f 0; exec "$@"'


@dataclass(frozen=True)
class OddFolder:
    """A folder, and the words before a command for which it is as it should be here."""

    path: Path
    before: tuple[str, ...] = ()


def _missing(beside: Path) -> OddFolder:
    return OddFolder(beside / "missing")


def _file(beside: Path) -> OddFolder:
    (beside / "file").write_text("")
    return OddFolder(beside / "file")


def _behind_a_file(beside: Path) -> OddFolder:
    return OddFolder(_file(beside).path / "metrics")


def _read_only(beside: Path) -> OddFolder:
    (beside / "read_only").mkdir(mode=0o555)
    return OddFolder(beside / "read_only", (sys.executable, "-c", _WITHOUT_OVERRIDE))


def _full(beside: Path) -> OddFolder:
    (beside / "full").mkdir()
    return OddFolder(beside / "full", ("bash", "-c", _FULL, "full"))


def _of_another_version(beside: Path) -> OddFolder:
    folder = beside / "other"
    folder.mkdir()
    for dimension in ("api", "gateway", "service"):
        (folder / f"{dimension}.rate_limiter_meter_1").write_text("something else")
    for name in ("0.rate_limiter_readings", "1.rate_limiter_readings"):
        (folder / name).write_text('[{"names": "keys"}]')
    (folder / "counter_1.db").write_bytes(b"")
    return OddFolder(folder)


ODD_FOLDERS: dict[str, Callable[[Path], OddFolder]] = {
    "missing": _missing,
    "file": _file,
    "behind a file": _behind_a_file,
    "read-only": _read_only,
    "full": _full,
    "of another version": _of_another_version,
}
