"""Requests to a limited route count by its rule and for their client, on every server.

    DIFFERENTIAL_SEED=7 pytest ...              send other requests
    DIFFERENTIAL_CASES=20000 pytest ...         send more of them
    DIFFERENTIAL_ONLY=17,234 pytest ... -k h11  send these cases only, after the plain requests

A failure names the seed and an example of each kind of fault, with its number.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.differential_cases import Case, mutated_case, plain_cases
from support.differential_check import Checker
from support.differential_client import Answer, RawClient
from support.differential_routes import DEFAULT, LOGIN, TIGHT
from support.servers import ROOT, serve

OLD_FASTAPI = Path(sys.prefix) / "fastapi-0.116"

# What servers read of the environment, set so that the machine's own does not count.
ENVIRONMENT = {
    "WEB_CONCURRENCY": "1",
    "FORWARDED_ALLOW_IPS": "",
    "GUNICORN_CMD_ARGS": "",
    "PYTHONPATH": "",
    "PYTHONWARNINGS": "",
}
UVICORN = "uvicorn {app} --port {port} --no-proxy-headers --no-access-log --log-level error"
GUNICORN = "gunicorn {app} --bind 127.0.0.1:{port} --workers 1 --log-level error"
GRANIAN = "granian {app} --port {port} --workers 1 --no-log"
HYPERCORN = "hypercorn {app} --bind 127.0.0.1:{port} --workers 0 --log-level error"

ASGI = {
    "uvicorn-h11": f"{UVICORN} --http h11",
    "uvicorn-httptools": f"{UVICORN} --http httptools",
    "hypercorn": HYPERCORN,
    # It drops the headers with which a websocket is accepted.
    "granian": f"{GRANIAN} --interface asgi --no-ws",
    "gunicorn-uvicorn": f"{GUNICORN} --worker-class uvicorn_worker.UvicornWorker",
}
WSGI = {
    "gunicorn-sync": f"{GUNICORN} --worker-class sync",
    "gunicorn-gthread": f"{GUNICORN} --worker-class gthread --threads 2",
    "waitress": "waitress --listen 127.0.0.1:{port} --no-clear-untrusted-proxy-headers {app}",
    "granian-wsgi": f"{GRANIAN} --interface wsgi",
    "hypercorn-wsgi": HYPERCORN.replace("{app}", "wsgi:{app}"),
    "uvicorn-wsgi-h11": f"{UVICORN} --interface wsgi --http h11",
    "uvicorn-wsgi-httptools": f"{UVICORN} --interface wsgi --http httptools",
}

SEED = os.environ.get("DIFFERENTIAL_SEED", "1")
CASES = int(os.environ.get("DIFFERENTIAL_CASES", "1500"))
ONLY = os.environ.get("DIFFERENTIAL_ONLY", "")


def run(name: str, command: str, module: str, folder: Path, **environment: str) -> None:
    arguments = command.replace("{app}", f"{module}:app").split()
    log = folder / "log"
    added = ENVIRONMENT | environment
    with serve(log, "-m", *arguments, cwd=ROOT / "tests", environment=added) as server:
        client = RawClient(server.port)
        described = client.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert described is not None
        versions = json.loads(described.body)
        if "PYTHONPATH" in environment:
            assert versions["fastapi"].startswith("0.116.")
        checker = Checker()
        numbers = [int(one) for one in ONLY.split(",")] if ONLY else range(CASES)
        seed = f"{SEED}/{name}"
        cases = [
            case for app in versions["apps"] for case in plain_cases(random.Random(seed + app), app)
        ]
        cases += [mutated_case(seed, number, versions["apps"]) for number in numbers]
        for case in cases:
            checker.check(case, client.ask(case.bytes()))
        client.close()
    counts = checker.counts
    assert not checker.faults, f"{name}, DIFFERENTIAL_SEED={SEED}: {checker.report()}"
    if not ONLY:  # enough has come through to say so
        assert counts["ran, mutated"] > CASES / 4, counts
        assert counts["mutated, known bucket"] > CASES / 4, counts
        assert counts["by the very rule"] > 0.9 * counts["ran"], counts
        assert counts["denied"] > 50, counts


def checked(*requests: tuple[Case, dict[str, Any], dict[str, str], int]) -> list[str]:
    """Return the kinds of faults in requests, what was seen of them, and their responses."""
    checker = Checker()
    for case, seen, headers, status in requests:
        answer = Answer(status, {"x-seen": json.dumps(SEEN | seen), **headers})
        checker.check(case, answer)
    return [kind for kind, _ in checker.faults]


SEEN = {"route": "login", "method": "POST", "cookie": "a", "peer": "127.0.0.1", "repeated": {}}


def a_case(cost: int) -> Case:
    return Case("starlette rules cookie", 1, "POST", "/login", [], cost)


def counted(taken: int, capacity: int = LOGIN) -> dict[str, str]:
    return {"x-ratelimit-limit": str(capacity), "x-ratelimit-remaining": str(capacity - taken)}


def test_what_is_a_fault() -> None:
    """The test would be worth nothing if it found nothing."""
    first, second = a_case(5), a_case(7)
    before = (first, {}, counted(5), 200)
    assert checked(before, (second, {}, counted(12), 200)) == []
    assert checked(before, (second, {"cookie": "b"}, counted(7), 200)) == []
    # The same session with a fresh bucket; another session with the bucket of the first.
    assert checked(before, (second, {}, counted(7), 200)) == ["bucket"]
    assert checked(before, (second, {"cookie": "b"}, counted(12), 200)) == ["bucket"]
    # Not counted, or by a more generous rule; a stricter one is no fault.
    assert checked((first, {}, {}, 200)) == ["rule"]
    assert checked((first, {}, counted(5, DEFAULT), 200)) == ["rule"]
    assert checked((first, {}, counted(5, TIGHT), 200)) == []
    # Denied although enough is left, and for what another session has taken.
    assert checked(before, (second, {}, counted(5), 429)) == ["denial"]
    full = (a_case(TIGHT), {}, counted(TIGHT, TIGHT), 200)
    assert checked(full, (second, {}, counted(TIGHT, TIGHT), 429)) == []
    other = (second, {"cookie": "b"}, counted(TIGHT, TIGHT), 429)
    assert checked(full, other) == ["bucket"]
    assert checked((first, {}, counted(5), 500)) == ["error"]


def test_a_case_can_be_sent_again() -> None:
    """Cases are the same in every process, also where texts have other hashes."""
    program = (
        "from support.differential_cases import mutated_case\n"
        "apps = ['starlette rules cookie', 'flask decorated authorization']\n"
        "print(*{mutated_case('seed', n, apps).bytes(): None for n in range(200)}, sep='\\n')"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("\n") > 190


@pytest.mark.parametrize("server", ASGI)
def test_starlette_and_fastapi(server: str, tmp_path: Path) -> None:
    run(server, ASGI[server], "support.differential_asgi", tmp_path)


@pytest.mark.parametrize("server", ASGI)
def test_oldest_fastapi(server: str, tmp_path: Path) -> None:
    path = str(OLD_FASTAPI)
    run(f"old {server}", ASGI[server], "support.differential_asgi", tmp_path, PYTHONPATH=path)


@pytest.mark.parametrize("server", WSGI)
def test_flask(server: str, tmp_path: Path) -> None:
    run(server, WSGI[server], "support.differential_wsgi", tmp_path)
