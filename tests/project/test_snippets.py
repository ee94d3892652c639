"""Every Python block of the pages is right for a type checker: one mypy process for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.pages import blocks_of
from support.servers import ROOT

DOCS = ROOT / "docs"
# These show both frameworks, or another library, under the same names.
LEFT_OUT = {"faq.md", "security.md", "testing.md"}
PAGES = [
    ROOT / "README.md",
    *(one for one in sorted(DOCS.glob("*.md")) if one.name not in LEFT_OUT),
]
# The pages' own functions have no annotations, and their asserts use names again.
MYPY = (
    *("--strict", "--check-untyped-defs", "--allow-untyped-defs", "--allow-incomplete-defs"),
    *(
        "--allow-untyped-calls",
        "--allow-untyped-decorators",
        "--no-warn-return-any",
        "--allow-redefinition",
    ),
    *("--disable-error-code=no-redef", "--disable-error-code=name-defined"),
    *("--disable-error-code=method-assign", "--disable-error-code=index"),
    *("--disable-error-code=union-attr", "--disable-error-code=var-annotated"),
)


def written(folder: Path, page: Path) -> str:
    """Write the Python blocks of a page into a module, at the lines that they have on the page."""
    lines: list[str] = []
    for block in blocks_of(page):
        if block.language == "python" and block.file is None:
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    name = f"page_{page.stem.replace('-', '_').lower()}.py"
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def checked(folder: Path, *names: str) -> str:
    words = (sys.executable, "-m", "mypy", *MYPY, "--no-error-summary", "--config-file=")
    done = subprocess.run(
        [*words, f"--cache-dir={folder / 'cache'}", *names],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.stdout + done.stderr


def test_all_blocks(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from rate_limiter import RateLimiter\n"
        "RateLimiter('5/minute', store='redis://a', on_store_error='denies')\n"
    )
    names = [written(tmp_path, page) for page in PAGES]
    assert len(names) > 15
    found = checked(tmp_path, "wrong.py", *names).splitlines()
    assert [line for line in found if not line.startswith("wrong.py:")] == []
    assert len(found) == 1  # the mistake that shows that mistakes are found
