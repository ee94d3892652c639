"""What wheels for other machines and for musl are tried with.

Debian has CPython for every machine, and qemu runs it. It has musl too, but no CPython that is
linked with musl: wheel_cpython.py compiles that.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from test_all import Python
from wheel_cpython import build_musl_python, has_source, source_name
from wheel_libraries import Target
from wheel_sources import SUITES, WORK, apt_options, run

# What Debian's CPython is linked with.
FOREIGN_LIBRARIES: dict[str | None, tuple[str, ...]] = {
    None: ("libc6", "libexpat1", "libssl3", "zlib1g"),
    "trixie": ("libc6", "libexpat1", "libssl3t64", "libzstd1", "zlib1g"),
}
DEBIAN_MACHINES = {"aarch64": "arm64", "x86_64": "amd64"}


class Interpreter(NamedTuple):
    """A way to run a CPython of a target.

    Attributes:
        command: what the arguments of the interpreter follow.
        variables: what it needs in its environment.
    """

    command: Sequence[str | Path]
    variables: dict[str, str]


def fetch_packages(folder: Path, architecture: str, suite: str | None, *packages: str) -> Path:
    """Return the folder into which Debian packages of another architecture are unpacked."""
    root = folder / "root"
    if not root.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options = [f"APT::Architecture={architecture}", f"APT::Architectures={architecture}"]
        words = [word for option in options for word in ("-o", option)]
        apt = ["apt-get", *apt_options(folder, suite=suite), *words, "-qq"]
        run([*apt, "update"], folder)
        run([*apt, "download", *packages], folder)
        unpacked = folder / "root.part"
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg-deb", "--extract", package, unpacked], folder)
        # Newer suites have this link in another package.
        if not (unpacked / "lib").exists():
            (unpacked / "lib").symlink_to("usr/lib")
        unpacked.rename(root)
    return root


def emulator(target: Target) -> list[str | Path]:
    """Return the command that the programs of a target follow: empty on this machine's own."""
    if target.machine == os.uname().machine:
        return []
    names = (f"qemu-{target.machine}-static", f"qemu-{target.machine}")
    found = next((found for name in names if (found := shutil.which(name))), None)
    if found is None:
        sys.exit(f"qemu-{target.machine} is missing: .ci/system-packages wheels")
    return [found]


def foreign_python(python: Python, target: Target) -> Interpreter:
    """Return Debian's CPython for another machine, under qemu."""
    name = source_name(python)
    suite = SUITES[name]
    architecture = DEBIAN_MACHINES[target.machine]
    packages = (f"{name}-minimal", f"lib{name}-minimal", f"lib{name}-stdlib")
    folder = WORK / f"debian-{architecture}-{python.tag}"
    libraries = FOREIGN_LIBRARIES[suite]
    root = fetch_packages(folder, architecture, suite, *packages, *libraries)
    variables = {"PYTHONHOME": str(root / "usr"), "QEMU_LD_PREFIX": str(root)}
    return Interpreter([*emulator(target), root / "usr" / "bin" / name], variables)


# --- musl ------------------------------------------------------------------------------------


def musl_libc(target: Target) -> Path:
    """Return Debian's musl of a target, which is also the program that starts others."""
    architecture = DEBIAN_MACHINES[target.machine]
    root = fetch_packages(WORK / f"musl-{architecture}", architecture, None, "musl")
    (libc,) = root.glob("lib/*-linux-musl/libc.so")
    return libc


def musl_python(python: Python, target: Target) -> Interpreter:
    """Return a CPython that is linked with musl."""
    prefix = build_musl_python(python, target)
    program = prefix / "bin" / source_name(python)
    command = [*emulator(target), musl_libc(target), program]
    return Interpreter(command, {"PYTHONHOME": str(prefix)})


def find_interpreter(python: Python, target: Target) -> Interpreter | None:
    """Return an interpreter for a wheel that this machine's own cannot try; None: there is none."""
    if python.abi or not has_source(python):
        return None
    return (musl_python if target.libc == "musl" else foreign_python)(python, target)


def missing_symbols(target: Target, extension: Path) -> list[str]:
    """Return the symbols that an extension needs, and neither CPython nor musl has."""
    rows = run(["nm", "--dynamic", "--defined-only", musl_libc(target)], WORK).splitlines()
    exported = {row.split()[-1].partition("@")[0] for row in rows}
    return unknown_symbols(run(["nm", "--dynamic", "--undefined-only", extension], WORK), exported)


def unknown_symbols(undefined: str, exported: set[str]) -> list[str]:
    """Return the symbols that neither CPython nor the libc provides.

    Args:
        undefined: what `nm --undefined-only` prints about an extension.
        exported: the names that the libc exports.
    """
    rows = [row.split() for row in undefined.splitlines()]
    strong = {row[-1] for row in rows if row[-2] == "U"}
    return sorted(name for name in strong - exported if not re.match(r"_?Py[A-Z_]", name))
