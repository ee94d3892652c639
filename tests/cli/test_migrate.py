"""rate-limiter migrate: the changed imports of programs for other limiters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rate_limiter.cli import migrate
from rate_limiter.cli.main import main


def written(tmp_path: Path, source: str | bytes) -> tuple[int, str]:
    file = tmp_path / "app.py"
    file.write_bytes(source if isinstance(source, bytes) else source.encode())
    status = main(["migrate", "--write", str(file)])
    return status, file.read_bytes().decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "from slowapi import Limiter, _rate_limit_exceeded_handler  # é\n",
            "from rate_limiter.compat.slowapi import Limiter, _rate_limit_exceeded_handler  # é\n",
        ),
        (
            "if True:\n    from slowapi.util import (\n        get_remote_address as a,\n    )\n",
            "if True:\n    from rate_limiter.compat.slowapi.util import (\n"
            "        get_remote_address as a,\n    )\n",
        ),
        (
            "é = 1; from limits import parse; from limits.strategies import STRATEGIES\r\n",
            "é = 1; from rate_limiter.compat.limits import parse; "
            "from rate_limiter.compat.limits.strategies import STRATEGIES\r\n",
        ),
        (
            "from \\\n  slowapi.errors import RateLimitExceeded\n",
            "from \\\n  rate_limiter.compat.slowapi.errors import RateLimitExceeded\n",
        ),
        ("import slowapi\n", "import rate_limiter.compat.slowapi as slowapi\n"),
        ("import os, slowapi as s\n", "import os, rate_limiter.compat.slowapi as s\n"),
        (
            "import slowapi.util\n",
            "import rate_limiter.compat.slowapi.util, rate_limiter.compat.slowapi as slowapi\n",
        ),
        ("import limits.storage as s", "import rate_limiter.compat.limits.storage as s"),
        ("from limits.storage import *\n", "from rate_limiter.compat.limits.storage import *\n"),
        ("from limits import storage\n", "from rate_limiter.compat.limits import storage\n"),
    ],
)
def test_imports_change_and_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    assert written(tmp_path, before) == (0, after)
    exec(compile(after, "app.py", "exec"), {})


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("from limits.aio import strategies\n", "limits.aio.strategies"),
        ("from slowapi.extension import C\n", "slowapi.extension.C"),
        ("import limits.aio\n", "limits.aio"),
    ],
)
def test_what_is_not_covered_stays_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, what: str
) -> None:
    assert written(tmp_path, source) == (1, source)
    assert f"not covered:\n  {what}  {tmp_path}/app.py:1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    ["import os\n", "from .slowapi import x\n", "from . import limits\n", "import slowapi_x\n", ""],
)
def test_other_programs_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert written(tmp_path, source) == (0, source)
    assert capsys.readouterr().out == "nothing of slowapi, Flask-Limiter or limits is used\n"


def test_constructs_are_listed_with_their_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """\
from slowapi import Limiter as L
limiter = L(key_func=str, color=1, storage_uri="async+memcached://host")
@limiter.limit("5/minute", cost=3, scope="x")
def a(request): ...
@limiter.limit("5/minute", cost=4)
def b(request): ...
@limiter.exempt
def c(request): ...
mock.patch("slowapi.extension.Limiter")
other.limit(10, color=1)
"""
    status, _ = written(tmp_path, source)
    output = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert status == 1
    assert output.endswith("""\
covered:
  Limiter(key_func=)  app.py:2
  Limiter(storage_uri=)  app.py:2
  limiter.limit(cost=)  app.py:3, app.py:5
  slowapi.Limiter  app.py:1
not covered:
  Limiter(color=)  app.py:2
  limiter.limit(scope=)  app.py:3
  storage memcached://  app.py:2
  the text 'slowapi.extension.Limiter'  app.py:9
""")


def test_a_folder_is_searched_and_nothing_is_executed_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "from slowapi import Limiter\nraise SystemExit('executed')\n"
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    for place in (
        "app/one.py",
        "app/inner/two.py",
        ".hidden/three.py",
        "venv/lib/four.py",
        "a.txt",
    ):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line)
    assert main(["migrate", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.count("+from rate_limiter.compat.slowapi import Limiter") == 2
    assert {place for place in ("one", "two", "three", "four", "a.txt") if place in output} == {
        "one",
        "two",
    }
    assert all(file.read_text() == line for file in tmp_path.rglob("*.py"))


@pytest.mark.parametrize("source", [b"def (", b"# coding: none\n", b"\xff\xfe", b"a\0b"])
def test_an_unreadable_file_is_named_and_the_others_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: bytes
) -> None:
    (tmp_path / "a.py").write_bytes(source)
    (tmp_path / "b.py").write_text("import slowapi\n")
    assert main(["migrate", "--write", str(tmp_path)]) == 1
    assert f"rate-limiter: {tmp_path}/a.py: cannot be read" in capsys.readouterr().err
    assert "compat" in (tmp_path / "b.py").read_text()


def test_json_has_the_uses_and_the_diffs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "app.py"
    file.write_text("import slowapi\n")
    assert main(["migrate", "--json", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    use = {"what": "slowapi", "file": str(file), "line": 1, "is_covered": True}
    assert found["uses"] == [use]
    assert list(found["diffs"]) == [str(file)]
    assert found["diffs"][str(file)].endswith(
        "@@ -1 +1 @@\n-import slowapi\n+import rate_limiter.compat.slowapi as slowapi\n"
    )


def test_a_missing_path_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "/nowhere/app.py"]) == 2
    assert "there is no file or folder '/nowhere/app.py'" in capsys.readouterr().err


def test_encodings_and_marks_stay(tmp_path: Path) -> None:
    for encoding, first in (("latin-1", "# coding: latin-1\n"), ("utf-8-sig", "")):
        file = tmp_path / "app.py"
        file.write_bytes(f"{first}é = 1; import slowapi\n".encode(encoding))
        assert main(["migrate", "--write", str(file)]) == 0
        expected = f"{first}é = 1; import rate_limiter.compat.slowapi as slowapi\n"
        assert file.read_bytes() == expected.encode(encoding)


def test_the_names_of_compat_are_found_without_importing() -> None:
    names = migrate._names_in("slowapi.middleware")
    assert {"SlowAPIMiddleware", "SlowAPIASGIMiddleware"} <= names
    assert "middleware" in migrate._names_in("slowapi")
    assert "key_style" in migrate._parameters_of("slowapi", "__init__")
