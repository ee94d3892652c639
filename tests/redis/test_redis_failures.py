"""Everything that Redis and the network can do to a limiter, and what must become of it.

In every case: no exception but where `raise` was asked for, no call beyond its deadline, no answer
for the wrong caller, no leak, and the engine recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, RateLimiter, StoreError
from rate_limiter.stores.redis_store import RedisStore
from support.fake_redis import FakeConnection, answering, fake_redis
from support.redis_asking import ALLOWED, BEST_S, TIMEOUT_S, WORST_S, is_back, limiter_on
from support.redis_servers import PATIENT, RedisServer, redis_server, wait_until
from support.servers import free_port


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a server that a test may break."""
    with redis_server(tmp_path) as server:
        yield server


# --- The network, the process ---


def test_nothing_listens_at_start(tmp_path: Path, ask: Callable[..., Any]) -> None:
    server = RedisServer(tmp_path, free_port())
    limiter = limiter_on(server.address)
    answer, took_s = ask(limiter)
    assert isinstance(answer, StoreError)
    assert (answer.kind, "Connection refused" in str(answer)) == ("connect", True)
    assert took_s < TIMEOUT_S + WORST_S
    try:
        server.start()
        is_back(limiter, ask)
    finally:
        server.kill()


def test_killed_and_restarted(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.address)
    assert ask(limiter)[0]
    own.kill()
    answers = [ask(limiter) for _ in range(20)]
    assert all(isinstance(answer, StoreError) for answer, _ in answers)
    assert max(took_s for _, took_s in answers) < TIMEOUT_S + WORST_S
    assert limiter.store.health()["breaker"] == "open"
    own.start()
    is_back(limiter, ask)


def test_a_restart_while_idle_is_not_noticed(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.address)
    assert ask(limiter)[0]
    own.kill()
    own.start()
    time.sleep(0.05)
    if "threads" in str(ask):
        assert ask(limiter)[0]
    is_back(limiter, ask)


def test_silence(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.address)
    assert ask(limiter)[0]
    own.pause()
    try:
        answers = [ask(limiter) for _ in range(5)]
        assert {answer.kind for answer, _ in answers} == {"timeout"}
        times = [took_s for _, took_s in answers]
        assert TIMEOUT_S <= min(times) < TIMEOUT_S + BEST_S
        assert max(times) < TIMEOUT_S + WORST_S
        # The breaker is open by now: only a probe waits now and then.
        quick = [ask(limiter)[1] for _ in range(20)]
        assert statistics.median(quick) < TIMEOUT_S / 2
    finally:
        own.resume()
    is_back(limiter, ask)
    decision, _ = ask(limiter, "another", 7)
    assert round(decision.remaining) == 100000 - 7


def test_client_pause(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.address)
    assert ask(limiter)[0]
    with contextlib.closing(own.admin()) as client:
        client.execute_command("CLIENT", "PAUSE", 1000, "ALL")
    answer, took_s = ask(limiter)
    assert answer.kind == "timeout"
    assert took_s < TIMEOUT_S + WORST_S
    is_back(limiter, ask)
    # Requests without a reply were counted late; their replies were dropped.
    assert round(ask(limiter, "fresh", 3)[0].remaining) == 100000 - 3


def test_client_kill(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.address)
    for _ in range(5):
        is_back(limiter, ask)
        with contextlib.closing(own.admin()) as client:
            client.client_kill_filter(_type="normal", skipme=True)
    is_back(limiter, ask)


def test_script_flush_is_not_noticed(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.url, limits="5/day")
    with contextlib.closing(own.admin()) as client:
        for expected in (4, 3, 2):
            client.script_flush()
            assert round(ask(limiter)[0].remaining) == expected
        assert limiter.store.health()["errors"] == {}


def test_flushall_fills_the_buckets(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.url, limits="1/day")
    assert [bool(ask(limiter)[0]) for _ in range(2)] == [True, False]
    with contextlib.closing(own.admin()) as client:
        client.flushall()
    assert [bool(ask(limiter)[0]) for _ in range(2)] == [True, False]


