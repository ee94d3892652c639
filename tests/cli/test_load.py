"""The load tool against a real server that counts what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter.cli.load import command as load_cli
from rate_limiter.cli.load.command import script
from rate_limiter.cli.load.generator import LoadError, LoadPlan, LoadResult, LoadRun
from rate_limiter.cli.load.histogram import RELATIVE_ERROR, LatencyHistogram
from rate_limiter.cli.load.report import LiveView, histogram, report
from rate_limiter.cli.load.result import KINDS
from rate_limiter.cli.load.target import is_loopback
from rate_limiter.cli.main import main as command
from rich.console import Console
from support.redis_servers import TlsFiles, wait_until
from support.servers import ROOT, Server, free_port, serve

SERVER = (
    "-m",
    "uvicorn",
    "tests.support.load_app:app",
    "--port",
    "{port}",
    "--log-level",
    "warning",
)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Server]:
    """Run a server that has seen nothing yet."""
    with serve(tmp_path / "server.log", *SERVER) as server:
        yield server


def seen(server: Server) -> Any:
    return httpx.get(f"{server.url}/seen").json()


def load(url: str, **settings: Any) -> LoadResult:
    return asyncio.run(LoadRun(LoadPlan(url, **settings)).run())


# --- Requests and reports ---


def test_counts_are_those_of_the_server(counting: Server) -> None:
    result = load(f"{counting.url}/limited", requests=120, users=4, concurrency=8, seconds=60)
    report = seen(counting)
    assert report["requests"] == {"GET /limited": 120}
    assert report["keys"] == {f"user-{number}": 30 for number in range(4)}
    assert result.statuses == {200: 40, 429: 80}
    assert [result.count_of(kind) for kind in KINDS] == [40, 80, 0]
    assert (result.requests, result.failed, result.ended_by) == (120, 0, "requests")
    assert (result.retry_after_seen, result.retry_after_s) == (80, (1, 3))
    assert sum(sum(second) for second in result.timeline) == 120
    assert result.requests_per_s == pytest.approx(120 / result.elapsed_s)


def test_method_headers_and_key(counting: Server) -> None:
    headers = (("X-Other", "1"),)
    result = load(
        f"{counting.url}/a%20b?c=d", method="POST", api_key="k", headers=headers, requests=3
    )
    assert seen(counting) == {"keys": {"k": 3}, "requests": {"POST /a b": 3}}
    assert result.statuses == {200: 3}


def test_redirects_are_not_followed(counting: Server) -> None:
    result = load(f"{counting.url}/redirect", requests=5)
    assert result.statuses == {302: 5}
    assert seen(counting)["requests"] == {"GET /redirect": 5}
    assert (result.count_of("other"), result.failed) == (5, 0)


def test_time_is_a_bound(counting: Server) -> None:
    result = load(f"{counting.url}/slow", seconds=0.5, concurrency=2)
    assert result.ended_by == "seconds"
    # Two connections, 0.05 s a request: 20 of them at most, and the 2 that had just begun.
    assert 2 <= result.requests <= 22
    assert result.requests == seen(counting)["requests"]["GET /slow"]


def test_a_closed_loop_keeps_no_more_under_way_than_it_may(counting: Server) -> None:
    result = load(f"{counting.url}/slow", requests=12, concurrency=3, seconds=60)
    # Four turns of 0.05 s at least.
    assert result.elapsed_s >= 0.2
    assert result.latencies["allowed"].min_ns >= 50e6


def test_a_rate_counts_from_when_a_request_was_due(counting: Server) -> None:
    """One connection of 20 requests a second cannot do 100: the wait for it grows."""
    result = load(f"{counting.url}/slow", rate=100, concurrency=1, requests=20, seconds=60)
    assert result.requests == 20
    # The last was due at 0.19 s, and 19 of 0.05 s were before it.
    assert result.latencies["allowed"].max_ns >= (20 * 0.05 - 0.19) * 1e9
    late = load(f"{counting.url}/slow", rate=100, concurrency=1, seconds=0.5)
    assert late.ended_by == "seconds"
    assert late.unsent == 50 - late.requests > 0


@pytest.mark.parametrize(
    ("rate", "seconds", "due"),
    [(100, 0.07, 7), (400, 33.45, 13_380), (100, 0.071, 8), (0.5, 1, 1), (900, 60, 20_000)],
)
def test_how_many_are_due(rate: float, seconds: float, due: int) -> None:
    """Request i is due at i / rate; there is none at the end of the time itself."""
    plan = LoadPlan("http://localhost/", rate=rate, seconds=seconds, requests=20_000)
    assert plan.due == due


def test_all_that_are_due_are_sent(counting: Server) -> None:
    result = load(f"{counting.url}/", rate=100, seconds=0.07)
    assert (result.requests, result.unsent, result.ended_by) == (7, 0, "seconds")


def test_a_rate_is_kept(counting: Server) -> None:
    result = load(f"{counting.url}/", rate=50, concurrency=20, requests=26, seconds=60)
    assert (result.requests, result.unsent) == (26, 0)
    assert result.elapsed_s >= 0.5


def test_a_server_error_is_a_failure(counting: Server) -> None:
    result = load(f"{counting.url}/broken", requests=7)
    assert (result.statuses, result.failed, result.count_of("other")) == ({503: 7}, 7, 7)


def test_timeouts(counting: Server) -> None:
    result = load(f"{counting.url}/never", requests=3, timeout_s=0.2, concurrency=3)
    assert (result.errors, result.answers, result.failed) == ({"timeout": 3}, 0, 3)


def test_a_server_that_dies_under_way(tmp_path: Path) -> None:
    async def main(server: Server) -> LoadResult:
        run = LoadRun(LoadPlan(f"{server.url}/slow", seconds=60, concurrency=4))
        running = asyncio.create_task(run.run())
        while run.result.answers < 8:
            await asyncio.wait([running], timeout=0.01)
        server.process.kill()
        while run.result.errors.total() < 8:
            await asyncio.wait([running], timeout=0.01)
        run.stop()
        return await running

    with serve(tmp_path / "log", *SERVER) as server:
        result = asyncio.run(main(server))
    assert set(result.errors) <= {"refused", "disconnected"}
    assert result.errors["refused"] > 0
    assert result.statuses[200] >= 8
    assert result.ended_by == "interrupt"


def test_no_http(tmp_path: Path) -> None:
    """A response of another protocol is a separate kind of error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if connection.recv(1000):
                            connection.sendall(b"SSH-2.0-x\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = load(f"http://127.0.0.1:{listener.getsockname()[1]}/", requests=2, concurrency=1)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert result.errors == {"no HTTP": 2}


# --- Where it may go ---


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.255.3.4", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%lo", False),
        ("::", False),
    ],
)
def test_loopback(address: str, is_own: bool) -> None:
    assert is_loopback(address) is is_own


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail(f"a connection to {args} was tried")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", refuse)


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0", "[::ffff:192.0.2.1]"])
def test_elsewhere_is_refused_without_a_connection(host: str) -> None:
    with pytest.raises(LoadError, match=r"is not this machine.*--target-is-mine"):
        load(f"http://{host}:8080/")


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let a name have these addresses, the last of them for good; return who was asked for."""
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **kwargs: Any) -> Any:
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*stream, (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.usefixtures("no_connections")
def test_every_address_of_a_name_must_be_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.1", "192.0.2.1"])
    with pytest.raises(LoadError, match=r"both.test \(192.0.2.1\) is not this machine"):
        load("http://both.test:8080/")


def test_what_was_checked_is_what_is_connected_to(
    counting: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that turns to another address after the check is not looked up again."""
    asked = resolve(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    result = load(f"http://rebinding.test:{counting.port}/", requests=10, concurrency=5)
    assert result.statuses == {200: 10}
    assert asked.count("rebinding.test") == 1


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "1.2.3.4.5"])
def test_hosts_of_digits_are_not_looked_up_again(
    host: str, counting: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An HTTP client may treat such a host as an address and resolve it."""
    asked = resolve(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    result = load(f"http://{host}:{counting.port}/", requests=3)
    assert (result.statuses, result.errors) == ({200: 3}, {})
    assert asked.count(host) == 1


def test_the_caller_may_own_the_target(counting: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr("rate_limiter.cli.load.target.is_loopback", lambda address: False)
    url = f"http://mine.test:{counting.port}/"
    with pytest.raises(LoadError):
        load(url, requests=1)
    assert load(url, requests=1, is_mine=True).statuses == {200: 1}


def test_unused_port() -> None:
    port = free_port()
    with pytest.raises(LoadError, match=f"cannot connect to localhost:{port}: connection refused"):
        load(f"http://localhost:{port}/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8080"}, "the URL must be http"),
        ({"url": "ftp://localhost/"}, "the URL must be http"),
        ({"url": "http://[::1/"}, "the URL .* is wrong"),
        ({"url": "http://a:b@localhost/"}, "no user or password"),
        ({"url": "http://localhost:99999/"}, "the URL .* is wrong"),
        ({"method": "GE T"}, "the method must be a word"),
        ({"headers": (("A", "b\r\nC: d"),)}, "cannot be sent as a header"),
        ({"api_key": "\n"}, "cannot be sent as a header"),
        ({"users": -1}, "users must be 0 to 1,000,000, got -1"),
        ({"users": 3, "api_key": "k"}, "exclude each other"),
        ({"concurrency": 0}, "concurrency must be 1 to 10,000, got 0"),
        ({"concurrency": 10_001}, "concurrency must be 1 to 10,000"),
        ({"seconds": 3601}, "seconds must be 0.001 to 3,600"),
        ({"seconds": math.nan}, "seconds must be"),
        ({"requests": 0}, "requests must be 1 to 100,000,000"),
        ({"rate": 0.0}, "rate must be"),
        ({"timeout_s": math.inf}, "timeout must be"),
    ],
)
def test_wrong_plans(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadPlan(**{"url": "http://localhost/", **settings})


# --- Percentiles ---


@given(
    st.lists(st.integers(0, 10**13), min_size=1, max_size=200),
    st.sampled_from([0, 1, 25, 50, 90, 95, 99, 99.9, 100]),
)
def test_percentiles(latencies_ns: list[int], percent: float) -> None:
    """Against the definition: the least value that so many per cent of all do not exceed."""
    found = LatencyHistogram()
    halves = LatencyHistogram(), LatencyHistogram()
    for number, latency_ns in enumerate(latencies_ns):
        found.record(latency_ns)
        halves[number % 2].record(latency_ns)
    count = len(latencies_ns)
    exact = min(
        value
        for value in latencies_ns
        if sum(other <= value for other in latencies_ns) >= math.ceil(count * percent / 100)
    )
    got = found.percentile_ns(percent)
    assert got is not None
    assert abs(got - exact) <= exact * RELATIVE_ERROR
    assert found.percentiles_ns([percent, 100]) == [got, found.percentile_ns(100)]
    assert (found.min_ns, found.max_ns) == (min(latencies_ns), max(latencies_ns))
    assert found.mean_ns == sum(latencies_ns) / count
    joined = LatencyHistogram()
    for half in halves:
        joined.add(half)
    assert list(joined.buckets()) == list(found.buckets())
    assert (joined.count, joined.min_ns, joined.max_ns) == (count, found.min_ns, found.max_ns)


@given(st.integers(0, 2**62))
def test_a_value_is_in_its_bucket(latency_ns: int) -> None:
    found = LatencyHistogram()
    found.record(latency_ns)
    ((low_ns, high_ns, count),) = found.buckets()
    assert low_ns <= latency_ns < high_ns
    assert count == 1


def test_memory_of_a_histogram_is_bounded() -> None:
    found = LatencyHistogram()
    hour_ns = 3600 * 10**9
    value = 1.0
    while value < hour_ns:
        found.record(int(value))
        value *= 1.0005
    assert sum(1 for _ in found.buckets()) < 18_000
    empty = LatencyHistogram()
    assert (empty.percentile_ns(50), empty.mean_ns, empty.max_ns) == (None, None, 0)
    with pytest.raises(ValueError, match="0 to 100, got 101"):
        empty.percentile_ns(101)
    with pytest.raises(ValueError, match=">= 0 ns, got -1"):
        empty.record(-1)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_a_drawn_histogram_counts_all(latencies_ns: list[int]) -> None:
    result = LoadResult()
    for number, latency_ns in enumerate(latencies_ns):
        result.record((200, 429, 500)[number % 3], latency_ns, None)
    console = Console(width=120, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(histogram(result, "#"))
    rows = console.export_text().splitlines()[1:]
    assert sum(int(row.split()[1].replace(",", "")) for row in rows) == len(latencies_ns)
    assert len(rows) <= 15
    assert all(row.split()[2] for row in rows if row.split()[1] != "0")


# --- The command ---


def test_json_and_files(
    counting: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json-file", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.png")]
    words = ["--requests", "40", "--users", "2", "--concurrent", "4", "--json", *files]
    assert command(["load", "--url", f"{counting.url}/limited", *words]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert shown.err == ""
    assert (report["allowed"], report["limited"], report["requests"]) == (20, 20, 40)
    assert report["latency_ms"]["limited"]["p99"] <= report["latency_ms"]["limited"]["max"]
    assert report["retry_after"] == {"seen": 20, "min_s": 1, "max_s": 3}
    assert json.loads((tmp_path / "x.json").read_text()) == report
    image = (tmp_path / "x.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
    assert width > 500 < height


def test_lines_where_there_is_no_terminal(
    counting: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--requests", "30", "--api-key", "k", "--header", "X-A=b=c", "--method", "post"]
    assert command(["load", "--url", f"{counting.url}/limited", *words]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert f"POST {counting.url}/limited" in out
    assert "statuses       200: 10, 429: 20" in out
    assert "Retry-After    on all of the 429s, 1 to 3 s" in out


def test_the_live_table_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn by the thread that measures: the longer that takes, the rarer it is done."""
    drawn = []

    def draw(view: LiveView, elapsed_s: float) -> None:
        drawn.append(elapsed_s)
        time.sleep(0.05)

    async def main() -> None:
        console = Console(file=io.StringIO(), force_terminal=True)
        running = asyncio.ensure_future(asyncio.sleep(1, LoadResult()))
        await load_cli._live(LoadRun(LoadPlan("http://localhost/")), console, running)

    monkeypatch.setattr(LiveView, "update", draw)
    asyncio.run(main())
    assert len(drawn) == 1


def test_a_report_on_ascii() -> None:
    result = LoadResult(elapsed_s=1.0, ended_by="seconds")
    result.record(200, 5_000_000, None)
    with open(os.devnull, "w") as nowhere:
        console = Console(width=80, record=True, file=nowhere)
        console.print(report(LoadPlan("http://localhost/"), result, is_unicode=False))
    assert console.export_text().isascii()


def test_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = TlsFiles(tmp_path)
    files.make_authority("ca")
    files.make("server", "DNS:localhost,IP:127.0.0.1")
    words = ("--ssl-certfile", files.certificate("server"), "--ssl-keyfile", files.key("server"))
    with serve(tmp_path / "log", *SERVER, *map(str, words)) as server:
        load = ["load", "--url", f"https://127.0.0.1:{server.port}/", "--requests", "3", "--json"]
        statuses = [
            command([*load, *more]) for more in ([], ["--cacert", str(files.ca)], ["--insecure"])
        ]
    assert statuses == [3, 0, 0]
    found = [json.loads(text + "}") for text in capsys.readouterr().out.split("\n}\n")[:-1]]
    assert [one["errors"] for one in found] == [{"tls": 3}, {}, {}]


@pytest.mark.parametrize(
    ("url", "words", "message"),
    [
        ("http://localhost/", ["--insecure"], "no effect on an http URL"),
        ("http://localhost/", ["--cacert", "x"], "no effect on an http URL"),
        ("https://localhost/", ["--cacert", "x", "--insecure"], "no effect if none is checked"),
        ("https://localhost/", ["--cacert", "/nowhere"], "'/nowhere': No such file or directory"),
        ("https://localhost/", ["--cacert", __file__], "no certificates in "),
    ],
)
def test_options_of_certificates(
    url: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["load", "--url", url, *words]) == 2
    assert message in capsys.readouterr().err


def test_failed_requests_have_an_exit_status(
    counting: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["load", "--url", f"{counting.url}/broken", "--requests", "3"]) == 3
    assert "503: 3" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_prints_the_results_so_far(
    counting: Server, number: signal.Signals, status: int
) -> None:
    words = ["load", "--url", f"{counting.url}/slow", "--seconds", "600", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rate_limiter", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: seen(counting)["requests"].get("GET /slow", 0) > 40, "it is loaded")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (status, "")
    report = json.loads(out)
    assert report["ended_by"] == "interrupt"
    assert report["requests"] >= 20
    # Of those that were under way, some may not have come as far as the server.
    got = seen(counting)["requests"]["GET /slow"]
    assert report["requests"] <= got <= report["requests"] + report["unfinished"]


@pytest.mark.skipif(sys.platform != "linux", reason="a full disk at hand needs Linux")
@pytest.mark.parametrize(("option", "name"), [("--json-file", "x.json"), ("--plot", "x.png")])
def test_a_full_disk(
    option: str, name: str, counting: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.symlink_to("/dev/full")
    assert command(["load", "--url", counting.url, "--requests", "2", option, str(path)]) == 1
    shown = capsys.readouterr()
    assert "statuses       200: 2" in shown.out
    assert shown.err == f"rate-limiter: {path}: No space left on device\n"


def test_a_test_that_cannot_begin_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    words = ["load", "--url", f"http://127.0.0.1:{free_port()}/", "--json-file", str(path)]
    assert command(words) == 1
    assert not path.exists()
    path.write_text("of the last one")
    assert command(words) == 1
    assert path.read_text() == "of the last one"


# --- The scripts of the demos ---


def printed_by_script(demo: str, words: str) -> str:
    """Run a script in the folder of a demo; return its output."""
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=ROOT / "demo" / demo,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_script_of_the_gateway(counting: Server) -> None:
    words = (
        f"tools/load_test.py --url {counting.url}/limited --api-key K --concurrency 20 --seconds 1"
    )
    printed = printed_by_script("gateway", words)
    report = seen(counting)["keys"]
    assert f"200: 10, 429: {report['K'] - 10:,}" in printed
    assert list(report) == ["K"]


def test_the_script_of_the_service(counting: Server) -> None:
    words = f"scripts/load_test.py --requests 60 --concurrent 6 --users 3 --url {counting.url}"
    printed = printed_by_script("service", words)
    assert seen(counting) == {
        "keys": {f"user-{number}": 20 for number in range(3)},
        "requests": {"POST /api/resource": 60},
    }
    assert "closed loop of 6 connections, 3 users" in printed


def test_defaults_of_a_script(counting: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """An API key replaces its users; its help shows its own defaults."""
    defaults = {"url": counting.url, "path": "/p", "method": "POST", "requests": 4, "users": 2}
    assert script("Try.", [], **defaults) == 0
    assert script("Try.", ["--api-key", "k"], **defaults) == 0
    assert script("Try.", ["--users", "1", "--concurrency", "1"], **defaults) == 0
    keys = {"user-0": 6, "user-1": 2, "k": 4}
    assert seen(counting) == {"keys": keys, "requests": {"POST /p": 12}}
    assert script("Try.", ["--users", "1", "--api-key", "k"], **defaults) == 2
    with pytest.raises(SystemExit):
        script("Try.", ["--help"], **defaults, concurrency=50)
    report = " ".join(capsys.readouterr().out.split())
    for option in (
        "connections (50)",
        "at most (4)",
        "user-1, ... (2)",
        "HTTP method (POST)",
        "at most (300)",
    ):
        assert option in report
    assert f"({counting.url}; without a path: /p)" in report
