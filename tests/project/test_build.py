"""The package built without Redis, and without what Redis needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.quick_compiler import quick_compiler

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what is needed to build."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("csrc", "python"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(sources: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(sources / "lib")],
        cwd=sources,
        env=os.environ | quick_compiler(sources) | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_without_redis(sources: Path) -> None:
    done = build(sources, RATE_LIMITER_NO_REDIS="1", PKG_CONFIG="/bin/false")
    assert done.returncode == 0, done.stderr
    shutil.copytree(
        sources / "python" / "rate_limiter", sources / "lib" / "rate_limiter", dirs_exist_ok=True
    )
    program = (
        "from rate_limiter import RateLimiter\n"
        "print(RateLimiter('1/s').allow('x'))\n"
        "try: RateLimiter('1/s', store='redis://localhost')\n"
        "except RuntimeError as error: print(error)\n"
    )
    used = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(sources / "lib")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert used.stderr == ""
    assert used.stdout.startswith("True\nthis rate_limiter was built without Redis")


def test_without_libraries(sources: Path) -> None:
    done = build(sources, PKG_CONFIG="/bin/false", RATE_LIMITER_NO_REDIS="")
    assert done.returncode != 0
    for words in (
        "rate-limiter-c needs pkg-config, hiredis and OpenSSL",
        "apt-get install pkg-config libhiredis-dev libssl-dev",
        "dnf install",
        "apk add",
        "brew install",
        "RATE_LIMITER_NO_REDIS=1",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
