"""The instructions of a decision, which do not depend on the load of the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rate_limiter import _core
from support import instructions
from support.servers import ROOT

# Above those of an empty call of a C function. Measured with gcc 12 and CPython 3.11 on x86-64.
AT_MOST = {
    "allow": 450,
    "hit": 690,
    "allow_many": 220,  # per key
    "two limits": 502,
    "shared": 454,
    "await allow": 1154,
}
TOLERANCE = 1.05
PROGRAM = ROOT / "tests" / "support" / "instructions.py"


def count(folder: Path) -> dict[str, float]:
    """Return the instructions of each case, for each call."""
    table = folder / "table"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
    command += ["--dump-before=getppid", sys.executable, "-I", "-S", PROGRAM, _core.__file__, table]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = {}
    for i, name in enumerate(instructions.CASES):
        # The first part ends at the first mark; from there on each second one is a case.
        text = (folder / f"counts.{2 * i + 2}").read_text()
        found = re.search(r"^summary: (\d+)", text, re.MULTILINE)
        assert found is not None
        counts[name] = int(found[1]) / instructions.CALLS
    return counts


@pytest.mark.skipif(sys.platform == "darwin", reason="valgrind does not support macOS")
def test_decisions_need_no_more_instructions(tmp_path: Path) -> None:
    assert shutil.which("valgrind"), ".ci/system-packages test installs it"
    counts = count(tmp_path)
    above = {name: round(counts[name] - counts["empty"]) for name in AT_MOST}
    too_many = {name for name, most in AT_MOST.items() if above[name] > most * TOLERANCE}
    assert not too_many, f"{above} instead of {AT_MOST}"
    assert counts["empty"] > 100  # the loop was counted
    assert above["allow_many"] < above["allow"] < above["hit"] < above["await allow"]
