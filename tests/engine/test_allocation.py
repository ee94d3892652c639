"""Memory that runs out, seen from Python: the core's own, and the interpreter's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Makes posix_memalign fail, which the core allocates with and hardly anybody else, when the
# program says so.
PRELOAD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

int fail_memory;

int posix_memalign(void **block, size_t align, size_t size)
{
    static int (*real)(void **, size_t, size_t);
    if (fail_memory) {
        return ENOMEM;
    }
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "posix_memalign");
    }
    return real(block, align, size);
}
"""

CORE = """
import ctypes
from rate_limiter import ManualClock, RateLimiter, _core

switch = ctypes.c_int.in_dll(ctypes.CDLL(None), "fail_memory")

def refused(call, *arguments):
    try:
        call(*arguments)
    except MemoryError:
        return True
    return False

clock = ManualClock()
limiter = RateLimiter("0/second; burst=10", clock=clock)
switch.value = 1
assert refused(RateLimiter, "1/second")
assert refused(_core.Meter)
assert refused(_core.ClientSketch, b"s" * 16, 100, "plain")
assert refused(limiter.allow, "k")
assert refused(limiter.hit, "k")
assert refused(limiter.allow_many, ["k"])
assert limiter.peek("k").remaining == 10  # nothing was taken
switch.value = 0
assert limiter.hit("k").remaining == 9
keys = [f"{number}" for number in range(3000)]
assert all(limiter.allow_many(keys))

switch.value = 1  # the table cannot grow any more: it evicts, and the limit holds
slots = limiter.stats()["slots"]
allowed = sum(limiter.allow(f"x{number}") for number in range(200_000))
stats = limiter.stats()
assert stats["slots"] == slots
assert stats["grow_failures"] > 0 and stats["evicted_active"] > 0
assert allowed + 3001 <= slots * 10
print("done")
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preload")
    source, library = folder / "preload.c", folder / "preload.so"
    source.write_text(PRELOAD)
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return library


@pytest.mark.unsanitized(reason="the sanitizer wants to be preloaded first, and allocates itself")
def test_core_without_memory(preload: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CORE],
        env=os.environ | {"LD_PRELOAD": str(preload)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# The interpreter's own allocations fail, the n-th from now on, for every n until none fails.
INTERPRETER = """
import _testcapi
import asyncio
import pickle
from rate_limiter import Decision, ManualClock, RateLimiter
from rate_limiter._core import AsgiMiddleware, GivenLimits, Limiter, StartResponse, WsgiRecorder
from rate_limiter._core import client_key, take_all
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.storage import Storage
from rate_limiter.policy.request_fields import WsgiFramework
from rate_limiter.policy.rule_sources import as_source

clock = ManualClock()
limiter = Limiter([(10.0, 1.0), (100.0, 2.0)], clock=clock)
decision = limiter.hit("k")
texts = RateLimiter("1/second", clock=clock)
GIVEN = (("5/second", (5.0, 5.0), 1.0, 0), ("6/minute", (6.0, 0.1), 60.0, 0))
given = GivenLimits(GIVEN)
windows = GivenLimits((("5 a minute", (5.0, 60, False), 60.0, 0),))
texts.peek("k", 0, windows)

# Made here: locals(), which RateLimiter calls, crashes CPython 3.13 without memory.
fresh = iter([RateLimiter("1/second", clock=clock) for _ in range(300)])

def first_with_limits():
    return next(fresh).hit("k", 1, given)

# Made here: without memory, making a function crashes CPython 3.12 and 3.13.
def halfway():
    return 1.5

pairs = [(10.0, 1.0)]
keys = ["a", "b", "é", "\\ud800"]

class Done:
    def __await__(self):
        return iter(())

DONE = Done()
sent = []
START = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
SCOPE = {"type": "http", "path": "/", "client": ("2001:db8::1", 5)}

def app(scope, receive, send):
    return send(START)

def send(message):
    return DONE

identities = Identities(ClientAddress(["10.0.0.0/8"]))
rules = {
    "default": {"limits": "1000/second; 1000000/hour"},
    "keyed": {"path": "/items/{id}", "limits": "1000/second", "key": "header:x-key", "cost": 2},
    "free": {"path": "/health", "exempt": True},
}
style = HeaderStyle("both", "epoch", 0, True)

def policy_of(identities, **options):
    return Policy(
        as_source(rules), Storage(clock=clock), identities, key=["cookie:sid", "ip"],
        bypass=["ip:192.0.2.0/24", "header:x-secret=s3cret"], style=style, **options
    )

policy = policy_of(identities)
gate = AsgiMiddleware(
    app, policy, exempt_paths=frozenset({"/health"}), status_path="/status", skips_preflight=True,
    probing=False,
)
HEADERS = [(b"x-key", b"k"), (b"cookie", b"a=b; sid=c"), (b"x-forwarded-for", b"203.0.113.7")]
wsgi_policy = policy_of(Identities(framework=WsgiFramework()), blocking=True)

