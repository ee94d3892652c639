"""What builds and tries the wheels (`make wheels`), as far as that is quick; the workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support.servers import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """Yield the modules that `make wheels` runs, by name."""
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import test_all
        import wheel_cpython
        import wheel_libraries
        import wheel_pythons
        import wheel_sources
        import wheel_tests
        import wheels

        modules = (test_all, wheel_cpython, wheel_libraries, wheel_pythons)
        modules += (wheel_sources, wheel_tests, wheels)
        yield {module.__name__: module for module in modules}
    finally:
        sys.path.remove(str(ROOT / ".ci"))


@pytest.fixture
def libraries(scripts: dict[str, ModuleType]) -> Any:
    return scripts["wheel_libraries"]


@pytest.fixture
def sources(scripts: dict[str, ModuleType]) -> Any:
    return scripts["wheel_sources"]


# --- Sources ---------------------------------------------------------------------------------

LINES = "# deb none\ndeb [signed-by=/k] http://a.invalid/debian stable main\ndeb-src b c\n"
FIELDS = "# of A\nTypes: deb\nURIs: http://a.invalid\nSuites: b b-updates\n\n"
FIELDS += "Types: deb deb-src\nSuites: c\n"


def test_source_entries_of_both_kinds_of_lists(sources: Any) -> None:
    expected = "deb-src [signed-by=/k] http://a.invalid/debian stable main\n"
    assert sources.list_entries(LINES, "a.list") == expected
    expected = "Types: deb-src\nURIs: http://a.invalid\nSuites: b b-updates\n\n"
    expected += "Types: deb-src\nSuites: c\n\n"
    assert sources.list_entries(FIELDS, "a.sources") == expected


def test_entries_of_another_suite(sources: Any) -> None:
    expected = "deb [signed-by=/k] http://a.invalid/debian next main\n"
    assert sources.list_entries(LINES, "a.list", "deb", ("stable", "next")) == expected
    assert sources.list_entries(LINES, "a.list", "deb", ("other", "next")) == ""
    expected = "Types: deb\nURIs: http://a.invalid\nSuites: next\n\n"
    assert sources.list_entries(FIELDS, "a.sources", "deb", ("b", "next")) == expected
    assert sources.list_entries(FIELDS, "a.sources", "deb", ("b-security", "next")) == ""


def test_apt_keeps_its_state_out_of_the_system(sources: Any, tmp_path: Path) -> None:
    options = sources.apt_options(tmp_path, kind="deb-src")
    assert f"Dir::State::lists={tmp_path}/lists" in options
    assert (tmp_path / "lists" / "partial").is_dir()
    assert f"Dir::Etc::sourceparts={tmp_path}/parts" in options


def test_archives_are_checked_by_hash(sources: Any, tmp_path: Path) -> None:
    archive = tmp_path / "hiredis_1.orig.tar.gz"
    archive.write_bytes(b"content")
    right = f"{sources.sha256(archive)}  {archive.name}\n"
    assert sources.check_hashes(tmp_path, right) == [archive]
    with pytest.raises(SystemExit, match="expected 00"):
        sources.check_hashes(tmp_path, f"{'0' * 64}  {archive.name}\n")
    with pytest.raises(SystemExit, match=r"names other\.tar\.gz, but apt has hiredis_1"):
        sources.check_hashes(tmp_path, f"{'0' * 64}  other.tar.gz\n")


def test_every_source_has_a_hash(sources: Any) -> None:
    lines = [line.split() for line in sources.HASHES.read_text("utf-8").splitlines()]
    assert all(len(value) == 64 and int(value, 16) for value, _ in lines)
    names = [name.partition("_")[0] for _, name in lines if ".orig." in name]
    assert sorted(names) == sorted(sources.SUITES)
    assert sources.hashes_of("hiredis").count("\n") == 2


def test_modules_of_a_static_interpreter(scripts: dict[str, Any]) -> None:
    setup = "# comment\n*shared*\narray arraymodule.c\n_ssl _ssl.c -lssl\nzlib zlibmodule.c\n"
    ssl = "_ssl _ssl.c -I/o/include /o/lib/libssl.a /o/lib/libcrypto.a"
    modules = scripts["wheel_cpython"].static_modules(setup, Path("/o"))
    assert modules == f"*static*\narray arraymodule.c\n{ssl}\n"


def test_interpreters_for_what_this_machine_cannot_run(scripts: dict[str, Any]) -> None:
    python = scripts["test_all"].Python
    find = scripts["wheel_pythons"].find_interpreter
    foreign = scripts["wheel_libraries"].TARGETS[2]
    assert find(python((3, 12, 1), "", Path("python")), foreign) is None
    assert find(python((3, 13, 0), "t", Path("python")), foreign) is None
    assert scripts["wheel_cpython"].has_source(python((3, 11, 7), "", Path("python")))


# --- Targets and checks ----------------------------------------------------------------------


def test_targets(libraries: Any) -> None:
    assert {target.platform: target.compiler for target in libraries.TARGETS} == {
        "manylinux_2_17_x86_64": "zig cc -target x86_64-linux-gnu.2.17",
        "manylinux_2_17_aarch64": "zig cc -target aarch64-linux-gnu.2.17",
        "musllinux_1_2_x86_64": "zig cc -target x86_64-linux-musl",
        "musllinux_1_2_aarch64": "zig cc -target aarch64-linux-musl",
    }


@pytest.mark.parametrize(
    ("version", "abi", "tags"),
    [((3, 10, 13), "", "cp310-cp310"), ((3, 14, 0), "t", "cp314-cp314t")],
)
def test_names_of_wheels(
    scripts: dict[str, Any], version: tuple[int, int, int], abi: str, tags: str
) -> None:
    python = scripts["test_all"].Python(version, abi, Path("python"))
    target = scripts["wheel_libraries"].TARGETS[0]
    name = scripts["wheels"].wheel_name("rate_limiter_c-1.2.tar.gz", python, target)
    assert name == f"rate_limiter_c-1.2-{tags}-manylinux_2_17_x86_64.whl"
    with pytest.raises(SystemExit, match=f"called other.whl, expected {name}"):
        scripts["wheels"].check_wheel(Path("other.whl"), target, name)


def test_tag_that_auditwheel_reports(scripts: dict[str, Any]) -> None:
    report = '\na.whl is\nconsistent with the following platform tag:\n"manylinux_2_17_x86_64".\n'
    assert scripts["wheels"].consistent_tag(report) == "manylinux_2_17_x86_64"
    with pytest.raises(SystemExit, match="no platform tag"):
        scripts["wheels"].consistent_tag("an error")


def test_symbols_that_a_libc_lacks(scripts: dict[str, Any]) -> None:
    rows = "                 U PyLong_FromLong\n                 U _Py_NoneStruct\n"
    rows += (
        "                 U malloc\n                 U __printf_chk\n                 w __gmon\n"
    )
    unknown = scripts["wheel_pythons"].unknown_symbols(rows, {"malloc"})
    assert unknown == ["__printf_chk"]


def test_the_tests_that_run_with_a_wheel_exist(scripts: dict[str, Any]) -> None:
    tests = scripts["wheel_tests"]
    for path in (*tests.TESTS, *tests.MORE_TESTS):
        assert (ROOT / path).exists(), path
    path, _, name = tests.COMPILES.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_no_compiler_can_be_found_by_the_tests(scripts: dict[str, Any]) -> None:
    assert not {"cc", "gcc", "clang", "pkg-config"} & set(scripts["wheel_tests"].PROGRAMS)


def test_only_these_programs_are_found(
    scripts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts["wheel_tests"], "WORK", tmp_path)
    monkeypatch.setattr(scripts["wheel_tests"], "PROGRAMS", ("env", "sh"))
    assert sorted(os.listdir(scripts["wheel_tests"].limited_path())) == ["env", "sh"]


# --- Workflow --------------------------------------------------------------------------------


def test_workflow_matches_the_schema() -> None:
    command = ["--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_builds_for_every_platform() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    platforms = {each["platform"] for each in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert platforms == {"linux-x86_64", "linux-aarch64", "macos-x86_64", "macos-arm64"}
    (build,) = (step["env"] for step in jobs["wheels"]["steps"] if "env" in step)
    versions = build["CIBW_BUILD"].split()
    assert {f"cp3{minor}-*" for minor in range(10, 14)} <= set(versions)
    assert any(version.endswith("t-*") for version in versions)
