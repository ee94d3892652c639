"""The tests pass wherever they run: without variables, in the background, and on a CI's machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ROOT

# What every machine sets.
BARE = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
# What a developer's machine may set, and what the programs that tests start would go by.
MUCH = BARE | {
    "REDIS_URL": "redis://nowhere.invalid:1/0",
    "RATE_LIMITER_ENABLED": "false",
    "DEMO": "nothing",
    "WEB_CONCURRENCY": "7",
    "LOG_LEVEL": "CRITICAL",
    "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    "UVICORN_WORKERS": "3",
    "http_proxy": "http://127.0.0.1:1",
    "COLUMNS": "20",
    "FORCE_COLOR": "1",
    "PYTHONIOENCODING": "ascii",
}
GUNICORN = "tests/project/test_gunicorn.py::"
# What a server may write, and which clients it sees.
SERVERS = (f"{GUNICORN}test_two_workers_serve", f"{GUNICORN}test_no_proxy_is_trusted_by_default")
# Tests that send signals to what they started.
SIGNALS = (
    f"{GUNICORN}test_counts_survive_every_signal",
    "tests/project/test_stack.py::test_other_demos",
    "tests/cli/test_cli.py::test_ctrl_c",
    "tests/cli/test_load.py::test_ctrl_c_prints_the_results_so_far",
)
# Tests of what is set by default, and of servers over HTTP.
DEFAULTS = ("tests/policy/test_settings.py", "tests/web/test_servers.py")


def in_the_background() -> None:
    """Ignore what ``nohup`` and the background of a script ignore."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("variables", "tests"),
    [(BARE, SIGNALS), (MUCH, (*SERVERS, *DEFAULTS))],
    ids=["bare", "much"],
)
def test_tests_in_the_background(
    variables: dict[str, str], tests: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-o", f"cache_dir={tmp_path}", *tests],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        start_new_session=True,  # no terminal
        preexec_fn=in_the_background,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_of_the_machine_do_not_reach_what_ci_runs(tmp_path: Path) -> None:
    """Only what package clients need does."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in (tmp_path / ".ci" / "system-packages", programs / "make"):
        program.write_text(f'#!/bin/sh\n{{ echo "$0 $*"; env; }} >>"{tmp_path}/seen"\n')
        program.chmod(0o755)
    needed = {
        "PATH": f"{programs}:{BARE['PATH']}",
        "HOME": BARE["HOME"],
        "PIP_INDEX_URL": "https://index.example/a b",
        "npm_config_registry": "https://npm.example",
        "SSL_CERT_FILE": "/certificates",
        "REQUESTS_CA_BUNDLE": "/certificates",
        "https_proxy": "http://proxy.example",
    }
    others = {"PYTHONDONTWRITEBYTECODE": "1", "LANG": "C", "REDIS_URL": "x", "HTTPS_PROXYING": "x"}
    subprocess.run(["bash", tmp_path / ".ci" / "run"], env=needed | others, check=True, timeout=60)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert f"{programs}/make test" in seen
    runs = sum(line.startswith((f"{programs}/make ", ".ci/system-packages ")) for line in seen)
    for name, value in (needed | {"RATE_LIMITER_WERROR": "1"}).items():
        assert seen.count(f"{name}={value}") == runs
    assert not [line for line in seen if line.partition("=")[0] in others]


def test_a_machine_without_the_name_localhost(tmp_path: Path) -> None:
    """Debian's installer writes /etc/hosts; a system from debootstrap has none."""
    for name, status in {"getent": 2, "apt-get": 0, "sudo": 1, "id": 0}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho 1000\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "system-packages", "test"],
        env=BARE | {"PATH": f"{tmp_path}:{BARE['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "libnss-myhostname" in done.stderr
