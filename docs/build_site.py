"""Build the docs site, build/site, with Zensical, strictly.

    python docs/build_site.py

Zensical reads and writes only below the folder of mkdocs.yml, so it builds from a copy in
build/site-source. The footer shows the versions of the package and of what it is built with.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import rate_limiter

ROOT = Path(__file__).resolve().parent.parent


def versions() -> str:
    """Return the text of the footer."""
    zensical = version("zensical")
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"rate_limiter {rate_limiter.__version__}, built with Python {python}, Zensical {zensical}"
    )


def build(root: Path = ROOT) -> str:
    """Build the site of the folder with docs/; return what Zensical prints.

    Raises:
        SystemExit: a link leads nowhere, or something else is wrong; with the output.
    """
    source = root / "build" / "site-source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "docs", source / "docs")
    shutil.copy(root / "docs" / "site" / "mkdocs.yml", source)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=source,
        env=os.environ | {"SITE_VERSIONS": versions()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    site = root / "build" / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(source / "site", site)
    reference = site / "api.html"
    reference.write_text(linked(reference.read_text(encoding="utf-8")), encoding="utf-8")
    return done.stdout


def linked(text: str) -> str:
    """Return HTML in which the pages that docstrings name, as in docs/stores.md, are links."""
    return re.sub(r"\bdocs/([\w-]+)\.md\b", r'<a href="\1.html">\1</a>', text)


if __name__ == "__main__":
    build()
