"""The C binding while the Python code that it calls re-enters, closes, raises or forks.

The address sanitizer sees what these did to memory: see `make sanitize`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_redis import FakeConnection, fake_redis
from plain_loop import PlainFuture, PlainLoop, PlainTimer
from rate_limiter import Decision, ManualClock, StoreError, _core
from rate_limiter.connection import scripts
from redis_servers import RedisServer

TWICE = "initialised twice"


def buckets_of(client: _core.RedisClient, limits: tuple[Any, ...] = ((100.0, 1.0),)) -> Any:
    after = tuple(b"%d" % number for number in range(len(limits)))
    windows = any(len(limit) == 3 for limit in limits)
    return _core.RedisBuckets(client, limits, scripts(with_windows=windows), b"b:", after, True)


class Number:
    """A number that runs a function when it is read."""

    def __init__(self, value: float, then: Callable[[], object]) -> None:
        self.value = value
        self.then = then

    def __float__(self) -> float:
        self.then()
        return float(self.value)


class Named:
    """A path that runs a function when it is read."""

    def __init__(self, path: Path, then: Callable[[], object]) -> None:
        self.path = path
        self.then = then

    def __fspath__(self) -> str:
        self.then()
        return str(self.path)


# --- An __init__ that its own arguments call again ---


def reentered_limits(limiter: Any) -> Iterator[Any]:
    limiter.__init__([(3.0, 1.0)], clock=ManualClock())
    yield from [(9.0, 1.0)] * 8


def test_limits_that_initialise_the_limiter() -> None:
    limiter = _core.Limiter.__new__(_core.Limiter)
    with pytest.raises(RuntimeError, match=TWICE):
        limiter.__init__(reentered_limits(limiter))  # type: ignore[misc]
    assert limiter.hit("k", 2) == Decision(True, 1, limit=3, reset_after=2)
    assert len(limiter._hit_each("k", 0)) == 2


def test_more_limits_than_there_can_be_behind_a_limiter_that_was_made() -> None:
    limiter = _core.Limiter.__new__(_core.Limiter)

    def limits() -> Iterator[Any]:
        limiter.__init__([(3.0, 1.0)])  # type: ignore[misc]
        yield from [(9.0, 1.0)] * 5000

    with pytest.raises(ValueError, match="expected 1 to 8 limits, got 5000"):
        limiter.__init__(limits())  # type: ignore[misc]
    assert limiter.hit("k", 0.5).limit == 3
    assert limiter.charge("k", 0.5).limit == 3


def test_a_number_that_initialises_the_limiter() -> None:
    limiter = _core.Limiter.__new__(_core.Limiter)
    number = Number(9, lambda: limiter.__init__([(3.0, 1.0)] * 2))  # type: ignore[misc]
    with pytest.raises(RuntimeError, match=TWICE):
        limiter.__init__([(number, 1.0)])  # type: ignore[list-item,misc]
    assert limiter.hit("k").limit == 3


def test_a_path_that_initialises_the_limiter(tmp_path: Path) -> None:
    limiter = _core.Limiter.__new__(_core.Limiter)
    path = Named(tmp_path / "table", lambda: limiter.__init__([(3.0, 1.0)]))  # type: ignore[misc]
    with pytest.raises(RuntimeError, match=TWICE):
        limiter.__init__([(9.0, 1.0)], max_keys=10, path=path)  # type: ignore[arg-type,misc]
    assert limiter.hit("k").limit == 3


def test_a_limiter_after_an_init_that_failed() -> None:
    limiter = _core.Limiter.__new__(_core.Limiter)
    for limits in ([(60, 1, True)] * 8, [(9.0, 1.0)] * 9):
        with pytest.raises(ValueError, match=r"clock|expected"):
            limiter.__init__(limits, clock="none")  # type: ignore[misc]
        with pytest.raises(RuntimeError, match="not initialised"):
            limiter.hit("k")
    limiter.__init__([(3.0, 1.0)])  # type: ignore[misc]
    assert len(limiter._hit_each("k")) == 2


def test_a_path_that_initialises_the_meter(tmp_path: Path) -> None:
    meter = _core.Meter.__new__(_core.Meter)
    path = Named(tmp_path / "meter", lambda: meter.__init__())  # type: ignore[misc]
    with pytest.raises(RuntimeError, match=TWICE):
        meter.__init__(path)  # type: ignore[misc]
    meter.record(1, 0, 1)
    assert sum(meter.read()[0]) == 1
    assert sum(_core.Meter(tmp_path / "meter").read()[0]) == 0


def test_a_flag_that_initialises_the_gate() -> None:
    gate = _core.AsgiGate.__new__(_core.AsgiGate)
    limiter = _core.Limiter([(3.0, 1.0)])
    rest: dict[str, Any] = {"cost": None, "exempt_paths": frozenset(), "remote": 0, "probing": 0}

    class Flag:
        def __bool__(self) -> bool:
            gate.__init__("first", limiter, key=None, headers=True, **rest)  # type: ignore[misc]
            return True

    with pytest.raises(RuntimeError, match=TWICE):
        gate.__init__("second", None, key=None, headers=Flag(), **rest)  # type: ignore[arg-type,misc]
    assert (gate.app, gate.limiter) == ("first", limiter)


def test_a_number_that_initialises_the_buckets() -> None:
    client = _core.RedisClient("redis://127.0.0.1:1")
    buckets = _core.RedisBuckets.__new__(_core.RedisBuckets)

    def init(*limits: Any) -> None:
        endings = tuple(b"%d" % number for number in range(len(limits)))
        buckets.__init__(client, limits, scripts(), b"b:", endings, True)  # type: ignore[misc]

    window = (60, 1, True)
    with pytest.raises(RuntimeError, match=TWICE):
        init(*[window] * 7, (Number(9, lambda: init((3.0, 1.0))), 1.0))
    assert buckets.keys("k") == (b"b:{k}0",)
    with pytest.raises(RuntimeError, match=TWICE):
        init((3.0, 1.0))


def test_buckets_after_an_init_that_failed() -> None:
    client = _core.RedisClient("redis://127.0.0.1:1")
    buckets = _core.RedisBuckets.__new__(_core.RedisBuckets)
    window = (60, 1, True)
    with pytest.raises(ValueError, match="out of range"):
        buckets.__init__(client, (window, (-1.0, 1.0)), scripts(), b"b:", (b"0", b"1"), True)  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="not initialised"):
        buckets.keys("k")
    buckets.__init__(client, (window,), scripts(with_windows=True), b"b:", (b"0",), True)  # type: ignore[misc]
    assert buckets.keys("k") == (b"b:{k}0",)


class LoopThatInitialises(PlainLoop):
    """Its methods are looked up by __init__, which this calls again."""

    def __init__(self, then: Callable[[PlainLoop], object]) -> None:
        super().__init__()
        self.then = then

    def __getattribute__(self, name: str) -> Any:
        if name == "call_later":
            self.then(PlainLoop())
        return super().__getattribute__(name)


def test_a_loop_that_initialises_the_loop_object() -> None:
    client = _core.RedisClient("redis://127.0.0.1:1")
    loop = _core.RedisLoop.__new__(_core.RedisLoop)
    given = LoopThatInitialises(lambda other: loop.__init__(client, other))  # type: ignore[misc]
    with pytest.raises(RuntimeError, match=TWICE):
        loop.__init__(client, given)  # type: ignore[misc]
    assert loop.loop is not given
    future: Any = loop.hit(buckets_of(client), "k")
    loop.loop.run_until(future.done)
    assert isinstance(future.outcome, StoreError)
    loop.close()


def test_a_loop_object_after_an_init_that_failed() -> None:
    """What the first one got is neither used nor left behind."""
    client = _core.RedisClient("redis://127.0.0.1:1")
    loop = _core.RedisLoop.__new__(_core.RedisLoop)

    class Lacking(PlainLoop):
        @property
        def call_later(self) -> Any:  # type: ignore[override]
            raise AttributeError("no timers")

    lacking = Lacking()
    with pytest.raises(AttributeError, match="no timers"):
        loop.__init__(client, lacking)  # type: ignore[misc]
    gone = weakref.ref(lacking)
    del lacking
    gc.collect()
    assert gone() is None
    loop.__init__(client, PlainLoop())  # type: ignore[misc]
    loop.close()


# --- RedisLoop: futures that close, raise and fork ---


class ActingFuture(PlainFuture):
    """Runs a function when its result is set."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self.then = then

    def set_result(self, result: object) -> None:
        super().set_result(result)
        self.then()

    def set_exception(self, error: BaseException) -> None:
        super().set_exception(error)
        self.then()


