"""The docs site, built strictly: all links lead somewhere, nothing comes from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.servers import ROOT

# What a browser fetches automatically, by element.
LOADS = {
    "script": ["src"],
    "link": ["href"],
    "img": ["src", "srcset"],
    "iframe": ["src"],
    "source": ["src", "srcset"],
    "object": ["data"],
    "embed": ["src"],
    "use": ["href", "xlink:href"],
    "image": ["href", "xlink:href"],
    "video": ["src", "poster"],
    "audio": ["src"],
}


class Loads(HTMLParser):
    """Collect what a page makes a browser fetch, and its links."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.loaded += [given[name] for name in LOADS.get(tag, ()) if name in given]
        self.loaded += _in_styles(given.get("style", ""))
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        self.ids |= {given["id"]} if "id" in given else set()


def _in_styles(text: str) -> list[str]:
    """Return what a style sheet fetches."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    urls = re.findall(r"url\(\s*['\"]?([^'\")]*)", text)
    return urls + re.findall(r"@import\s+['\"]([^'\"]*)", text)


def _is_here(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "data" or not (parts.scheme or parts.netloc)


def loads_of(page: Path) -> Loads:
    found = Loads()
    found.feed(page.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error, unless --quiet swallows it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    built = subprocess.run(
        [*command, "--config-file", "docs/site/mkdocs.yml", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    printed = built.stdout + built.stderr
    assert built.returncode == 0, printed
    assert "WARNING" not in printed
    return folder


def test_every_page_is_there(site: Path) -> None:
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        assert (site / page.relative_to(docs).with_suffix(".html")).exists(), page
    assert not list(site.rglob("*.py"))


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 10
    for page in pages:
        found = loads_of(page)
        assert found.loaded
        # For these the theme's script would fetch something: Mermaid, figures of a repository.
        text = page.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text
        assert 'data-md-component="source"' not in text
        for address in found.loaded:
            assert _is_here(address), (page, address)
            path = urlsplit(address).path
            # 404.html is served for any path, so it names things from the top.
            if path and not address.startswith(("data:", "/")):
                assert (page.parent / path).exists(), (page, address)
    for kind in ("*.css", "*.svg"):
        for file in site.rglob(kind):
            text = file.read_text(encoding="utf-8")
            for address in [*_in_styles(text), *re.findall(r"<image[^>]* href=\"([^\"]*)", text)]:
                assert _is_here(address), (file, address)


def test_links_lead_somewhere(site: Path) -> None:
    pages = {page: loads_of(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, found in pages.items():
        for address in filter(_is_here, found.linked):
            path, fragment = urlsplit(address).path, urlsplit(address).fragment
            target = (page.parent / path).resolve() if path else page
            if target.is_dir():
                target = target / "index.html"
            assert target.exists(), (page, address)
            if fragment and target in pages:
                assert fragment in pages[target].ids, (page, address)


def test_search_finds_the_reference(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    for word in ("retry_after", "on_store_error", "FlaskRateLimiter", "sliding"):
        assert word in index


def test_public_names_are_in_the_reference(site: Path) -> None:
    import rate_limiter

    ids = loads_of(site / "api.html").ids
    names = {f"rate_limiter.{name}" for name in rate_limiter.__all__ if name != "__version__"}
    short = {one.rpartition(".")[2] for one in ids}
    assert {name for name in names if name.rpartition(".")[2] not in short} == set()
    assert short.isdisjoint({"TokenBucket", "RateLimiterMiddleware", "TokenBucketLimiter"})


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link href="//fonts.example/x.css">',
        '<img src="http://example/x.png">',
        '<p style="background: url(https://example/x.png)">',
    ],
)
def test_other_hosts_are_seen(text: str) -> None:
    found = Loads()
    found.feed(text)
    assert [address for address in found.loaded if not _is_here(address)]
