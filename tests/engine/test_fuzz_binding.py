"""The fuzz program of the C binding covers all of it, and names the case that found a fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import fuzz_binding, world
from rate_limiter import _core

TESTS = Path(__file__).parents[1]


def test_operations_are_those_of_the_module() -> None:
    assert set(world.TYPES) | set(world.FUNCTIONS) == {
        name for name, one in vars(_core).items() if callable(one)
    }
    for name in ("Limiter.hit", "Limiter.__init__", "Decision.limit", "Decision.__new__"):
        assert name in world.all_operations()


def reached(seed: int) -> set[str]:
    """Run the program; return the operations that it called with success."""
    options = ["--seed", str(seed), "--cases", "400", "--seconds", "60", "--counts"]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.fuzz_binding", *options],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout))


def test_every_operation_is_reached_with_success() -> None:
    """They are found in the module: a new one fails here until its parameters have values."""
    missing = world.all_operations()
    # Some succeed in few cases. One whose parameters lack values never does.
    for seed in range(1, 5):
        missing -= reached(seed)
        if not missing:
            break
    assert missing == set()


@pytest.mark.parametrize(
    ("program", "hangs_s", "what"),
    [
        ("os.abort()", 60, "ended with -6"),
        ("sys.exit(0)", 60, "ended with 0"),  # without what it has called
        ("time.sleep(600)", 5, "did nothing for 5 s"),
    ],
)
def test_a_worker_that_has_found_a_fault(
    tmp_path: Path, program: str, hangs_s: float, what: str
) -> None:
    program = f"import os, sys, time; print('report', file=sys.stderr); {program}"
    program = program.replace("; ", "; print('case 7', flush=True); ", 1)
    log = tmp_path / "log"
    command = [sys.executable, "-S", "-c", program]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as worker,
        pytest.raises(fuzz_binding.Fault) as caught,
    ):
        fuzz_binding.watch(worker, log, "again --seed 5", hangs_s)
    assert str(caught.value) == (
        f"report\n\nA worker {what} in case 7. Again:\n    again --seed 5 --case 7"
    )