class ActingLoop(PlainLoop):
    """Runs a function within the methods that are named."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        super().__init__()
        self.acts = acts
        self.future_acts: Callable[[], object] | None = None

    def act(self, method: str) -> None:
        then = self.acts.pop(method, None)  # once
        if then is not None:
            then()

    def create_future(self) -> Any:
        self.act("create_future")
        return PlainFuture() if self.future_acts is None else ActingFuture(self.future_acts)

    def call_soon(self, callback: Any) -> object:
        self.act("call_soon")
        return super().call_soon(callback)

    def call_later(self, delay_s: float, callback: Any) -> PlainTimer:
        self.act("call_later")
        return super().call_later(delay_s, callback)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        self.act("add_reader")
        super().add_reader(fd, callback, *args)

    def add_writer(self, fd: int, callback: Any, *args: Any) -> None:
        self.act("add_writer")
        super().add_writer(fd, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        self.act("remove_reader")
        return super().remove_reader(fd)

    def remove_writer(self, fd: int) -> bool:
        self.act("remove_writer")
        return super().remove_writer(fd)


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
from fake_redis import FakeConnection, fake_redis
from plain_loop import PlainFuture, PlainLoop
from rate_limiter import _core
from rate_limiter.connection import scripts

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
    tests = str(Path(__file__).parent)
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


# --- RedisLoop: an event loop whose methods close, raise and submit ---

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


# --- RedisClient: forks ---


def test_a_decision_between_the_hooks_of_a_fork(server: RedisServer) -> None:
    """Hooks of others run there. It waited for itself."""
    client = _core.RedisClient(server.url)
    buckets = buckets_of(client)
    client.before_fork()
    for call in (
        lambda: client.allow(buckets, "k"),
        lambda: client.allow_many(buckets, ["k"]),
        lambda: client.command("PING"),
        client.before_fork,
    ):
        with pytest.raises(StoreError, match="forking"):
            call()
    client.after_fork_in_parent()
    with pytest.raises(RuntimeError, match="before_fork"):
        client.after_fork_in_parent()
    with pytest.raises(RuntimeError, match="before_fork"):
        client.after_fork_in_child()
    assert client.allow(buckets, "k")


FORKED_IN_A_SIGNAL_HANDLER = """
import os, signal, sys
from rate_limiter import StoreError, _core
from rate_limiter.connection import connect, scripts

