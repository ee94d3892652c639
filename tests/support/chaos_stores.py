"""Stores that the chaos run breaks: alone behind a proxy, watched by sentinels, and a cluster.

A fault ends with the store whole again. Each returns what it may add to what clients are granted:
nothing, or one capacity for a bucket that was lost or emptied, and with a replica that was promoted
while its master was only silent also what the second of two masters refills until it is demoted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

import redis
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.redis_servers import (
    RedisCluster,
    RedisServer,
    SentinelGroup,
    redis_cluster,
    redis_server,
    sentinel_group,
    wait_until,
)
from support.servers import free_port

CAPACITY = 20
RATE = 5
LIMITS = f"{RATE}/second; burst={CAPACITY}"
TIMEOUT_S = 0.5
OPTIONS = f"socket_timeout={TIMEOUT_S}&socket_connect_timeout={TIMEOUT_S}"
LOST = CAPACITY
TWO_MASTERS_S = 15  # until sentinels or the cluster have demoted one that was silent
LOST_OR_TWICE = CAPACITY + RATE * TWO_MASTERS_S

Fault: TypeAlias = Callable[[], int]
"""Break the store and mend it; return the tokens that this may add."""


@dataclass
class Store:
    """One store: its address, the keys that are used in it, and what can be done to it."""

    name: str
    address: str
    keys: tuple[str, ...]
    faults: dict[str, Fault]
    pause_s: tuple[float, float]  # between two faults
    whole: Callable[[], object] = field(repr=False)


def _sleep(random: Random, least_s: float, most_s: float) -> None:
    time.sleep(random.uniform(least_s, most_s))


class _Alone:
    """A server behind a proxy. Another one takes its place when it is moved or demoted."""

    def __init__(self, folder: Path, server: RedisServer, proxy: CuttingProxy, random: Random):
        self.folder = folder
        self.server = server
        self.other = RedisServer(folder, free_port())
        self.proxy = proxy
        self.random = random

    def kill(self) -> int:
        self.server.kill()
        _sleep(self.random, 0, 1.5)
        self.server.start()
        return LOST

    def stop(self) -> int:
        self.server.pause()
        _sleep(self.random, 0.05, 2)
        self.server.resume()
        return 0

    def cut(self) -> int:
        for _ in range(self.random.randrange(1, 6)):
            self.proxy.cut()
            _sleep(self.random, 0, 0.2)
        return 0

    def stall(self) -> int:
        self.proxy.stall(stalled=True)
        _sleep(self.random, 0.05, 2)
        self.proxy.stall(stalled=False)
        return 0

    def move(self) -> int:
        """Let the address lead to another server, which is empty."""
        self.other.start()
        self.proxy.target = self.other.port
        self.server.kill()
        self.server, self.other = self.other, RedisServer(self.folder, free_port())
        return LOST

    def demote(self) -> int:
        """Let its replica become the master. Connections to the old one stay, and are READONLY."""
        self.other.start()
        with contextlib.closing(self.other.admin()) as new:
            new.replicaof("127.0.0.1", self.server.port)
            wait_until(lambda: new.info("replication")["master_link_status"] == "up", "it follows")
            new.replicaof("NO", "ONE")
        with contextlib.closing(self.server.admin()) as old:
            old.replicaof("127.0.0.1", self.other.port)
        self.proxy.target = self.other.port
        _sleep(self.random, 0, 1)
        self.server.kill()
        self.server, self.other = self.other, RedisServer(self.folder, free_port())
        return LOST

    def is_whole(self) -> object:
        with contextlib.closing(self.server.admin()) as client:
            return client.ping()

    def close(self) -> None:
        self.server.kill()
        self.other.kill()


@contextlib.contextmanager
def alone(folder: Path, random: Random) -> Iterator[Store]:
    """Run one server behind a proxy until the block ends."""
    port = free_port()
    with redis_server(folder) as server, cutting_proxy(port, server.port) as proxy:
        made = _Alone(folder, server, proxy, random)
        names = ("kill", "stop", "cut", "stall", "move", "demote")
        try:
            yield Store(
                "alone",
                f"redis://127.0.0.1:{port}/0?{OPTIONS}",
                ("a",),
                {name: getattr(made, name) for name in names},
                (0.2, 4),
                made.is_whole,
            )
        finally:
            made.close()


class _Watched:
    """A master and replicas under sentinels."""

    def __init__(self, group: SentinelGroup, random: Random) -> None:
        self.group = group
        self.random = random

    def kill(self) -> int:
        master = self.group.master()
        master.kill()
        _sleep(self.random, 0, 3)
        master.start()
        return 2 * LOST  # if it is back before sentinels have seen that, it is empty

    def stop(self) -> int:
        master = self.group.master()
        master.pause()
        _sleep(self.random, 0.05, 3)
        master.resume()
        return LOST_OR_TWICE

    def fail_over(self) -> int:
        with contextlib.suppress(redis.ResponseError):  # one is under way
            self.group.fail_over()
        _sleep(self.random, 1, 3)
        return LOST

    def kill_sentinel(self) -> int:
        sentinel = self.random.choice(self.group.sentinels[1:])
        sentinel.kill()
        _sleep(self.random, 0, 1)
        sentinel.start()
        return 0

    def is_whole(self) -> object:
        """Return True if all sentinels know one master, which has two replicas that follow it."""
        ports = set()
        for sentinel in self.group.sentinels:
            with contextlib.closing(sentinel.admin()) as client:
                ports.add(int(client.sentinel_get_master_addr_by_name("mymaster")[1]))
        if len(ports) != 1:
            return False
        master = next(one for one in self.group.servers if one.port in ports)
        with contextlib.closing(master.admin()) as client:
            info = client.info("replication")
        online = sum(info.get(f"slave{i}", {}).get("state") == "online" for i in range(2))
        return info["role"] == "master" and online == 2


@contextlib.contextmanager
def watched(folder: Path, random: Random) -> Iterator[Store]:
    """Run a sentinel group until the block ends."""
    with sentinel_group(folder) as group:
        made = _Watched(group, random)
        names = ("kill", "stop", "fail_over", "kill_sentinel")
        yield Store(
            "watched",
            f"{group.url}?{OPTIONS}",
            ("w",),
            {name: getattr(made, name) for name in names},
            (1, 6),
            made.is_whole,
        )


class _Cluster:
    """Three masters with a replica each."""

    def __init__(self, cluster: RedisCluster, keys: tuple[str, ...], random: Random) -> None:
        self.cluster = cluster
        self.keys = keys
        self.random = random

    def _master(self) -> RedisServer:
        return self.cluster.master_of(self.cluster.slot(self.random.choice(self.keys)))

    def kill(self) -> int:
        master = self._master()
        master.kill()
        _sleep(self.random, 0, 4)
        master.start()
        return 2 * LOST

    def stop(self) -> int:
        master = self._master()
        master.pause()
        _sleep(self.random, 0.05, 4)
        master.resume()
        return LOST_OR_TWICE

    def move_slot(self) -> int:
        """Move the slot of a key to another master, and use it while it is open."""
        slot = self.cluster.slot(self.random.choice(self.keys))
        others = {self.cluster.master_of(self.cluster.slot(key)).port for key in self.keys}
        source = self.cluster.master_of(slot)
        targets = [one for one in self.cluster.nodes if one.port in others - {source.port}]
        if not targets:
            return 0
        target = self.random.choice(targets)
        self.cluster.begin_move(slot, target)
        _sleep(self.random, 0, 1)
        self.cluster.finish_move(slot, source, target)
        return 0

    def is_whole(self) -> object:
        for node in self.cluster.nodes:
            info = self.cluster.command(node, "CLUSTER INFO")
            if info["cluster_state"] != "ok":
                return False
        nodes = self.cluster.command(self.cluster.nodes[0], "CLUSTER NODES")
        flags = [entry["flags"] for entry in nodes.values()]
        return sum("slave" in one for one in flags) == 3 and not any("fail" in one for one in flags)


@contextlib.contextmanager
def cluster(folder: Path, random: Random) -> Iterator[Store]:
    """Run a cluster until the block ends."""
    with redis_cluster(folder) as nodes:
        keys = ("c1", "c2", "c3")
        made = _Cluster(nodes, keys, random)
        names = ("kill", "stop", "move_slot")
        yield Store(
            "cluster",
            f"{nodes.url}?{OPTIONS}",
            keys,
            {name: getattr(made, name) for name in names},
            (1, 6),
            made.is_whole,
        )


STORES = {"alone": alone, "watched": watched, "cluster": cluster}
