"""gevent, eventlet and trio: others run while a caller waits for a limiter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, RateLimiter
from support.redis_servers import RedisServer

pytestmark = pytest.mark.unsanitized(
    reason="a switch between greenlets copies the stack, which the sanitizer takes for an error"
)

# Each program runs in a separate process, since monkey patching is permanent.
START = {
    "gevent": """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from gevent import sleep, spawn
from gevent.pool import Pool
def result(greenlet): return greenlet.get()
def kill(greenlet): greenlet.kill()
""",
    "eventlet": """
import eventlet
eventlet.monkey_patch()
from eventlet import sleep, spawn
def result(greenlet): return greenlet.wait()
def kill(greenlet): greenlet.kill()
""",
}
COMMON = """
import os, signal, sys, threading, time
from rate_limiter import ManualClock, RateLimiter, RateLimitExceeded, StoreError
url, pid = sys.argv[1], int(sys.argv[2])
def limiter_of(limits, **arguments):
    return RateLimiter(limits, store=url, on_store_error="raise", **arguments)
def until(condition):
    while not condition():
        sleep(0.001)
"""


def _parameter(name: str) -> Any:
    is_here = importlib.util.find_spec(name) is not None
    return pytest.param(name, marks=pytest.mark.skipif(not is_here, reason=f"without {name}"))


@pytest.fixture(params=map(_parameter, START))
def run(request: pytest.FixtureRequest, server: RedisServer) -> Callable[[str], None]:
    """Return a function that runs a program under a library."""

    def run(program: str) -> None:
        assert server.process is not None
        done = subprocess.run(
            [sys.executable, "-c", START[request.param] + COMMON + program, server.url,
             str(server.process.pid)],
            env=os.environ | {"EVENTLET_NO_GREENDNS": "yes"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        errors = [
            line for line in done.stderr.splitlines() if "Warning" not in line and line.strip()
        ]
        assert done.returncode == 0, done.stderr
        assert not any(line.startswith("Traceback") for line in errors), done.stderr

    return run


def test_other_greenlets_run_while_redis_is_silent(run: Callable[[str], None]) -> None:
    """One of them lets Redis go on, so a decision that stops them all gets no answer."""
    run("""
limiter = limiter_of("3/hour")
assert limiter.allow("k")
os.kill(pid, signal.SIGSTOP)
deciding = [spawn(getattr(limiter, name), "k") for name in ("hit", "allow", "hit", "peek")]
many = spawn(limiter.allow_many, ["l"] * 4)
sleep(0.01)
os.kill(pid, signal.SIGCONT)
assert [bool(result(one)) for one in deciding] == [True, True, False, False]
assert result(many) == [True, True, True, False]
assert limiter.store.health()["status"] == "ok"
""")


def test_every_method(run: Callable[[str], None]) -> None:
    run("""
limiter = limiter_of("4/hour; 6/day")
def work():
    assert round(limiter.hit("k").remaining, 1) == 3
    assert len(limiter.hit_each("k")) == len(limiter.peek_each("k")) == 3
    assert round(limiter.charge("k", 2).remaining, 1) == 0
    limiter.refund("k")
    assert round(limiter.peek("k").remaining, 1) == 1
    limiter.reset("k")
    assert limiter.peek("k").remaining == 4
    assert len(limiter.inspect("k")) == 2
    for wrong in (lambda: limiter.hit(5), lambda: limiter.hit("k", -1)):
        try:
            wrong()
        except (TypeError, ValueError):
            continue
        raise AssertionError
work()
result(spawn(work))
""")


def test_many_greenlets_get_no_more_than_the_limit(run: Callable[[str], None]) -> None:
    run("""
limiter = limiter_of("20/hour")
greenlets = [spawn(limiter.allow, "k") for _ in range(300)]
assert sum(result(one) for one in greenlets) == 20
""")


def test_waiting_for_tokens(run: Callable[[str], None]) -> None:
    """In memory and in Redis, one behind the other. Others run, and the lines are empty then."""
    run("""
clock = ManualClock()
for limiter in (RateLimiter("1/hour", clock=clock), limiter_of("100/second; burst=1")):
    limiter.acquire("k")
    order = []
    def wait(i):
        limiter.acquire("k")
        order.append(i)
    greenlets = [spawn(wait, i) for i in range(5)]
    for n in range(5):
        until(lambda: len(limiter._lines.costs(b"k")) == 5 - n or len(order) > n)
        clock.advance(3600)
        until(lambda: len(order) > n)
    for one in greenlets:
        result(one)
    assert order == [0, 1, 2, 3, 4], order
    assert limiter._lines._lines == {}
    try:
        limiter.acquire("k", 1000, timeout=float("inf"))
    except RateLimitExceeded:
        continue
    raise AssertionError
""")


def test_a_greenlet_that_is_killed_gives_back(run: Callable[[str], None]) -> None:
    run("""
limiter = limiter_of("3/hour")
assert limiter.peek("k").remaining == 3
os.kill(pid, signal.SIGSTOP)
waiting = spawn(limiter.acquire, "k", 2)
sleep(0.05)
kill(waiting)
sleep(0.01)
os.kill(pid, signal.SIGCONT)
until(lambda: limiter.peek("k").remaining == 3)
taken = [result(spawn(limiter.hit, "l")) for _ in range(2)]
sleep(0.05)
assert limiter.peek("k").remaining == 3
assert limiter._lines._lines == {}
""")


def test_a_redis_that_does_not_answer(run: Callable[[str], None]) -> None:
    """Each gets its StoreError after the deadline, and decisions in memory where that is wanted."""
    run("""
