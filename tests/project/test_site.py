"""The docs site, built strictly: all links lead somewhere, nothing comes from another host."""

from __future__ import annotations

import json
import os
import re
import shutil
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
    """Build the site from a copy of its sources; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    program = "import sys, pathlib, build_site; build_site.build(pathlib.Path(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "docs")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "site"


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
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    for word in ("retry_after", "on_store_error", "FlaskRateLimiter", "sliding"):
        assert any(word in item["title"] + item["text"] for item in index["items"]), word
    ids = {page.relative_to(site).as_posix(): loads_of(page).ids for page in site.rglob("*.html")}
    for item in index["items"]:
        path, _, fragment = item["location"].partition("#")
        assert not fragment or fragment in ids[path], item["location"]


def test_search_runs_without_another_host(site: Path) -> None:
    config = re.search(
        r'<script id="__config"[^>]*>(.*?)</script>', (site / "index.html").read_text(), re.DOTALL
    )
    assert config is not None
    assert (site / json.loads(config[1])["search"]).is_file()


def test_every_page_is_two_clicks_away_at_most(site: Path) -> None:
    links = {
        page: {
            (page.parent / urlsplit(address).path).resolve()
            for address in filter(_is_here, loads_of(page).linked)
            if urlsplit(address).path
        }
        for page in site.rglob("*.html")
    }
    pages = set(links) - {site / "404.html"}
    for page in pages:
        near = links[page] & pages
        assert pages <= {page} | near | {far for one in near for far in links[one]}, page


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(
        r": ([\w/-]+\.md)$", (ROOT / "docs" / "site" / "mkdocs.yml").read_text(), re.MULTILINE
    )
    pages = [one.relative_to(ROOT / "docs").as_posix() for one in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(pages)


def test_links_work_in_any_repository() -> None:
    """Pages link to pages, and to other hosts only by whole addresses."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if urlsplit(link).scheme:
                assert "/blob/" not in link, (page, link)
            elif urlsplit(link).path:
                target = (page.parent / urlsplit(link).path).resolve()
                assert target.is_relative_to(ROOT / "docs"), (page, link)


def test_docstrings_link_to_pages(site: Path) -> None:
    assert "stores.html" in loads_of(site / "api.html").linked
    assert not re.search(r"docs/[\w-]+\.md", (site / "api.html").read_text(encoding="utf-8"))


def test_the_footer_shows_versions(site: Path) -> None:
    import rate_limiter

    for page in ("index.html", "api.html"):
        text = (site / page).read_text(encoding="utf-8")
        assert f"rate_limiter {rate_limiter.__version__}, built with Python" in text


@pytest.mark.parametrize("page", ["quickstart", "getting-started", "identity", "headers"])
def test_tabs_show_each_framework(site: Path, page: str) -> None:
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    tabs = re.search(r'<div class="tabbed-labels">(.*?)</div>', text, re.DOTALL)
    assert tabs is not None
    labels = re.findall(r"<label[^>]*>(?:<a[^>]*>)?([^<]+)", tabs[1])
    assert sorted(labels) == ["FastAPI", "Flask", "Plain Python"]


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
