"""Mistakes in a configuration are found by the first requests and logged once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from rate_limiter import RateLimiter
from rate_limiter.limiting.made_limiters import MADE_OFTEN
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.setup_checks import SAMPLE, configured_workers
from support.servers import serve

PLAIN = {"limits": "1000000/second"}
GOVERNED = {"rules": {"default": {"limits": "1000000/second"}}}


async def app(scope: Any, receive: Any, send: Any) -> None: ...


async def receive() -> Any: ...


async def send(message: Any) -> None: ...


def ask(gate: RateLimitMiddleware, n: int = 1, peer: Any = "192.0.2.{}", **headers: str) -> None:
    async def asked() -> None:
        for i in range(n):
            address = None if peer is None else (peer.format(i), 1)
            pairs = [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ]
            scope = {"type": "http", "method": "GET", "path": "/", "client": address}
            await gate(scope | {"headers": pairs}, receive, send)

    asyncio.run(asked())


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rate_limiter")


both = pytest.mark.parametrize("limits", [PLAIN, GOVERNED], ids=["plain", "governed"])


@both
@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip"])
def test_a_proxy_that_is_not_trusted(
    limits: Any, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = RateLimitMiddleware(app, **limits)
    ask(gate, 5, "10.0.0.1", **{header: "203.0.113.9"})
    (record,) = caplog.records
    assert "no proxy is trusted" in record.message
    assert "trusted_proxies=['10.0.0.1']" in record.message


@both
@pytest.mark.parametrize("peer", ["testclient", "a.example", None])
def test_a_proxy_without_an_address_gets_a_proposal_that_is_accepted(
    limits: Any, peer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ask(RateLimitMiddleware(app, **limits), 1, peer, x_forwarded_for="203.0.113.9")
    (record,) = caplog.records
    proposed = record.message.partition("trusted_proxies=['")[2].partition("']")[0]
    assert ClientAddress([proposed]).reads_header


@both
def test_no_address_no_proxies(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask(RateLimitMiddleware(app, key="all", **limits), 5, x_forwarded_for="203.0.113.9")
    assert not caplog.records


@both
def test_a_header_cannot_talk_to_a_terminal(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask(RateLimitMiddleware(app, **limits), x_forwarded_for="1.1.1.1\x1b[2J\x85Line")
    (record,) = caplog.records
    assert record.message.isascii()
    assert record.message.isprintable()


@both
def test_a_peer_cannot_forge_a_line(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask(RateLimitMiddleware(app, **limits), 1, "peer\nERROR forged\x1b", x_forwarded_for="1.1.1.1")
    (record,) = caplog.records
    assert "a request from 'peer\\nERROR forged\\x1b' has" in record.message
    assert record.message.isprintable()


@both
def test_a_proxy_that_is_trusted(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    gate = RateLimitMiddleware(app, trusted_proxies=["10.0.0.0/8"], **limits)
    ask(gate, 5, "10.0.0.1", x_forwarded_for="203.0.113.9")
    assert not caplog.records


@both
def test_one_key_for_all(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    gate = RateLimitMiddleware(app, key=lambda scope: "me", **limits)
    ask(gate, 30)
    (record,) = caplog.records
    assert "10 clients with different addresses share one key, 'me'" in record.message


@both
def test_one_key_for_all_may_be_meant(limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask(RateLimitMiddleware(app, key="all", **limits), 30)
    ask(RateLimitMiddleware(app, **limits), 30)
    ask(RateLimitMiddleware(app, **limits), 30, "192.0.2.1")
    ask(RateLimitMiddleware(app, key=lambda scope: "me", setup_checks=False, **limits), 30)
    assert not caplog.records


def test_no_addresses(caplog: pytest.LogCaptureFixture) -> None:
    ask(RateLimitMiddleware(app, limits="1000000/second"), 300, None)
    (record,) = caplog.records
    assert "100 requests came without an address" in record.message
    assert "trusted_proxies=['unix']" in record.message


def test_it_stops_looking(caplog: pytest.LogCaptureFixture) -> None:
    looked = 0

    class Watched(RateLimitMiddleware):
        def _probe(self, scope: Any, key: object) -> bool:
            nonlocal looked
            looked += 1
            return super()._probe(scope, key)

    gate = Watched(app, limits="1000000/second")
    ask(gate, SAMPLE + 50)
    assert looked == SAMPLE
    ask(gate, 5, x_forwarded_for="1.2.3.4")
    assert not caplog.records


def test_awaited_keys_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def key(scope: Any) -> str:
        return "me"

    ask(RateLimitMiddleware(app, limits="1000000/second", key=key), 30)
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "environment", "workers"),
    [
        (["/usr/bin/gunicorn", "app:app"], {}, 1),
        (["/usr/bin/gunicorn", "-w", "4", "app:app"], {}, 4),
        (["/usr/bin/gunicorn", "-w4", "app:app"], {}, 4),
        (["/usr/bin/gunicorn", "--workers=3", "app:app"], {}, 3),
        (["/usr/bin/gunicorn", "--workers", "3", "app:app"], {}, 3),
        (["/x/gunicorn/__main__.py", "app:app"], {"WEB_CONCURRENCY": "5"}, 5),
        (["gunicorn", "app:app"], {"GUNICORN_CMD_ARGS": "--bind=:80 --workers=2"}, 2),
        (["gunicorn", "-w", "3", "app:app"], {"GUNICORN_CMD_ARGS": "-w 2"}, 3),
        (["/x/uvicorn/__main__.py", "app:app", "--workers", "2"], {}, 2),
        (["uvicorn", "app:app"], {"WEB_CONCURRENCY": "2"}, 2),
        (["uvicorn", "app:app", "--workers"], {}, 1),
        (["hypercorn", "-w", "2", "app:app"], {}, 2),
        (["python", "-w", "4"], {"WEB_CONCURRENCY": "4"}, 1),
        ([], {}, 1),
    ],
)
def test_workers(arguments: list[str], environment: dict[str, str], workers: int) -> None:
    assert configured_workers(arguments, environment) == workers


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_memory_under_several_workers(tmp_path: Path, server: str) -> None:
    (tmp_path / "several.py").write_text(
        "import logging\n"
        "from rate_limiter.middleware import RateLimitMiddleware\n"
        "from starlette.applications import Starlette\n"
        "logging.basicConfig()\n"
        "app = RateLimitMiddleware(Starlette(), limits='5/minute')\n"
        "def wsgi(environ, start_response):\n"
        "    from rate_limiter.policy.setup_checks import SetupChecks\n"
        "    SetupChecks(in_memory=True).look({'client': ('127.0.0.1', 1)}, 'k')\n"
        "    start_response('200 OK', [])\n"
        "    return [b'']\n"
    )
    commands = {
        "uvicorn": ("-m", "uvicorn", "several:app", "--port={port}", "--workers=2"),
        "gunicorn": ("-m", "gunicorn", "several:wsgi", "--bind=127.0.0.1:{port}", "-w", "2"),
    }
    environment = {"PYTHONPATH": str(tmp_path)}
    with serve(tmp_path / "log", *commands[server], environment=environment) as running:
        httpx.get(running.url)
        httpx.get(running.url)
    log = (tmp_path / "log").read_text()
    assert "2 worker processes serve this application" in log
    assert "store='shared://" in log
    assert log.count("worker processes serve") <= 2  # once in each


def test_a_limiter_made_inside_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(MADE_OFTEN + 5):
        RateLimiter("5/minute", max_keys=10)
    (record,) = caplog.records
    assert f"100 limiters have been made at {__file__}:" in record.message
    assert "limits nothing" in record.message


def test_limiters_that_are_kept_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    kept = [RateLimiter("6/minute", max_keys=10) for _ in range(2 * MADE_OFTEN)]
    assert caplog.records == []
    assert len(kept) == 2 * MADE_OFTEN


def test_many_rules_with_equal_limits_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    rules = {f"r{i}": {"path": f"/{i}", "limits": "7/minute"} for i in range(2 * MADE_OFTEN)}
    for _ in range(2):
        gate = RateLimitMiddleware(app, rules=rules, max_keys=10)
        ask(gate)
    assert caplog.records == []