url = url.split("?")[0] + "?socket_timeout=0.2"
limiter = limiter_of("3/hour")
here = RateLimiter("3/hour", store=url, on_store_error="memory")
def fails():
    try:
        limiter.hit("k")
    except StoreError:
        return True
os.kill(pid, signal.SIGSTOP)
try:
    failing = [spawn(fails) for _ in range(50)]
    assert all(result(one) for one in failing)
    deciding = [spawn(here.allow, "k") for _ in range(50)]
    assert sum(result(one) for one in deciding) == 3
finally:
    os.kill(pid, signal.SIGCONT)
url = url.split("?")[0]
until(lambda: not fails())
assert limiter.store.health()["status"] == "ok"
""")


def test_threads_forks_and_the_hub(run: Callable[[str], None]) -> None:
    """Where no greenlet can wait the thread does; a forked child connects again."""
    run("""
limiter = limiter_of("6/hour")
assert limiter.allow("k")
assert result(spawn(limiter.allow, "k"))
if "gevent" in sys.modules:
    hub = gevent.get_hub()
    assert hub.threadpool.apply(limiter.allow, ("k",))
    found = []
    hub.loop.run_callback(lambda: found.append(limiter.allow("k")))
    until(lambda: found)
    assert found == [True]
else:
    import eventlet.tpool
    assert eventlet.tpool.execute(limiter.allow, "k")
    found = []
    eventlet.hubs.get_hub().schedule_call_global(0, lambda: found.append(limiter.allow("k")))
    until(lambda: found)
    assert found == [True]
child = os.fork()
if child == 0:
    if "eventlet" in sys.modules:
        eventlet.hubs.use_hub()  # as gunicorn's worker does: a hub cannot be used after a fork
    ok = limiter.allow("k") and result(spawn(limiter.allow, "k"))
    os._exit(0 if ok else 1)
while True:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    sleep(0.01)
assert status == 0
assert not limiter.allow("k")
assert not result(spawn(limiter.allow, "k"))
""")


def test_requests_of_flask_and_wsgi(run: Callable[[str], None]) -> None:
    """Others run also where a front in C has called the limiter."""
    run("""
from flask import Flask
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware
from werkzeug.test import EnvironBuilder, run_wsgi_app
app = Flask(__name__)
FlaskRateLimiter(app, default_limits="3/hour", store=url, on_store_error="raise")
app.get("/")(lambda: "ok")
inner = Flask("inner")
inner.get("/")(lambda: "ok")
gate = RateLimitMiddleware(inner, limits="2/hour; 5/day", store=url, on_store_error="raise")
def ask(app):
    body, status, headers = run_wsgi_app(app, EnvironBuilder().get_environ(), buffered=True)
    return int(status.split()[0])
assert [ask(app), ask(gate)] == [200, 200]
os.kill(pid, signal.SIGSTOP)
greenlets = [spawn(ask, one) for one in (app, gate) * 10]
sleep(0.05)
os.kill(pid, signal.SIGCONT)
statuses = [result(one) for one in greenlets]
assert statuses[::2].count(200) == 2, statuses
assert statuses[1::2].count(200) == 1, statuses
assert set(statuses) == {200, 429}
""")


# --- trio ----------------------------------------------------------------------------------------


def test_trio() -> None:
    """Decisions in memory need no loop. What has to be awaited names what to do instead."""
    trio = pytest.importorskip("trio", exc_type=ImportError)
    limiter = AsyncRateLimiter("2/hour")
    far = AsyncRateLimiter("2/hour", store="redis://127.0.0.1:1/0", waiters_first=True)

    async def work() -> None:
        assert await limiter.allow("k")
        assert await limiter.hit("k")
        assert not (await limiter.peek("k")).allowed
        assert await limiter.allow_many(["l", "l", "l"]) == [True, True, False]
        calls = [lambda: limiter.acquire("k"), lambda: far.acquire("k"), lambda: far.inspect("k")]
        calls += [lambda: far.hit("k"), lambda: far.allow_many(["k"]), lambda: far.reset("k")]
        for call in calls:
            with pytest.raises(RuntimeError, match="a task of trio: use RateLimiter"):
                await call()
        decision = await trio.to_thread.run_sync(RateLimiter("1/hour").acquire, "k")
        assert decision.allowed

    trio.run(work)


async def test_a_program_that_has_only_imported_trio() -> None:
    pytest.importorskip("trio", exc_type=ImportError)
    assert (await AsyncRateLimiter("2/hour").acquire("k")).allowed


def test_without_any_event_loop() -> None:
    limiter = AsyncRateLimiter("1/hour")
    with pytest.raises(RuntimeError, match="no running event loop"):
        limiter.acquire("k").send(None)


def test_traced_calls_of_greenlets(run: Callable[[str], None]) -> None:
    """Each span has the request of its greenlet as parent."""
    run("""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
limiter = limiter_of("100/hour", tracing=True)
requests = provider.get_tracer("test")
def request():
    with requests.start_as_current_span("request") as span:
        limiter.hit("k")
        return span.get_span_context().span_id
parents = {result(one) for one in [spawn(request) for _ in range(5)]}
calls = [one for one in spans.get_finished_spans() if one.kind is trace.SpanKind.CLIENT]
assert len(parents) == len(calls) == 5
assert {one.parent.span_id for one in calls} == parents
""")
