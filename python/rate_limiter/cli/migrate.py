"""The command rate-limiter migrate: the changed import lines of a program for another limiter.

A program is only parsed, never imported or executed. So are the modules of rate_limiter.compat,
whose names and parameters say what is covered.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rate_limiter.cli.common import DONE, FAILED, UsageError, add_json, epilog, print_json

EXAMPLES = """\
  rate-limiter migrate .
  rate-limiter migrate app/main.py tests
  rate-limiter migrate --write app
"""
DESCRIPTION = """\
List what a program uses of slowapi, Flask-Limiter and limits, and print the import lines that
have to change as a diff. The program is parsed, never executed."""

COMPAT = "rate_limiter.compat"
PACKAGES = ("slowapi", "flask_limiter", "limits")
_FOLDER = Path(__file__).parent.parent / "compat"
_METHODS = ("limit", "shared_limit", "exempt", "request_filter")
_STORES = re.compile(r"(?:async\+)?(memcached|mongodb|etcd)(?:\+\w+)?://")
_PATHS = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
_FROM = re.compile(rb"(from(?:\s|\\\r?\n)+)")


class Use(NamedTuple):
    """What a program uses, and whether it is covered."""

    what: str
    file: Path | str
    line: int
    is_covered: bool = True

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Edit(NamedTuple):
    """Bytes of a file, from line and column to line and column, that change."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: bytes


def add_parser(actions: Any) -> None:
    """Add the command to the program."""
    parser = actions.add_parser(
        "migrate",
        help="change the imports of a slowapi or Flask-Limiter program",
        description=DESCRIPTION,
        epilog=epilog(EXAMPLES),
    )
    parser.set_defaults(run=_migrate)
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="file or folder")
    parser.add_argument("--write", action="store_true", help="change the files")
    add_json(parser)


def _migrate(given: argparse.Namespace) -> int:
    programs, is_done = [], True
    for file in _files(given.paths):
        try:
            programs.append(Program(file))
        except (OSError, SyntaxError, UnicodeError, ValueError) as error:
            print(f"rate-limiter: {file}: cannot be read: {error}", file=sys.stderr)
            is_done = False
    uses = [use for program in programs for use in program.uses]
    diffs = {str(program.file): program.diff() for program in programs if program.edits}
    if given.json:
        found = [use._replace(file=str(use.file))._asdict() for use in uses]
        print_json({"uses": found, "diffs": diffs})
    else:
        print("".join(diffs.values()), end="")
        for title, is_covered in (("covered", True), ("not covered", False)):
            _show_uses(title, [use for use in uses if use.is_covered is is_covered])
        if not uses:
            print("nothing of slowapi, Flask-Limiter or limits is used")
    for program in programs if given.write else ():
        program.write()
    return DONE if is_done and all(use.is_covered for use in uses) else FAILED