def scope_of(path):
    return {
        "type": "http", "method": "get", "path": path, "root_path": "/base", "headers": HEADERS,
        "client": ("10.0.0.1", 5),
    }

def environ_of(path):
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "REMOTE_ADDR": "2001:db8::1",
        "HTTP_COOKIE": "sid=c", "HTTP_X_KEY": "k",
    }

def start_response(status, headers):
    return None

def wsgi():
    environ = environ_of("/items/7")
    start = StartResponse(environ, start_response)
    wsgi_policy._check(environ, environ)
    start("200 OK", [("A", "b")])
    return environ["rate_limiter"].headers()

def wsgi_app(environ, start_response):
    wsgi_policy.decide_now(environ)
    start_response("200 OK", [("A", "b")])
    return environ["rate_limiter"].headers()

recorder = WsgiRecorder(wsgi_app, lambda body, settlement: body, lambda settlement, error: None)

def settled_wsgi():
    environ = {**environ_of("/items/7"), "rate_limiter.settlement": "settlement"}
    return recorder(environ, start_response)

calls = {
    "hit": lambda: limiter.hit("é" * 3, 0.001),
    "peek": lambda: limiter.peek("\\ud800"),
    "hit_each": lambda: limiter._hit_each("k", 0.001),
    "peek_each": lambda: limiter._peek_each("k", 0.001),
    "charge": lambda: limiter.charge("\\ud800", 0.001),
    "costs": lambda: limiter.hit("k", (0.001, 0.001)),
    "block": lambda: limiter.block("\\ud800", 0.001),
    "take_all": lambda: take_all(((limiter, "a", 0.001), (limiter, "\\ud800", 0.001))),
    "take_all with limits": lambda: take_all(((texts, "a", 0, windows), (texts, "b", 0, windows))),
    "keep": lambda: Limiter([(20.0, 1.0), (5.0, 2.0)], clock=clock, keep=limiter),
    "window": lambda: Limiter([(20, 60, True)], clock=clock, max_keys=10).hit("k"),
    "GivenLimits": lambda: GivenLimits(GIVEN),
    "with limits": lambda: texts.hit_each("\\ud800", 0.001, given),
    "first with limits": first_with_limits,
    "many with limits": lambda: texts.allow_many(keys, 0.001, given),
    "charge with limits": lambda: texts.charge("\\ud800", (0.001, 0.001), given),
    "callable": lambda: Limiter(pairs, clock=halfway, max_keys=10).hit("k"),
    "allow_many": lambda: limiter.allow_many(keys, 0.001),
    "stats": limiter.stats,
    "Limiter": lambda: Limiter(pairs, clock=clock, max_keys=10),
    "Decision": lambda: Decision(False, 1.5, 1500, limit=2),
    "repr": lambda: repr(decision),
    "hash": lambda: hash(decision),
    "reduce": decision.__reduce__,
    "fields": lambda: (decision.retry_after, decision.reset_after, decision.retry_after_ms),
    "clock": lambda: repr(ManualClock(5)),
    "client_key": lambda: client_key("2001:db8::1"),
    "gate": lambda: gate(dict(SCOPE), None, send),
    "rules": lambda: gate(scope_of("/base/items/7"), None, send),
    "odd path": lambda: gate(scope_of("/base//items/../items/7/"), None, send),
    "wsgi": wsgi,
    "recorder": lambda: recorder(environ_of("/base//items/../items/7"), start_response),
    "settled": settled_wsgi,
}
for name, call in calls.items():
    call()
    failures = 0
    for n in range(200):
        _testcapi.set_nomemory(n)
        try:
            call()
        except MemoryError:
            failed = True
        else:
            failed = False
        finally:
            _testcapi.remove_mem_hooks()
        failures += failed
        if not failed:
            break
    else:
        raise AssertionError(f"{name} never succeeds")
    call()  # works as before
    # Small floats, tuples and one Decision may come from free lists, without an allocation.
    assert failures > 0 or name in ("costs", "fields", "hash", "hit"), name
print("done")
"""


def test_interpreter_without_memory() -> None:
    """No crash, no wrong exception, and all is well again afterwards."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", INTERPRETER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# One allocation of the interpreter fails, or very many from it on, for every n.
