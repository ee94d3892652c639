"""A cluster of scripted servers, for moments that a real one passes too quickly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from support.fake_redis import FakeConnection, FakeRedis, fake_redis
from support.redis_asking import ALLOWED
from support.redis_servers import PATIENT

Answer = Callable[[list[bytes]], bytes | None]
"""What a node answers to a script; None: nothing."""

ASKING = b"ASKING"


def allowing(n_limits: int = 1) -> bytes:
    """Return the answer that allows a request for so many limits."""
    return b"*%d\r\n:1\r\n" % (1 + n_limits) + b":1000\r\n" * n_limits


class FakeNode:
    """A node that answers scripts as `answer` says, and keeps the commands that it got."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: ALLOWED
        self.slots: Callable[[], bytes] = lambda: b"*0\r\n"
        self.greeting_s = 0.0  # for the answer to CLIENT SETNAME
        self.commands: list[bytes] = []
        self.server: FakeRedis  # set by fake_cluster

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def handle(self, connection: FakeConnection) -> None:
        while True:
            words = connection.read_command()
            self.commands.append(words[0])
            if words[0] == b"CLUSTER":
                connection.send(self.slots())
            elif words[0] in (ASKING, b"CLIENT"):
                time.sleep(self.greeting_s if words[0] == b"CLIENT" else 0)
                connection.send(b"+OK\r\n")
            elif (reply := self.answer(words)) is not None:
                connection.send(reply)


def slots_reply(*ranges: tuple[int, int, FakeNode]) -> bytes:
    """Return an answer to CLUSTER SLOTS: first slot, last slot and master of each range."""
    entries = [
        b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % (first, last, node.server.port)
        for first, last, node in ranges
    ]
    return b"*%d\r\n" % len(entries) + b"".join(entries)


@contextlib.contextmanager
def fake_cluster(n_nodes: int) -> Iterator[list[FakeNode]]:
    """Run nodes until the block ends. The first one has all slots, says each of them."""
    nodes = [FakeNode() for _ in range(n_nodes)]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            node.server = stack.enter_context(fake_redis(node.handle))
            node.slots = lambda: slots_reply((0, 16383, nodes[0]))
        yield nodes


def cluster_url(*nodes: FakeNode, query: str = PATIENT) -> str:
    """Return the address of a cluster, for a limiter that asks these nodes for the slots."""
    return f"redis+cluster://{','.join(node.name for node in nodes)}?{query}"
