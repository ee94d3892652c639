"""RedisLoop while the event loop and the futures that it calls close it, raise, submit or fork.

The address sanitizer sees what these did to memory: see `make sanitize`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import Decision, _core
from rate_limiter.stores.connection import scripts
from support.acting import ActingLoop, Number, buckets_of
from support.plain_loop import PlainLoop, PlainTimer
from support.redis_servers import RedisServer

# --- Futures that close, raise and fork ---


def connected(server: RedisServer, plain: PlainLoop) -> tuple[_core.RedisLoop, Any]:
    """Return a loop object that has its connection, and buckets."""
    client = _core.RedisClient(server.url)
    loop = _core.RedisLoop(client, plain)
    buckets = buckets_of(client)
    future: Any = loop.hit(buckets, "first")
    plain.run_until(future.done)
    assert isinstance(future.outcome, Decision)
    return loop, buckets


@pytest.mark.parametrize("operation", ["hit", "peek"])  # a batch, and one call each
@pytest.mark.parametrize("closes", [0, 3, 9])
def test_a_future_that_closes_the_loop_object(
    server: RedisServer, operation: str, closes: int
) -> None:
    plain = ActingLoop()
    loop, buckets = connected(server, plain)
    futures: list[Any] = []
    plain.future_acts = lambda: sum(each.is_set for each in futures) == closes + 1 and loop.close()
    futures += [getattr(loop, operation)(buckets, f"k{number}") for number in range(10)]
    plain.run_until(lambda: sum(each.is_set for each in futures) > closes)
    plain.step()
    assert [isinstance(each.outcome, Decision) for each in futures] == [
        number <= closes for number in range(10)
    ]
    assert (loop.pending, plain.readers, plain.writers) == (0, {}, {})
    with pytest.raises(RuntimeError, match="closed"):
        loop.hit(buckets, "k")


FORKED_IN_A_RESULT = """
import os, sys
sys.path.append(sys.argv[1])
from support.fake_redis import FakeConnection, fake_redis
from support.plain_loop import PlainFuture, PlainLoop
from rate_limiter import _core
from rate_limiter.stores.connection import scripts

client = _core.RedisClient(sys.argv[2])
children = []

class Forking(PlainFuture):
    def set_result(self, result):
        super().set_result(result)
        if number_set() != int(sys.argv[3]):
            return
        client.before_fork()
        child = os.fork()
        if child:
            client.after_fork_in_parent()
            children.append(child)
        else:
            client.after_fork_in_child()
            loop.after_fork_in_child()

class Loop(PlainLoop):
    def create_future(self):
        return Forking()

def number_set():
    return sum(each.is_set for each in futures)

plain = Loop()
loop = _core.RedisLoop(client, plain)
buckets = _core.RedisBuckets(client, ((100.0, 1.0),), scripts(), b"b:", (b"",), True)
futures = [loop.hit(buckets, f"k{number}") for number in range(10)]
plain.run_until(number_set)
if not children:
    assert number_set() == int(sys.argv[3]) and loop.pending == 0
    assert client.allow(buckets, "child")
    os._exit(0)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
loop.close()
print(number_set(), codes)
"""


@pytest.mark.parametrize("forks_at", [1, 4])
def test_a_future_that_forks(
    server: RedisServer, run_python: Callable[..., str], forks_at: int
) -> None:
    tests = str(Path(__file__).parents[1])
    address = server.url
    assert run_python(FORKED_IN_A_RESULT, tests, address, str(forks_at)) == "10 [0]\n"


def test_futures_that_all_raise(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first exception is raised, the others reported; every future has its result."""
    plain = ActingLoop()
    loop, buckets = connected(server, plain)
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    raised = iter(range(10))

    def fail() -> None:
        raise LookupError(next(raised))

    known: list[Any] = [loop.hit(buckets, "k"), loop.hit(buckets, "k"), loop.peek(buckets, "k")]
    plain.run_until(lambda: all(each.is_set for each in known))  # the server has the scripts
    plain.future_acts = fail
    futures: list[Any] = [loop.hit(buckets, f"k{number}") for number in range(3)]
    futures += [loop.peek(buckets, f"k{number}") for number in range(3)]
    with pytest.raises(LookupError) as caught:
        plain.run_until(lambda: False, 1)
    plain.run_until(lambda: all(each.is_set for each in futures))
    numbers = [caught.value.args[0], *(each.exc_value.args[0] for each in reported)]
    assert sorted(numbers) == list(range(6))
    assert loop.pending == 0
    loop.close()


# --- An event loop whose methods close, raise and submit ---

METHODS = ("add_reader", "add_writer", "remove_reader", "remove_writer", "call_later")


def acting(
    server: RedisServer, method: str, act: Callable[[_core.RedisLoop, Any], object]
) -> tuple[ActingLoop, _core.RedisLoop]:
    """Return an event loop that acts within a method, once, and is about to call it."""
    plain = ActingLoop()
    client = _core.RedisClient(server.url)
    buckets = _core.RedisBuckets(client, ((100.0, 1.0),), scripts(), b"b:", (b"",), False)
    loop = _core.RedisLoop(client, plain)
    if method != "remove_reader":
        plain.acts[method] = lambda: act(loop, buckets)
        # More than goes into the socket at once must wait until it can be written to.
        loop.hit(buckets, "k" * (16 << 20) if method.endswith("writer") else "k")
    else:
        future: Any = loop.hit(buckets, "k")
        plain.run_until(future.done)
        plain.acts[method] = lambda: act(loop, buckets)
        with contextlib.closing(server.admin()) as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
    return plain, loop


