"""Try the wheels that `make wheels` has built.

- Each wheel for this machine is installed into a new environment without a compiler or libraries
  of the system, and a part of the Python tests runs there: the largest part with the version that
  runs this program. With `--suite` it is all tests but tests/project, for each version. A
  free-threaded one is only used.
- A wheel for aarch64 is used under qemu, by the CPython that Debian has for that machine.
- A wheel for musl must need nothing except what musl's libc and CPython export. It is used by a
  CPython that is compiled for musl.
- Wheels of versions whose source or program Debian does not have are not used on aarch64 and musl.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from test_all import Python
from wheel_libraries import Target
from wheel_pythons import Interpreter, find_interpreter, missing_symbols
from wheel_sources import ROOT, WORK, run

Built = tuple[Python, Target, Path]

# Decisions, threads, interpreters, Redis over TCP and TLS.
TESTS = (
    "tests/engine/test_binding.py",
    "tests/engine/test_engine_exact.py",
    "tests/engine/test_interpreters.py",
    "tests/redis/test_redis_limiter.py",
    "tests/redis/test_redis_tls.py",
)
MORE_TESTS = ("tests/engine", "tests/policy", "tests/redis", "tests/web")
SUITE = ("tests", "--ignore=tests/project")
# It compiles a library that makes allocations fail.
COMPILES = "tests/engine/test_allocation.py::test_core_without_memory"
# All that the tests start. There is no compiler and no pkg-config among them.
PROGRAMS = (
    "openssl",
    "redis-server",
    "bash",
    "cat",
    "env",
    "getconf",
    "grep",
    "mktemp",
    "rm",
    "sh",
    "sleep",
    "tee",
)
PROGRAM = """
import sys
from rate_limiter import Limit, RateLimiter, StoreError
from rate_limiter.cli.main import main

limiter = RateLimiter("5/minute; 100/hour")
assert [limiter.allow("a") for _ in range(6)] == [True] * 5 + [False]
assert limiter.hit("a").retry_after > 11
try:
    RateLimiter("5/minute", store="rediss://127.0.0.1:1", on_store_error="raise").allow("a")
except StoreError as error:
    print(error.kind)
for store in sys.argv[1:]:
    stored = RateLimiter("5/minute", store=store, on_store_error="raise")
    assert [stored.allow("a") for _ in range(6)] == [True] * 5 + [False]
main(["--version"])
"""


def limited_path() -> str:
    """Return a PATH with only PROGRAMS."""
    folder = WORK / "programs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is None:
            sys.exit(f"{name} is missing: the tests of the wheels need it")
        (folder / name).symlink_to(found)
    return str(folder)


def try_native(python: Python, wheel: Path, *, suite: bool) -> str:
    """Run the tests with the wheel in a new environment; return their last line."""
    environment = WORK / f"venv-{python.tag}"
    run([python.program, "-m", "venv", "--clear", environment], ROOT)
    program = environment / "bin" / "python"
    variables = {"PATH": limited_path(), "HOME": os.environ["HOME"]}
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    pip = ["-m", "pip", "install", "-qq", "--only-binary", ":all:"]
    run([program, *pip, f"{wheel}[test]"], ROOT, variables)
    tests = MORE_TESTS if python.version[:2] == sys.version_info[:2] else TESTS
    chosen = (*(SUITE if suite else tests), f"--deselect={COMPILES}")
    output = run([ROOT / ".ci" / "pytest", environment, *chosen], ROOT, variables)
    return output.strip().rpartition("\n")[2]


# --- Other machines and musl -----------------------------------------------------------------


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis on a socket in a temporary folder; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "redis.sock"
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", socket, "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline_s = time.monotonic() + 60
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline_s:
                    sys.exit("redis-server did not start")
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait()


def use(interpreter: Interpreter, wheel: Path) -> str:
    """Decide with the wheel on every kind of store; return what `--version` prints there."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as url:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        command: list[str | Path] = [
            *interpreter.command,
            "-c",
            PROGRAM,
            url,
            f"shared://{folder}/shared",
        ]
        variables = interpreter.variables | {"PYTHONPATH": folder}
        return " ".join(run(command, Path(folder), variables).split())


def check_symbols(target: Target, wheel: Path) -> str:
    """Check that musl's libc provides all that the extension needs; return one line."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        missing = missing_symbols(target, Path(archive.extract(name, folder)))
    if missing:
        sys.exit(f"{wheel.name} needs {', '.join(missing)}, which musl does not have")
    return "musl has all symbols"


def try_elsewhere(python: Python, target: Target, wheel: Path) -> str:
    """Try a wheel for another machine or for musl; return one line about it."""
    symbols = f"{check_symbols(target, wheel)}; " if target.libc == "musl" else ""
    interpreter = find_interpreter(python, target)
    if interpreter is None:
        return f"{symbols}not used: there is no CPython {python.tag} for {target.name}"
    is_native = target.machine == os.uname().machine
    return f"{symbols}used{'' if is_native else ' with qemu'}: {use(interpreter, wheel)}"


def try_wheel(python: Python, target: Target, wheel: Path, *, suite: bool) -> str:
    """Try a wheel as far as this machine can; return one line about it."""
    if target.name != f"{os.uname().machine}-gnu":
        return try_elsewhere(python, target, wheel)
    if python.abi:
        # Not every package that the tests need has wheels for free-threaded Python.
        return use(Interpreter([python.program], {}), wheel)
    return try_native(python, wheel, suite=suite)


def test_wheels(built: list[Built], *, suite: bool) -> int:
    """Try each wheel as far as this machine can; return the exit status.

    Args:
        suite: run all tests with those that can be installed here, and not only a part.
    """
    for python, target, wheel in built:
        print(f"{wheel.name}: {try_wheel(python, target, wheel, suite=suite)}", flush=True)
    return 0
