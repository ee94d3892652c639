"""Fetch the sources that `make wheels` compiles, from the package index of this machine's Debian.

apt verifies what it fetches. The archives must also match wheel_sources.sha256, so a changed
version is noticed; `--record` writes that file.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
HASHES = Path(__file__).with_name("wheel_sources.sha256")
APT = Path("/etc/apt")
# Source packages by the suite of Debian that has them; None is that of this machine. CPython is
# compiled for what no binary package has: musl, and threads without a global lock.
SUITES = {"hiredis": None, "openssl": None, "python3.11": None, "python3.13": "trixie"}
# Debian's patches of hiredis mend a fault; those of the others only concern their packaging.
PATCHED = ("hiredis",)


def run(
    command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None
) -> str:
    """Run `command` in `folder`; return its output, or exit with it if the command fails."""
    process = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"{process.stdout}\n{' '.join(map(str, command))}: exit {process.returncode}")
    return process.stdout


# --- apt -------------------------------------------------------------------------------------


def line_entry(line: str, kind: str, suites: tuple[str, str] | None) -> str:
    """Return an entry of a `.list` file for `kind` and another suite, or an empty string."""
    found = re.match(r"deb\s+((?:\[[^\]]*\]\s+)?\S+)\s+(\S+)(.*)", line)
    if found is None or (suites and found[2] != suites[0]):
        return ""
    return f"{kind} {found[1]} {suites[1] if suites else found[2]}{found[3]}\n"


def field_entry(fields: str, kind: str, suites: tuple[str, str] | None) -> str:
    """Return an entry of a `.sources` file for `kind` and another suite, or an empty string."""
    named = re.search(r"^Suites:(.*)$", fields, re.MULTILINE | re.IGNORECASE)
    if named is None or (suites and suites[0] not in named[1].split()):
        return ""
    fields = re.sub(r"(?mi)^Types:.*$", f"Types: {kind}", fields)
    if suites:
        fields = re.sub(r"(?mi)^Suites:.*$", f"Suites: {suites[1]}", fields)
    return f"{fields.strip()}\n\n"


def list_entries(
    text: str, name: str, kind: str = "deb-src", suites: tuple[str, str] | None = None
) -> str:
    """Return the entries of an apt source list, for other packages.

    Args:
        text: the content of the list.
        name: its file name: `.list` files have one line per entry, `.sources` files fields.
        kind: "deb" or "deb-src".
        suites: the suite to replace and its replacement; entries for others are left out.
    """
    if name.endswith(".sources"):
        entries = re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n", "", text))
        return "".join(field_entry(entry, kind, suites) for entry in entries)
    return "".join(line_entry(line, kind, suites) for line in text.splitlines())


def apt_options(folder: Path, *, kind: str = "deb", suite: str | None = None) -> list[str]:
    """Return options with which apt-get keeps its state in `folder`, not in the system.

    Args:
        folder: where the state is kept.
        kind: "deb-src" for source packages: the configured lists seldom name them.
        suite: use this suite of Debian instead of the one that the machine runs.
    """
    options = [f"Dir::State::lists={folder}/lists", "APT::Sandbox::User=root"]
    options += ["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    if kind != "deb" or suite:
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        suites = (codename, suite) if suite else None
        for file in [APT / "sources.list", *sorted(APT.glob("sources.list.d/*"))]:
            if file.is_file() and file.suffix in (".list", ".sources"):
                entries = list_entries(file.read_text("utf-8"), file.name, kind, suites)
                (parts / file.name).write_text(entries, encoding="utf-8")
        options += ["Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={parts}"]
    return [word for option in options for word in ("-o", option)]


# --- Archives --------------------------------------------------------------------------------


def fetch_archives(package: str) -> Path:
    """Return the folder with the archives of a source package, fetched if it is not there yet."""
    archives = WORK / "archives" / package
    if not archives.is_dir():
        suite = SUITES[package]
        fetched = archives.with_name(f"{package}.part")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        options = apt_options(WORK / f"apt-{suite or 'sources'}", kind="deb-src", suite=suite)
        apt = ["apt-get", *options, "--quiet", "--quiet"]
        run([*apt, "update"], fetched)
        parts = [] if package in PATCHED else ["--tar-only"]
        run([*apt, "source", "--download-only", *parts, package], fetched)
        fetched.rename(archives)
    return archives


def sha256(file: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def hashes_of(package: str) -> str:
    """Return the lines of wheel_sources.sha256 about a source package."""
    lines = HASHES.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if line.split()[1].startswith(f"{package}_"))


def check_hashes(archives: Path, hashes: str) -> list[Path]:
    """Return the archives that `hashes` names; exit if one is missing or differs."""
    checked = []
    for line in hashes.splitlines():
        expected, name = line.split()
        file = archives / name
        if not file.is_file():
            found = ", ".join(sorted(path.name for path in archives.iterdir())) or "nothing"
            sys.exit(
                f"{HASHES.name} names {name}, but apt has {found}. Review the new version, then "
                f"run .ci/wheel_sources.py --record"
            )
        if (actual := sha256(file)) != expected:
            sys.exit(f"{name} has SHA-256 {actual}, expected {expected} ({HASHES.name})")
        checked.append(file)
    return checked


def unpack(package: str, folder: Path) -> Path:
    """Unpack the checked sources of a package into `folder`; return the folder of the package."""
    source = folder / package
    source.mkdir(parents=True, exist_ok=True)
    for file in check_hashes(fetch_archives(package), hashes_of(package)):
        strip = () if ".debian." in file.name else ("--strip-components=1",)
        run(["tar", "-xf", file, *strip], source)
    if package in PATCHED:
        patches = source / "debian" / "patches"
        for name in (patches / "series").read_text(encoding="utf-8").split():
            run(["patch", "--quiet", "-p1", "-i", patches / name], source)
    return source


def record() -> None:
    """Write the hashes of the versions that apt has."""
    shutil.rmtree(WORK / "archives", ignore_errors=True)
    archives = [file for name in SUITES for file in sorted(fetch_archives(name).glob("*.tar.*"))]
    lines = [f"{sha256(file)}  {file.name}\n" for file in archives if file.suffix != ".asc"]
    HASHES.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: .ci/wheel_sources.py --record")
    record()
