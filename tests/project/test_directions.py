"""The directions in which the code depends: C includes and Python imports run downwards only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.servers import ROOT

C = ROOT / "csrc"
PYTHON = ROOT / "python" / "rate_limiter"

# From the bottom up: a folder uses those below it, and itself.
C_FLOORS = (("engine",), ("redis", "http"), ("python",), ("python/redis",))

FRONTS = ("asgi", "fastapi", "flask", "httpx", "requests", "settings", "startup", "testing", "wsgi")
# From the bottom up. Modules of one floor do not import each other.
PYTHON_FLOORS = (
    ("_core",),
    ("checks.redaction",),
    ("checks.limit_text", "checks.time_zones"),
    ("limit", "exceptions"),
    ("checks",),
    ("jwt",),
    ("stores",),
    ("limiting",),
    ("observe",),
    ("policy",),
    ("web",),
    ("compat",),
    FRONTS,
    ("seeds",),
    ("cli",),
)
# Import paths: each only names what lies below, and nothing of the package imports it.
PATHS = {
    *("bucket_info", "config", "governor", "headers", "interfaces", "keys", "memory_store"),
    *("memory_store_async", "metrics", "middleware", "proxies", "redis_client", "redis_limiter"),
    *("redis_store", "redis_store_async", "rule_source", "rule_table", "rules", "telemetry"),
    *("token_bucket", "token_bucket_async"),
}
FACES = {"__init__", "__main__"}  # above everything


class Use(NamedTuple):
    """One file uses another, in a line."""

    file: Path
    line: int
    used: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} uses {self.used}"


# --- C ---


def includes() -> Iterator[Use]:
    for file in sorted(C.rglob("*.[ch]")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if found:
                yield Use(file, number, found[1])


def c_floor(path: str) -> int:
    folder = path.rpartition("/")[0]
    return next(i for i, floor in enumerate(C_FLOORS) if folder in floor)


def test_includes_run_downwards() -> None:
    uses = list(includes())
    assert len(uses) > 50
    for use in uses:
        own = use.file.relative_to(C).as_posix()
        same_folder = own.rpartition("/")[0] == use.used.rpartition("/")[0]
        assert same_folder or c_floor(use.used) < c_floor(own), str(use)


def test_only_the_binding_includes_python() -> None:
    for file in sorted(C.rglob("*.[ch]")):
        if file.relative_to(C).parts[0] != "python":
            assert "Python.h" not in file.read_text("utf-8"), file


def test_only_the_redis_folder_includes_hiredis_and_openssl() -> None:
    for file in sorted(C.rglob("*.[ch]")):
        if "redis" not in file.relative_to(C).parts:
            assert not re.search(r"#\s*include\s+<(hiredis|openssl)", file.read_text("utf-8")), file


def includes_of(file: Path, seen: set[Path]) -> set[Path]:
    """Return the headers of this project that a file includes, directly or not, and the file."""
    if file not in seen:
        seen.add(file)
        for name in re.findall(r'#\s*include\s+"([^"]+)"', file.read_text("utf-8")):
            includes_of(C / name, seen)
    return seen


def test_only_the_engine_has_a_version_without_simd() -> None:
    """In the variants without SIMD, the Makefile compiles and tests the engine alone."""
    has_two = {file for file in C.rglob("*.[ch]") if "RL_NO_SIMD" in file.read_text("utf-8")}
    assert has_two == {C / "engine/line.h"}
    users = {file for file in C.rglob("*.c") if has_two & includes_of(file, set())}
    assert {file.parent.name for file in users} <= {"engine", "python"}, users


# --- Python ---


def module_of(file: Path) -> str:
    parts = file.relative_to(PYTHON).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file): file for file in sorted(PYTHON.rglob("*.py"))}


def imports(file: Path) -> Iterator[Use]:
    """Yield the modules of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports are not used"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, inside = name.partition(".")
            if head == "rate_limiter":
                yield Use(file, node.lineno, known_module(inside))


