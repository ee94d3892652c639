"""The C binding while the Python code that it calls re-enters, closes, raises or forks.

The address sanitizer sees what these did to memory: see `make sanitize`.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import Decision, ManualClock, RateLimiter, StoreError, _core
from rate_limiter.stores.connection import scripts
from support.acting import Named, Number, buckets_of
from support.fake_redis import FakeConnection, fake_redis
from support.plain_loop import PlainLoop
from support.redis_servers import RedisServer

TWICE = "initialised twice"


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
    gate = _core.AsgiMiddleware.__new__(_core.AsgiMiddleware)
    rest: dict[str, Any] = {"exempt_paths": frozenset(), "status_path": None, "probing": 0}

    class Flag:
        def __bool__(self) -> bool:
            gate.__init__("first", None, skips_preflight=True, **rest)  # type: ignore[misc]
            return True

    with pytest.raises(RuntimeError, match=TWICE):
        gate.__init__("second", None, skips_preflight=Flag(), **rest)  # type: ignore[arg-type,misc]
    assert gate.app == "first"


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
    """The arguments of the first call are neither used nor leaked."""
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


WITHOUT_DESCRIPTORS = """
import os, resource
from rate_limiter import RateLimiter, _core

RateLimiter("1/s", store="redis://127.0.0.1:2")  # has read the scripts
before = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
for n in range(3):
    for make in (_core.RedisClient, lambda url: RateLimiter("1/s", store=url)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + n, before[1]))
        try:
            make("redis://127.0.0.1:1")
            print("made")
        except OSError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
"""


def test_a_client_without_a_file_descriptor(run_python: Callable[..., str]) -> None:
    refused = "[Errno 24] Too many open files"
    assert run_python(WITHOUT_DESCRIPTORS).splitlines() == [refused] * 4 + ["made"] * 2


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
    ):
        with pytest.raises(StoreError, match="forking"):
            call()
    client.after_fork_in_parent()
    with pytest.raises(RuntimeError, match="before_fork"):
        client.after_fork_in_parent()
    with pytest.raises(RuntimeError, match="before_fork"):
        client.after_fork_in_child()
    assert client.allow(buckets, "k")


FORKS_THAT_NEST = """
import os, sys

address, kind = sys.argv[1:]
begun = 0  # forks below the present one

def fork_once():
    global begun
    if not begun:
        begun = 1
        os.fork()

# the hooks of logging do not nest
sys.unraisablehook = lambda failure: (
    failure.object.__module__ == "logging" or sys.__unraisablehook__(failure)
)
if kind != "line":
    os.register_at_fork(**{kind: fork_once})  # runs between the hooks of rate_limiter and the fork

from rate_limiter.stores import connection

store = connection.connect(address)
HOOKS = (connection._before_fork, connection._after_fork_in_parent, connection._after_fork_in_child)

def trace(frame, event, _):
    # as a signal handler would run at line number `at` of the hooks
    global lines
    if frame.f_code not in [hook.__code__ for hook in HOOKS]:
        return None
    lines += event == "line"
    if lines == at:
        fork_once()
    return trace

def ids_after_a_fork():
    # the connections of all processes that there are after the fork
    global begun
    root = os.getpid()
    client = store.client
    client.command("PING")
    reads, writes = os.pipe()
    begun = 0
    if kind == "line":
        sys.settrace(trace)
    os.fork()
    sys.settrace(None)
    os.write(writes, b"%d " % client.command("CLIENT", "ID"))
    try:
        while True:
            assert os.wait()[1] == 0
    except ChildProcessError:
        pass
    if os.getpid() != root:
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as file:
        return file.read().split()

at, lines, found = 0, 0, []
while True:
    at, lines = at + 1, 0
    ids = ids_after_a_fork()
    assert len(set(ids)) == len(ids), ids
    if len(ids) == 2:
        break
    found.append(len(ids))
    if kind != "line":
        break
print(*sorted(set(found)), len(found) > 5)
"""


@pytest.mark.parametrize(
    ("kind", "printed"),
    [
        ("before", "4 False"),
        ("after_in_parent", "3 False"),
        ("after_in_child", "3 False"),
        ("line", "3 4 True"),
    ],
)
def test_a_fork_within_the_hooks_of_a_fork(
    server: RedisServer, run_python: Callable[..., str], kind: str, printed: str
) -> None:
    """By a hook that was registered earlier, or by a signal handler at any line of our hooks."""
    assert run_python(FORKS_THAT_NEST, server.url, kind) == f"{printed}\n"


MADE_AT_A_FORK = """
import os, sys

made = []

def make():
    made.append(connect(sys.argv[1]))
    made[0].client.command("PING")

os.register_at_fork(before=make)
from rate_limiter.stores.connection import connect

reads, writes = os.pipe()
child = os.fork()
os.write(writes, b"%d " % made[0].client.command("CLIENT", "ID"))
if child == 0:
    os._exit(0)
assert os.wait()[1] == 0
print(len(set(os.read(reads, 100).split())))
"""


def test_a_connection_that_a_hook_makes(
    server: RedisServer, run_python: Callable[..., str]
) -> None:
    """Between the hooks and the fork; parent and child had one connection."""
    assert run_python(MADE_AT_A_FORK, server.url) == "2\n"


FORKED_IN_A_SIGNAL_HANDLER = """
import os, signal, sys
from rate_limiter import StoreError, _core
from rate_limiter.stores.connection import connect, scripts

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


@pytest.mark.parametrize("count", [-1, 2**64, 1.5, math.nan, None, "1"])
def test_counts_that_are_none(count: Any) -> None:
    meter = _core.Meter()
    for counts in ((count, 0), (0, count)):
        with pytest.raises((TypeError, OverflowError)):
            meter.record(*counts, 5)
    assert meter.read() == ((0,) * 16, (0,) * 16, 0)
    client = _core.RedisClient("redis://127.0.0.1:1")
    with pytest.raises((TypeError, OverflowError)):
        _core.RedisBuckets(client, ((1.0, 1.0),), scripts(), b"b:", (b"",), True, count)


@pytest.mark.parametrize("store", ["memory://", "redis://127.0.0.1:1"])
def test_a_reset_takes_the_key_by_name(store: str) -> None:
    limiter = RateLimiter("1/day; burst=1", store=store)
    for made in (limiter, _core.Limiter([(1.0, 0.0)])):
        made.allow("k")
        made.reset(key="k")
        assert made.allow("k")
        with pytest.raises(TypeError):
            made.reset("k", cost=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _core.Limiter([(1.0, 0.0)]).reset()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [(-3.5, b"0"), (-0.0, b"0"), (1e300, b"%d" % (2**64 - 1)), (2.0**63, b"%d" % 2**63)],
)
def test_headers_of_any_decision(tokens: float, shown: bytes) -> None:
    sent: list[Any] = []
    gate = _core.AsgiMiddleware(
        lambda scope, receive, send: send({"type": "http.response.start", "headers": []}),
        None,
        exempt_paths=frozenset(),
        status_path=None,
        skips_preflight=False,
        probing=False,
    )
    gate._conclude({}, None, sent.append, Decision(True, tokens, limit=tokens))
    assert dict(sent[0]["headers"])[b"x-ratelimit-remaining"] == shown
    assert dict(sent[0]["headers"])[b"x-ratelimit-limit"] == shown
