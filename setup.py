"""Build the C extension rate_limiter._core; pyproject.toml has all other settings.

RATE_LIMITER_NO_REDIS=1 builds it without Redis, so it needs neither hiredis nor OpenSSL.
RATE_LIMITER_WERROR=1 turns compiler warnings into errors.
RATE_LIMITER_BUILD names the build for `rate-limiter --version` (built from source).
RATE_LIMITER_SANITIZE=1 builds it with clang's address and undefined-behaviour sanitizers, whose
library must then be preloaded: see .ci/sanitized.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

LIBRARIES = ("hiredis", "openssl")
REDIS_FOLDERS = ("csrc/redis/", "csrc/python/redis/")
HOW_TO_INSTALL = """\
rate-limiter-c needs {missing} to talk to Redis. Install

    Debian, Ubuntu    apt-get install pkg-config libhiredis-dev libssl-dev
    Fedora            dnf install pkgconf-pkg-config hiredis-devel openssl-devel
    Alpine            apk add pkgconf hiredis-dev openssl-dev
    macOS             brew install pkgconf hiredis openssl@3

or build without Redis: RATE_LIMITER_NO_REDIS=1 pip install rate-limiter-c
"""


def pkg_config(*arguments: str) -> "list[str] | None":
    """Return the flags of LIBRARIES from pkg-config; None if it does not find them."""
    program = os.environ.get("PKG_CONFIG") or shutil.which("pkg-config") or shutil.which("pkgconf")
    if program is None:
        return None
    done = subprocess.run(
        [program, *arguments, *LIBRARIES], capture_output=True, text=True, check=False
    )
    return done.stdout.split() if done.returncode == 0 else None


def index_page(readme: str) -> str:
    """Return the README for the package index, where relative links and images do not work.

    Comments and pictures are removed, and only the text of a relative link is kept.
    """
    page = re.sub(r"<!--.*?-->\n?|<picture>.*?</picture>\n*", "", readme, flags=re.DOTALL)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)\s]*\)", r"\1", page)


# -isystem keeps -Wconversion out of Python's headers.
compile_args = [
    "-std=gnu11",
    "-O3",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-isystem",
    sysconfig.get_path("include"),
]
# Off by default: a future compiler's new warning must not stop an installation.
if os.environ.get("RATE_LIMITER_WERROR") == "1":
    compile_args.append("-Werror")

if os.environ.get("RATE_LIMITER_BUILD"):
    compile_args.append(f"-DRL_BUILD={os.environ['RATE_LIMITER_BUILD']}")

link_args = [] if sys.platform == "darwin" else ["-pthread"]  # macOS has threads in its C library
# One decision crosses three source files: gcc saves a tenth of its time by seeing them together.
if "gcc" in os.environ.get("CC", sysconfig.get_config_var("CC") or ""):
    compile_args.append("-flto")
    link_args += ["-flto", "-O3"]

if os.environ.get("RATE_LIMITER_SANITIZE") == "1":
    # Python's own flags let signed integers wrap, which would hide an overflow.
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv"]
    compile_args += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    link_args += ["-fsanitize=address,undefined", "-shared-libsan"]

sources = sorted(glob("csrc/**/*.c", recursive=True))
if os.environ.get("RATE_LIMITER_NO_REDIS") == "1":
    sources = [source for source in sources if not source.startswith(REDIS_FOLDERS)]
    compile_args.append("-DRL_NO_REDIS")
elif not {"sdist", "egg_info", "dist_info"} & set(sys.argv):
    flags, libraries = pkg_config("--cflags"), pkg_config("--libs")
    if flags is None or libraries is None:
        sys.exit(HOW_TO_INSTALL.format(missing="pkg-config, hiredis and OpenSSL"))
    # Debian's hiredis.pc points into its own folder, where <hiredis/hiredis.h> is not.
    compile_args += [flag.replace("-I", "-isystem", 1) for flag in flags if flag[:2] == "-I"]
    link_args += libraries

setup(
    long_description=index_page(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "rate_limiter._core",
            sources=sources,
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            include_dirs=["csrc"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
)
