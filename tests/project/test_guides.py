"""Try the guides as printed, with the other limiter and with this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.guides import DOCS, Guide
from support.redis_servers import RedisServer

PAGES = [
    *sorted((DOCS / "migration").glob("*.md")),
    *(page for page in sorted((DOCS / "cookbook").glob("*.md")) if page.stem != "index"),
    *(DOCS / f"{name}.md" for name in ("testing", "security", "faq")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guide(
    page: Path, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = Guide(page, tmp_path, server)
    guide.run()
    assert guide.ran


def test_each_program_has_a_label() -> None:
    labels = {
        "before": ["Before:"],
        "after": ["After:"],
        "requests": ["Both respond:", "It responds:"],
    }
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for at, line in enumerate(lines):
            found = re.match(r"<!-- test: (before|after|requests)", line)
            assert not found or lines[at - 2] in labels[found[1]], f"{page.name}:{at + 1}"


def test_the_files_and_targets_that_a_page_names_exist() -> None:
    text = (DOCS / "testing.md").read_text(encoding="utf-8")
    makefile = (DOCS.parent / "Makefile").read_text(encoding="utf-8")
    files = re.findall(r"`(tests/[\w./]+)`", text)
    targets = re.findall(r"`make ([\w-]+)`", text)
    assert len(files) > 20
    assert {"test", "pytest", "test-all"} <= set(targets)
    assert [one for one in files if not (DOCS.parent / one).exists()] == []
    assert [one for one in targets if not re.search(rf"^{one}:", makefile, re.M)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        assert target.is_relative_to(DOCS), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [
            re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings
        ]
        assert not anchor or anchor in anchors, link
