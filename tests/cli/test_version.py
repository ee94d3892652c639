"""`rate-limiter --version`: the package, its libraries, its build and its interpreter."""

from __future__ import annotations

import platform

import pytest
from rate_limiter import __version__, _core
from rate_limiter.cli.main import main
from rate_limiter.cli.version import build_details


def test_version_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    package, libraries, build, interpreter = capsys.readouterr().out.splitlines()
    assert package == f"rate-limiter {__version__}"
    assert libraries.startswith("hiredis ")
    assert ", OpenSSL " in libraries
    assert build.startswith(("built from source, ", "wheel for "))
    assert interpreter.startswith(f"CPython {platform.python_version()}, {platform.system()} ")


def test_version_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "HAS_REDIS", 0)
    assert build_details().splitlines()[1] == "without Redis"
