"""Sentinel and Cluster: finding the server, and finding it again when it changes under load."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import redis
import redis.sentinel
from rate_limiter import AsyncRateLimiter, RateLimiter, StoreError
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.redis_servers import (
    PATIENT,
    RedisCluster,
    RedisServer,
    SentinelGroup,
    redis_cluster,
    sentinel_group,
    wait_until,
)
from support.servers import free_port

# From the moment at which the servers agree on another master.
RECOVERY_S = 30.0
# A call's deadline is 0.1 s; a busy machine may add to it.
WORST_S = 3.0


def limiter_on(url: object, limits: str = "100000/day") -> RedisRateLimiter:
    limiter = RateLimiter(limits, store=url, on_store_error="raise")
    assert isinstance(limiter, RedisRateLimiter)
    return limiter


class Load:
    """Threads that hit a limiter until the block ends, and what they saw."""

    def __init__(self, limiter: RateLimiter, keys: list[str], threads: int = 4) -> None:
        self.limiter = limiter
        self.keys = keys
        self.admitted = 0
        self.errors: list[tuple[float, StoreError]] = []
        self.passed_in_a_row = 0
        self.worst_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(threads)]

    def _work(self, number: int) -> None:
        admitted = 0
        while not self._stop.is_set():
            for key in self.keys:
                started = time.monotonic()
                try:
                    admitted += self.limiter.allow(key)
                    self.passed_in_a_row += 1
                except StoreError as error:
                    self.errors.append((time.monotonic(), error))
                    self.passed_in_a_row = 0
                self.worst_s = max(self.worst_s, time.monotonic() - started)
                time.sleep(0.002)
        self.admitted += admitted

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def quiet_since(self, moment_s: float) -> bool:
        """Return True if no call has failed for half a second, and a hundred have passed."""
        last_s = max([moment_s, *(at_s for at_s, _ in self.errors)])
        return time.monotonic() - last_s > 0.5 and self.passed_in_a_row > 100


# --- Sentinel ---


@pytest.fixture
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with sentinel_group(tmp_path_factory.mktemp("sentinel")) as running:
        yield running


async def test_sentinel(group: SentinelGroup) -> None:
    limiter = limiter_on(f"{group.url}?{PATIENT}", "3/day")
    assert [limiter.allow("k") for _ in range(2)] == [True, True]
    assert [await AsyncRateLimiter.of(limiter).allow("k") for _ in range(2)] == [True, False]
    sentinel = redis.sentinel.Sentinel([("127.0.0.1", each.port) for each in group.sentinels])
    assert limiter_on(sentinel.master_for("mymaster"), "3/day").allow("k") is False
    with contextlib.closing(group.master().admin()) as client:
        assert client.keys() == [b"rl:{k}:3/day"]


def test_sentinels_that_are_silent_or_gone_are_passed_over(group: SentinelGroup) -> None:
    group.sentinels[0].kill()
    group.sentinels[1].pause()
    limiter = limiter_on(f"{group.url}?timeout=5")
    try:
        assert limiter.allow("k") is True
    finally:
        group.sentinels[1].resume()


def test_unknown_master_and_no_sentinel(group: SentinelGroup) -> None:
    with pytest.raises(StoreError, match="no sentinel returned the master"):
        limiter_on(f"{group.url}?{PATIENT}".replace("mymaster", "other")).allow("k")
    with pytest.raises(StoreError, match="no sentinel returned the master; cannot connect to"):
        limiter_on(f"redis+sentinel://127.0.0.1:{free_port()}/mymaster?{PATIENT}").allow("k")


def test_failover_on_request(group: SentinelGroup) -> None:
    """The old master is now a live replica: sentinels report it, or it replies READONLY."""
    limiter = limiter_on(group.url)
    old = group.master_port()
    with Load(limiter, ["k"]) as load:
        time.sleep(0.3)
        group.fail_over()
        wait_until(lambda: group.master_port() != old, "there is another master")
        changed_s = time.monotonic()
        wait_until(lambda: load.quiet_since(changed_s), "calls pass again", RECOVERY_S)
    assert limiter.store.health()["status"] == "ok"
    with contextlib.closing(group.master().admin()) as client:
        assert client.exists(*limiter.redis_keys("k"))


def test_master_killed_under_load(group: SentinelGroup) -> None:
    """No more pass than the bucket allows, and what the failover lost."""
    capacity, rate = 200, 50
    limiter = limiter_on(group.url, f"{rate}/second; burst={capacity}")
    started_s = time.monotonic()
    with Load(limiter, ["k"]) as load:
        time.sleep(0.5)
        master = group.master()
        with contextlib.closing(master.admin()) as client:
            # What the replicas have of the bucket by now survives.
            assert client.wait(2, 1000) == 2
        replicated_s = time.monotonic()
        master.kill()
        killed_s = time.monotonic()
        wait_until(lambda: group.master_port() != master.port, "there is another master")
        wait_until(
            lambda: load.errors and load.quiet_since(killed_s), "calls pass again", RECOVERY_S
        )
    elapsed_s = time.monotonic() - started_s
    # Lost is what was taken between the last write that a replica got and the kill.
    lost = (killed_s - replicated_s) * 4 / 0.002 + rate * (killed_s - replicated_s) + 1
    assert load.admitted <= capacity + rate * elapsed_s + lost
    assert load.admitted > capacity
    assert load.worst_s < WORST_S
    assert limiter.store.health()["status"] == "ok"


# --- Cluster ---


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


KEYS = [f"user{i}" for i in range(30)]


async def test_cluster(cluster: RedisCluster) -> None:
    limiter = limiter_on(f"{cluster.url}?{PATIENT}", "3/day; 5/hour")
    assert [limiter.allow(key) for key in KEYS] == [True] * 30
    waiting = AsyncRateLimiter.of(limiter)
    assert await waiting.allow_many(KEYS) == [True] * 30
    assert [limiter.allow(key, 2) for key in KEYS] == [False] * 30
    used = [node for node in cluster.nodes[:3] if cluster.command(node, "DBSIZE") > 0]
    assert len(used) == 3
    slots = {cluster.slot(name.decode()) for name in limiter.redis_keys("a{b}c")}
    assert len(slots) == 1
    client = redis.RedisCluster("127.0.0.1", cluster.nodes[0].port)
    with contextlib.closing(client):
        assert limiter_on(client, "3/day; 5/hour").allow(KEYS[0], 2) is False


def test_a_users_braces_choose_no_slot(cluster: RedisCluster) -> None:
    limiter = limiter_on(cluster.url)
    slots = {cluster.slot(limiter.redis_keys(f"{{same}}{i}")[0].decode()) for i in range(20)}
    assert len(slots) > 10


def test_resharding_under_load(cluster: RedisCluster) -> None:
    """Not one call fails while a slot moves, and the bucket stays exact."""
    limiter = limiter_on(f"{cluster.url}?{PATIENT}", "300/day; 1000/hour")
    slot = cluster.slot(limiter.redis_keys("hot")[0].decode())
    source = cluster.master_of(slot)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    with Load(limiter, ["hot", *KEYS[:3]]) as load:
        for _ in range(2):
            time.sleep(0.2)
            assert cluster.begin_move(slot, target) is source
            time.sleep(0.2)
            cluster.finish_move(slot, source, target)
            source, target = target, source
        time.sleep(0.2)
        load.keys[:] = ["hot"]
        wait_until(lambda: not limiter.peek("hot"), "the bucket is empty")
    assert load.errors == []
    assert limiter.peek("hot", 0).remaining < 1
    taken = sum(1000 - round(limiter.inspect(key)[1].tokens or 0) for key in ["hot", *KEYS[:3]])
    assert abs(load.admitted - taken) <= 4  # tokens refilled during the test


def test_master_of_the_cluster_killed_under_load(cluster: RedisCluster) -> None:
    limiter = limiter_on(cluster.url)
    slot = cluster.slot(limiter.redis_keys(KEYS[0])[0].decode())
    victim = cluster.master_of(slot)
    with Load(limiter, KEYS[:6]) as load:
        time.sleep(0.3)
        victim.kill()
        killed_s = time.monotonic()
        wait_until(lambda: cluster.master_of(slot) is not victim, "a replica is master")
        wait_until(
            lambda: load.errors and load.quiet_since(killed_s), "calls pass again", RECOVERY_S
        )
    assert load.worst_s < WORST_S
    patient = limiter_on(f"{cluster.url}?{PATIENT}")
    assert all(patient.allow(key) for key in KEYS)
    assert limiter.store.health()["status"] == "ok"


def test_no_cluster(server: RedisServer) -> None:
    expected = r"no node returned the slots.*cluster support disabled"
    with pytest.raises(StoreError, match=expected):
        limiter_on(f"redis+cluster://127.0.0.1:{server.port}?{PATIENT}").allow("k")


def test_a_cluster_that_is_down(cluster: RedisCluster) -> None:
    limiter = limiter_on(cluster.url)
    assert limiter.allow("k") is True
    keeper = cluster.master_of(cluster.slot(limiter.redis_keys("k")[0].decode()))
    for node in cluster.nodes:
        if node is not keeper:
            node.kill()
    wait_until(lambda: _fails(limiter, "CLUSTERDOWN"), "the cluster says that it is down")


def _fails(limiter: RateLimiter, word: str) -> bool:
    try:
        limiter.allow("k")
    except StoreError as error:
        return word in str(error)
    return False
