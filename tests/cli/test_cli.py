"""The command rate-limiter as a whole, as docs/command.md describes it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter.cli.bench.measure import Bench, PythonBucket, Spread, slice_s
from rate_limiter.cli.common import EXIT_STATUS
from rate_limiter.cli.main import main as command
from rate_limiter.cli.main import parser
from rate_limiter.cli.version import build_details
from rate_limiter.limit import Limit
from support.redis_servers import RedisServer, wait_until
from support.servers import ROOT
from support.tokens import SECRET, token

TEXT = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")


def leaves(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands below one."""
    below = [one for one in of._actions if isinstance(one, argparse._SubParsersAction)]
    for action in below:
        for each in action.choices.values():
            yield from leaves(each)
    if not below:
        yield of


COMMANDS = {each.prog: each for each in leaves(parser())}


# --- The page ---


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_the_page_are_those_of_the_command(name: str) -> None:
    _, found, rest = TEXT.partition(f"## {name}\n")
    assert found, f"docs/command.md has no section {name!r}"
    section = rest.partition("\n## ")[0]
    table = section[section.index("| option | default |") :].partition("\n\n")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    known = []
    for action in COMMANDS[name]._actions:
        if action.dest == "help":
            continue
        value = action.metavar if action.metavar else action.dest.upper()
        first = action.option_strings[0] if action.option_strings else ""
        known.append(f"`{' '.join(filter(None, (first, '' if action.nargs == 0 else value)))}`")
    assert sorted(listed) == sorted(known)


def test_exit_statuses_of_the_page() -> None:
    table = TEXT[TEXT.index("| exit status |") :].partition("\n\n")[0]
    listed = re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    assert listed == re.findall(r"^  (\d+) ", EXIT_STATUS, re.MULTILINE)


# --- Help ---


@pytest.mark.parametrize("words", [[], *(name.split()[1:] for name in COMMANDS)])
def test_help_teaches_by_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command([*words, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert EXIT_STATUS.strip() in shown
    examples = re.findall(r"^  (rate-limiter .*)$", shown, re.MULTILINE)
    assert examples
    assert all(one.startswith(" ".join(["rate-limiter", *words])) for one in examples)
    # Each example is one that the parser takes.
    for one in examples:
        parser().parse_args(shlex.split(one.partition(" > ")[0])[1:])


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"rate-limiter completion"}))
def test_json_is_everywhere(name: str) -> None:
    assert "--json" in COMMANDS[name]._option_string_actions


