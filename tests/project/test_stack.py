"""deploy/start.sh: starts stacks, explains failures, and leaves nothing behind.

The one with sentinels is in test_deployment_page.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import uuid
from pathlib import Path

import httpx
import psutil
import pytest
import redis
from support.redis_servers import wait_until
from support.servers import free_port
from support.stacks import ENVIRONMENT, START, assert_nothing_is_left, running_stack


def statuses(url: str, count: int) -> list[int]:
    """Send requests of one new client, in one window of a minute; return what they got."""
    while True:
        who = {"X-API-Key": str(uuid.uuid4())}
        answers = [httpx.post(f"{url}/api/resource", headers=who) for _ in range(count)]
        if len({answer.headers["x-ratelimit-reset"] for answer in answers}) == 1:
            return [answer.status_code for answer in answers]


def test_plain_with_uvicorn(tmp_path: Path) -> None:
    with running_stack(tmp_path / "log", "plain", "--server", "uvicorn") as stack:
        assert set(stack.members) == {"redis-1", "service"}
        assert statuses(stack.url, 22) == [200] * 20 + [429] * 2
        for _ in range(10):  # each worker shows the metrics of both
            exposed = httpx.get(f"{stack.url}/metrics").text
            assert 'rate_limiter_allowed_total{dimension="service"} 20.0' in exposed
            assert 'rate_limiter_blocked_total{dimension="service"} 2.0' in exposed
        stack.stop()
        assert stack.process.returncode == 0
        assert_nothing_is_left(stack)


def test_cluster(tmp_path: Path) -> None:
    with running_stack(tmp_path / "log", "cluster", "--workers", "1") as stack:
        assert len(stack.members) == 7
        assert statuses(stack.url, 21) == [200] * 20 + [429]
        ports = [port for name, (port, _) in stack.members.items() if name.startswith("redis")]
        clients = [redis.Redis("127.0.0.1", port) for port in ports]
        masters = [client for client in clients if client.info("replication")["role"] == "master"]
        assert len(masters) == 3

        def each_has_a_share() -> bool:
            for _ in range(30):  # which are gone when the minute ends
                statuses(stack.url, 1)
            return all(client.dbsize() for client in masters)

        wait_until(each_has_a_share, "each master has its share")
        for client in clients:
            client.close()
        stack.stop()
        assert_nothing_is_left(stack)


@pytest.mark.parametrize(
    ("demo", "path", "limit", "end"),
    [
        ("gateway", "/v1/hello", "10", signal.SIGINT),
        ("distributed", "/", "20", signal.SIGTERM),
        ("flaskapp", "/api/ping", "5", signal.SIGHUP),
    ],
)
def test_other_demos(tmp_path: Path, demo: str, path: str, limit: str, end: signal.Signals) -> None:
    with running_stack(tmp_path / "log", "--demo", demo, "--workers", "1") as stack:
        answer = httpx.get(stack.url + path)
        assert (answer.status_code, answer.headers["x-ratelimit-limit"]) == (200, limit)
        with redis.Redis("127.0.0.1", stack.members["redis-1"][0]) as client:
            assert client.dbsize() == 1  # the bucket is there
        # A Ctrl-C in a terminal reaches a group: only start.sh gets it, and ends the demo first.
        groups = {os.getpgid(pid) for _, pid in stack.members.values()}
        assert len(groups - {os.getpgid(stack.process.pid)}) == 2
        stack.process.send_signal(end)
        assert stack.process.wait(60) == (130 if end == signal.SIGINT else 143)
        assert_nothing_is_left(stack)


def test_demo_that_ends(tmp_path: Path) -> None:
    """Its workers end too: those that have replaced others, and those that ignore signals."""
    with running_stack(tmp_path / "log", "--server", "uvicorn") as stack:
        demo = psutil.Process(stack.members["service"][1])
        first = {child.pid for child in demo.children()}
        for child in demo.children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        wait_until(
            lambda: any(
                child.pid not in first and "spawn_main" in " ".join(child.cmdline())
                for child in demo.children()
            ),
            "another worker has begun",
        )
        workers = demo.children()
        demo.kill()
        assert stack.process.wait(60) == 1
        assert "start.sh: service ended: " in stack.log
        wait_until(
            lambda: not any(worker.is_running() for worker in workers),
            "init has collected the workers",
        )
        assert_nothing_is_left(stack)


def test_start_that_was_killed(tmp_path: Path) -> None:
    """Then only `stop` can end the servers."""
    with running_stack(tmp_path / "log", "--workers", "1") as stack:
        stack.process.kill()
        stack.process.wait()
        assert httpx.get(f"{stack.url}/health").status_code == 200
        stack.stop()
        wait_until(
            lambda: not any(psutil.pid_exists(pid) for _, pid in stack.members.values()),
            "init has collected what ended",
        )
        assert_nothing_is_left(stack)


# --- What it refuses ---


def refusal(*words: str, **environment: str) -> tuple[int, str]:
    """Return the exit status of start.sh, and what it said on stderr."""
    done = subprocess.run(
        ["/bin/sh", START, *words],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "'nowhere' is not known"),
        (["plain", "cluster"], "'plain' and 'cluster' are asked for: expected one"),
        (["--port"], "--port lacks its value"),
        (["--port", "70000"], "--port '70000': expected a number from 1 to 65535"),
        (["--workers", "none"], "--workers 'none': expected a number from 1 to 65535"),
        (["--demo", "nothing"], "there is no demo/nothing/app.py"),
        (["--server", "apache"], "--server 'apache': expected gunicorn or uvicorn"),
        (["sentinel", "--demo", "gateway"], "supports one Redis only: expected plain"),
        (["--demo", "flaskapp", "--server", "uvicorn"], "is WSGI: expected --server gunicorn"),
    ],
)
def test_wrong_usage(words: list[str], reason: str) -> None:
    status, said = refusal(*words)
    assert status == 2
    assert said.count("\n") == 1
    assert reason in said


@pytest.mark.parametrize("option", ["--port", "--redis-port"])
def test_port_that_is_taken(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = {"--port": str(free_port()), option: str(port)}
        status, said = refusal(*(word for pair in words.items() for word in pair))
    assert status == 1
    assert said.count("\n") == 1
    assert f"port {port} cannot be used" in said


def test_stop_of_nothing() -> None:
    port = str(free_port())
    assert refusal("stop", "--port", port) == (1, f"start.sh: nothing was started on port {port}\n")


def test_redis_that_does_not_start(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho out of order\nexit 1\n")
    broken.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    port = str(free_port())
    status, said = refusal("--port", port, PATH=path, TMPDIR=str(tmp_path))
    assert (status, said) == (1, "start.sh: redis-1 ended: out of order\n")
    assert list(tmp_path.iterdir()) == [broken]


def test_no_redis(tmp_path: Path) -> None:
    for name in ("dirname", "id", "uname"):  # a machine without a package manager
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    status, said = refusal("--port", str(free_port()), PATH=str(tmp_path))
    assert status == 1
    assert "start.sh: redis-server is missing" in said
    assert "Traceback" not in said