def known_module(path: str) -> str:
    """Return the module that a dotted name is, or is something of."""
    while path and path not in MODULES and path != "_core":
        path = path.rpartition(".")[0]
    return path or "__init__"


def floor_of(module: str) -> int:
    for name in (module, module.partition(".")[0]):
        for i, floor in enumerate(PYTHON_FLOORS):
            if name in floor:
                return i
    pytest.fail(f"no floor is named for {module}")


@pytest.mark.parametrize("module", sorted(set(MODULES) - PATHS - FACES))
def test_imports_run_downwards(module: str) -> None:
    for use in imports(MODULES[module]):
        if use.used == "__init__":
            names = ast.parse(MODULES["__init__"].read_text("utf-8"))
            assert "__version__" in ast.dump(names)  # all that is taken from the package itself
            continue
        assert use.used not in PATHS, f"{use}, which is a path for users"
        same_room = use.used.partition(".")[0] == module.partition(".")[0]
        same_room &= floor_of(use.used) == floor_of(module)
        assert same_room or floor_of(use.used) < floor_of(module), str(use)


def test_the_seeds_do_not_use_the_stand_ins_for_other_limiters() -> None:
    seeds = [module for module in MODULES if module.partition(".")[0] == "seeds"]
    assert seeds
    for module in seeds:
        for use in imports(MODULES[module]):
            assert use.used.partition(".")[0] != "compat", str(use)


@pytest.mark.parametrize("module", sorted(PATHS))
def test_an_import_path_only_names(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    for node in tree.body:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_names = isinstance(node, ast.Assign)
        is_import = isinstance(node, ast.ImportFrom)
        is_of_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert is_doc or is_names or is_import or is_of_types, (module, node.lineno)
    for use in imports(MODULES[module]):
        assert use.used not in PATHS, str(use)


def circles(below: dict[str, set[str]]) -> set[str]:
    """Return what is in a circle, or above one: what is left when all without uses are removed."""
    left = dict(below)
    while True:
        free = [unit for unit, used in left.items() if not used & set(left)]
        if not free:
            return set(left)
        for unit in free:
            del left[unit]


def test_modules_form_no_circle() -> None:
    below = {
        module: {use.used for use in imports(file)} - {module, "__init__"}
        for module, file in MODULES.items()
        if module not in FACES
    }
    assert not circles(below), f"a circle among {sorted(circles(below))}"


def c_units() -> dict[str, set[str]]:
    """Return, for each pair of .c and .h, those whose functions it calls."""
    texts: dict[str, str] = {}
    for file in sorted(C.rglob("*.[ch]")):
        unit = file.relative_to(C).with_suffix("").as_posix()
        texts[unit] = texts.get(unit, "") + file.read_text("utf-8")
    home: dict[str, str] = {}
    for unit, text in texts.items():
        for name in re.findall(r"^(?!static )\w[\w \*]*?(\w+)\([^;{]*\)\n\{", text, re.MULTILINE):
            home[name] = unit
    declaration = re.compile(r"^\w[\w \*]*?\w+\([^{};]*\);", re.MULTILINE)
    called = {
        unit: re.findall(r"\b\w+(?=\()", declaration.sub("", text)) for unit, text in texts.items()
    }
    return {
        unit: {home[name] for name in names if name in home} - {unit}
        for unit, names in called.items()
    }


def test_files_in_c_form_no_circle() -> None:
    below = c_units()
    assert sum(map(len, below.values())) > 50
    assert not circles(below), f"a circle among {sorted(circles(below))}"


def test_every_module_at_the_top_is_a_path_for_users() -> None:
    named = (
        PATHS
        | FACES
        | {"limit", "exceptions", "jwt", "asgi", "fastapi", "flask", "settings", "wsgi"}
    )
    named |= {"httpx", "requests", "startup", "testing"}
    assert {file.stem for file in PYTHON.glob("*.py")} == named
