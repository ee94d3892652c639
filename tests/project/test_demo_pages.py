"""The commands in the pages of the demos are run, and their answers compared."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest
from support.demo_servers import (
    ASKING,
    DEMOS,
    RunningDemo,
    environment,
    running_demo,
    wait_for_room_in_the_minute,
)
from support.redis_servers import RedisServer, wait_until
from support.servers import ROOT

PAGES = {name: demo.readme for name, demo in DEMOS.items()}
WITH_REDIS = "## With Redis"
# A busy machine may send the requests of a page so slowly that tokens come back at the usual rate.
SLOWER = {"RL_RATE_PER_SEC": "1"}
# Commands after the first of a page, which the other tests use.
OTHER_COMMANDS = [(name, i) for name in DEMOS for i in range(1, len(DEMOS[name].commands("")))]


def commands(text: str) -> list[tuple[str, str]]:
    """Return each command of the console blocks, and what it prints."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        (command, shown)
        for block in blocks
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


def matches(shown: str, printed: str) -> bool:
    """Return whether a text is as shown, where ``...`` matches anything, including newlines."""
    shown, printed = (
        "\n".join(line.strip() for line in text.splitlines() if line.strip())
        for text in (shown, printed)
    )
    pattern = re.escape(f"{shown}\n").replace(re.escape("..."), ".*")
    # A line of dots stands for any number of lines.
    pattern = re.sub(r"^\.\*\\\n", lambda _: "(?:.*\n)?", pattern, flags=re.MULTILINE)
    return re.fullmatch(pattern, f"{printed}\n", re.DOTALL) is not None


def run(text: str, running: RunningDemo, redis: RedisServer | None, folder: Path) -> int:
    """Run the commands of a text; return how many there were."""
    pairs = commands(text)
    for command, shown in pairs:
        local = command.replace(
            f"localhost:{running.demo.port}", f"localhost:{running.server.port}"
        )
        if redis is not None:
            local = local.replace("localhost:6379", f"127.0.0.1:{redis.port}")
            local = local.replace("-p 6379", f"-p {redis.port}")
        done = subprocess.run(
            ["sh", "-c", local],
            cwd=ROOT,
            env=environment(redis, folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), local
        assert matches(shown, done.stdout), f"{command}\n\nshown:\n{shown}\n\nis:\n{done.stdout}"
    return len(pairs)


def test_what_matches() -> None:
    assert matches("a\n...\nb\n", "a\nb")
    assert matches("a\n...\nb\n", "a\r\n\r\nx\ny\nb")
    assert matches("...\nb\n...\n", "b")
    assert matches("...\nb\n...\n", "a\nb\nc\nd")
    assert matches("a ...: b", "a 12: b")
    assert not matches("a\n...\nb\n", "a\nx")
    assert not matches("a\n", "a\nb\n")
    assert not matches("", "a")


@pytest.fixture(params=DEMOS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_page(name: str, tmp_path: Path) -> None:
    text = PAGES[name].partition("\n## Try it\n")[2].partition(f"\n{WITH_REDIS}\n")[0]
    with running_demo(name, tmp_path, variables=SLOWER) as running:
        if name == "service":
            wait_for_room_in_the_minute(15)
        assert run(text, running, None, tmp_path) >= 4
    assert re.search(r"(buckets are|requests are counted) in: (memory|regular)", running.server.log)


def test_what_a_page_says_of_redis(name: str, tmp_path: Path, server: RedisServer) -> None:
    text = PAGES[name].partition(f"\n{WITH_REDIS}\n")[2]
    with running_demo(name, tmp_path, server) as running:
        settle(running)
        if name == "service":
            wait_for_room_in_the_minute(15)
        assert run(text, running, server, tmp_path) >= 2


def settle(running: RunningDemo) -> None:
    """Return when decisions are made in Redis, which a busy machine may need several for."""

    def is_in_redis() -> bool:
        answer = ASKING.get(f"{running.server.url}/")
        path = "/api/ping" if answer.status_code == 404 else "/"
        return running.storage(ASKING.get(f"{running.server.url}{path}")) == "redis"

    wait_until(is_in_redis, "the demo finds its Redis")


@pytest.mark.parametrize(("name", "which"), OTHER_COMMANDS)
def test_other_commands_start_it(name: str, which: int, tmp_path: Path) -> None:
    with running_demo(name, tmp_path, which=which) as running:
        urls = [line.partition("http://localhost")[2] for line in running.demo.to_try("")]
        path = urls[0].partition(":")[2].partition(" ")[0]
        assert path.startswith("/")
        assert httpx.get(f"{running.server.url}{path}").status_code in (200, 405)


def test_the_list_of_demos() -> None:
    text = (ROOT / "demo" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[`(\w+)`\]\((\S+)\) \| (\d+), [\w -]+ \| (\d+) \| (.*) \|$", text, re.MULTILINE
    )
    assert rows == [
        (demo.name, f"{demo.name}/README.md", demo.number, str(demo.port), demo.summary)
        for demo in DEMOS.values()
    ]
    assert {path.parent.name for path in (ROOT / "demo").glob("*/app.py")} == set(DEMOS)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "demo").rglob("*.md")), ids=lambda page: page.parent.name
)
def test_links_and_files_that_pages_name(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`(tests/\w+\.py)`", text):
        assert (ROOT / target).is_file(), target
