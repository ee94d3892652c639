"""A cluster of which one part fails: keys of the other parts are not affected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, Decision, StoreError
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.breaker import FAILURES_TO_OPEN, Breaker
from support.fake_cluster import ASKING, allowing, cluster_url, fake_cluster, slots_reply
from support.redis_asking import ALLOWED, is_back, limiter_on
from support.redis_servers import PATIENT, RedisCluster, redis_cluster, wait_until

# --- A real cluster, one of whose masters is silent and gets no successor ---


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        for node in running.nodes:
            running.command(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
            running.command(node, "CONFIG", "SET", "cluster-replica-no-failover", "yes")
        yield running


class Shards:
    """Keys of a cluster by the master that has them."""

    def __init__(self, cluster: RedisCluster, limiter: RedisRateLimiter) -> None:
        self.victim = cluster.nodes[0]
        owner = {
            key: cluster.master_of(cluster.slot(limiter.redis_keys(key)[0].decode()))
            for key in (f"user{i}" for i in range(16))
        }
        self.dead = [key for key, node in owner.items() if node is self.victim]
        self.healthy = [key for key, node in owner.items() if node is not self.victim]
        assert len(self.dead) > 2
        assert len(self.healthy) > 4


class Results(list[tuple[str, Any]]):
    """What hits returned or raised, until many have failed."""

    def __init__(self) -> None:
        self._end_s = time.monotonic() + 60

    def errors(self) -> list[StoreError]:
        return [one for _, one in self if isinstance(one, StoreError)]

    def is_enough(self) -> bool:
        return len(self.errors()) > 100 or time.monotonic() > self._end_s


def hit_by_threads(limiter: RedisRateLimiter, keys: list[str]) -> Results:
    """Return the results of hits in a thread for each key."""
    results = Results()

    def work(key: str) -> None:
        while not results.is_enough():
            try:
                results.append((key, limiter.hit(key)))
            except StoreError as error:
                results.append((key, error))
            time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def hit_by_tasks(limiter: RedisRateLimiter, keys: list[str]) -> Results:
    """Do the same in tasks."""
    results = Results()

    async def work(key: str) -> None:
        while not results.is_enough():
            try:
                results.append((key, await AsyncRateLimiter.of(limiter).hit(key)))
            except StoreError as error:
                results.append((key, error))
            await asyncio.sleep(0.002)

    async def main() -> None:
        await asyncio.gather(*map(work, keys))

    asyncio.run(main())
    return results


@pytest.mark.parametrize("hits", [hit_by_threads, hit_by_tasks])
def test_a_silent_master_affects_its_own_keys_only(
    cluster: RedisCluster,
    hits: Callable[[RedisRateLimiter, list[str]], Results],
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = limiter_on(f"{cluster.url}?timeout=1&connect_timeout=1")
    shards = Shards(cluster, limiter)
    assert all(limiter.allow(key) for key in shards.dead + shards.healthy)
    shards.victim.pause()
    try:
        results = hits(limiter, shards.dead + shards.healthy)
        health = limiter.store.health()
    finally:
        shards.victim.resume()
    assert all(isinstance(one, Decision) for key, one in results if key in shards.healthy)
    assert len(results.errors()) > 100
    assert all(f"127.0.0.1:{shards.victim.port}" in str(one) for one in results.errors())
    assert health["failed_nodes"] == (f"127.0.0.1:{shards.victim.port}",)
    assert (health["status"], health["breaker"]) == ("degraded", "open")
    messages = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(messages) < 4
    assert f": 127.0.0.1:{shards.victim.port} failed. Until it answers" in messages[0]
    wait_until(lambda: _all_pass(limiter, shards.dead), "its keys pass again")
    assert limiter.store.health()["status"] == "ok"


def _all_pass(limiter: RedisRateLimiter, keys: list[str]) -> bool:
    with contextlib.suppress(StoreError):
        return all(limiter.allow(key) for key in keys)
    return False


def test_several_keys_at_once_follow_their_own_nodes(cluster: RedisCluster) -> None:
    limiter = limiter_on(f"{cluster.url}?timeout=1", "memory", "2/day")
    shards = Shards(cluster, limiter)
    keys = shards.dead[:2] + shards.healthy[:3]
    shards.victim.pause()
    try:
        threads = [threading.Thread(target=limiter.allow, args=(shards.dead[2],)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert limiter.store.health()["breaker"] == "open"
        assert limiter.allow_many(keys) == [True] * 5
        waiting = AsyncRateLimiter.of(limiter)
        assert asyncio.run(_allow_many(waiting, keys)) == [True] * 5
        assert all(limiter.peek(key).remaining < 0.1 for key in shards.healthy[:3])
    finally:
        shards.victim.resume()
    # Redis has counted the keys of the healthy nodes.
    wait_until(lambda: _all_pass(limiter, [f"{key}-" for key in shards.dead]), "it is back")
    assert all((limiter.inspect(key)[0].tokens or 0) < 0.1 for key in shards.healthy[:3])


async def _allow_many(limiter: AsyncRateLimiter, keys: list[str]) -> list[bool]:
    return await limiter.allow_many(keys)


# --- The breaker ---


def failure(node: str, kind: str = "timeout") -> StoreError:
    error = StoreError(f"no answer from {node}")
    error.kind, error.node = kind, node
    return error


def test_each_node_has_its_own_circuit(caplog: pytest.LogCaptureFixture) -> None:
    breaker = Breaker("Redis", has_nodes=True)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(failure("a:1"))
        breaker.succeeded("b:2", ("a:1", "b:2"))
    assert [breaker.permits(node) for node in ("a:1", "b:2")] == [False, True]
    assert breaker.health()["failed_nodes"] == ("a:1",)
    assert len(caplog.records) == 1
    breaker.succeeded("a:1", ("a:1", "b:2"))
    assert breaker.is_working
    assert caplog.records[1].getMessage().startswith("Redis: a:1 answers again, after ")


def test_a_node_that_was_replaced_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    breaker = Breaker("Redis", has_nodes=True)
    breaker.failed(failure("a:1"))
    breaker.succeeded("b:2")  # by a client that does not know the nodes yet
    assert breaker.health()["failed_nodes"] == ("a:1",)
    breaker.succeeded("b:2", ("b:2", "c:3"))
    assert (breaker.is_working, breaker.health()["status"]) == (True, "ok")
    assert caplog.records[1].getMessage().startswith("Redis: a:1 has no keys any more")


def test_any_answer_shows_that_the_nodes_are_known() -> None:
    breaker = Breaker("Redis", has_nodes=True)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(failure("", "connect"))
    assert not breaker.permits("")
    breaker.succeeded("b:2", ("a:1", "b:2"))
    assert breaker.permits("")
    assert breaker.is_working


def test_a_store_without_nodes_has_one_circuit() -> None:
    breaker = Breaker("Redis")
    for node in ("a:1", "b:2", "c:3", "d:4", "e:5"):
        breaker.failed(failure(node))
    assert not breaker.permits()
    assert breaker.health()["failed_nodes"] == ()
    breaker.succeeded()
    assert breaker.permits()


# --- A slot that is being moved ---

TRYAGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"


def test_tryagain_is_repeated_until_the_deadline(ask: Callable[..., Any]) -> None:
    with fake_cluster(2) as (source, target):
        source.answer = lambda _: f"-ASK 5 {target.name}\r\n".encode()
        target.answer = lambda _: TRYAGAIN
        limiter = limiter_on(
            cluster_url(source, query="timeout=0.5&connect_timeout=0.5"), limits="5/day; 9/day"
        )
        for _ in range(2):
            error, _ = ask(limiter)
            assert (error.kind, str(error).split()[0]) == ("answer", "TRYAGAIN")
        assert target.commands.count(b"EVALSHA") > 20
        assert source.commands.count(b"EVALSHA") == 2  # the target stays the one to ask
        assert target.commands.count(ASKING) == target.commands.count(b"EVALSHA")
        health = limiter.store.health()
        assert (health["status"], health["failures"], health["errors"]) == ("ok", 0, {"answer": 2})


def test_tryagain_ends_when_the_slot_has_moved(ask: Callable[..., Any]) -> None:
    with fake_cluster(2) as (source, target):
        source.answer = lambda _: f"-ASK 5 {target.name}\r\n".encode()
        target.answer = lambda _: (
            TRYAGAIN if target.commands.count(b"EVALSHA") < 15 else allowing(2)
        )
        limiter = limiter_on(cluster_url(source), limits="5/day; 9/day")
        assert isinstance(ask(limiter)[0], Decision)


def test_a_script_is_sent_in_full_to_the_node_that_must_be_asked(ask: Callable[..., Any]) -> None:
    with fake_cluster(2) as (source, target):
        source.answer = lambda _: f"-ASK 5 {target.name}\r\n".encode()
        target.answer = lambda words: (
            b"-NOSCRIPT No matching script.\r\n" if words[0] == b"EVALSHA" else ALLOWED
        )
        assert isinstance(ask(limiter_on(cluster_url(source)))[0], Decision)
        assert [word for word in source.commands if word.startswith(b"EVAL")] == [b"EVALSHA"]
        assert [word for word in target.commands if word != b"CLIENT"] == [
            *(ASKING, b"EVALSHA", ASKING, b"EVAL")
        ]


def test_a_node_without_slots_stays_connected_while_it_is_asked(ask: Callable[..., Any]) -> None:
    """The map arrives before it is ready, and does not have it."""
    with fake_cluster(2) as (source, target):
        moved = iter([f"-MOVED 5 {source.name}\r\n".encode()])  # so the map is read again

        def answer(words: list[bytes]) -> bytes:
            if any(b"{moved}" in word for word in words):
                return next(moved, ALLOWED)
            return f"-ASK 5 {target.name}\r\n".encode()

        source.answer = answer
        target.greeting_s = 0.2
        limiter = limiter_on(cluster_url(source, query="timeout=10&client_name=test"))
        assert isinstance(ask(limiter, "moved")[0], Decision)
        for _ in range(10):
            assert isinstance(ask(limiter, "asked")[0], Decision)
        assert target.server.connections <= 2
        assert source.commands.count(b"CLUSTER") <= 5


# --- The map ---


def test_a_timeout_names_the_silent_node(ask: Callable[..., Any]) -> None:
    with fake_cluster(2) as (first, silent):
        first.slots = lambda: slots_reply((0, 16383, silent))
        silent.answer = lambda _: None
        error, _ = ask(limiter_on(cluster_url(first, query="timeout=0.2")))
        assert (error.kind, error.node) == ("timeout", silent.name)
        assert f"no answer from {silent.name} within" in str(error)


def test_a_node_without_a_map_does_not_erase_the_map(ask: Callable[..., Any]) -> None:
    with fake_cluster(2) as (first, second):
        first.slots = lambda: slots_reply((0, 8191, first), (8192, 16383, second))
        limiter = limiter_on(cluster_url(first))
        keys = [f"user{i}" for i in range(8)]
        assert all(isinstance(ask(limiter, key)[0], Decision) for key in keys)
        first.slots = second.slots = lambda: b"*0\r\n"
        moved = iter([f"-MOVED 5 {second.name}\r\n".encode()])
        first.answer = second.answer = lambda _: next(moved, ALLOWED)
        maps = first.commands.count(b"CLUSTER")
        wait_until(
            lambda: (
                isinstance(ask(limiter, keys[0])[0], Decision)
                and first.commands.count(b"CLUSTER") > maps
            ),
            "the map was asked for again",
        )
        assert all(isinstance(ask(limiter, key)[0], Decision) for key in keys)


def test_slots_without_a_node_fail_on_their_own(
    ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with fake_cluster(1) as (node,):
        node.slots = lambda: slots_reply((0, 8191, node))
        limiter = limiter_on(cluster_url(node, query="timeout=0.2"))
        names = {key: limiter.redis_keys(key)[0] for key in (f"user{i}" for i in range(20))}
        is_back(limiter, lambda one: ask(one, min(names, key=lambda key: _slot(names[key]))))
        served = min(names, key=lambda key: _slot(names[key]))
        unserved = max(names, key=lambda key: _slot(names[key]))
        for _ in range(12):
            assert isinstance(ask(limiter, served)[0], Decision)
            error, _ = ask(limiter, unserved)
            assert (error.kind, error.node) in [
                ("timeout", "slots without a node"),
                ("connect", ""),
            ]
        assert limiter.store.health()["failed_nodes"] == ("slots without a node",)
        assert len(caplog.records) == 1
        node.slots = lambda: slots_reply((0, 16383, node))
        wait_until(lambda: isinstance(ask(limiter, unserved)[0], Decision), "they are served")
        assert limiter.store.health()["status"] == "ok"


def _slot(name: bytes) -> int:
    """Return the slot of a key: CRC-16/XMODEM of the part between its braces."""
    crc = 0
    for byte in name.partition(b"{")[2].partition(b"}")[0]:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


# --- Large maps ---


def one_slot_each(host: Callable[[int], tuple[str, int]]) -> bytes:
    """Return an answer to CLUSTER SLOTS in which each slot is a separate range."""
    entry = b"*3\r\n:%d\r\n:%d\r\n*2\r\n$%d\r\n%b\r\n:%d\r\n"
    masters = [(slot, *host(slot)) for slot in range(16384)]
    ranges = [entry % (slot, slot, len(h), h.encode(), port) for slot, h, port in masters]
    return b"*16384\r\n" + b"".join(ranges)


def test_a_map_of_more_hosts_than_fit() -> None:
    with fake_cluster(1) as (node,):
        node.slots = lambda: one_slot_each(lambda slot: (f"host-{slot}", 7000 + slot % 3))
        limiter = limiter_on(cluster_url(node, query="timeout=0.2"))
        for _ in range(2):
            with pytest.raises(StoreError):
                limiter.hit("k")
        names = limiter.store.connection.client.nodes()
        expected = [f"host-{slot}:{7000 + slot % 3}" for slot in range(512)]
        assert names == (*expected, "slots without a node")


def test_maps_with_other_hosts_follow_each_other() -> None:
    with fake_cluster(3) as nodes:
        ports = [node.server.port for node in nodes]
        for first, second in ((0, 1), (1, 2), (2, 0)):
            nodes[0].slots = lambda a=first, b=second: one_slot_each(
                lambda slot: ("127.0.0.1", ports[(a, b)[slot % 2]])
            )
            limiter = limiter_on(cluster_url(nodes[0], query=f"{PATIENT}&client_name=c{first}"))
            for node in nodes:
                node.commands.clear()
            for i in range(60):
                assert limiter.hit(f"k{i}")
            asked = [node.commands.count(b"EVALSHA") for node in nodes]
            even = sum(_slot(limiter.redis_keys(f"k{i}")[0]) % 2 == 0 for i in range(60))
            assert (asked[first], asked[second], sum(asked)) == (even, 60 - even, 60)
