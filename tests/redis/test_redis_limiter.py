"""Limiters on a real Redis: the API, threads, event loops, processes, and how they connect."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from rate_limiter import (
    AsyncRateLimiter,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitExceeded,
    StoreError,
)
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.redis_address import redis_address
from rate_limiter.stores.redis_store import RedisStore
from support.exact import ExactBucket, ExactLimit
from support.redis_servers import PATIENT, RedisServer, make_tls, redis_server

# A bucket that does not refill while a test runs.
SLOW = "/day; burst="


def on_redis(limits: Any, server: RedisServer, **settings: Any) -> RedisRateLimiter:
    limiter = RateLimiter(limits, store=server.url, on_store_error="raise", **settings)
    assert isinstance(limiter, RedisRateLimiter)
    return limiter


@pytest.fixture(params=["threads", "tasks"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that calls a method of a limiter, blocking or awaited."""

    def call(limiter: RateLimiter, method: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "threads":
            return getattr(limiter, method)(*args, **kwargs)

        async def run() -> Any:
            return await getattr(AsyncRateLimiter.of(limiter), method)(*args, **kwargs)

        return asyncio.run(run())

    return call


# --- The API ---


def test_methods(server: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = on_redis(f"5{SLOW}5", server)
    assert ask(limiter, "allow", "k") is True
    decision = ask(limiter, "hit", "k", 2)
    assert (decision.allowed, decision.limit, int(decision.remaining * 1000)) == (True, 5.0, 2000)
    assert ask(limiter, "peek", "k", 3).allowed is False
    assert ask(limiter, "peek", "k", 2).allowed is True
    denied = ask(limiter, "hit", "k", cost=3)
    assert not denied
    assert 17_000 < denied.retry_after <= 17_280
    assert ask(limiter, "refund", "k", 1) is None
    assert ask(limiter, "hit", "k", 3).remaining == pytest.approx(0, abs=1e-3)
    assert ask(limiter, "reset", "k") is None
    assert ask(limiter, "peek", "k", 0).remaining == 5
    assert ask(limiter, "allow_many", ["k", "l", "k"], 3) == [True, True, False]
    assert ask(limiter, "peek", "l", 6).retry_after == float("inf")
    assert ask(limiter, "allow", "k", 0) is True


@pytest.mark.parametrize("key", ["é{x}%", b"\xff\x00\r\n", "", "\ud800", "a" * 5000])
def test_any_key(server: RedisServer, ask: Callable[..., Any], key: str | bytes) -> None:
    limiter = on_redis(f"1{SLOW}1", server)
    assert [ask(limiter, "allow", key) for _ in range(2)] == [True, False]
    assert ask(limiter, "allow", "another") is True
    (name,) = limiter.redis_keys(key)
    assert len(name) < 250
    assert name.count(b"{") == name.count(b"}") == 1
    with contextlib.closing(server.admin()) as client:
        assert client.exists(name)


@pytest.mark.parametrize(
    ("args", "error"),
    [((5,), TypeError), ((None,), TypeError), (("k", -1), ValueError), (("k", "1"), TypeError)],
)
def test_bad_arguments(
    server: RedisServer, ask: Callable[..., Any], args: tuple[Any, ...], error: type[Exception]
) -> None:
    limiter = on_redis("5/s", server)
    with pytest.raises(error):
        ask(limiter, "allow", *args)
    with pytest.raises(TypeError):
        ask(limiter, "allow_many", ["good", 5])
    assert limiter.store.health()["status"] == "ok"
    with contextlib.closing(server.admin()) as client:
        assert client.dbsize() == 0


def test_several_limits(server: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = on_redis([Limit(2, 2 / 86400), Limit(10, 10 / 86400)], server)
    assert [ask(limiter, "allow", "k") for _ in range(3)] == [True, True, False]
    denied = ask(limiter, "hit", "k")
    assert (denied.limit, denied.allowed) == (2.0, False)
    narrow, wide = ask(limiter, "inspect", "k")
    assert (narrow.limit, round(narrow.tokens or 0), round(wide.tokens or 0)) == (
        Limit(2, 2 / 86400),
        0,
        8,
    )
    assert wide.key == "rl:{k}:10/day"


def test_limiters_share_by_limit_and_name(server: RedisServer) -> None:
    one, same = on_redis(f"3{SLOW}3", server), on_redis(f"3{SLOW}3", server)
    other = on_redis(f"3{SLOW}3", server, name="other")
    assert [one.allow("k"), same.allow("k"), one.allow("k"), same.allow("k")] == [True] * 3 + [
        False
    ]
    assert other.allow("k") is True
    assert one.store.connection is other.store.connection


def test_acquire_waits(server: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = on_redis("20/s; burst=1", server)
    started = time.monotonic()
    for _ in range(3):
        assert ask(limiter, "acquire", "k")
    assert time.monotonic() - started > 0.09
    with pytest.raises(RateLimitExceeded):
        ask(on_redis(f"1{SLOW}1", server), "acquire", "k", 1, 0.1) and ask(
            on_redis(f"1{SLOW}1", server), "acquire", "k", 1, 0.1
        )


def test_clock_is_the_servers(server: RedisServer) -> None:
    with pytest.raises(ValueError, match="uses the clock of its server"):
        on_redis("1/s", server, clock=ManualClock())


def test_clocks_of_clients_change_nothing(server: RedisServer) -> None:
    """A client whose clocks are ten seconds ahead decides the same."""
    program = (
        "import time, sys\n"
        "real, wall = time.monotonic, time.time\n"
        "time.monotonic, time.time = lambda: real() + 10, lambda: wall() + 10\n"
        "from rate_limiter import RateLimiter\n"
        "limiter = RateLimiter('10/day', store=sys.argv[1], on_store_error='raise')\n"
        "print(sum(limiter.allow('k') for _ in range(7)))\n"
    )
    limiter = on_redis("10/day", server)
    assert sum(limiter.allow("k") for _ in range(7)) == 7
    command = [sys.executable, "-c", program, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "3\n"


def test_memory_redis_and_the_exact_model_agree(server: RedisServer) -> None:
    """The same trace, with time going on by refunds of what it refills."""
    limit = Limit(7, 1 / 3600)
    clock = ManualClock()
    memory = RateLimiter(limit, clock=clock)
    remote = on_redis(limit, server)
    exact = ExactBucket(ExactLimit.of(limit.capacity, limit.refill_rate))
    now_ns = 0
    for step, cost in enumerate([1, 2, 0, 3, 2, 1, 0.5, 0.25, 1, 7, 0.25, 4, 2, 1, 1, 0.1] * 4):
        if step % 5 == 4:
            now_ns += 3600_000_000_000
            clock.set_ns(now_ns)
            remote.refund("k", 1)
        units = exact.limit.cost(cost)
        allowed = exact.missing(units, now_ns) <= 0
        if allowed:
            exact.take(units, now_ns)
        assert memory.allow("k", cost) is allowed, step
        decision = remote.hit("k", cost)
        assert decision.allowed is allowed, step
        assert decision.remaining == pytest.approx(memory.peek("k", 0).remaining, abs=0.01)


# --- Exact totals ---

THREADS = """
import sys, threading
from rate_limiter import RateLimiter
limiter = RateLimiter("1000/day", store=sys.argv[1], on_store_error="raise")
counts = []
def work():
    counts.append(sum(limiter.allow("k") for _ in range(40)))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(counts))
"""
TASKS = """
import asyncio, sys
from rate_limiter import AsyncRateLimiter
async def main():
    limiter = AsyncRateLimiter("1000/day", store=sys.argv[1], on_store_error="raise")
    async def work():
        return sum([await limiter.allow("k") for _ in range(10)])
    print(sum(await asyncio.gather(*(work() for _ in range(50)))))
asyncio.run(main())
"""


@pytest.mark.parametrize(("program", "processes"), [(THREADS, 8), (TASKS, 4)])
def test_exact_total_of_processes(server: RedisServer, program: str, processes: int) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", program, server.url], stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    totals = [int(each.communicate(timeout=120)[0]) for each in running]
    assert sum(totals) == 1000
    assert processes * 320 > 1000


def test_no_reply_reaches_another_caller(server: RedisServer) -> None:
    """Each thread has its own key and cost, which the reply must show."""
    limiter = on_redis(f"100{SLOW}100000", server)
    wrong: list[object] = []

    def work(number: int) -> None:
        for taken in range(1, 200):
            decision = limiter.hit(f"thread{number}", number)
            if round(decision.remaining) != 100000 - number * taken:
                wrong.append((number, taken, decision))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- Event loops ---

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run_on(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Any) -> Any:
    loop = new_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_tasks_get_their_own_answers(server: RedisServer, new_loop: Any) -> None:
    # Nothing comes back within hours, so the numbers are exact on a machine of any speed.
    limiter = AsyncRateLimiter(Limit(100_000, 3e-5), store=server.url, on_store_error="raise")

    async def work(number: int) -> None:
        for taken in range(1, 20):
            decision = await limiter.hit(f"task{number}", number)
            assert round(decision.remaining) == 100000 - number * taken

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(1, 101)))

    run_on(new_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_loops_come_and_go(server: RedisServer, new_loop: Any) -> None:
    limiter = AsyncRateLimiter(f"50{SLOW}50", store=server.url, on_store_error="raise")

    async def main() -> list[bool]:
        return await asyncio.gather(*(limiter.allow("k") for _ in range(5)))

    before = len(os.listdir("/proc/self/fd"))
    errors = limiter.store.health()["errors"]  # of other limiters that still use this Redis
    for _ in range(10):
        assert run_on(new_loop, main()) == [True] * 5
    limiter.store.close()
    gc.collect()
    # One connection for this process' next loop may be there, not ten.
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert limiter.store.health()["errors"] == errors


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_cancelled_task_leaves_the_stream_in_step(server: RedisServer, new_loop: Any) -> None:
    limiter = AsyncRateLimiter(f"100{SLOW}100000", store=server.url, on_store_error="raise")

    async def main() -> None:
        await limiter.allow("warm")
        for round_ in range(20):
            tasks = [asyncio.create_task(limiter.hit(f"{round_}:{i}", i)) for i in range(1, 11)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for i, answer in enumerate(done, 1):
                if (i - 1) % 3 == 0:
                    assert isinstance(answer, asyncio.CancelledError)
                else:
                    assert not isinstance(answer, BaseException)
                    assert round(answer.remaining) == 100000 - i

    run_on(new_loop, main())


async def test_calls_of_one_turn_go_out_together(server: RedisServer) -> None:
    limiter = AsyncRateLimiter(f"1000{SLOW}1000", store=server.url, on_store_error="raise")
    await limiter.allow("k")
    with contextlib.closing(server.admin()) as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(limiter.allow("k") for _ in range(100)))
        reads = client.info("stats")["total_reads_processed"] - before
    assert reads < 20


async def test_tasks_with_odd_keys_among_others(server: RedisServer) -> None:
    """One script decides for many; a decision it cannot make is sent again, alone."""
    limiter = AsyncRateLimiter(f"10{SLOW}10", store=server.url, on_store_error="raise")
    with contextlib.closing(server.admin()) as client:
        client.lpush("rl:{list}:10/day", "x")
        client.set("rl:{hand}:10/day", f"4@{time.time():.6f}")
    answers = await asyncio.gather(
        *(limiter.hit(key) for key in ("a", "list", "hand", "a")), return_exceptions=True
    )
    assert isinstance(answers[1], StoreError)
    assert "WRONGTYPE" in str(answers[1])
    left = [round(each.remaining) for each in answers if not isinstance(each, BaseException)]
    assert left == [9, 3, 8]


async def test_the_loop_is_never_blocked(server: RedisServer) -> None:
    limiter = AsyncRateLimiter(f"10{SLOW}10", store=server.url, on_store_error="raise")
    await limiter.allow("k")
    server.pause()
    try:
        asking = asyncio.create_task(limiter.allow("k"))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not asking.done()
    finally:
        server.resume()
    assert await asking is True


# --- Threads, signals, forks ---


def test_one_connection_for_all_threads(server: RedisServer) -> None:
    limiter = on_redis(f"100{SLOW}100000", server, name="threads")
    address = f"{server.url}&client_name=all-threads"
    limiter = RateLimiter("100000/day", store=address, on_store_error="raise")  # type: ignore[assignment]
    threads = [
        threading.Thread(target=lambda: [limiter.allow("k") for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with contextlib.closing(server.admin()) as client:
        names = [each["name"] for each in client.client_list()]
    assert names.count("all-threads") == 1


def test_keyboard_interrupt(server: RedisServer, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from rate_limiter import RateLimiter\n"
        "limiter = RateLimiter('5/s', store=sys.argv[1], on_store_error='raise')\n"
        "limiter.allow('k')\n"
        "print('asking', flush=True)\n"
        "try:\n"
        "    while True: limiter.allow('k')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "    limiter.store.ping(); print('and well', flush=True)\n"
    )
    with redis_server(tmp_path) as own:
        process = subprocess.Popen(
            [sys.executable, "-c", program, own.url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        own.pause()
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - started < 15
        own.resume()
        assert process.communicate(timeout=30)[0] == "and well\n"


FORK = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is the point
from rate_limiter import RateLimiter
limiter = RateLimiter("100/day; burst=100000", store=sys.argv[1], on_store_error="raise")
limiter.allow("k")
stop = threading.Event()
def work():
    while not stop.is_set():
        limiter.hit("parent")
threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
[thread.start() for thread in threads]
children = []
for number in range(1, 9):
    child = os.fork()
    if child == 0:
        good = all(
            round(limiter.hit(f"child{number}", number).remaining) == 100000 - number * taken
            for taken in range(1, 51)
        )
        os._exit(0 if good else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
[thread.join() for thread in threads]
print(codes, limiter.store.health()["errors"])
"""


@pytest.mark.parametrize("threads", [3, 24])  # 24: some sleep until they may wait for the GIL
def test_fork_under_load(server: RedisServer, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, server.url, str(threads)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{[0] * 8} {{}}\n", "")


# --- How it connects ---


def test_unix_socket(server: RedisServer) -> None:
    limiter = RateLimiter(
        "2/day", store=f"unix://{server.socket_path}?db=1&{PATIENT}", on_store_error="raise"
    )
    assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
    with contextlib.closing(server.admin(db=1)) as client:
        assert client.dbsize() == 1


def test_password_database_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The timeouts of a client are not taken over, and the usual ones are short for a busy machine.
    monkeypatch.setattr(
        "rate_limiter.stores.redis_store.redis_address",
        lambda given: f"{redis_address(given)}&{PATIENT}",
    )
    with redis_server(tmp_path, password="p@ss/wörd%") as own:
        assert own.password is not None
        client = redis.Redis(port=own.port, password=own.password, db=3, client_name="my-app")
        limiter = RateLimiter("2/day", store=client, on_store_error="raise")
        assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
        with contextlib.closing(own.admin()) as admin:
            assert (admin.info("keyspace")["db3"]["keys"], admin.client_list()[0]["name"]) == (
                1,
                "my-app",
            )


def documented_rights() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "ACL SETUSER limiter" in line)
    return line.split()[3:]


def test_the_fewest_rights(tmp_path: Path) -> None:
    """The ACL of docs/stores.md is enough for everything except a search of keys."""
    with redis_server(tmp_path, "--user", "limiter", *documented_rights()) as own:
        address = f"redis://limiter:secret@127.0.0.1:{own.port}/0?{PATIENT}"
        limiter = RateLimiter("2/day", store=address, on_store_error="raise")
        assert isinstance(limiter, RedisRateLimiter)
        assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
        limiter.refund("k", 1)
        assert limiter.peek("k")
        assert limiter.inspect("k")[0].tokens == pytest.approx(1, abs=0.01)
        limiter.reset("k")
        with pytest.raises(StoreError, match="NOPERM"):
            RateLimiter("2/day", store=RedisStore(address, "other", on_store_error="raise")).allow(
                "k"
            )


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(tls: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("tls-server"), tls=tls) as server:
        yield server


def test_tls(tls_server: RedisServer, tls: Any, ask: Callable[..., Any]) -> None:
    for host in ("127.0.0.1", "localhost"):
        address = f"rediss://{host}:{tls_server.port}/0?ssl_ca_certs={tls.ca}&{PATIENT}"
        store = RedisStore(
            f"{address}&client_name={host}", uuid.uuid4().hex, on_store_error="raise"
        )
        limiter = RateLimiter("2/day", store=store)
        assert [ask(limiter, "allow", "k") for _ in range(3)] == [True, True, False]


def test_tls_many(tls_server: RedisServer) -> None:
    """Answers of many records come through whole."""
    limiter = RateLimiter("100000/day", store=tls_server.url, on_store_error="raise")
    assert limiter.allow_many([f"{i}" * 20 for i in range(3000)]) == [True] * 3000


def test_client_certificate(tls: Any, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--tls-auth-clients", "yes", tls=tls) as own:
        own_url = f"rediss://127.0.0.1:{own.port}/0?ssl_ca_certs={tls.ca}&{PATIENT}"
        files = f"&ssl_certfile={tls.certificate('client')}&ssl_keyfile={tls.key('client')}"
        assert RateLimiter("2/day", store=own_url + files, on_store_error="raise").allow("k")
        with pytest.raises(StoreError, match=r"certificate required|closed|broke"):
            RateLimiter("2/day", store=own_url, on_store_error="raise").allow("k")


@pytest.mark.parametrize(
    ("certificate", "authority", "message"),
    [
        ("server", "other.crt", "certificate was refused: (self|unable)"),
        ("elsewhere", "ca.crt", "certificate was refused: (IP address|hostname) mismatch"),
        ("expired", "ca.crt", "certificate was refused: certificate has expired"),
    ],
)
def test_refused_certificates(
    tls: Any, tmp_path: Path, certificate: str, authority: str, message: str
) -> None:
    wrong = type(tls)(tls.folder, certificate)
    server = RedisServer(tmp_path, 0, wrong.server_options())
    with contextlib.ExitStack() as stack:
        # redis-py would refuse it too: it is ready when the port accepts connections.
        stack.callback(server.kill)
        server.port = free_tls_port(server)
        for host in ("127.0.0.1", "localhost"):
            files = f"ssl_ca_certs={tls.folder / authority}"
            address = f"rediss://{host}:{server.port}/0?{files}&{PATIENT}"
            with pytest.raises(StoreError, match=message):
                RateLimiter("2/day", store=address, on_store_error="raise").allow("k")
        lax = f"rediss://127.0.0.1:{server.port}/0?ssl_cert_reqs=none&{PATIENT}"
        assert RateLimiter("2/day", store=lax, on_store_error="raise").allow("k")


def free_tls_port(server: RedisServer) -> int:
    import socket

    from support.redis_servers import PROGRAM, wait_until
    from support.servers import free_port

    port = free_port()
    server.process = subprocess.Popen(
        [PROGRAM, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--dir", str(server.folder), *server.options],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def accepts() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    wait_until(accepts, "the server accepts connections")
    return port


def test_fork_while_the_breaker_is_locked(server: RedisServer) -> None:
    program = (
        "import os, signal, sys\n"
        "from rate_limiter import RateLimiter\n"
        "limiter = RateLimiter('5/s', store=sys.argv[1], on_store_error='raise')\n"
        "limiter.allow('k')\n"
        "limiter.store.connection.breaker._lock.acquire()  # as another thread might\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    limiter.store.health()\n"
        "    os._exit(0 if limiter.allow('k') else 1)\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, server.url], check=False, timeout=60)
    assert done.returncode == 0
