"""Build hiredis and OpenSSL as static libraries for the wheels, with the C compiler of zig.

apt fetches the sources from the index that is configured on this machine and verifies them. They
must also match wheel_sources.sha256, so a changed version is noticed; `--record` writes that file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
HASHES = Path(__file__).with_name("wheel_sources.sha256")
PACKAGES = ("hiredis", "openssl")

# Sources and connections of hiredis that the engine does not use are left out.
HIREDIS_SOURCES = ("alloc", "hiredis", "net", "read", "sds")
HIREDIS_HEADERS = ("alloc", "hiredis", "read", "sds")
HIREDIS_PC = """\
prefix={prefix}
Name: hiredis
Description: Redis client
Version: {version}
Cflags: -I${{prefix}}/include
Libs: -L${{prefix}}/lib -lhiredis
"""
# Hidden symbols never collide with the OpenSSL that Python's ssl module loads.
C_FLAGS = ("-O2", "-fPIC", "-fvisibility=hidden")
# A TLS client: without modules to load, old protocols and ciphers that no Redis server offers. The
# authorities are those in /etc/ssl. A configuration file there may be meant for another version.
OPENSSL_OPTIONS = (
    "--openssldir=/etc/ssl",
    *("no-shared", "no-module", "no-dso", "no-engine", "no-autoload-config", "no-tests"),
    *("no-ssl3", "no-tls1", "no-tls1_1", "no-dtls", "no-srp", "no-srtp", "no-nextprotoneg"),
    *("no-legacy", "no-comp", "no-cms", "no-cmp", "no-ts", "no-ct", "no-ocsp", "no-rfc3779"),
    *("no-aria", "no-bf", "no-camellia", "no-cast", "no-dsa", "no-ec2m", "no-gost", "no-idea"),
    *("no-md4", "no-mdc2", "no-rc2", "no-rc4", "no-rmd160", "no-seed", "no-whirlpool"),
    *("no-sm2", "no-sm3", "no-sm4", "no-ui-console"),
)


class Target(NamedTuple):
    """A kind of machine that wheels are built for."""

    machine: str
    libc: str  # "gnu" or "musl"

    @property
    def name(self) -> str:
        """Its name in paths and output."""
        return f"{self.machine}-{self.libc}"

    @property
    def platform(self) -> str:
        """The platform tag of its wheels."""
        family = {"gnu": "manylinux_2_17", "musl": "musllinux_1_2"}[self.libc]
        return f"{family}_{self.machine}"

    @property
    def compiler(self) -> str:
        """The command of its C compiler; zig is found on the PATH of `environment`."""
        libc = {"gnu": "gnu.2.17", "musl": "musl"}[self.libc]
        return f"zig cc -target {self.machine}-linux-{libc}"

    @property
    def prefix(self) -> Path:
        """The folder of its libraries."""
        return WORK / self.name

    def environment(self) -> dict[str, str]:
        """Return the variables with which programs for it are built."""
        spec = find_spec("ziglang")
        if spec is None or spec.origin is None:
            sys.exit("ziglang is missing: pip install 'rate-limiter-c[wheels]'")
        path = os.pathsep.join([str(Path(spec.origin).parent), os.environ["PATH"]])
        tools = {"CC": self.compiler, "AR": "zig ar", "RANLIB": "zig ranlib"}
        return os.environ | tools | {"PATH": path}


TARGETS = tuple(
    Target(machine, libc) for machine in ("x86_64", "aarch64") for libc in ("gnu", "musl")
)


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


# --- Sources ---------------------------------------------------------------------------------


def source_entries(text: str, name: str) -> str:
    """Return the entries of an apt source list, for sources instead of packages.

    Args:
        text: the content of the list.
        name: its file name: `.list` files have one line per entry, `.sources` files fields.
    """
    if name.endswith(".sources"):
        lines = (
            "Types: deb-src" if line.lower().startswith("types:") else line
            for line in text.splitlines()
        )
    else:
        lines = (
            "deb-src" + line[3:] for line in text.splitlines() if line.startswith(("deb ", "deb\t"))
        )
    return "".join(f"{line}\n" for line in lines)


def apt_options(folder: Path, *, sources: bool) -> list[str]:
    """Return options with which apt-get keeps its state in `folder`, not in the system.

    Args:
        folder: where the state is kept.
        sources: use source packages: the configured lists seldom name them.
    """
    options = [f"Dir::State::lists={folder}/lists", "APT::Sandbox::User=root"]
    options += ["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    if sources:
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        etc = Path("/etc/apt")
        for file in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]:
            if file.is_file() and file.suffix in (".list", ".sources"):
                entries = source_entries(file.read_text(encoding="utf-8"), file.name)
                (parts / file.name).write_text(entries, encoding="utf-8")
        options += ["Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={parts}"]
    return [word for option in options for word in ("-o", option)]


def sha256(file: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
                f"run .ci/wheel_libraries.py --record"
            )
        if (actual := sha256(file)) != expected:
            sys.exit(f"{name} has SHA-256 {actual}, expected {expected} ({HASHES.name})")
        checked.append(file)
    return checked


def fetch_archives() -> Path:
    """Return the folder with the source archives, fetched if it is not there yet."""
    archives = WORK / "archives"
    if not archives.is_dir():
        fetched = WORK / "archives.part"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        apt = ["apt-get", *apt_options(WORK / "apt-sources", sources=True), "--quiet", "--quiet"]
        run([*apt, "update"], fetched)
        # Debian's patches of hiredis mend a fault; those of OpenSSL only concern its packaging.
        run([*apt, "source", "--download-only", "hiredis"], fetched)
        run([*apt, "source", "--download-only", "--tar-only", "openssl"], fetched)
        fetched.rename(archives)
    return archives


def record() -> None:
    """Write the hashes of the versions that apt has."""
    shutil.rmtree(WORK / "archives", ignore_errors=True)
    archives = sorted(fetch_archives().glob("*.tar.*"))
    lines = [f"{sha256(file)}  {file.name}\n" for file in archives if file.suffix != ".asc"]
    HASHES.write_text("".join(lines), encoding="utf-8")


def unpack(archives: Path, target: Path) -> None:
    """Unpack the sources of both libraries into folders of `target`, with Debian's patches."""
    for file in check_hashes(archives, HASHES.read_text(encoding="utf-8")):
        package, _, rest = file.name.partition("_")
        folder = target / package
        folder.mkdir(parents=True, exist_ok=True)
        strip = () if ".debian." in rest else ("--strip-components=1",)
        run(["tar", "-xf", file, *strip], folder)
    hiredis = target / "hiredis"
    patches = hiredis / "debian" / "patches"
    for name in (patches / "series").read_text(encoding="utf-8").split():
        run(["patch", "--quiet", "-p1", "-i", patches / name], hiredis)
    # Debian's patch widens this argument in the function, but not in the type of its pointer.
    header = hiredis / "read.h"
    text = header.read_text(encoding="utf-8")
    header.write_text(
        text.replace(
            "createArray)(const redisReadTask*, int)", "createArray)(const redisReadTask*, size_t)"
        ),
        encoding="utf-8",
    )


