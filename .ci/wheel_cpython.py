"""Compile CPython for what no binary package of Debian has: musl, and threads without the GIL.

The sources are those of Debian, in the versions that SUITES of wheel_sources.py names.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from test_all import Python, probe
from wheel_libraries import Target
from wheel_sources import ROOT, SUITES, WORK, hashes_of, run, unpack

FREE_THREADED = (3, 13)
# Modules that need other libraries, and large ones that nothing imports here.
LEFT_OUT = (
    r"_(bz2|codecs_|crypt|ctypes|curses|dbm|decimal|elementtree|gdbm|hashlib|lzma|multibyte|sqlite3"
    r"|ssl|test|tkinter|xx)|(audioop|nis|ossaudiodev|pyexpat|readline|spwd|xx|zlib)"
)
ANSWERS = (
    # What configure cannot try when it compiles for another machine.
    *("ac_cv_file__dev_ptmx=yes", "ac_cv_file__dev_ptc=no", "ac_cv_buggy_getaddrinfo=no"),
    # Functions that the musl of zig has, but not the older one of Debian.
    *("ac_cv_func_preadv2=no", "ac_cv_func_pwritev2=no"),
)


def has_source(python: Python) -> bool:
    """Return whether the source of this version can be had."""
    return source_name(python) in SUITES


def source_name(python: Python) -> str:
    """Return the name of Debian's source package."""
    return "python{}.{}".format(*python.version)


def static_modules(setup: str, openssl: Path) -> str:
    """Return Modules/Setup.local, with which the interpreter contains the modules it needs.

    Args:
        setup: Modules/Setup.stdlib, which names all modules that can be built.
        openssl: the prefix of a static OpenSSL.
    """
    kept = [line for line in setup.splitlines() if re.match(r"\w", line)]
    kept = [line for line in kept if not re.match(LEFT_OUT, line)]
    libraries = f"{openssl}/lib/libssl.a {openssl}/lib/libcrypto.a"
    return "\n".join(["*static*", *kept, f"_ssl _ssl.c -I{openssl}/include {libraries}", ""])


def configure_cross(python: Python, target: Target, source: Path, folder: Path) -> dict[str, str]:
    """Configure CPython for `target` in `folder`; return the variables to build it with."""
    environment = target.environment() | {
        # Short compilation matters more than speed. Without optimisation, zig adds UBSan. In the
        # libc.so that zig links with, all data is at one address, so none may be copied: PIC.
        "CFLAGS": "-O0 -g0 -w -fPIC -fno-sanitize=undefined",
        "OPT": "-DNDEBUG",
        # The linker of zig makes a static program otherwise, which loads no extension.
        "LDFLAGS": "-dynamic -s",
        "READELF": shutil.which("readelf") or "readelf",
        # Libraries of this machine are of no use.
        "PKG_CONFIG": shutil.which("false") or "false",
    }
    options = [f"--host={target.machine}-linux-musl", f"--build={os.uname().machine}-linux-gnu"]
    options += [f"--with-build-python={python.program}", "--without-ensurepip"]
    options += ["--disable-test-modules", "--without-doc-strings", *ANSWERS]
    run([source / "configure", *options], folder, environment)
    return environment


def build_musl_python(python: Python, target: Target) -> Path:
    """Compile the version of `python` for a target with musl; return its prefix."""
    prefix = WORK / f"cpython-{python.tag}-{target.name}"
    recipe = f"{hashes_of(source_name(python))}{target.compiler}\n{LEFT_OUT}"
    stamp = prefix / "built.stamp"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        shutil.rmtree(prefix, ignore_errors=True)
        build = prefix / "build"
        build.mkdir(parents=True)
        source = unpack(source_name(python), prefix / "sources")
        environment = configure_cross(python, target, source, build)
        modules = build / "Modules"
        stdlib = (modules / "Setup.stdlib").read_text(encoding="utf-8")
        local = static_modules(stdlib, target.prefix)
        (modules / "Setup.local").write_text(local, encoding="utf-8")
        run(["make", f"-j{os.cpu_count()}", "python", "pybuilddir.txt"], build, environment)
        library = prefix / "lib" / source_name(python)
        shutil.copytree(source / "Lib", library, ignore=shutil.ignore_patterns("test", "idlelib"))
        (library / "lib-dynload").mkdir()
        for variables in build.glob("build/lib*/_sysconfigdata*.py"):
            shutil.copy(variables, library)
        (prefix / "bin").mkdir()
        shutil.copy(build / "python", prefix / "bin" / source_name(python))
        shutil.rmtree(build)
        shutil.rmtree(prefix / "sources")
        stamp.write_text(recipe, encoding="utf-8")
    return prefix


def build_free_threaded() -> Python:
    """Compile a free-threaded CPython for this machine; return it."""
    name = "python{}.{}".format(*FREE_THREADED)
    prefix = WORK / f"{name}t"
    program = prefix / "bin" / f"{name}t"
    stamp = prefix / "built.stamp"
    recipe = hashes_of(name)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        shutil.rmtree(prefix, ignore_errors=True)
        source = unpack(name, prefix / "sources")
        options = [f"--prefix={prefix}", "--disable-gil", "--disable-test-modules"]
        environment = os.environ | {"CFLAGS": "-O0 -g0 -w", "OPT": "-DNDEBUG"}
        run([source / "configure", *options], source, environment)
        run(["make", f"-j{os.cpu_count()}"], source, environment)
        run(["make", "altinstall"], source, environment)
        shutil.rmtree(prefix / "sources")
        stamp.write_text(recipe, encoding="utf-8")
    python = probe(program)
    if python is None:
        run([program, "-c", "import ensurepip, venv"], ROOT)
        raise SystemExit(f"{program} cannot build an extension")
    return python