connection = connect(sys.argv[1])  # its hooks are called at a fork
client = connection.client
buckets = _core.RedisBuckets(client, ((100.0, 1.0),), scripts(), b"b:", (b"",), True)
children = []
signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    {call}
    kind = ""
except StoreError as error:
    kind = error.kind
if children == [0]:
    os._exit(0 if kind == "lost" else 1)
print(kind, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


@pytest.mark.parametrize(
    "call",
    ["client.allow(buckets, 'k')", "client.allow_many(buckets, 'abc')", "client.command('PING')"],
)
def test_a_signal_handler_that_forks_while_a_call_waits(
    run_python: Callable[..., str], call: str
) -> None:
    """The child's copy of the call is lost, and says so; the parent's goes on to its deadline."""

    def never_answer(connection: FakeConnection) -> None:
        connection.shake_hands()
        while True:
            connection.read_command()

    with fake_redis(never_answer) as silent:
        program = FORKED_IN_A_SIGNAL_HANDLER.replace("{call}", call)
        address = silent.address + "?timeout=1&connect_timeout=20"
        assert run_python(program, address) == "timeout 0\n"


# --- Values ---


@pytest.mark.parametrize("tokens", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["remaining", "limit"])
def test_a_decision_with_tokens_that_are_no_number(tokens: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a finite number of tokens"):
        Decision(True, **{name: tokens})  # type: ignore[arg-type]
    values = {"limit": 1.0, "remaining": 1.0} | {name: tokens}
    with pytest.raises(ValueError, match="finite"):
        _core._restore_decision(True, values["limit"], values["remaining"], 0, 0)


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [(-3.5, b"0"), (-0.0, b"0"), (1e300, b"%d" % (2**64 - 1)), (2.0**63, b"%d" % 2**63)],
)
def test_headers_of_any_decision(tokens: float, shown: bytes) -> None:
    sent: list[Any] = []
    gate = _core.AsgiGate(
        lambda scope, receive, send: send({"type": "http.response.start", "headers": []}),
        None,
        key=None,
        cost=None,
        exempt_paths=frozenset(),
        headers=True,
        remote=False,
        probing=False,
    )
    gate._conclude({}, None, sent.append, Decision(True, tokens, limit=tokens))
    assert dict(sent[0]["headers"])[b"x-ratelimit-remaining"] == shown
    assert dict(sent[0]["headers"])[b"x-ratelimit-limit"] == shown
