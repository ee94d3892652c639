"""How demos are started: `make demo DEMO=...`, `make demos`, `python -m demo`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from support.demo_servers import ASKING, DEMOS, environment
from support.servers import ROOT, free_port, serve


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the project."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_make_lists_the_demos() -> None:
    done = run("make", "demos")
    assert (done.returncode, done.stderr) == (0, "")
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        f"make demo DEMO={demo.name} port {demo.port} {demo.summary}" for demo in DEMOS.values()
    ]


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_make_lists_known_demos(name: str) -> None:
    done = run("make", "demo", f"DEMO={name}")
    assert done.returncode != 0
    assert done.stdout == ""  # nothing was built before
    first = done.stderr.splitlines()[0]
    assert first == f'there is no demo "{name}": expected one of {", ".join(DEMOS)}'


@pytest.mark.parametrize("port", ["abc", "0", "70000", "80 81"])
def test_make_refuses_a_port_before_it_builds(port: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    done = run("make", "demo", f"PORT={port}", f"VENV={venv}")
    assert (done.returncode, done.stdout, venv.exists()) == (2, "", False)
    message = f"PORT='{port}' is not a port: expected a number from 1 to 65535"
    assert done.stderr.splitlines()[0] == message


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "-m demo 'fastapi'"),
        (["PORT=8001"], "-m demo 'fastapi' 8001"),
        (["DEMO=service"], "-m demo 'service'"),
        (["DEMO=003", "PORT=8001"], "-m demo '003' 8001"),
    ],
)
def test_what_make_runs(words: list[str], recipe: str) -> None:
    done = run("make", "--dry-run", "demo", *words)
    assert done.stdout.splitlines()[-1].strip().endswith(recipe), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "name"),
    [(demo.number, demo.name) for demo in DEMOS.values() if demo.name != "flaskapp"],
)
def test_a_demo_by_name_or_number(given: str, name: str, tmp_path: Path) -> None:
    """It starts, prints what to try on its port, and ends at a Ctrl-C without a traceback."""
    with serve(
        tmp_path / "log", "-m", "demo", given, "{port}", environment=environment(None, tmp_path)
    ) as server:
        for line in DEMOS[name].to_try(server.port):
            assert f"  {line}\n" in server.log
        assert f"localhost:{server.port}" in server.log
        assert f"\n{name}: {DEMOS[name].summary}." in server.log
        path = "/api/ping" if name == "fastapi" else "/health"
        assert ASKING.get(f"{server.url}{path}").status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) in (0, -signal.SIGINT)
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], f"there is no demo 'nonsense': expected one of {', '.join(DEMOS)}"),
        (["service", "0"], "PORT='0' is not a port: expected a number from 1 to 65535"),
        (["service", "65536"], "PORT='65536' is not a port: expected a number from 1 to 65535"),
        (["service", "x"], "PORT='x' is not a port: expected a number from 1 to 65535"),
    ],
)
def test_what_cannot_be_started(words: list[str], message: str) -> None:
    done = run(sys.executable, "-m", "demo", *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{message}\n")


@pytest.mark.parametrize("name", ["quickstart", "fastapi", "gateway", "service"])
def test_a_mistake_in_the_environment(name: str, tmp_path: Path) -> None:
    """The start ends with one line, which does not show the password."""
    port = str(free_port())
    done = run(
        *(sys.executable, "-m", "demo", name, port),
        **environment(None, tmp_path) | {"REDIS_URL": "redis://:secret@127.0.0.1:x"},
    )
    assert done.returncode == 3
    assert re.fullmatch("cannot start: the address of the (store|Redis) is wrong.*\n", done.stderr)
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(("name", "words"), [("distributed", ()), ("service", ("--workers", "2"))])
def test_a_wrong_setting(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Also with several workers of uvicorn, which gives up instead of starting them again."""
    server = ("-m", "uvicorn", f"demo.{name}.app:app", "--port", str(free_port()), *words)
    variables = environment(None, tmp_path) | {"REDIS_DB": "-1", "UVICORN_LIFESPAN": "on"}
    done = run(sys.executable, *server, **variables)
    assert done.returncode == (0 if words else 3)  # uvicorn stops several in an orderly way
    found = [line for line in done.stderr.splitlines() if "REDIS_DB" in line]
    assert set(found) == {"cannot start: REDIS_DB: Input should be greater than or equal to 0"}
    assert "Traceback" not in done.stderr


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(sys.executable, "-m", "demo", "gateway", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"cannot serve on port {port} (Address already in use): "
        f"try  make demo DEMO=gateway PORT={port % 65535 + 1}\n"
    )


def test_the_list() -> None:
    done = run(sys.executable, "-m", "demo")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(DEMOS)


def test_commands_to_try_run_in_any_folder(tmp_path: Path) -> None:
    """`python` is that of the environment, and loops do not need bash."""
    for demo in DEMOS.values():
        assert "{1.." not in demo.readme
        for line in demo.to_try(free_port()):
            if "/demo/" in line:
                done = subprocess.run(
                    ["sh", "-c", f"{line} --help"], cwd=tmp_path, env={}, capture_output=True
                )
                assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["gateway/tools/load_test.py", "service/scripts/load_test.py"])
def test_what_the_demos_install_includes_the_load_scripts(script: str) -> None:
    done = run(sys.executable, str(ROOT / "demo" / script), "--help")
    assert (done.returncode, "--concurren" in done.stdout) == (0, True), done.stderr
    needed = [one for one in requires("rate-limiter-c") or () if 'extra == "demo"' in one]
    (ours,) = (one for one in needed if one.startswith("rate-limiter-c["))
    assert "load" in re.split(r"\W", ours)


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_has_commands(name: str) -> None:
    demo = DEMOS[name]
    assert demo.commands(1)
    assert all(str(demo.port) not in command for command in demo.commands(1))
    assert len(demo.to_try(1)) >= 4