def test_name_that_does_not_resolve(ask: Callable[..., Any]) -> None:
    limiter = limiter_on("redis://no-such-host.invalid:6379/0")
    for _ in range(3):
        answer, took_s = ask(limiter)
        assert answer.kind in ("connect", "timeout")
        assert "no-such-host.invalid" in str(answer)
        assert took_s < TIMEOUT_S + WORST_S


def test_restart_under_load(own: RedisServer) -> None:
    """Threads and tasks go on through kill, silence and restarts, and nothing gets out of step."""
    limiter = limiter_on(own.address + "?connect_timeout=0.5", "memory")
    stop = threading.Event()
    wrong: list[Any] = []
    worst_s = [0.0]

    def work(number: int) -> None:
        while not stop.is_set():
            started = time.monotonic()
            decision = limiter.hit(f"{number}:{started}", number)
            worst_s[0] = max(worst_s[0], time.monotonic() - started)
            if round(decision.remaining) != 100000 - number:
                wrong.append(decision)

    def loop(number: int) -> None:
        async def one(task: int) -> None:
            cost = 100 * number + task
            waiting = AsyncRateLimiter.of(limiter)
            while not stop.is_set():
                decision = await waiting.hit(f"{cost}:{time.monotonic()}", cost)
                if round(decision.remaining) != 100000 - cost:
                    wrong.append(decision)

        async def main() -> None:
            await asyncio.gather(*(one(task) for task in range(10)))

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    threads += [threading.Thread(target=loop, args=(number,)) for number in range(1, 3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.3)
        own.kill()
        time.sleep(0.3)
        own.start()
        time.sleep(0.3)
        own.pause()
        time.sleep(0.7)
        own.resume()
    wait_until(lambda: limiter.store.health()["status"] == "ok", "Redis decides again")
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert worst_s[0] < TIMEOUT_S + WORST_S
    assert limiter.store.health()["fallback_decisions"] > 0


# --- What a server says ---


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "answer", "OOM"),
        (b"-READONLY You can't write against a read only replica.\r\n", "answer", "READONLY"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "answer", "LOADING"),
        (b"-NOAUTH Authentication required.\r\n", "answer", "NOAUTH"),
        (b"-NOSCRIPT No matching script.\r\n", "answer", "NOSCRIPT"),
        (b"-MOVED 1 127.0.0.1:1\r\n", "answer", "MOVED"),
        (b"+OK\r\n", "protocol", "not a decision"),
        (b"$-1\r\n", "protocol", "not a decision"),
        (b"*0\r\n", "protocol", "not a decision"),
        (b"*2\r\n:1\r\n:-5\r\n", "protocol", "not a decision"),
        (b"*3\r\n:1\r\n:1\r\n:1\r\n", "protocol", "not a decision"),
        (b"*2\r\n:1\r\n$1\r\nx\r\n", "protocol", "not a decision"),
        (b"garbage\r\n", "protocol", "does not speak the protocol"),
        (b"\x00\xff\x16\x03\x01", "protocol", "does not speak the protocol"),
        (b"*100000000\r\n", "protocol", "does not speak the protocol"),
        (b"$99999999999999999999\r\n", "protocol", "does not speak the protocol"),
        (b"*2\r\n:1\r\n", "timeout", "no answer"),
        (b"", "timeout", "no answer"),
    ],
)
def test_answers(ask: Callable[..., Any], reply: bytes, kind: str, message: str) -> None:
    with fake_redis(answering(reply)) as server:
        limiter = limiter_on(server.address if kind == "timeout" else server.url)
        for _ in range(3):
            answer, took_s = ask(limiter)
            assert isinstance(answer, StoreError)
            assert (answer.kind, message in str(answer)) == (kind, True), answer
            assert took_s < TIMEOUT_S + WORST_S
        assert limiter.store.health()["errors"] == {kind: 3}


def test_slow_and_trickled_answers(ask: Callable[..., Any]) -> None:
    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        while True:
            connection.trickle(ALLOWED, 0.002)
            connection.read_command()

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url)
        for _ in range(3):
            assert ask(limiter)[0].allowed is True


