"""What docs/stores.md shows is tried as it is printed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from rate_limiter import RateLimiter, _core
from rate_limiter.cli import main as command
from redis_servers import RedisServer

TEXT = (Path(__file__).parent.parent / "docs" / "stores.md").read_text(encoding="utf-8")


def test_python_blocks(server: RedisServer) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        local = re.sub(r"redis://localhost(:6379/0)?", server.url, block)
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