@pytest.mark.parametrize("method", METHODS)
def test_an_event_loop_that_closes_the_loop_object(server: RedisServer, method: str) -> None:
    """In the middle of a change to what is watched; nothing stays watched."""
    plain, loop = acting(server, method, lambda loop, _: loop.close())
    plain.run_until(lambda: not plain.acts)
    assert (loop.pending, plain.readers, plain.writers) == (0, {}, {})
    assert all(timer.is_cancelled for timer in plain.timers)


@pytest.mark.parametrize("method", METHODS)
def test_an_event_loop_that_calls_back_at_once(server: RedisServer, method: str) -> None:
    futures: list[Any] = []

    def act(loop: _core.RedisLoop, buckets: Any) -> None:
        futures.append(loop.hit(buckets, "nested"))
        loop._turn()
        loop._timer()
        for fd in list(plain.readers):
            loop._ready(fd)

    plain, loop = acting(server, method, act)
    plain.run_until(lambda: bool(futures and futures[0].is_set) and loop.pending == 0)
    assert isinstance(futures[0].outcome, Decision)
    assert (len(plain.readers), plain.writers) == (1, {})
    loop.close()
    assert (plain.readers, plain.writers) == ({}, {})


@pytest.mark.parametrize("method", METHODS)
def test_an_event_loop_that_raises(server: RedisServer, method: str) -> None:
    def act(*_: object) -> None:
        raise LookupError(method)

    plain, loop = acting(server, method, act)
    with pytest.raises(LookupError, match=method):
        plain.run_until(lambda: False)
    loop.close()
    assert loop.pending == 0


def test_a_timer_that_rings_and_closes_when_it_is_cancelled(server: RedisServer) -> None:
    cancelled = []

    class Ringing(PlainTimer):
        def cancel(self) -> None:
            cancelled.append(loop.pending)
            loop._timer()
            loop.close()

    class RingingLoop(ActingLoop):
        def call_later(self, delay_s: float, callback: Any) -> PlainTimer:
            return Ringing(delay_s, callback)

    loop, buckets = connected(server, RingingLoop())
    loop.hit(buckets, "k")
    loop._turn()
    loop.close()
    assert (cancelled, loop.pending) == ([1], 0)


@pytest.mark.parametrize("n", [64, 200])
@pytest.mark.parametrize("method", ["create_future", "call_soon"])
def test_an_event_loop_that_submits_while_it_is_called(
    server: RedisServer, method: str, n: int
) -> None:
    """As many calls as there was room for, and more."""
    plain = ActingLoop()
    loop, buckets = connected(server, plain)
    futures: list[Any] = []

    def act() -> None:
        futures.extend(loop.hit(buckets, f"k{number}") for number in range(n))

    plain.acts[method] = act
    futures.append(loop.hit(buckets, "last"))
    plain.run_until(lambda: all(each.is_set for each in futures))
    assert [type(each.outcome) for each in futures] == [Decision] * (n + 1)
    loop.close()


@pytest.mark.parametrize("method", ["create_future", "call_soon", "cost"])
def test_a_call_that_is_closed_while_it_is_submitted(server: RedisServer, method: str) -> None:
    plain = ActingLoop()
    loop, buckets = connected(server, plain)
    plain.acts[method] = loop.close
    cost = Number(1, lambda: plain.act("cost"))
    with pytest.raises(RuntimeError, match="closed"):
        loop.hit(buckets, "k", cost)  # type: ignore[arg-type]
    assert loop.pending == 0


def test_a_call_soon_that_raises_is_called_again(server: RedisServer) -> None:
    plain = ActingLoop()
    loop, buckets = connected(server, plain)

    def act() -> None:
        raise LookupError

    plain.acts["call_soon"] = act
    with pytest.raises(LookupError):
        loop.hit(buckets, "k")
    future: Any = loop.hit(buckets, "k")
    plain.run_until(future.done)
    assert (type(future.outcome), loop.pending) == (Decision, 0)
    loop.close()


def test_a_call_soon_that_raises_takes_no_tokens(server: RedisServer) -> None:
    plain = ActingLoop()
    loop, buckets = connected(server, plain)

    def fail() -> None:
        raise LookupError

    plain.acts["call_soon"] = fail
    with pytest.raises(LookupError):
        loop.hit(buckets, "k", 50)
    assert loop.pending == 0
    future: Any = loop.peek(buckets, "k")
    plain.run_until(future.done)
    assert future.outcome.remaining == 100
    loop.close()


def test_a_call_soon_that_calls_at_once(server: RedisServer) -> None:
    """The turn sends the call that it was scheduled for."""

    class Eager(ActingLoop):
        def call_soon(self, callback: Any) -> object:
            return callback()

    plain = Eager()
    loop, buckets = connected(server, plain)
    futures: list[Any] = [loop.hit(buckets, f"k{number}") for number in range(3)]
    plain.run_until(lambda: all(each.is_set for each in futures))
    assert [type(each.outcome) for each in futures] == [Decision] * 3
    loop.close()
