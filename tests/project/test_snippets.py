"""Every Python block of the pages passes mypy --strict and pyright: one process of each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ROOT
from support.snippets import modules_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# `app.wsgi_app = ...` is how Flask documents WSGI middleware; mypy takes it for a mistake.
MYPY = ("--strict", "--disable-error-code=method-assign")
WRONG = (
    "from rate_limiter import RateLimiter\n"
    "RateLimiter('5/minute', store='redis://a', on_store_error='denies')\n"
)

# Each reads the sources of all frameworks, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Write the modules, and one with a mistake; return the page of each."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "wrong.py").write_text(WRONG)
    written = {folder / "wrong.py": Path("wrong.py")}
    for page in PAGES:
        for name, text in modules_of(page).items():
            assert folder / name not in written
            (folder / name).write_text(text, encoding="utf-8")
            written[folder / name] = page
    return written


def output_of(places: dict[Path, Path], *words: str) -> str:
    """Run a type checker in the folder of the modules. A demo is imported from the project."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=next(iter(places)).parent,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # it ran, and found mistakes
    return done.stdout


def check(places: dict[Path, Path], found: list[tuple[str, int, str]]) -> None:
    """Raise unless the one mistake was found, and no other."""
    folder = next(iter(places)).parent
    # The modules of a page have blocks in common.
    shown = {f"{places[folder / file].name}:{line}: {text}" for file, line, text in found}
    assert sorted(one for one in shown if not one.startswith("wrong.py:")) == []
    assert len(shown) == 1


def test_mypy(places: dict[Path, Path]) -> None:
    folder = next(iter(places)).parent
    options = (*MYPY, "--config-file=", f"--cache-dir={folder / 'cache'}", "--no-error-summary")
    printed = output_of(places, "mypy", *options, "--hide-error-context", ".")
    found = re.findall(r"^(.+?):(\d+): error: (.+)$", printed, re.MULTILINE)
    assert found, printed
    check(places, [(file, int(line), text) for file, line, text in found])


def test_pyright(places: dict[Path, Path]) -> None:
    folder = next(iter(places)).parent
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    printed = output_of(places, "pyright", "--outputjson", "--pythonpath", sys.executable)
    report = json.loads(printed)
    assert report["summary"]["filesAnalyzed"] >= len(places)
    check(
        places,
        [
            (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
            for one in report["generalDiagnostics"]
        ],
    )


def test_every_block_is_in_a_module(places: dict[Path, Path]) -> None:
    assert len(places) > 180
    texts = [path.read_text(encoding="utf-8").splitlines() for path in places]
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for at, line in enumerate(lines):
            if line.strip() == "```python" and not lines[at - 1].startswith("<!-- test: before"):
                first = lines[at + 1].strip()
                assert any(len(text) > at + 1 and text[at + 1] == first for text in texts), line


def test_a_module_has_the_blocks_that_it_needs(tmp_path: Path) -> None:
    blocks = [
        "import math\nradius = 1",
        "import json\nradius = 2",
        "def area() -> float:\n    return math.pi * radius",
        "print(area())",
        "app.get('/')",
    ]
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n" + "".join(f"```python\n{one}\n```\n" for one in blocks))
    modules = list(modules_of(page).values())
    assert len(modules) == len(blocks)
    assert modules[0].split() == blocks[0].split()
    assert modules[4].split("app = ")[1].split() == ["FastAPI()", blocks[4]]
    assert modules[3].splitlines() == [
        *("", "", ""),
        *("import math", "radius = 1", "", ""),
        *("import json", "radius = 2", "", ""),
        *("def area() -> float:", "    return math.pi * radius", "", ""),
        "print(area())",
    ]
