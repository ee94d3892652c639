"""Run the Python tests on every CPython from 3.10 that this machine has (`make test-all`).

Each version gets its own environment under build/, with the package installed from an sdist, so
that nothing in the work tree is tested by accident and builds do not share a folder.
`--others` leaves out the version that runs this script. `make test` runs tests/project, which do
not depend on the version.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
NAMES = [f"python3.{minor}{abi}" for minor in range(10, 21) for abi in ("", "t")]
FOLDERS = [
    *map(Path, os.get_exec_path()),
    *sorted(Path.home().glob(".pyenv/versions/*/bin")),
    *sorted(Path("/opt").glob("python*/bin")),
]
LEFT_OUT = "--ignore=tests/project"
PROBE = """
import json, pathlib, sys, sysconfig, ensurepip, venv
include = pathlib.Path(sysconfig.get_path("include"), "Python.h")
abi = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(json.dumps([sys.implementation.name, sys.version_info[:3], abi, include.exists()]))
"""


class Python(NamedTuple):
    """An interpreter that can build and test the package."""

    version: tuple[int, int, int]
    abi: str  # "t": free-threaded
    program: Path

    @property
    def environment(self) -> Path:
        """The folder of its environment."""
        return BUILD / f"venv-{self.tag}"

    @property
    def tag(self) -> str:
        """Its unique name: "3.13", or "3.13t"."""
        return f"{self.version[0]}.{self.version[1]}{self.abi}"


def run(*command: str | Path) -> tuple[bool, str]:
    """Run `command` in the project's folder; return whether it succeeded, and its output."""
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return process.returncode == 0, process.stdout + process.stderr


def probe(program: Path) -> Python | None:
    """Return the version of `program`; None if it does not run or cannot build an extension."""
    probed, answer = run(program, "-c", PROBE)
    if not probed:  # for example pyenv's shim of a version that is not selected
        return None
    implementation, version, abi, has_headers = json.loads(answer.splitlines()[0])
    if implementation != "cpython" or not has_headers:
        return None
    return Python(tuple(version), abi, program)


def find_pythons() -> list[Python]:
    """Return the newest interpreter of every version, oldest version first."""
    programs = (folder / name for folder in FOLDERS for name in NAMES)
    found = [python for p in programs if os.access(p, os.X_OK) and (python := probe(p))]
    newest = {python.tag: python for python in sorted(found)}
    return sorted(newest.values())


def make_environment(python: Python, sdist: Path) -> tuple[bool, str]:
    """Create an environment for `python`, with the package and the packages of its tests."""
    made, output = run(python.program, "-m", "venv", "--clear", python.environment)
    if not made:
        return made, output
    # The pip of this environment is new; the one that comes with an old Python takes twice as long.
    pip = (sys.executable, "-m", "pip", "--python", python.environment / "bin/python")
    return run(*pip, "install", "-qq", "--no-compile", f"{sdist}[test]")


def summaries(pythons: list[Python], sdist: Path) -> Iterator[tuple[bool, str]]:
    """Test each of `pythons`; yield whether it passed, and one line about it."""
    # Environments are made side by side, the versions are tested one after the other.
    with ThreadPoolExecutor(max_workers=2) as pool:
        environments = list(pool.map(lambda python: make_environment(python, sdist), pythons))
    for python, (passed, output) in zip(pythons, environments, strict=True):
        if passed:
            passed, output = run(ROOT / ".ci/pytest", python.environment, LEFT_OUT)
        if not passed:
            print(output)
        last_line = output.strip().rpartition("\n")[2]
        version = ".".join(map(str, python.version)) + python.abi
        yield passed, f"CPython {version:<9} {'ok    ' if passed else 'FAILED'}  {last_line}"


def make_sdist() -> Path:
    """Build the sdist that all versions install; return its path."""
    folder = BUILD / "sdist"
    made, output = run(
        sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder
    )
    if not made:
        sys.exit(output)
    return max(folder.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)


def main() -> int:
    """Return the exit status: 1 when any version failed."""
    pythons = find_pythons()
    if "--others" in sys.argv[1:]:
        this = probe(Path(sys.executable))
        pythons = [python for python in pythons if this is None or python.tag != this.tag]
    print("Testing on CPython", ", ".join(python.tag for python in pythons) or "(no version found)")
    status = 0
    for passed, line in summaries(pythons, make_sdist()):
        print(line, flush=True)
        status |= not passed
    return status


if __name__ == "__main__":
    sys.exit(main())
