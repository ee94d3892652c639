"""What wheels for other machines and for musl are tried with.

Debian has CPython for every machine, and qemu runs it. It has musl too, but no CPython that is
linked with musl.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wheel_libraries import WORK, Target, apt_options, run

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


class Interpreter(NamedTuple):
    """A way to run CPython 3.11 of a target.

    Attributes:
        command: what the arguments of the interpreter follow.
        variables: what it needs in its environment.
    """

    command: Sequence[str | Path]
    variables: dict[str, str]


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


def musl_root(target: Target) -> Path:
    """Return the folder into which Debian's musl of a target is unpacked."""
    architecture = DEBIAN_MACHINES[target.machine]
    return fetch_packages(WORK / f"musl-{architecture}", architecture, "musl")


def foreign_python(target: Target) -> Interpreter:
    """Return Debian's CPython for another machine, under qemu."""
    names = (f"qemu-{target.machine}-static", f"qemu-{target.machine}")
    emulator = next((found for name in names if (found := shutil.which(name))), None)
    if emulator is None:
        sys.exit(f"qemu-{target.machine} is missing: .ci/system-packages wheels")
    architecture = DEBIAN_MACHINES[target.machine]
    root = fetch_packages(WORK / f"debian-{architecture}", architecture, *FOREIGN_PACKAGES)
    program = root / "usr" / "bin" / "python{}.{}".format(*DEBIAN_PYTHON)
    variables = {"PYTHONHOME": str(root / "usr"), "QEMU_LD_PREFIX": str(root)}
    return Interpreter([emulator, program], variables)


def missing_symbols(target: Target, extension: Path) -> list[str]:
    """Return the symbols that an extension needs, and neither CPython nor musl has."""
    (libc,) = musl_root(target).glob("lib/*-linux-musl/libc.so")
    rows = run(["nm", "--dynamic", "--defined-only", libc], WORK).splitlines()
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
