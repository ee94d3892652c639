"""Take pictures of the docs site and of the service's /docs and /redoc, with headless Chromium.

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
        SystemExit: the page does not show what it should, or the picture is too large to keep.
    """
    url = base + shot.path
    file = (IMAGES if shot.kept else OTHERS) / f"{shot.name}.png"
    if shot.shows not in html.unescape(chromium(shot, url, file)):
        sys.exit(f"{url} does not show {shot.shows!r}: does it need another host?")
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)} {size:,} bytes")
    if shot.kept and size > MOST_BYTES:
        sys.exit(f"{file} has more than {MOST_BYTES:,} bytes")


def main() -> None:
    """Start both servers and take all pictures, or those whose names are given."""
    OTHERS.mkdir(parents=True, exist_ok=True)
    wanted = set(sys.argv[1:])
    if unknown := wanted - {shot.name for shot in SERVICE + SITE}:
        sys.exit(f"there is no picture called {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = ["-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", "build/site"]
        service = ["-m", "uvicorn", "demo.service.app:app", "--port", "{port}"]
        for name, shots, arguments in (("site", SITE, site), ("service", SERVICE, service)):
            server = stack.enter_context(serve(folder / name, *arguments))
            for shot in shots:
                if shot.name in wanted or not (wanted or shot.asked_for):
                    take(shot, server.url)


if __name__ == "__main__":
    main()
