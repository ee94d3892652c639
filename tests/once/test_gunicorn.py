"""deploy/gunicorn.conf.py under a real gunicorn, from what the image holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from redis_servers import wait_until
from servers import ROOT, Server, serve

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
FINAL = re.sub(r"\\\n\s*", "", DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :])


def words_of(instruction: str) -> list[str]:
    """Return the list of words of an instruction of the image."""
    found = re.search(rf"^{instruction}\b.*?\[(.*)\]$", FINAL, re.MULTILINE)
    assert found is not None
    return re.findall(r'"([^"]+)"', found[1])


def variables(**added: str) -> dict[str, str]:
    """Return what the image sets, and what a container adds; by default there is no Redis."""
    found = re.search(r"^ENV (.*)$", FINAL, re.MULTILINE)
    assert found is not None
    set_by_image = dict(word.split("=", 1) for word in found[1].split() if word[:5] != "PATH=")
    here = {"API_HOST": "127.0.0.1", "API_PORT": "{port}", "REDIS_URL": "redis://127.0.0.1:1/0"}
    return set_by_image | here | added


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the image has in /app."""
    folder = tmp_path_factory.mktemp("image") / "app"
    for line in re.findall(r"^COPY (?!--from)(.*)$", FINAL, re.MULTILINE):
        *sources, target = line.split()
        (folder / target).mkdir(parents=True, exist_ok=True)
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, folder / target, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, folder / target)
    return folder


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for metrics, with those of a worker of long ago, which had the tenth slot."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "counter_1.db").write_bytes(b"")
    (folder / "9.rate_limiter_readings").write_text("[]")
    return folder


@pytest.fixture(scope="module")
def server(
    image: Path, metrics: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    program, *arguments = words_of("CMD")
    environment = variables(
        RATE_LIMITER_TRUSTED_PROXIES="127.0.0.0/8", PROMETHEUS_MULTIPROC_DIR=str(metrics)
    )
    log_file = tmp_path_factory.mktemp("log") / "log"
    before = contents(image)
    command = ("-m", program, *arguments)
    with serve(log_file, *command, cwd=image, environment=environment) as server:
        yield server
    assert server.process.returncode == 0
    assert "Traceback" not in server.log
    assert contents(image) == before  # the root file system is read-only


def test_two_workers_serve(server: Server) -> None:
    answer = httpx.post(f"{server.url}/api/resource", headers={"X-API-Key": "a"})
    assert answer.status_code == 200
    wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 2, "two workers run")


def test_health_check(server: Server, image: Path) -> None:
    program, *arguments = words_of("HEALTHCHECK")
    assert program == "python"

    def check(port: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | variables(API_PORT=str(port)),
            cwd=image,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert check(server.port).returncode == 0
    nobody = check(1)
    assert nobody.returncode == 1
    assert "http://127.0.0.1:1/health does not answer" in nobody.stderr


def test_our_own_proxies_decide_who_the_client_is(server: Server) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9, 127.0.0.2"}
    told = httpx.get(f"{server.url}/rate-limit/status", headers=forwarded).json()
    assert told["identifier"] == "203.0.113.9"


def test_metrics_of_dead_workers_go(server: Server, metrics: Path) -> None:
    assert not (metrics / "counter_1.db").exists()
    assert not (metrics / "9.rate_limiter_readings").exists()
    worker = psutil.Process(server.process.pid).children()[0]
    live = metrics / f"gauge_livesum_{worker.pid}.db"
    kept = metrics / f"counter_{worker.pid}.db"
    live.write_bytes(b"")
    kept.write_bytes(b"")
    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: not live.exists(), "the gauges of the dead worker are gone")
    assert kept.exists()
    kept.unlink()
    wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 2, "another has begun")


def test_nobody_is_believed_by_default(image: Path, tmp_path: Path) -> None:
    """uvicorn itself would believe what comes from this host."""
    environment = variables(WEB_CONCURRENCY="1")
    command = ("-m", "gunicorn", "--config", "deploy/gunicorn.conf.py")
    with serve(tmp_path / "log", *command, cwd=image, environment=environment) as server:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        told = httpx.get(f"{server.url}/rate-limit/status", headers=forwarded).json()
    assert told["identifier"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("DEMO", "nothing", "DEMO='nothing' is not a demo: expected one of distributed, fastapi"),
        ("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY='0' is wrong: expected a whole number from 1"),
    ],
)
def test_wrong_settings(variable: str, value: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--config", ROOT / "deploy" / "gunicorn.conf.py"],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