# --- Libraries -------------------------------------------------------------------------------


def build_openssl(source: Path, target: Target) -> None:
    """Build libssl and libcrypto, and install them with their headers into the prefix."""
    environment = target.environment()
    configure = ["./Configure", f"linux-{target.machine}", f"--prefix={target.prefix}"]
    run([*configure, "--libdir=lib", *OPENSSL_OPTIONS, *C_FLAGS], source, environment)
    run(["make", f"-j{os.cpu_count()}", "build_libs"], source, environment)
    run(["make", "install_dev"], source, environment)


def build_hiredis(source: Path, target: Target, release: str) -> None:
    """Build libhiredis, and install it with its headers into the prefix."""
    environment = target.environment()
    compiler = target.compiler.split()
    for name in HIREDIS_SOURCES:
        run([*compiler, "-std=gnu99", *C_FLAGS, "-w", "-c", f"{name}.c"], source, environment)
    library = target.prefix / "lib" / "libhiredis.a"
    objects = [f"{name}.o" for name in HIREDIS_SOURCES]
    run(["zig", "ar", "rcs", library, *objects], source, environment)
    headers = target.prefix / "include" / "hiredis"
    headers.mkdir(parents=True, exist_ok=True)
    for name in HIREDIS_HEADERS:
        shutil.copy(source / f"{name}.h", headers)
    pc = target.prefix / "lib" / "pkgconfig" / "hiredis.pc"
    pc.write_text(HIREDIS_PC.format(prefix=target.prefix, version=release), encoding="utf-8")


def build_libraries(target: Target) -> dict[str, str]:
    """Build both libraries for `target`, unless that was done before.

    Returns:
        The version of each library.
    """
    hashes = HASHES.read_text(encoding="utf-8")
    names = [line.split()[1] for line in hashes.splitlines()]
    versions = {
        package: name.split("_")[1].partition(".orig")[0]
        for package in PACKAGES
        for name in names
        if name.startswith(f"{package}_") and ".orig." in name
    }
    recipe = "\n".join((hashes, version("ziglang"), target.compiler, *OPENSSL_OPTIONS, *C_FLAGS))
    stamp = target.prefix / "built.stamp"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        shutil.rmtree(target.prefix, ignore_errors=True)
        sources = target.prefix / "sources"
        unpack(fetch_archives(), sources)
        build_openssl(sources / "openssl", target)
        build_hiredis(sources / "hiredis", target, versions["hiredis"])
        shutil.rmtree(sources)
        stamp.write_text(recipe, encoding="utf-8")
    return versions


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: .ci/wheel_libraries.py --record")
    record()