def _show_uses(title: str, uses: list[Use]) -> None:
    places: dict[str, list[str]] = {}
    for use in uses:
        places.setdefault(use.what, []).append(use.place)
    if places:
        print(f"{title}:")
    for what, where in sorted(places.items()):
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        print(f"  {what}  {', '.join(where[:3])}{more}")


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir():
            for folder, folders, names in os.walk(path):
                inner = (Path(folder, name) for name in sorted(folders))
                folders[:] = [one.name for one in inner if not _is_foreign(one)]
                yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
        else:
            raise UsageError(f"there is no file or folder {str(path)!r}")


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder holds other programs: hidden, or an environment."""
    hidden = folder.name.startswith((".", "__pycache__"))
    return hidden or folder.name == "node_modules" or (folder / "pyvenv.cfg").exists()


class Program:
    """A file of a program: what it uses, and the edits that change its imports.

    Raises:
        OSError, SyntaxError, UnicodeError, ValueError: the file cannot be read or parsed.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.source = file.read_bytes()
        self.encoding, _ = tokenize.detect_encoding(io.BytesIO(self.source).readline)
        text = self.source.decode(self.encoding)
        self.lines = text.encode().splitlines(keepends=True)  # a tree counts bytes of UTF-8
        self.edits: list[Edit] = []
        self.uses: list[Use] = []
        self._limiters: dict[str, str] = {}  # names of Limiter classes, and their packages
        nodes = list(ast.walk(ast.parse(text)))
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.Import):
                self._import(node)
        for node in nodes:
            if isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._text(node, node.value)

    def _use(self, node: Any, what: str, is_covered: bool = True) -> None:
        self.uses.append(Use(what, self.file, node.lineno, is_covered))

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        package = module.partition(".")[0]
        if node.level or package not in PACKAGES:
            return
        covered = True
        for alias in node.names:
            is_known = alias.name == "*" or alias.name in _names_in(module)
            covered &= is_known and _names_in(module) != frozenset()
            self._use(node, f"{module}.{alias.name}", is_known)
            if alias.name == "Limiter":
                self._limiters[alias.asname or alias.name] = package
        if covered:
            statement = _FROM.match(self._rest(node))
            assert statement is not None, "the statement begins with it"
            text = statement[1] + f"{COMPAT}.{module}".encode()
            self._edit(node, len(statement[1]) + len(module), text)

    def _import(self, node: ast.Import) -> None:
        parts, is_ours = [], False
        for alias in node.names:
            package = alias.name.partition(".")[0]
            words = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
            if package not in PACKAGES:
                parts.append(words)
                continue
            is_known = _file_of(alias.name) is not None
            self._use(node, alias.name, is_known)
            self._limiters[f"{alias.asname or package}.Limiter"] = package
            if not is_known:
                parts.append(words)
                continue
            is_ours = True
            if not alias.asname and alias.name != package:  # binds the package
                parts.append(f"{COMPAT}.{alias.name}")
            name = alias.name if alias.asname else package
            parts.append(f"{COMPAT}.{name} as {alias.asname or package}")
        if is_ours:
            text = f"import {', '.join(dict.fromkeys(parts))}".encode()
            end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
            self.edits.append(Edit((node.lineno, node.col_offset), end, text))

    def _call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called in self._limiters:
            package, method, shown = self._limiters[called], "__init__", "Limiter"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            owner = ast.unparse(node.func.value)
            if "limiter" not in owner.lower():
                return
            package = next(iter(self._limiters.values()), "")
            method, shown = node.func.attr, f"limiter.{node.func.attr}"
        else:
            return
        known = _parameters_of(package, method)
        for word in node.keywords:
            if word.arg is not None:
                self._use(node, f"{shown}({word.arg}=)", not known or word.arg in known)
        if not node.keywords:
            self._use(node, f"{shown}()")

    def _text(self, node: ast.Constant, value: str) -> None:
        if found := _STORES.match(value):
            self._use(node, f"storage {found[1]}://", is_covered=False)
        elif _PATHS.fullmatch(value):
            self._use(node, f"the text {value!r}", is_covered=False)

    def _rest(self, node: ast.stmt) -> bytes:
        lines = self.lines[node.lineno - 1 :]
        return lines[0][node.col_offset :] + b"".join(lines[1:10])

    def _edit(self, node: ast.stmt, length: int, text: bytes) -> None:
        line, column = node.lineno, node.col_offset + length
        while column > len(self.lines[line - 1]):  # a continued line
            column -= len(self.lines[line - 1])
            line += 1
        self.edits.append(Edit((node.lineno, node.col_offset), (line, column), text))

    def changed(self) -> bytes:
        """Return the file with all edits."""
        lines = list(self.lines)
        for (line, column), (end_line, end_column), text in sorted(self.edits, reverse=True):
            rest = lines[end_line - 1][end_column:]
            lines[line - 1 : end_line] = [lines[line - 1][:column] + text + rest]
        return b"".join(lines).decode().encode(self.encoding)

    def diff(self) -> str:
        """Return the edits as a unified diff."""
        before, after = (
            each.decode(self.encoding).splitlines(keepends=True)
            for each in (self.source, self.changed())
        )
        lines = difflib.unified_diff(before, after, str(self.file), str(self.file), n=0)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> None:
        """Change the file."""
        if self.edits:
            self.file.write_bytes(self.changed())


@functools.cache
def _file_of(module: str) -> Path | None:
    path = _FOLDER.joinpath(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@functools.cache
def _names_in(module: str) -> frozenset[str]:
    """Return the names of a module of rate_limiter.compat; none if there is no such module."""
    file = _file_of(module)
    if file is None:
        return frozenset()
    names: set[str] = {one.stem for one in file.parent.iterdir() if file.name == "__init__.py"}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(names)


@functools.cache
def _parameters_of(package: str, method: str) -> frozenset[str]:
    """Return the parameters of a method of Limiter; of all packages if none is named.

    An empty set means that any is taken, or that there is no such method.
    """
    found: set[str] = set()
    for name in (package,) if package else PACKAGES:
        for file in sorted((_FOLDER / name).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and node.name == "Limiter":
                    for each in node.body:
                        if isinstance(each, ast.FunctionDef) and each.name == method:
                            if each.args.kwarg is not None:
                                return frozenset()
                            found |= {one.arg for one in each.args.args + each.args.kwonlyargs}
    return frozenset(found)