def test_a_late_answer_is_dropped(ask: Callable[..., Any]) -> None:
    """The first answer comes after the second question; it must not be taken for its answer."""

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.read_command()  # while the first has no answer yet
        connection.send(b"*2\r\n:1\r\n:1000\r\n" + b"*2\r\n:0\r\n:86400000000\r\n")

    with fake_redis(handle) as server:
        limiter = limiter_on(f"{server.address}?timeout=0.5", limits="1/day")
        assert ask(limiter)[0].kind == "timeout"
        second, _ = ask(limiter)
        assert second.allowed is False


def test_half_an_answer_then_silence(ask: Callable[..., Any]) -> None:
    """The connection is given up, and the next one works."""
    rounds = iter([b"*2\r\n:1\r\n:10", ALLOWED])

    def handle(connection: FakeConnection) -> None:
        reply = next(rounds, ALLOWED)
        connection.shake_hands()
        while True:
            connection.send(reply)
            connection.read_command()

    with fake_redis(handle) as server:
        limiter = limiter_on(server.address + "?connect_timeout=0.3")
        assert ask(limiter)[0].kind == "timeout"
        is_back(limiter, ask)
        assert server.connections >= 2


@pytest.mark.parametrize(
    "moment", ["at once", "after the handshake", "with a question", "by reset"]
)
def test_connections_that_end(ask: Callable[..., Any], moment: str) -> None:
    def handle(connection: FakeConnection) -> None:
        if moment == "at once":
            return
        if moment == "after the handshake":
            connection.read_command()
            connection.send(b"+OK\r\n")
            return
        connection.shake_hands()
        if moment == "by reset":
            connection.reset()

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url)
        for _ in range(4):
            answer, took_s = ask(limiter)
            assert isinstance(answer, StoreError)
            assert answer.kind in ("connect", "lost")
            assert took_s < TIMEOUT_S + WORST_S


def test_unasked_answers_end_a_connection(ask: Callable[..., Any]) -> None:
    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(ALLOWED + b"*2\r\n:0\r\n:999\r\n")
        connection.read_command()
        connection.send(ALLOWED)

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url)
        assert ask(limiter)[0].allowed is True
        time.sleep(0.05)
        answer, _ = ask(limiter)
        assert isinstance(answer, StoreError) or answer.allowed is True


