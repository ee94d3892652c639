"""The distribution: its name in every text, its metadata, and its page on the package index."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from support.servers import ROOT

NAME = "rate-limiter-c"
FOLDERS = (".ci", ".github", "benchmarks", "csrc", "demo", "deploy", "docs", "python", "tests")
# Requests for a distribution that has the name of the import, which is another project's.
WRONG = (
    r"rate_limiter\[[a-z]+[a-z,]*\]",
    r"pip3? +(install|download|wheel)\b[^\n`]*?[ '\"]rate[_-]limiter(?![\w./-])",
    r"uv +(pip|add)\b[^\n`]*?[ '\"]rate[_-]limiter(?![\w./-])",
)


def texts() -> Iterator[tuple[Path, str]]:
    """Yield each text file of the project."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(files):
        if path == Path(__file__) or "__pycache__" in path.parts or "egg-info" in str(path):
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install rate_limiter", True),
        ("pip install 'rate_limiter[rules]'", True),
        ("pip install -U rate-limiter", True),
        ("needs rate_limiter[check]", True),
        ("pip install 'rate-limiter-c[rules]'", False),
        ("pip install rate-limiter-c", False),
        ("pip install /wheels/rate_limiter_c-0.1.0.whl", False),
        ("find python/rate_limiter", False),
    ],
)
def test_wrong_names_are_found(text: str, wrong: bool) -> None:
    assert any(re.search(pattern, text) for pattern in WRONG) == wrong


def test_every_text_has_the_name_of_the_distribution() -> None:
    checked = 0
    for path, text in texts():
        checked += NAME in text
        for pattern in WRONG:
            found = re.search(pattern, text)
            assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]!r}"
    assert checked > 10


# --- Metadata and the page -------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def metadata(sdist: Path) -> Message:
    command = ["tar", "-xzOf", str(sdist), f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    return message_from_string(done.stdout)


def test_index_accepts_the_page(sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_name_and_import(sdist: Path, metadata: Message) -> None:
    assert metadata["Name"] == NAME
    assert sdist.name.startswith("rate_limiter_c-")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Framework :: FastAPI" in metadata.get_all("Classifier", [])


def test_page_has_no_relative_link(metadata: Message) -> None:
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert f"pip install {NAME}" in page or f"pip install '{NAME}" in page
    links = re.findall(r"\]\(([^)]*)\)|(?:src|srcset|href)=\"([^\"]*)\"", page)
    assert [link for pair in links for link in pair if link and "://" not in link] == []
    assert "<!--" not in page
    assert "](" not in re.sub(r"\]\(https?://", "", page)


def test_no_address_is_invented(metadata: Message) -> None:
    assert metadata.get_all("Project-URL", []) == []
    assert metadata["Home-page"] is None
