"""Take pictures of the docs site and of the service's /docs and /redoc, with headless Chromium.

    make screenshots

They go to build/screenshots, those that pages show to docs/images. Chromium can reach nothing but
this host, so a page that needs another one is told here: what it should show is missing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from servers import serve  # noqa: E402

IMAGES, OTHERS = ROOT / "docs" / "images", ROOT / "build" / "screenshots"
MOST_BYTES = 200_000  # of a picture that is kept
WIDE, NARROW = (1280, 900), (500, 900)


class Shot(NamedTuple):
    """A picture: of what, and what must be found in the page that scripts have made of it."""

    name: str
    path: str
    shows: str
    size: tuple[int, int] = WIDE
    dark: bool = False
    kept: bool = False


SERVICE = [
    Shot("service-docs", "/docs", "opblock-summary-path", kept=True),
    Shot("service-redoc", "/redoc", "redoc-wrap", kept=True),
]
PAGES = {
    "index": "What it promises",
    "quickstart": "Plain Python",
    "how-it-decides": "A bucket as one number",
    "choosing": "The algorithm",
    "fastapi": "Websockets",
    "flask": "With an application factory",
    "algorithms": "Debts",
    "configuration": "FlaskRateLimiter.limit",
    "api": "AsyncRateLimiter",
}
SITE = [
    Shot("site-index", "/index.html", PAGES["index"], kept=True),
    *(Shot(f"site-{page}", f"/{page}.html", shows, (1280, 2400)) for page, shows in PAGES.items()),
    *(
        Shot(f"site-{page}-dark", f"/{page}.html", PAGES[page], (1280, 2400), dark=True)
        for page in ("index", "how-it-decides", "algorithms")
    ),
    *(
        Shot(f"site-{page}-narrow", f"/{page}.html", PAGES[page], (500, 2000))
        for page in ("index", "choosing", "configuration", "api")
    ),
]


def chromium(shot: Shot, url: str, *flags: str) -> str:
    """Open a page in a Chromium of its own; return what it prints."""
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
        done = subprocess.run(
            [*command, *flags, url], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout


def take(shot: Shot, base: str) -> None:
    """Take one picture.

    Raises:
        SystemExit: the page does not show what it should, or the picture is too large to keep.
    """
    url = base + shot.path
    if shot.shows not in chromium(shot, url, "--dump-dom"):
        sys.exit(f"{url} does not show {shot.shows!r}: does it need another host?")
    file = (IMAGES if shot.kept else OTHERS) / f"{shot.name}.png"
    chromium(shot, url, f"--screenshot={file}")
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)} {size:,} bytes")
    if shot.kept and size > MOST_BYTES:
        sys.exit(f"{file} has more than {MOST_BYTES:,} bytes")


def main() -> None:
    """Start both servers and take all pictures, or those whose names are given."""
    OTHERS.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = ["-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", "build/site"]
        service = ["-m", "uvicorn", "demo.service.app:app", "--port", "{port}"]
        for name, shots, arguments in (("site", SITE, site), ("service", SERVICE, service)):
            server = stack.enter_context(serve(folder / name, *arguments))
            for shot in shots:
                if not wanted or shot.name in wanted:
                    take(shot, server.url)


if __name__ == "__main__":
    main()