def test_wrong_password(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with redis_server(tmp_path, password="right") as server:
        limiter = limiter_on(f"redis://:wrong@127.0.0.1:{server.port}/0?{PATIENT}")
        answer, _ = ask(limiter)
        assert (answer.kind, "WRONGPASS" in str(answer)) == ("connect", True)
        assert "wrong@" not in str(answer)
        with contextlib.closing(server.admin()) as client:
            client.config_set("requirepass", "wrong")
        is_back(limiter, ask)


def test_no_password(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with redis_server(tmp_path, password="right") as server:
        answer, _ = ask(limiter_on(f"redis://127.0.0.1:{server.port}/0?{PATIENT}"))
        assert "NOAUTH" in str(answer)


def test_maxclients(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with redis_server(tmp_path) as server, contextlib.ExitStack() as stack:
        with contextlib.closing(server.admin()) as client:
            client.config_set("maxclients", 2)
        taken = [stack.enter_context(contextlib.closing(server.admin())) for _ in range(2)]
        for each in taken:
            each.ping()
        limiter = limiter_on(server.url)
        answer, _ = ask(limiter)
        assert (answer.kind, "max number of clients" in str(answer)) == ("connect", True)
        for each in taken:
            each.close()
        is_back(limiter, ask)


def test_out_of_memory(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.url)
    with contextlib.closing(own.admin()) as client:
        client.config_set("maxmemory", "1")
        answer, _ = ask(limiter)
        assert (answer.kind, "OOM" in str(answer)) == ("answer", True)
        client.config_set("maxmemory", "0")
    is_back(limiter, ask)


def test_another_type_at_one_key_harms_no_other(own: RedisServer, ask: Callable[..., Any]) -> None:
    limiter = limiter_on(own.url)
    (name,) = limiter.redis_keys("k")
    with contextlib.closing(own.admin()) as client:
        client.lpush(name, "x")
    for _ in range(10):
        assert "WRONGTYPE" in str(ask(limiter)[0])
        assert ask(limiter, "other")[0]
    health = limiter.store.health()
    assert (health["status"], health["errors"]) == ("ok", {"answer": 10})


# --- Policies ---


@pytest.mark.parametrize(
    ("policy", "answers"),
    [("memory", [True, True, False]), ("allow", [True] * 3), ("deny", [False] * 3)],
)
def test_policies(ask: Callable[..., Any], policy: str, answers: list[bool]) -> None:
    limiter = limiter_on(f"redis://127.0.0.1:{free_port()}/0", policy, "2/day")
    assert [bool(ask(limiter)[0]) for _ in range(3)] == answers
    decision, _ = ask(limiter)
    assert decision.limit == 2.0
    if policy == "deny":
        assert decision.retry_after == 1.0
    assert limiter.allow_many(["a", "b"]) == [policy != "deny"] * 2
    limiter.refund("k")
    limiter.reset("k")
    assert limiter.store.health()["fallback_decisions"] >= 7


async def test_policies_of_many(tmp_path: Path) -> None:
    limiter = AsyncRateLimiter(
        "2/day", store=f"redis://127.0.0.1:{free_port()}/0", on_store_error="allow"
    )
    assert await limiter.allow_many(["a", "a", "a"]) == [True] * 3
    await limiter.refund("a")
    await limiter.reset("a")


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="on_store_error must be one of 'memory', 'allow', 'deny'"):
        RateLimiter("1/s", store="redis://localhost", on_store_error="ignore")
    with pytest.raises(ValueError, match="on_store_error must be one of"):
        RedisStore("redis://localhost", on_store_error="")


def test_it_is_logged_once_a_change(
    own: RedisServer, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rate_limiter")
    limiter = limiter_on(own.url, "memory")
    ask(limiter)
    own.kill()
    for _ in range(50):
        ask(limiter)
    own.start()
    wait_until(lambda: (ask(limiter), limiter.store.health()["status"] == "ok")[1], "it is back")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2, messages
    failed = "failed. Until it answers, requests are decided in memory"
    assert f"127.0.0.1:{own.port} {failed}" in messages[0]
    assert "answers again, after" in messages[1]
    health = limiter.store.health()
    assert health["fallback_decisions"] >= 50
    assert sum(health["errors"].values()) >= 5
    assert health["servers"] == (f"127.0.0.1:{own.port}",)


def test_too_many_calls_are_refused_not_queued_for_ever() -> None:
    """A loop whose server stops reading gets an error, and memory stays bounded."""

    answers = iter([ALLOWED])

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(next(answers, b""))
        time.sleep(3)

    async def main(url: str) -> dict[str, int]:
        # Two limits: they do not go several into one script.
        limiter = limiter_on(url + "?timeout=1", limits="100000/day; 100000/hour")
        waiting = AsyncRateLimiter.of(limiter)
        with contextlib.suppress(StoreError):
            await waiting.hit("k")
        key = b"k" * 190
        done = await asyncio.gather(
            *(waiting.hit(key) for _ in range(140_000)), return_exceptions=True
        )
        assert {type(each) for each in done} == {StoreError}
        errors: dict[str, int] = limiter.store.health()["errors"]
        return errors

    with fake_redis(handle) as server:
        errors = asyncio.run(main(server.address))
    assert errors["busy"] >= 5_000
    assert errors["timeout"] > 0


def test_nothing_leaks(own: RedisServer, ask: Callable[..., Any]) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    limiter = limiter_on(own.address)
    is_back(limiter, ask)
    before = descriptors()
    for _ in range(5):
        own.kill()
        for _ in range(10):
            ask(limiter)
        own.start()
        is_back(limiter, ask)
    assert descriptors() <= before + 1
    limiter.store.close()
    del limiter
    assert descriptors() <= before