# --- Errors, in one line ---


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and the one line of an error."""
    try:
        status = command(words)
    except SystemExit as left:
        status = int(left.code or 0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("rate-limiter: ")
    assert shown.err.count("\n") == 1, shown.err
    return status, shown.err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "required: COMMAND"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["inspect"], 2, "required: KEY"),
        (["inspect", "k", "--limit", "often"], 2, "--limit: invalid limit 'often'"),
        (["inspect", "k", "--store", "http://x"], 2, "--store: "),
        (["inspect", "k", "--store", "redis://localhost:1"], 1, "cannot connect"),
        (["reset", "k", "--store", "redis://localhost:1"], 1, "cannot connect"),
        (["reset", "k", "--name", "api"], 2, "--name requires --limit"),
        (["inspect", "k", "--raw", "--limit", "1/s", "--name", "api"], 2, "excludes --raw"),
        (["rules", "check", "/nowhere/x.json"], 1, "No such file"),
        (["rules", "check", "/"], 1, "/"),
        (["rules", "push", "/nowhere/x.json"], 1, "No such file"),
        (["rules", "push", "redis://:secret@localhost"], 2, "FILE must be a file, and --store the"),
        (["rules", "check", "redis://localhost:x"], 2, "FILE: "),
        (["rules", "check", "x.json", "--hash", "h"], 2, "--hash has no effect on the rules in x"),
        (["rules", "check", "redis://h", "--format", "json"], 2, "--format has no effect on the r"),
        (["rules", "explain", "--path", "upload"], 2, "--path must begin with '/', got 'upload'"),
        (["rules", "check", "/dev/null"], 1, "/dev/null: expected a regular file"),
        (["rules", "pull", "--store", "redis://localhost:1"], 1, "cannot connect"),
        (["rules", "explain", "--path", "/", "--header", "x"], 2, "NAME=VALUE"),
        (["load"], 2, "required: --url"),
        (["load", "--url", "x"], 2, "must be http"),
        (["load", "--url", "http://localhost/", "--seconds", "4000"], 2, "seconds must be"),
        (["load", "--url", "http://localhost/", "--seconds", "x"], 2, "--seconds"),
        (["load", "--url", "http://192.0.2.1/"], 1, "not this machine"),
        (["load", "--url", "http://localhost:1/"], 1, "connection refused"),
        (["load", "--url", "http://localhost/", "--plot", "x.doc"], 2, ".png"),
        (["load", "--url", "http://localhost/", "--json-file", "/nowhere/x"], 1, "/nowhere/x: No"),
        (["bench", "--rounds", "1"], 2, "must be 2 to 100000, got '1'"),
        (["bench", "--limit", "often"], 2, "invalid limit"),
        (["bench", "--store", "http://x"], 2, "got 'http'"),
        (["bench", "--store", "redis://localhost:1"], 1, "cannot connect"),
    ],
)
def test_errors(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, line = fails(words, capsys)
    assert (got, message in line) == (status, True), line


def test_a_line_for_each_mistake_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": {"limits": "5/minute", "nope": 1},\n "b": {"cost": -1}}')
    assert command(["rules", "check", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"rate-limiter: {path}:") for line in lines)


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("aiohttp", ["load", "--url", "http://localhost/"], "load"),
        ("rich", ["load", "--url", "http://localhost/"], "load"),
        ("matplotlib", ["load", "--url", "http://localhost/", "--plot", "x.png"], "plot"),
        ("pydantic", ["rules", "schema"], "rules"),
    ],
)
def test_a_missing_extra_is_named(module: str, words: list[str], extra: str) -> None:
    program = (
        "import sys; sys.modules[sys.argv[1]] = None; from rate_limiter.cli.main import main; "
        "sys.exit(main(sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    listed = f"rate-limiter: {module} is missing: pip install 'rate-limiter-c[{extra}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", listed)


@pytest.mark.parametrize(
    ("module", "statement", "extra"),
    [
        ("pydantic", "import rate_limiter.settings", "rules"),
        ("pydantic_settings", "import rate_limiter.settings", "rules"),
        ("pydantic", "from rate_limiter.rules import FileRules; FileRules('x.json')", "rules"),
        ("pydantic", "from rate_limiter.asgi import *; RateLimitMiddleware(0, rules='x')", "rules"),
        ("yaml", "from rate_limiter.policy.rule_files import *; parse_rules('', '.yaml')", "rules"),
        ("jwt", "import rate_limiter.jwt", "jwt"),
        ("prometheus_client", "import rate_limiter.metrics", "metrics"),
        ("opentelemetry", "import rate_limiter.telemetry", "otel"),
        ("fastapi", "import rate_limiter.fastapi", "fastapi"),
        ("flask", "import rate_limiter.flask", "flask"),
        ("werkzeug", "import rate_limiter.flask", "flask"),
    ],
)
def test_the_python_api_names_a_missing_extra(
    module: str, statement: str, extra: str, run_python: Callable[..., str]
) -> None:
    program = f"""
import sys
sys.modules[{module!r}] = None
try:
    exec({statement!r})
except ImportError as error:
    print(error, "/", error.name.partition(".")[0])
