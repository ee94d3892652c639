"""What the guides show is done as it is printed: by the other limiter, and by this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from guides import DOCS, Guide, blocks_of
from redis_servers import RedisServer

PAGES = [
    *sorted((DOCS / "migration").glob("*.md")),
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
