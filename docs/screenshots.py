"""Take pictures of the docs site, the service's /docs and /redoc, and the live page, with Chromium.

    make screenshots
    python docs/screenshots.py site-faq-dark site-faq-narrow

They go to build/screenshots, those that pages show to docs/images. Chromium can reach nothing but
this host, so a page that needs another one is found: what it should show is missing.
"""

from __future__ import annotations

import contextlib
import html
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from support.chromium import browser_page  # noqa: E402
from support.servers import serve  # noqa: E402

IMAGES, OTHERS = ROOT / "docs" / "images", ROOT / "build" / "screenshots"
MOST_BYTES = 200_000  # of a picture that is kept
WIDE = (1280, 900)
NARROWEST = 500  # of windows of Chromium; a narrower page is shown in a frame


class Shot(NamedTuple):
    """A picture: of what, and what must be found in the page after its scripts have run."""

    name: str
    path: str
    shows: str
    size: tuple[int, int] = WIDE
    dark: bool = False
    kept: bool = False  # in the repository
    asked_for: bool = False  # only by its name


SERVICE = [
    Shot("service-docs", "/docs", "opblock-summary-path", kept=True),
    Shot("service-redoc", "/redoc", "redoc-wrap", kept=True),
]
FOLDER = ROOT / "docs"
PAGES = {  # by path without its end: what a picture is called, and the title
    page.relative_to(FOLDER).with_suffix("").as_posix(): page.read_text("utf-8").splitlines()[0][2:]
    for page in sorted(FOLDER.rglob("*.md"))
}
KINDS = {"": (1280, 2400), "-dark": (1280, 2400), "-narrow": (400, 2000)}
# Pages with drawings, code, wide tables: what may look wrong in the dark or on a small screen.
ALL_KINDS = {"index", "how-it-decides", "algorithms", "choosing", "configuration", "api"}
SITE = [
    *(
        Shot(
            f"site-{page.replace('/', '-')}{kind}",
            f"/{page}.html",
            title,
            size,
            dark=kind == "-dark",
            asked_for=bool(kind) and page not in ALL_KINDS,
        )
        for page, title in PAGES.items()
        for kind, size in KINDS.items()
    ),
]
LIVE = [
    Shot("live-page", "/", "Most denied clients", (1280, 1120), kept=True),
    Shot("live-page-dark", "/", "Most denied clients", (1280, 1740), dark=True),
    Shot("live-page-narrow", "/", "Most denied clients", (400, 2560)),
]


def chromium(shot: Shot, url: str, file: Path) -> str:
    """Open a page in a new Chromium; return the page after its scripts have run."""
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += [
            "--disable-component-update",
            "--hide-scrollbars",
            "--virtual-time-budget=10000",
        ]
        command += [f"--user-data-dir={profile}", "--window-size={},{}".format(*shot.size)]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        command += ["--force-dark-mode"] if shot.dark else []

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=120, check=True
            )
            return done.stdout

        if shot.size[0] >= NARROWEST:
            return run("--dump-dom", f"--screenshot={file}", url)
        style = f"width:{shot.size[0]}px;height:{shot.size[1]}px;border:0"
        frame = f'<body style="margin:0"><iframe src="{url}" style="{style}"></iframe></body>'
        around = Path(profile) / "frame.html"
        around.write_text(frame)
        run(f"--screenshot={file}", around.as_uri())
        return run("--dump-dom", url)


def take(shot: Shot, base: str) -> None:
    """Take one picture.

    Raises:
        SystemExit: the page does not show what it should, or as report().
    """
    url = base + shot.path
    file = (IMAGES if shot.kept else OTHERS) / f"{shot.name}.png"
    if shot.shows not in html.unescape(chromium(shot, url, file)):
        sys.exit(f"{url} does not show {shot.shows!r}: does it need another host?")
    report(shot, file)


def take_live(shots: list[Shot], base: str) -> None:
    """Take pictures of the live page, behind its login."""
    with browser_page() as page:
        page.open(base)
        page.fill("#token", "the-token-of-the-picture")
        page.press("Enter", 13)
        page.wait("document.querySelector('#top-denied tr') !== null")
        page.value("document.querySelector('#client-rule').value = 'api.search'")
        for shot in shots:
            page.resize(*shot.size)
            page.prefer(color_scheme="dark" if shot.dark else "light")
            page.wait(
                f"innerWidth === {shot.size[0]} && document.body.innerText.includes({shot.shows!r})"
            )
            page.value("new Promise((done) => setTimeout(done, 300))")
            file = (IMAGES if shot.kept else OTHERS) / f"{shot.name}.png"
            page.picture(file, whole=False)
            report(shot, file)


def report(shot: Shot, file: Path) -> None:
    """Print the size of a picture.

    Raises:
        SystemExit: it is too large to keep.
    """
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)} {size:,} bytes")
    if shot.kept and size > MOST_BYTES:
        sys.exit(f"{file} has more than {MOST_BYTES:,} bytes")


def main() -> None:
    """Start the servers and take all pictures, or those whose names are given."""
    OTHERS.mkdir(parents=True, exist_ok=True)
    wanted = set(sys.argv[1:])
    if unknown := wanted - {shot.name for shot in SERVICE + SITE + LIVE}:
        sys.exit(f"there is no picture called {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = ["-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", "build/site"]
        service = ["-m", "uvicorn", "demo.service.app:app", "--port", "{port}"]
        for name, shots, arguments in (("site", SITE, site), ("service", SERVICE, service)):
            server = stack.enter_context(serve(folder / name, *arguments))
            for shot in shots:
                if is_wanted(shot, wanted):
                    take(shot, server.url)
        live = [shot for shot in LIVE if is_wanted(shot, wanted)]
        if live:
            (folder / "metrics").mkdir()
            variables = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
            arguments = ["-m", "uvicorn", "docs.live_picture:app", "--port", "{port}"]
            server = stack.enter_context(serve(folder / "live", *arguments, environment=variables))
            take_live(live, server.url)


def is_wanted(shot: Shot, wanted: set[str]) -> bool:
    """Return whether to take a picture, by the given names."""
    return shot.name in wanted or not (wanted or shot.asked_for)


if __name__ == "__main__":
    main()