"""
    message = f"{module} is missing: pip install 'rate-limiter-c[{extra}]' / {module}\n"
    assert run_python(program) == message


def run(*words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rate_limiter", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **settings,
    )


def test_as_a_module() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{build_details()}\n", "")


def test_a_reader_that_leaves() -> None:
    program = [sys.executable, "-m", "rate_limiter", "rules", "schema"]
    line = f"{shlex.join(program)} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    # 0 when all of it fitted into the pipe before the reader had left.
    assert done.stdout in ("0\n", "1\n")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        left = subprocess.run(
            program, stdout=closed, stderr=subprocess.PIPE, timeout=120, check=False
        )
    assert (left.returncode, left.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
@pytest.mark.parametrize(("words", "status"), [("rules schema", 0), ("rules check /nowhere", 1)])
def test_closed_outputs(closed: str, words: str, status: int) -> None:
    line = f"{shlex.quote(sys.executable)} -m rate_limiter {words} {closed}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == (status if closed == ">&-" else 0), done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """An interrupted bench prints its results so far and removes its files."""
    file = tmp_path / "table"
    words = ["bench", "--rounds", "100000", "--json", "--store", f"shared://{file}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rate_limiter", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: list(tmp_path.iterdir()), "it has made its table")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (status, "")
    assert list(tmp_path.iterdir()) == []
    assert json.loads(out)["rounds"] >= 2


def test_nothing_is_imported_in_vain(run_python: Callable[..., str]) -> None:
    program = (
        "import sys; from rate_limiter.cli.main import parser; parser();"
        "print([m for m in ('aiohttp', 'rich', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    assert run_python(program) == "[]\n"


# --- Rules and the store of the settings ---

RULES = '{"default": {"limits": "5/minute"}, "\u00e9": {"limits": "6/minute"}}'


@pytest.fixture
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder, without any setting in the environment; return the folder."""
    for name in [*os.environ]:
        if name.startswith(("RATE_LIMIT", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rules_on_standard_input(tmp_path: Path) -> None:
    checked = run("rules", "check", "-", input=RULES)
    assert checked.stdout.startswith("default: everything: 5/minute\n"), checked.stderr
    yaml = "\ufeffdefault: {limits: 5/minute}"
    assert run("rules", "check", "-", "--format", "yaml", input=yaml).returncode == 0
    wrong = run("rules", "check", "-", input='{\n"a": 1}')
    assert wrong.stderr.startswith("rate-limiter: standard input:2: rule 'a': ")
    command = f"{shlex.quote(sys.executable)} -m rate_limiter rules check <(echo {RULES!r})"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (piped.stdout, piped.stderr) == (checked.stdout, "")


def test_a_pipe_without_a_writer_is_an_empty_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rules.json")
    done = run("rules", "check", str(tmp_path / "rules.json"))
    assert (done.returncode, done.stdout) == (1, "")


def test_names_that_the_output_cannot_encode() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run("rules", "check", "-", input=json.dumps(json.loads(RULES)), env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9: path /\\xe9 or /\\xe9/**: 6/minute" in done.stdout


def test_control_characters_of_rules_and_requests_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"a": {"path": "/\x1b[2J\x9b", "limits": "1/hour"}}))
    assert command(["rules", "check", str(file)]) == 0
    assert command(["rules", "explain", str(file), "--path", "/\x1b[2J\x9b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a: path /\\x1b[2J\\x9b")
    assert lines[1].startswith("GET /\\x1b[2J\\x9b of ")
    assert lines[2].startswith("=> a: path /\\x1b[2J\\x9b")


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_SENTINEL_HOSTS", "RATE_LIMITER_STORE"])
@pytest.mark.parametrize("is_in_file", [True, False])
def test_the_store_is_that_of_the_settings(
    name: str,
    is_in_file: bool,
    nothing_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"RATE_LIMITER_STORE": "redis://127.0.0.1:1/0"}.get(name, "127.0.0.1:1")
    value = value.partition(":")[0] if name == "REDIS_HOST" else value
    values = {name: value, "REDIS_PORT": "1"}
    if is_in_file:
        lines = [f"{one}={text}\n" for one, text in values.items()]
        (nothing_set / ".env").write_text("".join(lines))
    else:
        for one, text in values.items():
            monkeypatch.setenv(one, text)
    for words in (["inspect", "k"], ["reset", "k"], ["rules", "pull"]):
        assert command(words) == 1
        error = capsys.readouterr().err
        assert "127.0.0.1:1" in error, error


def test_settings_that_are_wrong(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_PORT", "x")
    assert fails(["inspect", "k"], capsys)[0] == 2
    assert "REDIS_PORT: Input should be a valid integer" in fails(["inspect", "k"], capsys)[1]


def test_settings_that_cannot_be_read(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)
    monkeypatch.delitem(sys.modules, "rate_limiter.settings", raising=False)
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    status, line = fails(["inspect", "k"], capsys)
    assert (status, "pip install 'rate-limiter-c[rules]', or give --store" in line) == (2, True)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.delenv("REDIS_HOST")
    assert "cannot connect to 127.0.0.1:1" in fails(["inspect", "k"], capsys)[1]


def test_rules_in_redis(
    nothing_set: Path,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are found by address, and by the setting that the middleware uses."""
    (nothing_set / "rules.json").write_text(RULES)
    (nothing_set / ".env").write_text(f"RATE_LIMITER_RULES={server.url}\n")
    assert command(["rules", "push"]) == 2
    assert "RATE_LIMITER_RULES is the address of a Redis" in capsys.readouterr().err
    assert command(["rules", "push", "rules.json"]) == 0
    for file in ([], [server.url]):
        capsys.readouterr()
        assert command(["rules", "explain", *file, "--path", "/x"]) == 0
        assert "=> default: everything: 5/minute" in capsys.readouterr().out
        assert command(["rules", "check", *file]) == 0
        assert capsys.readouterr().out.startswith("default: everything: 5/minute")
    assert command(["rules", "pull"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        name: {"limits": [one["limits"]], **({} if name == "default" else {"path": PATHS})}
        for name, one in json.loads(RULES).items()
    }


def test_explain_has_the_settings_of_the_middleware(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (nothing_set / "rate_limits.json").write_text(
        '{"default": {"limits": "5/minute"}, "pro": {"tier": "pro", "limits": "9/minute"}}'
    )
    (nothing_set / ".env").write_text(
        "RATE_LIMITER_KEY=jwt:sub,ip\nRATE_LIMITER_TIER=header:X-Plan\n"
        f"RATE_LIMITER_TRUSTED_PROXIES=10.0.0.0/8\nRATE_LIMITER_JWT_SECRET={SECRET}\n"
        "RATE_LIMITER_JWT_ALGORITHMS=HS256\nRATE_LIMITER_IPV6_PREFIX=48\n"
    )
    explain = ["rules", "explain", "--path", "/", "--json"]

    def found(*words: str) -> dict[str, Any]:
        assert command([*explain, *words]) == 0
        return dict(json.loads(capsys.readouterr().out))

    bearer = ("--header", f"Authorization=Bearer {token({'sub': 'ann'})}")
    assert found(*bearer, "--header", "X-Plan=pro") == {
        "rule": "pro",
        "key": "jwt:sub:ann",
        "tiers": ["pro"],
        "matches": ["pro", "default"],
    }
    forwarded = ("--client", "10.0.0.1", "--header", "X-Forwarded-For=2001:db8:1:2::3")
    assert found(*forwarded)["key"] == "ip:2001:db8:1::/48"
    assert found(*forwarded, "--key", "ip", "--trusted-proxy", "192.0.2.1")["key"] == "10.0.0.1"


PATHS = ["/\u00e9", "/\u00e9/**"]

# --- bench ---


def test_bench_measures_each_case_once_a_round(server: RedisServer) -> None:
    import redis

    bench = Bench(Limit.parse("100/minute"), server.url)
    with pytest.raises(ValueError, match="two rounds"):
        bench.results()
    for _ in range(3):
        bench.round()
    bench.close()
    results = bench.results()
    assert [len(times) for times in bench.times_ns.values()] == [3] * len(results)
    assert [one["name"] for one in results][-3:] == [
        "store, one caller",
        "store, 8 threads",
        "store, 50 tasks",
    ]
    for one in results:
        assert 0 < one["ns"]["low"] <= one["ns"]["median"] <= one["ns"]["high"]
    client = redis.Redis.from_url(server.url)
    assert client.keys("*bench:*") == []
    client.close()


def test_a_spread_lies_within_its_values() -> None:
    assert Spread.of([1, 2]) == (1.5, 1.25, 1.75)
    assert Spread.of([5, 1, 4, 2, 3]) == (3, 2, 4)


def test_a_slice_whose_empty_loop_was_interrupted_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be of negative time."""
    times_s = iter([0.0, 1.0, 3.0, 10.0, 15.0, 17.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times_s))
    calls: list[str] = []
    assert slice_s(calls.append, "k", 2) == 3
    assert calls == ["k"] * 4


def test_the_rival_of_bench_is_a_token_bucket() -> None:
    bucket = PythonBucket(5, 0)
    assert [bucket.allow("k") for _ in range(7)] == [True] * 5 + [False] * 2


def test_bench_does_not_print_a_password(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server.url.replace("redis://", "redis://default:secret@")
    admin = server.admin()
    admin.config_set("requirepass", "secret")
    try:
        assert command(["bench", "--rounds", "2", "--store", address]) == 0
    finally:
        admin.config_set("requirepass", "")
        admin.close()
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err
    assert f"store {server.address}" in shown.out
