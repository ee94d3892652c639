"""What counts against a store: its own failures, and never what one request provokes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import AsyncRateLimiter, Decision, RateLimiter, StoreError
from rate_limiter.stores import breaker as breaker_module
from rate_limiter.stores.breaker import Breaker
from rate_limiter.stores.inspection import find_keys
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.stores.store_errors import is_about_one_request
from support.fake_redis import FakeConnection, Handler, fake_redis
from support.redis_asking import ALLOWED, is_back, limiter_on
from support.redis_servers import (
    PATIENT,
    RedisCluster,
    RedisServer,
    redis_cluster,
    redis_server,
    wait_until,
)

ABOUT_ONE_REQUEST = [
    "CROSSSLOT Keys in request don't hash to the same slot",
    "WRONGTYPE Operation against a key holding the wrong kind script: 8f1, on @user_script:9.",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "ERR rate_limiter: the value of rl:{k}:1/day is no bucket",
    "ERR user_script:31: attempt to compare nil with number script: 8f1, on @user_script:31.",
    # Redis 6:
    "ERR Error running script (call to f_8f1): @user_script:31: user_script:31: attempt to compare",
    "ERR Error running script (call to f_8f1): @user_script:9: @user_script: 9: WRONGTYPE",
]
ABOUT_THE_STORE = [
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "NOAUTH Authentication required.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOSCRIPT No matching script.",
    "ERR unknown command 'EVALSHA'",
    "a proxy's own words",
    # Redis 6:
    "ERR Error running script (call to f_8f1): @user_script:9: @user_script: 9: -OOM command not",
    "ERR Error running script (call to f_8f1): @user_script:9: @user_script: 9: -READONLY You",
]


def error_of(kind: str, text: str) -> StoreError:
    error = StoreError(text)
    error.kind = kind
    return error


@pytest.mark.parametrize(
    ("text", "expected"),
    [(text, True) for text in ABOUT_ONE_REQUEST] + [(text, False) for text in ABOUT_THE_STORE],
)
def test_what_an_error_is_about(text: str, expected: bool) -> None:
    assert is_about_one_request(error_of("answer", text)) is expected
    # The words of a server count in its answers alone.
    assert is_about_one_request(error_of("connect", text)) is False


def test_what_a_kind_is_about() -> None:
    kinds = ("connect", "lost", "timeout", "protocol", "memory", "busy")
    assert [kind for kind in kinds if is_about_one_request(error_of(kind, ""))] == ["busy"]


def test_a_refused_login_is_logged_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """As after a restart with another password."""
    breaker = Breaker("Redis")
    for text in ("host:1: Connection refused", *["host:1: WRONGPASS invalid password"] * 2):
        breaker.failed(error_of("connect", text))
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_a_node_that_comes_and_goes_is_logged_a_few_times_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now_s[0], time=time.time)
    monkeypatch.setattr(breaker_module, "time", clock)
    breaker = Breaker("Redis", has_nodes=True)

    def fail(node: str) -> None:
        error = error_of("connect", "Connection refused")
        error.node = node
        breaker.failed(error)

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    for _ in range(100):
        fail("a:1")
        breaker.succeeded("a:1")
        now_s[0] += 0.1
    found = lines()
    assert ["failed" in line for line in found] == [True, False] * breaker_module.OUTAGES_LOGGED
    assert not any("not logged" in line for line in found)
    fail("b:1")  # another node is logged on its own
    breaker.succeeded("b:1")
    assert len(lines()) == 2
    for _ in range(200):  # one that lasts is logged late, and its end too
        fail("a:1")
        now_s[0] += 1
    breaker.succeeded("a:1")
    failed, again = lines()
    assert failed.endswith("refused (97 short outages before were not logged)")
    assert again.endswith("200 failures")
    assert breaker.health()["failed_nodes"] == ()


def refusing(key: bytes, error: Callable[[], str | None]) -> Handler:
    """Return a handler that answers scripts for one key with an error, while there is one."""

    def handle(connection: FakeConnection) -> None:
        words = connection.shake_hands()
        while True:
            text = error() if any(key in word for word in words) else None
            connection.send(ALLOWED if text is None else f"-{text}\r\n".encode())
            words = connection.read_command()

    return handle


@pytest.mark.parametrize("text", ABOUT_ONE_REQUEST)
def test_one_key_harms_no_other(
    ask: Callable[..., Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_redis(refusing(b"{bad}", lambda: text)) as server:
        limiter = limiter_on(server.url, limits="100000/day; 200000/day")
        for _ in range(10):
            error, _ = ask(limiter, "bad")
            assert (error.kind, text.split()[0] in str(error)) == ("answer", True)
        health = limiter.store.health()
        assert (health["status"], health["breaker"], health["failures"]) == ("ok", "closed", 0)
        assert health["errors"] == {"answer": 10}
        assert health["fallback_decisions"] == 10
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "gave no decision for one request" in messages[0]
    assert text.split()[0] in messages[0]


@pytest.mark.parametrize("text", ABOUT_THE_STORE)
def test_failures_of_the_store_open_the_breaker(ask: Callable[..., Any], text: str) -> None:
    with fake_redis(refusing(b"{k}", lambda: text)) as server:
        limiter = limiter_on(server.url)
        for _ in range(5):
            assert isinstance(ask(limiter)[0], StoreError)
        assert limiter.store.health()["breaker"] == "open"


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("redis://127.0.0.1:{port}/0", "NOAUTH"),
        ("redis://:wrong@127.0.0.1:{port}/0", "WRONGPASS"),
        ("redis://eve:secret@127.0.0.1:{port}/0", "WRONGPASS"),
        ("redis://:secret@127.0.0.1:{port}/99", "ERR DB index is out of range"),
    ],
)
def test_a_refused_login_is_an_error_that_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, address: str, answer: str
) -> None:
    with redis_server(tmp_path, "--requirepass", "secret", password="secret") as server:
        limiter = limiter_on(f"{address.format(port=server.port)}?{PATIENT}", "memory")
        breaker = limiter.store.connection.breaker
        for _ in range(3):
            limiter.hit("k")
        breaker._log_refusal_at_s = 0.0  # a minute later
        for _ in range(2):
            limiter.hit("k")
    errors = [one for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 2
    for one in errors:
        assert "refuses the user, the password or the database" in one.getMessage()
        assert "requests are decided in memory" in one.getMessage()
        assert answer in one.getMessage()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("memory", [True, False]), ("allow", [True, True]), ("deny", [False, False])],
)
def test_such_a_request_follows_the_policy(
    ask: Callable[..., Any], policy: str, expected: list[bool]
) -> None:
    with fake_redis(refusing(b"{bad}", lambda: ABOUT_ONE_REQUEST[0])) as server:
        limiter = limiter_on(server.url, policy, "1/day")
        assert [ask(limiter, "bad")[0].allowed for _ in range(2)] == expected
        limiter.refund("bad")
        limiter.reset("bad")
        assert limiter.peek("bad").allowed is (policy != "deny")
        assert limiter.charge("bad").limit == 1
        assert limiter.allow_many(["bad"]) == [policy == "allow"]
        health = limiter.store.health()
        # reset() is two commands: it also covers limits that came with calls.
        assert (health["breaker"], health["errors"]["answer"]) == ("closed", 8)


def test_control_characters_of_a_key_are_escaped_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "ERR rate_limiter: the value of rl:{\x1b[2Jx\u2028}:1/day is no bucket"
    with fake_redis(refusing(b"{bad}", lambda: text)) as server, pytest.raises(StoreError):
        limiter_on(server.url).hit("bad")
    (message,) = [record.getMessage() for record in caplog.records]
    assert r"rl:{\x1b[2Jx\u2028}:1/day" in message


# --- Probes ---


class Outage:
    """A fake Redis that fails as a whole while `failing`, and always for the key `bad`."""

    failing = True

    def error(self) -> str | None:
        return ABOUT_THE_STORE[0] if self.failing else None

    def handle(self, connection: FakeConnection) -> None:
        words = connection.shake_hands()
        while True:
            text = self.error()
            if text is None and any(b"{bad}" in word for word in words):
                text = ABOUT_ONE_REQUEST[0]
            connection.send(ALLOWED if text is None else f"-{text}\r\n".encode())
            words = connection.read_command()


@pytest.mark.parametrize("cause", ["its key", "a wrong cost", "no keys"])
def test_one_client_uses_up_no_probes(ask: Callable[..., Any], cause: str) -> None:
    """A busy limiter does not keep the next request of another one from finding Redis back."""
    outage = Outage()
    with fake_redis(outage.handle) as server:
        limiter = limiter_on(server.url)

        def provoke() -> None:
            if cause == "its key":
                assert isinstance(ask(limiter, "bad")[0], StoreError)
            elif cause == "no keys":
                assert limiter.allow_many([]) == []
            else:
                # Refused before it is sent; while no probe is due, not even looked at.
                with contextlib.suppress(ValueError):
                    assert isinstance(ask(limiter, "k", -1)[0], StoreError)

        for _ in range(5):
            ask(limiter)
        assert limiter.store.health()["breaker"] == "open"
        provoke()
        assert limiter.store.health()["breaker"] == "open"
        outage.failing = False
        time.sleep(0.3)  # the first pauses are shorter
        for _ in range(50):
            provoke()
        assert isinstance(ask(limiter)[0], Decision)
        assert limiter.store.health()["status"] == "ok"


def test_the_error_of_an_open_breaker_is_that_of_the_store(ask: Callable[..., Any]) -> None:
    outage = Outage()
    with fake_redis(outage.handle) as server:
        limiter = limiter_on(server.url)
        for _ in range(5):
            ask(limiter)
        outage.failing = False
        wait_until(lambda: "CROSSSLOT" in str(ask(limiter, "bad")[0]), "a probe is due")
        outage.failing = True
        message = "not asked again yet: LOADING"
        wait_until(lambda: message in str(ask(limiter)[0]), "no probe is due")


# --- A cluster ---

ODD_KEYS = [
    "",
    "{",
    "}",
    "{}",
    "}{",
    "a{b",
    "a}b",
    "{a}b",
    "{}{a}",
    "%",
    "%7b",
    "k" * 300,
    "\0",
    b"\xff",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.mark.parametrize("limits", ["5/day; 9/day", "5/day; 9/day; window=fixed; 7/hour"])
async def test_each_key_of_a_cluster_has_one_slot(cluster: RedisCluster, limits: str) -> None:
    limiter = limiter_on(cluster.url, limits=limits)
    waiting = AsyncRateLimiter.of(limiter)
    for key in ODD_KEYS:
        names = limiter.redis_keys(key)
        with contextlib.closing(cluster.nodes[0].admin()) as client:
            assert len({client.execute_command("CLUSTER KEYSLOT", name) for name in names}) == 1
        limiter.reset(key)
        assert round(limiter.hit(key).remaining) == 4
        assert round((await waiting.hit(key)).remaining) == 3
        assert limiter.allow_many([key]) == [True]
        assert await waiting.allow_many([key]) == [True]
        assert round(limiter.charge(key).remaining) == 0
        limiter.refund(key, 2)
        assert round((await waiting.peek(key)).remaining) == 2
        await waiting.reset(key)
        assert limiter.peek(key).remaining == 5
    health = limiter.store.health()
    assert (health["breaker"], health["errors"]) == ("closed", {})


@given(st.text(), st.text())
def test_different_keys_have_different_names(one: str, other: str) -> None:
    limiter = limiter_on("redis://localhost", limits="5/day; 9/day")
    with contextlib.suppress(UnicodeEncodeError):  # lone surrogates
        names = [limiter.redis_keys(each) for each in (one, other)]
        assert (names[0] == names[1]) is (one == other)


def test_names_of_keys_stay() -> None:
    """What Redis holds under them must be found by the next release."""
    limiter = limiter_on("redis://localhost")
    names = {key: limiter.redis_keys(key)[0].decode() for key in ("k", "a{b", "}{", "%", "")}
    assert names == {
        "k": "rl:{k}:100000/day",
        "a{b": "rl:{a%7bb}:100000/day",
        "}{": "rl:{%7d%7b}:100000/day",
        "%": "rl:{%25}:100000/day",
        "": "rl:{%}:100000/day",
    }


def test_the_search_finds_the_buckets_of_odd_keys(server: RedisServer) -> None:
    limiter = limiter_on(server.url, limits="5/day; 9/day")
    for key in ODD_KEYS:
        if isinstance(key, str):
            limiter.hit(key)
            found = find_keys(limiter.store.connection, key, "rl")
            assert found == sorted(limiter.redis_keys(key))


def test_a_prefix_that_takes_the_hash_tag_away(cluster: RedisCluster) -> None:
    store = RedisStore(cluster.url, "my{}app")
    with pytest.raises(ValueError, match="has empty braces"):
        RateLimiter("5/day; 9/day", store=store)
    assert RateLimiter("5/day", store=store).allow("k")  # one key has one slot
    for prefix in ("my{app}", "a}b", "{", "{a}{}"):
        other = RateLimiter("5/day; 9/day", store=RedisStore(cluster.url, prefix))
        assert other.hit("k").remaining == 4
        assert other.hit("").remaining == 4


async def test_tasks_on_one_node_of_a_cluster(tmp_path: Path) -> None:
    """Asked as a single server, it refuses a script for the keys of several clients."""
    with redis_server(tmp_path, "--cluster-enabled", "yes") as server:
        with contextlib.closing(server.admin()) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(
                lambda: b"cluster_state:ok" in _raw(client, "CLUSTER", "INFO"),
                "it serves all slots",
            )
        limiter = limiter_on(server.url)
        waiting = AsyncRateLimiter.of(limiter)
        decisions = await asyncio.gather(*(waiting.hit(str(i), i + 1) for i in range(40)))
        assert [100_000 - each.remaining for each in decisions] == list(range(1, 41))
        assert limiter.store.health()["errors"] == {}


def _raw(client: Any, *words: str) -> bytes:
    client.set_response_callback(" ".join(words), lambda reply, **_: reply)
    reply: bytes = client.execute_command(*words)
    return reply


def test_keys_of_another_type_on_a_real_server(
    server: RedisServer, ask: Callable[..., Any]
) -> None:
    limiter = limiter_on(server.url)
    with contextlib.closing(server.admin()) as client:
        client.lpush(*limiter.redis_keys("list"), "x")
        client.set(*limiter.redis_keys("text"), "no bucket")
    for _ in range(10):
        assert isinstance(ask(limiter, "list")[0], StoreError)
        assert isinstance(ask(limiter, "text")[0], StoreError)
        assert isinstance(ask(limiter, "other")[0], Decision)
    is_back(limiter, ask)
    assert limiter.store.health()["failures"] == 0
