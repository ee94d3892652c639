"""The instructions of decisions and requests, which do not depend on the load of the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rate_limiter import _core
from support import framework_instructions, instructions, path_instructions
from support.servers import ROOT

# Above those of an empty call of a C function. Measured with gcc 12 and CPython 3.11 on x86-64.
AT_MOST = {
    "allow": 437,
    "hit": 642,
    "allow_many": 210,  # per key
    "two limits": 495,
    "shared": 439,
    "await allow": 887,
}
# Above those of a request to the application alone.
PATH_AT_MOST = {
    "allowed": 6026,
    "denied": 7583,
    "two limits, both headers": 8822,
}
# Above those of a request to the application alone; as a share of those that a dependency or hooks
# without any limit add.
SHARE_AT_MOST = {
    ("FastAPI, limit", "FastAPI, empty dependency", "FastAPI"): 0.25,
    ("Flask, default limits", "Flask, hooks", "Flask"): 0.5,
    ("Flask, decorator", "Flask, hooks", "Flask"): 0.6,
}
TOLERANCE = 1.05
SUPPORT = ROOT / "tests" / "support"

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="valgrind does not support macOS")


def count(
    folder: Path,
    program: str,
    arguments: tuple[str | Path, ...],
    cases: tuple[str, ...],
    *options: str,
    calls: int = instructions.CALLS,
) -> dict[str, float]:
    """Return the instructions of each case of a program in tests/support, for each call.

    Options are those of the interpreter.
    """
    assert shutil.which("valgrind"), ".ci/system-packages test installs it"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
    command += ["--dump-before=getppid", sys.executable, "-s", *options, SUPPORT / program]
    # Not isolated (-I): that would ignore the seed, and collisions in dicts would vary.
    done = subprocess.run(
        [*command, _core.__file__, *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = {}
    for i, name in enumerate(cases):
        # The first part ends at the first mark; from there on each second one is a case.
        text = (folder / f"counts.{2 * i + 2}").read_text()
        found = re.search(r"^summary: (\d+)", text, re.MULTILINE)
        assert found is not None
        counts[name] = int(found[1]) / calls
    return counts


def check(counts: dict[str, float], least: str, at_most: dict[str, int]) -> dict[str, int]:
    """Return the instructions above those of the case `least`; fail if some are too many."""
    above = {name: round(counts[name] - counts[least]) for name in at_most}
    too_many = {name for name, most in at_most.items() if above[name] > most * TOLERANCE}
    assert not too_many, f"{above} instead of {at_most}"
    assert counts[least] > 100  # the loop was counted
    return above


def test_decisions_need_no_more_instructions(tmp_path: Path) -> None:
    table = tmp_path / "table"
    counts = count(tmp_path, "instructions.py", (table,), instructions.CASES, "-S")
    above = check(counts, "empty", AT_MOST)
    assert above["allow_many"] < above["allow"] < above["hit"] < above["await allow"]


def test_requests_need_no_more_instructions(tmp_path: Path) -> None:
    counts = count(tmp_path, "path_instructions.py", (), path_instructions.CASES, "-S")
    above = check(counts, "bare", PATH_AT_MOST)
    assert above["allowed"] < above["denied"] < above["two limits, both headers"]


def test_limits_of_frameworks_need_fewer_instructions_than_empty_hooks(tmp_path: Path) -> None:
    cases, calls = framework_instructions.CASES, framework_instructions.CALLS
    counts = count(tmp_path, "framework_instructions.py", (), cases, calls=calls)
    shares = {
        names: (counts[names[0]] - counts[names[2]]) / (counts[names[1]] - counts[names[2]])
        for names in SHARE_AT_MOST
    }
    too_many = {names for names, most in SHARE_AT_MOST.items() if shares[names] > most * TOLERANCE}
    assert not too_many, f"{shares} instead of {SHARE_AT_MOST}; {counts}"
