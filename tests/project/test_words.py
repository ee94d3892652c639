"""Texts that users read are plain, modern English: no turns that signal a sentence to rewrite."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.servers import ROOT

SIGNS = re.compile(
    r"\b(tells?|told|anew|nobody|whoever|for want of|lies in|may lie|be it|meanwhile|of its own"
    r"|of their own|is to be|are to be|has it|that is there|at all|by itself|is away|fares?"
    r"|one's own|to the letter|change over"
    r"|earlier systems?)\b",
    re.IGNORECASE,
)
# Parts of lines, by file.
ALLOWED = {
    "docs/stores.md": {"no process has it open"},
}
FILES = ("README.md", "CHANGELOG.md", "Makefile", "setup.py", "pyproject.toml")
FOLDERS = ("docs", "demo", "deploy", ".ci", ".github", "benchmarks")
SUFFIXES = {".md", ".yml", ".yaml", ".txt", ".env", ".conf", ".js", ".json", ".py", ".sh", ""}


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page and of each file that users read or copy."""
    inside = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")))
    for path in (*(ROOT / name for name in FILES), *inside):
        if path.is_file() and path.suffix in SUFFIXES:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def texts_of(path: Path) -> Iterator[str]:
    """Yield the docstrings and messages of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def comments_of(text: str) -> Iterator[str]:
    """Yield the comments and strings of a C file."""
    yield from re.findall(r"/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", text, re.DOTALL)


def signs_in(text: str) -> list[str]:
    return [found[0] for found in SIGNS.finditer(" ".join(text.split()))]


def test_pages_and_deployment_files() -> None:
    found = [
        (name, line.strip())
        for name, text in pages()
        for line in text.splitlines()
        if signs_in(line) and not any(one in line for one in ALLOWED.get(name, ()))
    ]
    assert found == []


def test_docstrings_and_messages() -> None:
    modules = sorted((ROOT / "python" / "rate_limiter").rglob("*.py*"))
    texts = [
        (path.name, text)
        for path in modules
        if path.suffix in {".py", ".pyi"}
        for text in texts_of(path)
    ]
    assert len(texts) > 2000
    assert [(name, text) for name, text in texts if signs_in(text)] == []


def test_comments_and_messages_in_c() -> None:
    texts = [
        (path.name, text)
        for path in sorted((ROOT / "csrc").rglob("*.[ch]"))
        for text in comments_of(path.read_text(encoding="utf-8"))
    ]
    assert len(texts) > 2000
    assert [(name, text) for name, text in texts if signs_in(text)] == []


def test_signs_are_found() -> None:
    assert signs_in("It is\ntold anew by itself.") == ["told", "anew", "by itself"]
    assert signs_in("It retells atolls, be its, that is.") == []
