"""The store in memory that the processes of one host share."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rate_limiter import AsyncRateLimiter, Limit, ManualClock, RateLimiter
from rate_limiter._core import SHARED_LAYOUT
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.stores.address import SHARED, shared_file
from support.redis_servers import wait_until
from support.servers import serve
from support.spawned import count_admitted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs Linux")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A path in memory, as programs would have it; its files are removed."""
    path = Path(f"/dev/shm/rl-pytest-{os.getpid()}-{tmp_path.name}")
    yield f"{SHARED}{path}"
    for file in path.parent.glob(f"{path.name}.*"):
        file.unlink()


def test_limiters_of_one_store_are_one(store: str) -> None:
    one, two = (RateLimiter("5/hour", store=store, max_keys=100) for _ in range(2))
    assert [limiter.allow("k") for limiter in (one, two, one, two, one, two)] == [True] * 5 + [
        False
    ]
    other = RateLimiter("5/hour", store=store, name="other", max_keys=100)
    assert other.hit("k").remaining == 4
    assert RateLimiter("6/hour", store=store, max_keys=100).allow("k")  # other limits, another file
    del one, two
    assert not RateLimiter("5/hour", store=store, max_keys=100).allow("k")  # it stays


@pytest.mark.parametrize("text", ["1234/day; burst=1234", "1234/day; window=fixed"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_admit_what_one_would(store: str, text: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    begin, admitted = context.Barrier(4), context.Value("i", 0)
    arguments = (text, 5000, {"store": store, "max_keys": 100}, begin, admitted)
    workers = [context.Process(target=count_admitted, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
    assert admitted.value == 1234


def test_a_forked_child_goes_on_with_the_same(store: str) -> None:
    limiter = RateLimiter("5/hour", store=store, max_keys=100)
    assert limiter.allow("k")
    child = os.fork()
    if child == 0:
        os._exit(0 if limiter.hit("k").remaining < 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert limiter.hit("k").remaining == pytest.approx(2, abs=0.1)


kinds = st.sampled_from([Limit(10, 1), Limit.fixed_window(10, 60), Limit.sliding_window(10, 60)])
steps = st.lists(
    st.tuples(
        st.sampled_from(["hit", "peek", "refund", "charge", "allow", "reset", "hit_each"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 25),
        st.floats(0, 100),
    ),
    max_size=30,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(limits=st.lists(kinds, min_size=1, max_size=3), steps=steps)
def test_it_agrees_with_memory(
    store: str, limits: list[Limit], steps: list[tuple[str, str, int, float]]
) -> None:
    clock = ManualClock(10**9)
    name = os.urandom(8).hex()
    memory = RateLimiter(limits, clock=clock)
    shared = RateLimiter(limits, store=store, name=name, clock=clock, max_keys=10)

    async def awaited(method: str, *arguments: Any) -> Any:
        return await getattr(AsyncRateLimiter.of(shared), method)(*arguments)

    for i, (method, key, cost, pause_s) in enumerate(steps):
        arguments = (key,) if method == "reset" else (key, cost)
        expected = getattr(memory, method)(*arguments)
        if i % 2:
            assert getattr(shared, method)(*arguments) == expected
        else:
            assert asyncio.run(awaited(method, *arguments)) == expected
        clock.advance(pause_s)
    Path(shared_file(store, name, limits, max_keys=10)).unlink()


@pytest.mark.parametrize("path", ["", "relative", "/dev/shm/"])
def test_bad_paths(path: str) -> None:
    with pytest.raises(ValueError, match="store must be 'shared://' and the absolute path"):
        RateLimiter("5/s", store=f"shared://{path}")


def test_odd_files(store: str, tmp_path: Path) -> None:
    RateLimiter("5/s", store=store, max_keys=100)
    file = Path(shared_file(store, "", "5/s", max_keys=100))
    assert file.stat().st_mode & 0o777 == 0o600
    of_another_size = Path(shared_file(store, "", "5/s", max_keys=100_000))
    shutil.copy(file, of_another_size)
    with pytest.raises(ValueError, match="was made for other limits or another max_keys"):
        RateLimiter("5/s", store=store, max_keys=100_000)
    file.chmod(0o644)
    with pytest.raises(PermissionError, match="its user alone can read and write"):
        RateLimiter("5/s", store=store, max_keys=100)
    with pytest.raises(FileNotFoundError):
        RateLimiter("5/s", store=f"shared://{tmp_path}/none/x", max_keys=100)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        RateLimiter("5/s", store=store, name="vast", max_keys=2**36)


OPENED_WITH_FEW_DESCRIPTORS = """
import os, resource, sys
from rate_limiter import RateLimiter

limiter = RateLimiter("5/hour", store=sys.argv[1], max_keys=100)
lowest = os.dup(0)
os.close(lowest)
for n in range(3):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + n, before[1]))
    try:
        other = RateLimiter("5/hour", store=sys.argv[1], max_keys=100)
        print(other.allow("k"), round(limiter.hit("k").remaining))
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
"""


def test_a_boot_id_that_cannot_be_read(store: str, run_python: Callable[..., str]) -> None:
    """The file that others use is refused or used, never emptied."""
    assert run_python(OPENED_WITH_FEW_DESCRIPTORS, store).splitlines() == [
        "[Errno 24] Too many open files, and without the boot id it is unknown whether a file in "
        "shared memory is from before the last boot: '/proc/sys/kernel/random/boot_id'",
        "True 3",
        "True 1",
    ]


OPENED_UNDER_A_LOCK = """
import fcntl, os, signal, sys, threading
from rate_limiter import RateLimiter
from rate_limiter.stores.address import shared_file

store, ends = sys.argv[1:]
RateLimiter("5/hour", store=store, max_keys=100)
other = os.open(shared_file(store, "", "5/hour", max_keys=100), os.O_RDWR)
fcntl.flock(other, fcntl.LOCK_EX)  # as a process that was stopped while it opened the file
signals = []

def handle(*_):
    signals.append(None)
    if ends == "raising" and len(signals) == 3:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
if ends == "closing":
    threading.Timer(0.5, os.close, [other]).start()
try:
    print(RateLimiter("5/hour", store=store, max_keys=100).allow("k"), len(signals) > 1)
except KeyboardInterrupt:
    print("interrupted")
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize(
    ("ends", "printed"), [("closing", "True True"), ("raising", "interrupted")]
)
def test_opening_while_another_process_is_stopped(
    store: str, run_python: Callable[..., str], ends: str, printed: str
) -> None:
    """Other threads run during the wait, and signals are handled; one may end it."""
    assert run_python(OPENED_UNDER_A_LOCK, store, ends) == f"{printed}\n"


def test_another_size_or_layout_is_another_file(store: str) -> None:
    """Processes that run go on with theirs."""
    before = RateLimiter("2/hour", store=store, max_keys=100)
    file = Path(shared_file(store, "", "2/hour", max_keys=100))
    assert before.allow("k")
    old_layout = file.with_name(file.name.replace(f".{SHARED_LAYOUT}-", ".0-"))
    old_layout.write_text("of another version")
    inode = file.stat().st_ino
    after = RateLimiter("2/hour", store=store, max_keys=100_000)
    assert [after.allow("k") for _ in range(3)] == [True, True, False]
    assert [before.allow("k") for _ in range(2)] == [True, False]
    assert file.stat().st_ino == inode
    assert old_layout.read_text() == "of another version"


def test_other_limits_start_from_the_usage(store: str) -> None:
    one, two = (RateLimiter("5/hour; 9/day", store=store, max_keys=100) for _ in range(2))
    one.hit("k", 4)
    changed = one.with_limits("10/hour; 9/day")
    assert [round(each.remaining, 2) for each in changed.peek_each("k", 0)[1:]] == [2, 5]
    assert two.peek("k").remaining == pytest.approx(1, abs=0.01)  # the old file stays
    # The other process finds what the first has made.
    changed.hit("k", 1)
    assert two.with_limits("10/hour; 9/day").peek("k", 0).remaining == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="limits of the same kinds in the same order"):
        one.with_limits("5/hour; window=fixed")


def test_everything_takes_it(store: str, caplog: pytest.LogCaptureFixture) -> None:
    def fastapi_app() -> FastAPI:
        app = FastAPI()
        limit = RateLimit("2/hour", store=store, name="route", max_keys=100)
        app.get("/route", dependencies=[Depends(limit)])(lambda: "ok")
        app.get("/")(lambda: "ok")
        rules = {"default": {"limits": "3/hour"}}
        app.add_middleware(RateLimitMiddleware, rules=rules, store=store, name="all", max_keys=100)
        return app

    clients = [TestClient(fastapi_app()) for _ in range(2)]
    assert [clients[i % 2].get("/route").status_code for i in range(3)] == [200, 200, 429]
    # What the route's limit denied took nothing from the middleware's.
    assert [client.get("/").status_code for client in clients] == [200, 429]
    assert RateLimitMiddleware(
        fastapi_app(), limits="3/hour", store=store, name="plain", max_keys=100
    ).limiter.allow("k")

    def flask_client() -> Any:
        app = Flask("shared")
        FlaskRateLimiter(app, default_limits="2/hour", store=store, max_keys=100)
        app.get("/")(lambda: "ok")
        return app.test_client()

    both = [flask_client() for _ in range(2)]
    assert [both[i % 2].get("/").status_code for i in range(3)] == [200, 200, 429]
    assert not [each for each in caplog.records if each.name.startswith("rate_limiter")]


RESIZED = """
import os
from pathlib import Path
from fastapi import FastAPI
from rate_limiter.middleware import RateLimitMiddleware
app = FastAPI()
app.get("/")(os.getpid)
app.add_middleware(
    RateLimitMiddleware, limits="100/day", store={store!r}, max_keys=int(Path("size").read_text())
)
"""


def test_a_reload_with_another_size(store: str, tmp_path: Path) -> None:
    (tmp_path / "resized.py").write_text(RESIZED.format(store=store))
    (tmp_path / "size").write_text("100")
    command = ("-m", "gunicorn", "--worker-class=uvicorn_worker.UvicornWorker", "resized:app")
    bind = ("--bind=127.0.0.1:{port}", "--keep-alive=0")
    with serve(tmp_path / "log", *command, *bind, cwd=tmp_path) as server:
        first = httpx.get(server.url, timeout=60)

        def is_another() -> bool:
            try:
                return httpx.get(server.url, timeout=60).text != first.text
            except httpx.TransportError:  # of the worker that ends
                return False

        (tmp_path / "size").write_text("100000")
        server.process.send_signal(signal.SIGHUP)
        wait_until(is_another, "another worker answers", 60)
        codes = [httpx.get(server.url, timeout=60).status_code for _ in range(5)]
    assert (first.status_code, codes) == (200, [200] * 5)


def test_workers_share_a_limit(store: str, tmp_path: Path) -> None:
    (tmp_path / "shared_app.py").write_text(
        "from rate_limiter.middleware import RateLimitMiddleware\n"
        "from starlette.applications import Starlette\n"
        f"app = RateLimitMiddleware(Starlette(), limits='7/day', store={store!r}, max_keys=100)\n"
    )
    command = ("-m", "uvicorn", "shared_app:app", "--port={port}", "--workers=3")
    with serve(tmp_path / "log", *command, environment={"PYTHONPATH": str(tmp_path)}) as server:
        codes = [httpx.get(server.url).status_code for _ in range(20)]
    assert (codes.count(404), codes.count(429)) == (7, 13)
    assert "worker processes serve" not in (tmp_path / "log").read_text()
