"""The pages for contributors in .github: what they name exists."""

from __future__ import annotations

import re

import pytest
from support.servers import ROOT

PAGES = ("CONTRIBUTING", "SECURITY")


@pytest.mark.parametrize("name", PAGES)
def test_named_files_and_targets_exist(name: str) -> None:
    text = (ROOT / ".github" / f"{name}.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./]+/[\w./]*)`", text)
    paths += re.findall(r"(tests/\w+/\w+\.py)", text)
    assert paths
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
    targets = re.findall(r"make ([a-z-]+)\b", text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_contributing_says_how_to_add_each() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for what in ("header style", "store", "front"):
        assert f"**A {what}.**" in text
