"""What docs/stores.md shows is tried as it is printed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from rate_limiter import RateLimiter, _core
from rate_limiter.cli import main as command
from redis_servers import RedisServer

TEXT = (Path(__file__).parent.parent / "docs" / "stores.md").read_text(encoding="utf-8")


def test_python_blocks(server: RedisServer, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        local = re.sub(r"redis://localhost(:6379/0)?", server.url, block)
        local = local.replace("/dev/shm/app", str(tmp_path / "app"))
        names: dict[str, object] = {"app": FastAPI(), "RateLimiter": RateLimiter}
        exec(compile(local, "stores.md", "exec"), names)


def test_options_are_all_known() -> None:
    table = TEXT[TEXT.index("| option |") : TEXT.index("A redis-py client")]
    names = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line)
    )
    assert len(names) >= 11
    known = {"ssl_ca_certs": "/etc/ssl/certs/ca-certificates.crt"}
    for name in names:
        values = ("false", "none", "0.5") if name not in known else (known[name],)
        scheme = "rediss" if name.startswith("ssl_") else "redis"
        accepted = []
        for value in values:
            with contextlib.suppress(ValueError):
                accepted.append(_core.RedisClient(f"{scheme}://h?{name}={value}"))
        if name not in (
            "ssl_certfile",
            "ssl_keyfile",
            "ssl_ca_certs",
        ):  # of files that are not here
            assert accepted, name
        with pytest.raises(ValueError, match=f"there is no option '{name}x'"):
            _core.RedisClient(f"{scheme}://h?{name}x=1")


def test_command(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    limiter = RateLimiter("100/minute", store=server.url, on_store_error="raise")
    limiter.hit("user:42", 63)
    shown = re.search(r"rl:\{user:42\}.*", TEXT)
    assert shown is not None
    assert command(["inspect", "user:42", "--store", server.url]) == 0
    pattern = re.sub(r"(\\\.)?\d+", r"[\\d.]+", re.escape(shown[0]))
    assert re.fullmatch(pattern, capsys.readouterr().out.strip()), pattern
    assert command(["reset", "user:42", "--store", server.url]) == 0
    assert capsys.readouterr().out == "1 removed\n"
    assert "1 removed" in TEXT


# --- The other pages ---

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["algorithms", "rules", "identity", "headers", "settings"])
def test_python_blocks_of(
    page: str, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    rules = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "5/minute")
    (tmp_path / "rate_limits.json").write_text(rules[0] if rules else "{}")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        names["app"] = app = FastAPI()
        app.get("/{path:path}")(lambda: "ok")
        local = block.replace("redis://localhost:6379/0", server.url)
        exec(compile(local, f"{page}.md", "exec"), names)
        if app.user_middleware:
            assert TestClient(app).get("/").status_code == 200


def test_commands_of_the_rules(
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (DOCS / "rules.md").read_text(encoding="utf-8")
    found = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rate_limits.json").write_text(found[1])
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"\$ rate-limiter (.*)", block):
            words = line.replace("redis://localhost:6379/0", server.url).split()
            assert command(words) == 0, line
            shown = capsys.readouterr().out
            expected = re.search(re.escape(line) + r"\n((?!\$).+(?:\n(?!\$).+)*)", block)
            assert expected is None or shown.strip() == expected[1].strip()


def test_fields_of_the_rules() -> None:
    from rate_limiter.rules import RuleModel

    text = (DOCS / "rules.md").read_text(encoding="utf-8")
    table = text[text.index("| field |") : text.index("A rule without")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(RuleModel.model_fields)


def test_fields_of_templates() -> None:
    from rate_limiter.answers import FIELDS

    text = (DOCS / "headers.md").read_text(encoding="utf-8")
    found = re.search(r"Fields are (.*?)\. A text", text, re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r"`(\w+)`", found[1])) == FIELDS


def test_the_table_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import settings_table  # type: ignore[import-not-found]

    assert settings_table.table() in (DOCS / "settings.md").read_text(encoding="utf-8")


def test_the_figures_of_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/algorithms.md says of the drawing is what the engine does."""
    monkeypatch.syspath_prepend(str(DOCS))
    import plot_algorithms  # type: ignore[import-not-found]

    text = " ".join((DOCS / "algorithms.md").read_text(encoding="utf-8").split())
    most = [
        plot_algorithms.most_in(plot_algorithms.admitted(limit), 60)
        for limit in plot_algorithms.LIMITS.values()
    ]
    bucket, small, fixed, sliding = most
    assert (
        f"it gets {bucket} requests through a token bucket, {small} through one with `burst=10`, "
        f"{fixed} through a fixed window, and {sliding} through a sliding one" in text
    )
    image = (DOCS / "images" / "algorithms.svg").read_text(encoding="utf-8")
    assert f"sliding window: {sliding} in the busiest minute" in image


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