TAKEN = """
import _testcapi
import gc
import logging
import sys
from rate_limiter import Decision, ManualClock, RateLimiter
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware

logging.disable()
sys.unraisablehook = lambda unraisable: None
clock = ManualClock()
ERROR = RuntimeError("no cost")  # made here: without memory an exception cannot be made

# If all of them failed, CPython would never find the handler of an exception in a long function.
VERY_MANY = 1000

class State:
    entered = False
    elsewhere = 0  # tokens taken there

class Done:
    def __await__(self):
        return iter(())

DONE = Done()
state = State()

def app(scope, receive, send):
    state.entered = True
    return DONE

def wsgi_app(environ, start_response):
    state.entered = True
    start_response("200 OK", [])
    return ()

def send(message):
    return DONE

def finish(awaitable):
    while awaitable is not DONE:  # begin without memory of our own
        try:
            awaitable.send(None)
        except StopIteration:
            break

async def awaited_key(scope):
    await DONE
    return "k"

def raising_cost(scope):
    raise ERROR

def options_of(options):
    plain = {"limits": "0/second; burst=3000", "key": lambda scope: "k"}
    return plain | options | {"clock": clock, "setup_checks": False}

def limited(app, **options):
    return RateLimitMiddleware(app, **options_of(options))

def limited_wsgi(app, **options):
    return WsgiMiddleware(app, **options_of(options))

class Elsewhere(RateLimiter):
    "Is awaited like a store on another machine."

    is_remote = True

class AsyncElsewhere:
    def __init__(self, limiter):
        decision = limiter.peek("k")
        if limiter.limits[0].capacity == 1:
            decision = Decision(False, 0, 1000, limit=1)
        self._decisions = (decision, decision)

    async def hit_each(self, key, cost=1):
        await DONE
        state.elsewhere += self._decisions[0].allowed
        return self._decisions

    async def refund(self, key, cost=1):
        state.elsewhere -= 1

AsyncRateLimiter.of = AsyncElsewhere

def elsewhere(app, burst=3000):
    limiter = Elsewhere(f"0/second; burst={burst}", clock=clock)
    return RateLimitMiddleware(app, limiter, key=lambda scope: "k", setup_checks=False)

def of_asgi(gate):
    scope = {"type": "http", "path": "/", "headers": [], "method": "GET"}
    finish(gate(scope, None, send))

# Made here: without memory, making a function crashes CPython 3.12 and 3.13.
def start_response(status, headers):
    return None

def of_wsgi(gate):
    gate({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, start_response)

ONCE = "0/second; burst=1"
plain = limited(app)
spent, spent_elsewhere = limited(app, limits=ONCE), elsewhere(app, 1)
raising = limited(app, cost=raising_cost)
stacked = limited(plain)
wsgi_spent = limited_wsgi(wsgi_app, limits=ONCE)
wsgi_raising = limited_wsgi(wsgi_app, cost=raising_cost)
remote = elsewhere(app)
cases = {
    "allowed": (of_asgi, plain),
    "stacked": (of_asgi, stacked, plain),
    "denied": (of_asgi, spent),
    "denied inside": (of_asgi, limited(spent)),
    "awaited": (of_asgi, limited(app, key=awaited_key)),
    "awaited, denied inside": (of_asgi, limited(spent, key=awaited_key)),
    "raising": (of_asgi, raising),
    "raising inside": (of_asgi, limited(raising)),
    "remote": (of_asgi, remote),
    "remote, denied": (of_asgi, spent_elsewhere),
    "denied remotely inside": (of_asgi, limited(spent_elsewhere)),
    "WSGI": (of_wsgi, limited_wsgi(wsgi_app)),
    "WSGI, denied": (of_wsgi, wsgi_spent),
    "WSGI, raising": (of_wsgi, wsgi_raising),
}

held = []

def keeping(scope, receive, send):
    held.append((scope, send))
    return DONE

keeper = limited(keeping, limits="0/second; burst=1000000000")

def hold():
    "Keep a request, which uses the memory that is kept of freed objects."
    held.clear()
    finish(keeper({"type": "http", "path": "/", "headers": [], "method": "GET"}, None, send))

def remaining(gates):
    limiters = [getattr(gate, "limiter", None) or gate._limited.limiter for gate in gates]
    return [state.elsewhere, *(one.peek("k").remaining for one in limiters)]

def attempt(name, call, gates, n, failing=1):
    state.entered = False
    state.elsewhere = 0
    before = remaining(gates)
    hold()
    _testcapi.set_nomemory(n, n + failing)
    try:
        call(gates[0])
        failed = False
    except MemoryError:
        failed = True
    except (RuntimeError, SystemError) as error:
        failed = error is not ERROR  # CPython's, for a function that raised without memory
    finally:
        _testcapi.remove_mem_hooks()
    # Giving back in Python needs memory: to a remote store, or after its denial.
    if not state.entered and (failing == 1 or "remote" not in name) and "remotely" not in name:
        assert remaining(gates) == before, (name, n, failing, before, remaining(gates))
    return failed

for name, (call, *gates) in cases.items():
    try:
        call(gates[0])
    except RuntimeError:
        pass
    failures = 0
    while attempt(name, call, gates, failures, VERY_MANY):
        failures += 1
    assert failures > 3, (name, failures)
    for n in range(failures + 1):
        attempt(name, call, gates, n)
    gc.collect()
    counts = []
    for _ in range(2):
        for n in range(failures + 1):
            attempt(name, call, gates, n)
        ERROR.__traceback__ = ERROR.__context__ = None
        gc.collect()
        counts.append(sys.getallocatedblocks())
    assert counts[1] - counts[0] < failures, (name, counts)  # less than one block per failure
print("done")
"""


def test_a_request_without_memory_takes_no_tokens() -> None:
    """Nothing stays taken unless the application was called, and nothing leaks."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TAKEN],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
