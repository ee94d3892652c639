"""Try the wheels that `make wheels` has built.

- Each wheel for this machine is installed into a new environment without a compiler or libraries
  of the system, and a part of the Python tests runs there.
- A wheel for aarch64 is used under qemu, by the CPython that Debian has for that machine.
- A wheel for musl must need nothing except what musl's libc and CPython export.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from test_all import Python
from wheel_libraries import ROOT, WORK, Target, apt_options, run

Built = tuple[Python, Target, Path]

# Decisions, threads, interpreters, Redis over TCP and TLS, and both kinds of fronts.
TESTS = (
    "tests/engine/test_binding.py",
    "tests/engine/test_engine_exact.py",
    "tests/engine/test_interpreters.py",
    "tests/redis/test_redis_limiter.py",
    "tests/redis/test_redis_tls.py",
)
# All that the tests start. There is no compiler and no pkg-config among them.
PROGRAMS = ("openssl", "redis-server", "env", "sh")
# Debian's CPython for another machine, with the libraries that it is linked with.
FOREIGN_PACKAGES = (
    "libc6",
    "libexpat1",
    "libpython3-stdlib",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "python3.11-minimal",
    "zlib1g",
)
DEBIAN_MACHINES = {"aarch64": "arm64", "x86_64": "amd64"}
DEBIAN_PYTHON = (3, 11)
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
remote = RateLimiter("5/minute", store=sys.argv[1], on_store_error="raise")
assert [remote.allow("a") for _ in range(6)] == [True] * 5 + [False]
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


def try_native(python: Python, wheel: Path) -> str:
    """Run the tests with the wheel in a new environment; return their last line."""
    environment = WORK / f"venv-{python.tag}"
    run([python.program, "-m", "venv", "--clear", environment], ROOT)
    program = environment / "bin" / "python"
    variables = {"PATH": limited_path(), "HOME": os.environ["HOME"]}
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    pip = ["-m", "pip", "install", "-qq", "--only-binary", ":all:"]
    run([program, *pip, f"{wheel}[test]"], ROOT, variables)
    options = ["--quiet", "--numprocesses", str(os.cpu_count()), "--dist", "loadfile"]
    output = run([program, "-m", "pytest", *options, *TESTS], ROOT, variables)
    return output.strip().rpartition("\n")[2]


# --- Other machines --------------------------------------------------------------------------


def fetch_packages(folder: Path, architecture: str, *packages: str) -> Path:
    """Return the folder into which Debian packages of another architecture are unpacked."""
    root = folder / "root"
    if not root.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options = [f"APT::Architecture={architecture}", f"APT::Architectures={architecture}"]
        words = [word for option in options for word in ("-o", option)]
        apt = ["apt-get", *apt_options(folder, sources=False), *words, "-qq"]
        run([*apt, "update"], folder)
        run([*apt, "download", *packages], folder)
        unpacked = folder / "root.part"
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg-deb", "--extract", package, unpacked], folder)
        unpacked.rename(root)
    return root


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


def try_under_qemu(target: Target, wheel: Path, redis_url: str) -> str:
    """Use the wheel under qemu, in memory and on a Redis; return what `--version` prints there."""
    emulator = shutil.which(f"qemu-{target.machine}-static") or shutil.which(
        f"qemu-{target.machine}"
    )
    if emulator is None:
        sys.exit(f"qemu-{target.machine} is missing: .ci/system-packages wheels")
    architecture = DEBIAN_MACHINES[target.machine]
    root = fetch_packages(WORK / f"debian-{architecture}", architecture, *FOREIGN_PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        program = root / "usr" / "bin" / "python{}.{}".format(*DEBIAN_PYTHON)
        variables = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": folder, "QEMU_LD_PREFIX": root}
        command: list[str | Path] = [emulator, program, "-c", PROGRAM, redis_url]
        environment = {name: str(value) for name, value in variables.items()}
        return " ".join(run(command, Path(folder), environment).split())


def exported_symbols(library: Path) -> set[str]:
    """Return the names that a library exports."""
    rows = run(["nm", "--dynamic", "--defined-only", library], ROOT).splitlines()
    return {row.split()[-1].partition("@")[0] for row in rows}


def unknown_symbols(undefined: str, exported: set[str]) -> list[str]:
    """Return the symbols that neither CPython nor the libc provides.

    Args:
        undefined: what `nm --undefined-only` prints about an extension.
        exported: the names that the libc exports.
    """
    rows = [row.split() for row in undefined.splitlines()]
    strong = {row[-1] for row in rows if row[-2] == "U"}
    return sorted(name for name in strong - exported if not re.match(r"_?Py[A-Z_]", name))


def check_symbols(target: Target, wheel: Path) -> str:
    """Check that musl's libc provides all that the extension needs; return one line."""
    architecture = DEBIAN_MACHINES[target.machine]
    root = fetch_packages(WORK / f"musl-{architecture}", architecture, "musl")
    (libc,) = root.glob("lib/*-linux-musl/libc.so")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        extension = archive.extract(name, folder)
        undefined = run(["nm", "--dynamic", "--undefined-only", extension], ROOT)
    if unknown := unknown_symbols(undefined, exported_symbols(libc)):
        sys.exit(f"{wheel.name} needs {', '.join(unknown)}, which musl does not have")
    return f"all {len(undefined.splitlines())} symbols found"


def test_wheels(built: list[Built]) -> int:
    """Try each wheel as far as this machine can; return the exit status."""
    for python, target, wheel in built:
        if target.libc == "musl":
            line = check_symbols(target, wheel)
        elif target.machine == os.uname().machine:
            line = try_native(python, wheel)
        elif python.version[:2] == DEBIAN_PYTHON and not python.abi:
            with redis_server() as url:
                line = try_under_qemu(target, wheel, url)
        else:
            line = f"not tried: Debian has no CPython {python.tag} for {target.machine}"
        print(f"{wheel.name}: {line}", flush=True)
    return 0
