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
from support.odd_folders import ODD_FOLDERS
from support.redis_servers import wait_until
from support.servers import ROOT, Server, free_port, serve

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
    """Return a folder for metrics, with those of a worker of long ago, which had a high slot."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "counter_1.db").write_bytes(b"")
    (folder / "99.rate_limiter_readings").write_text("[]")
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
    unreachable = check(1)
    assert unreachable.returncode == 1
    assert "http://127.0.0.1:1/health does not answer" in unreachable.stderr


def test_our_own_proxies_decide_who_the_client_is(server: Server) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9, 127.0.0.2"}
    status = httpx.get(f"{server.url}/rate-limit/status", headers=forwarded).json()
    assert status["identifier"] == "203.0.113.9"


def test_metrics_of_dead_workers_go(server: Server, metrics: Path) -> None:
    assert not (metrics / "counter_1.db").exists()
    assert not (metrics / "99.rate_limiter_readings").exists()
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


def workers_of(master: psutil.Process) -> set[int]:
    """Return the workers of a gunicorn: children that are no gunicorn that takes over."""
    alive = [one for one in psutil.process_iter(["ppid", "pid"]) if one.info["ppid"] == master.pid]
    masters = {one.info["ppid"] for one in psutil.process_iter(["ppid"])}
    return {one.pid for one in alive} - masters


def test_counts_survive_every_signal(image: Path, tmp_path: Path) -> None:
    """HUP, TTIN, TTOU, a killed worker and USR2, after which a new gunicorn takes over."""
    # The script, as in the image: USR2 runs it again, which `python -m gunicorn` does not allow.
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    command = (gunicorn, "--config", "deploy/gunicorn.conf.py", "-p", str(tmp_path / "pid"))
    (tmp_path / "metrics").mkdir()
    environment = variables(
        WEB_CONCURRENCY="1", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics"), DEMO="gateway"
    )
    asked = 0

    def served(server: Server) -> None:
        """Check that every request so far is in the metrics, whichever worker shows them."""
        nonlocal asked
        for _ in range(4):
            assert httpx.get(f"{server.url}/v1/hello").status_code in (200, 429)
            asked += 1
            text = httpx.get(f"{server.url}/metrics").text
            counts = re.findall(r"rate_limiter_decision_seconds_count\{.*\} (\d+)", text)
            assert [int(count) for count in counts] == [asked]

    def signalled(master: psutil.Process, what: signal.Signals, workers: int = 1) -> None:
        """Send a signal, and wait until all workers are new ones, or their number changed."""
        before = workers_of(master)
        master.send_signal(what)
        wait_until(
            lambda: (
                len(workers_of(master)) == workers
                and (len(before) != workers or not before & workers_of(master))
            ),
            f"{workers} workers after {what.name}",
        )

    with serve(tmp_path / "log", *command, cwd=image, environment=environment) as server:
        old = psutil.Process(server.process.pid)
        served(server)
        signalled(old, signal.SIGHUP)
        served(server)
        signalled(old, signal.SIGTTIN, 2)
        served(server)
        signalled(old, signal.SIGTTOU, 1)
        psutil.Process(workers_of(old).pop()).kill()
        served(server)
        old.send_signal(signal.SIGUSR2)
        wait_until(lambda: (tmp_path / "pid.2").exists(), "a new gunicorn runs beside the old one")
        new = psutil.Process(int((tmp_path / "pid.2").read_text()))
        try:
            wait_until(lambda: len(workers_of(new)) == 1, "it has a worker")
            served(server)
            old.terminate()
            server.process.wait(60)
            served(server)
            signalled(new, signal.SIGHUP)
            served(server)
        finally:
            new.terminate()
            new.wait(60)
    with serve(
        tmp_path / "log of the next start", *command, cwd=image, environment=environment
    ) as server:
        asked = 0
        served(server)


def test_no_proxy_is_trusted_by_default(image: Path, tmp_path: Path) -> None:
    """uvicorn itself would believe what comes from this host."""
    environment = variables(WEB_CONCURRENCY="1")
    command = ("-m", "gunicorn", "--config", "deploy/gunicorn.conf.py")
    with serve(tmp_path / "log", *command, cwd=image, environment=environment) as server:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        status = httpx.get(f"{server.url}/rate-limit/status", headers=forwarded).json()
    assert status["identifier"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("REDIS_PORT", "x", "cannot start: REDIS_PORT: Input should be a valid integer"),
        ("RATE_LIMITER_TRUSTED_PROXIES", "x", "cannot start: trusted_proxies: expected an address"),
        ("REDIS_URL", "redis://user:9secret", "cannot start: the address of the store is wrong: "),
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
    lines = [line for line in done.stderr.splitlines() if "[INFO]" not in line]  # of gunicorn
    assert len(lines) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize("demo", ["service", "gateway"])
@pytest.mark.parametrize("kind", ODD_FOLDERS)
def test_a_metrics_folder_that_cannot_be_used(
    kind: str, demo: str, image: Path, tmp_path: Path
) -> None:
    """Every path answers, and metrics show what the process has counted."""
    odd = ODD_FOLDERS[kind](tmp_path)
    environment = variables() | {
        "DEMO": demo,
        "API_HOST": "127.0.0.1",
        "API_PORT": "{port}",
        "WEB_CONCURRENCY": "1",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PROMETHEUS_MULTIPROC_DIR": str(odd.path),
    }
    method, path = ("GET", "/v1/hello") if demo == "gateway" else ("POST", "/api/resource")
    command = (*odd.before, sys.executable, "-m", *words_of("CMD"))
    log = tmp_path / "log"
    with serve(log, *command[1:], program=command[0], cwd=image, environment=environment) as server:
        limited = [httpx.request(method, server.url + path).status_code for _ in range(3)]
        others = [httpx.get(server.url + one).status_code for one in ("/health", "/docs")]
        metrics = httpx.get(f"{server.url}/metrics")
    assert (limited, others, metrics.status_code) == ([200] * 3, [200] * 2, 200)
    # Requests that are not limited are not counted; the gateway also limits /docs.
    counted = 3 if demo == "service" else 4
    assert f'rate_limiter_allowed_total{{dimension="{demo}"}} {counted}.0' in metrics.text
    if kind != "of another version":  # which the configuration removes before the start
        assert "rate_limiter_metrics_unshared 1.0" in metrics.text
        assert log.read_text().count(f"PROMETHEUS_MULTIPROC_DIR={odd.path} cannot be used: ") == 1
    assert "Traceback" not in log.read_text()


FAILING = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    raise ValueError("nothing works")
    yield

app = FastAPI(lifespan=lifespan)
app.get("/health")(lambda: "ok")
"""


def test_an_application_that_cannot_start(image: Path, tmp_path: Path) -> None:
    """The start ends; with uvicorn's own default every path would answer 500."""
    folder = tmp_path / "app"
    shutil.copytree(image, folder)
    (folder / "demo" / "service" / "app.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "-m", *words_of("CMD")],
        cwd=folder,
        env=os.environ | variables() | {"API_HOST": "127.0.0.1", "API_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # 1: gunicorn's master was not yet waiting for the worker when that ended.
    assert done.returncode in (1, 3)
    assert "ValueError: nothing works" in done.stderr
