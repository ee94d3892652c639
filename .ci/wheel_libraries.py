"""Build hiredis and OpenSSL as static libraries for the wheels, with the C compiler of zig."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from wheel_sources import WORK, hashes_of, run, unpack

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


def unpack_hiredis(folder: Path) -> Path:
    """Unpack the sources of hiredis, with Debian's patches; return their folder."""
    hiredis = unpack("hiredis", folder)
    # Debian's patch widens this argument in the function, but not in the type of its pointer.
    header = hiredis / "read.h"
    text = header.read_text(encoding="utf-8")
    header.write_text(
        text.replace(
            "createArray)(const redisReadTask*, int)", "createArray)(const redisReadTask*, size_t)"
        ),
        encoding="utf-8",
    )
    return hiredis


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
    hashes = "".join(map(hashes_of, PACKAGES))
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
        build_openssl(unpack("openssl", sources), target)
        build_hiredis(unpack_hiredis(sources), target, versions["hiredis"])
        shutil.rmtree(sources)
        stamp.write_text(recipe, encoding="utf-8")
    return versions
