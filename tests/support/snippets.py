"""Turn the Python blocks of a page into modules for type checkers.

Each block becomes a module, after the earlier blocks of the page that it takes names from. Lines
have the numbers that they have on the page.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from dataclasses import dataclass
from pathlib import Path

from support import guides, pages

# What pages.py provides, for pages that show what is done to an application.
_PROVIDED = "from fastapi import FastAPI; app = FastAPI()"


@dataclass(frozen=True)
class _Snippet:
    """A Python block.

    Attributes:
        line: how many lines of the page are above its text.
        file: the file that it is written to, if the page names one.
        defines: the names that it binds.
        needs: the names that it uses and does not bind.
    """

    line: int
    text: str
    file: str | None
    defines: frozenset[str]
    needs: frozenset[str]


def modules_of(page: Path) -> dict[str, str]:
    """Return the texts of a page's modules, by file name.

    Programs that use another limiter are left out.
    """
    snippets = _snippets_of(page)
    imported = {name for one in snippets for name in _imports(one.text)}
    prefix = "_".join(page.with_suffix("").parts[-2:]).replace("-", "_")
    modules: dict[str, str] = {}
    for at, one in enumerate(snippets):
        is_imported = one.file is not None and Path(one.file).stem in imported
        name = one.file if one.file is not None and is_imported else f"{prefix}_{one.line}.py"
        modules[name] = _module(snippets[: at + 1])
    return modules


def _snippets_of(page: Path) -> list[_Snippet]:
    guide = {block.line: block for block in guides.blocks_of(page)}
    found = []
    for block in pages.blocks_of(page):
        labelled = guide.get(block.line)
        how = labelled.how if labelled is not None else None
        if block.language == "python" and how != "before":
            file = labelled.what if labelled is not None and how == "file" else block.file
            found.append(_snippet(block.line, block.text, file))
    return found


def _snippet(line: int, text: str, file: str | None) -> _Snippet:
    table = symtable.symtable(text, "snippet", "exec")
    defines = {
        one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()
    }
    needs = _used(table) - defines - set(dir(builtins))
    return _Snippet(line, text, file, frozenset(defines), frozenset(needs))


def _used(table: symtable.SymbolTable) -> set[str]:
    """Return the names of the module that a scope uses, and those within it."""
    is_module = table.get_type() == "module"
    symbols = [one for one in table.get_symbols() if one.is_referenced()]
    used = {one.get_name() for one in symbols if is_module or one.is_global()}
    return used.union(*map(_used, table.get_children()))


def _module(snippets: list[_Snippet]) -> str:
    """Return the text of the last snippet, and of those before it that it needs."""
    *before, last = snippets
    parts, needs = [last], last.needs
    for one in reversed(before):
        if needs & one.defines:
            parts.insert(0, one)
            needs = (needs - one.defines) | one.needs
    lines = [_PROVIDED] if "app" in needs else []
    for one in parts:
        lines += [""] * (one.line - len(lines)) + one.text.splitlines()
    return "\n".join(lines) + "\n"


def _imports(text: str) -> set[str]:
    """Return the modules that a text imports names from."""
    nodes = ast.walk(ast.parse(text))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
