"""Subinterpreters: each has its own copy of the module, and from Python 3.12 on its own GIL.

They run in a process of their own, so that a crash is a failed test. Those with their own GIL
load the extension alone: the standard library's asyncio crashes in them on some versions.
"""

import os
from collections.abc import Callable

import pytest
from rate_limiter import _core

SUPPORT = f"""
import os
import sys
import threading

try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

ALONE = '''
import sys, types
package = types.ModuleType("rate_limiter")
package.__path__ = [{os.path.dirname(_core.__file__)!r}]
sys.modules["rate_limiter"] = package
'''


def create(own_gil):
    if sys.version_info >= (3, 13):
        return interpreters.create("isolated" if own_gil else "legacy")
    # Before 3.12 all interpreters share one GIL, and those that are isolated allow no threads.
    return interpreters.create(isolated=own_gil and sys.version_info >= (3, 12))


def run(interpreter, program):
    wrong = interpreters.run_string(interpreter, program)
    # 3.13 returns what went wrong; older versions raise it.
    assert wrong is None, wrong.formatted


def ask(program, own_gil=True):
    # Run a program that writes to the descriptor `out`, in a separate interpreter.
    reader, writer = os.pipe()
    interpreter = create(own_gil)
    run(interpreter, f"out = {{writer}}\\n" + (ALONE if own_gil else "") + program)
    interpreters.destroy(interpreter)
    os.close(writer)
    with open(reader) as file:
        return file.read()

"""

DECIDES = """
import os
from rate_limiter._core import Decision, Limiter, ManualClock
clock = ManualClock()
limiter = Limiter([(3, 3)], clock=clock)
results = [limiter.allow("k") for _ in range(4)]
clock.advance(1)
results.append(limiter.hit("k") == Decision(True, 2, limit=3, reset_after=1 / 3))
os.write(out, repr(results).encode())
"""


@pytest.mark.parametrize("own_gil", [True, False])
def test_a_subinterpreter_makes_decisions(run_python: Callable[..., str], *, own_gil: bool) -> None:
    program = SUPPORT + f"print(ask(sys.argv[1], {own_gil}))"
    assert run_python(program, DECIDES) == "[True, True, True, False, True]\n"


def test_it_does_so_beside_the_first_interpreter(run_python: Callable[..., str]) -> None:
    program = (
        SUPPORT
        + """
from rate_limiter import RateLimiter
limiter = RateLimiter("2/day")
assert limiter.allow("k")
answer = ask(sys.argv[1])
assert [limiter.allow("k") for _ in range(2)] == [True, False]
print(answer)
"""
    )
    assert run_python(program, DECIDES) == "[True, True, True, False, True]\n"


def test_the_whole_package(run_python: Callable[..., str]) -> None:
    decides = """
import os
from rate_limiter import RateLimiter, RateLimitExceeded
limiter = RateLimiter("2/minute")
try:
    while limiter.acquire("k", timeout=1):
        os.write(out, b"allowed ")
except RateLimitExceeded as error:
    os.write(out, type(error.decision).__name__.encode())
"""
    program = SUPPORT + "print(ask(sys.argv[1], own_gil=False))"
    assert run_python(program, decides) == "allowed allowed Decision\n"


def test_nothing_is_shared(run_python: Callable[..., str]) -> None:
    identifies = """
import os
from rate_limiter import _core
assert type(_core.Limiter([(1, 0)]).hit("k")) is _core.Decision
ids = [id(x) for x in (_core, _core.Limiter, _core.Decision, _core.ManualClock)]
os.write(out, repr(ids).encode() + b"\\n")
"""
    # Two that are alive at the same time, so that no address is used again.
    program = (
        SUPPORT
        + """
from rate_limiter import _core
ids = {id(x) for x in (_core, _core.Limiter, _core.Decision, _core.ManualClock)}
reader, writer = os.pipe()
both = [create(True), create(True)]
for interpreter in both:
    run(interpreter, f"out = {writer}\\n" + ALONE + sys.argv[1])
os.close(writer)
with open(reader) as file:
    for line in file:
        ids.update(eval(line))
for interpreter in both:
    interpreters.destroy(interpreter)
assert _core.Limiter([(1, 0)]).allow("k")
print(len(ids))
"""
    )
    assert run_python(program, identifies) == "12\n"


def test_many_at_once(run_python: Callable[..., str]) -> None:
    """With a GIL each, they truly run at the same time."""
    counts = """
import os
from rate_limiter._core import Limiter
limiter = Limiter([(30_000, 0)])
allowed = sum(limiter.allow("k") for _ in range(40_000))
allowed += sum(limiter.allow_many(b"%d" % i for i in range(10_000)))
os.write(out, b"%d " % allowed)
"""
    program = (
        SUPPORT
        + """
answers = []
threads = [threading.Thread(target=lambda: answers.append(ask(sys.argv[1]))) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*answers)
"""
    )
    assert run_python(program, counts).split() == ["40000"] * 6


@pytest.mark.unsanitized(reason="memory that is freed stays in the sanitizer's quarantine")
def test_made_and_destroyed_many_times(run_python: Callable[..., str]) -> None:
    """An interpreter frees all it holds: types, a clock, a table of 3 MB."""
    leaves_much = """
from rate_limiter._core import Decision, Limiter, ManualClock
clock = ManualClock()
limiter = Limiter([(5, 1)], clock=clock)
for i in range(100_000):
    limiter.allow(b"%d" % i)
kept = [limiter, limiter.hit("k"), Decision]
kept.append(kept)
"""
    program = (
        SUPPORT
        + """
import psutil


def grown_mb(program, times):
    before = psutil.Process().memory_info().rss
    for _ in range(times):
        interpreter = create(True)
        run(interpreter, program)
        interpreters.destroy(interpreter)
    return (psutil.Process().memory_info().rss - before) / times / 1e6


grown_mb(ALONE + sys.argv[1], 5)
print(grown_mb("import dataclasses", 10), grown_mb(ALONE + sys.argv[1], 10))
"""
    )
    bare_mb, ours_mb = map(float, run_python(program, leaves_much).split())
    # A subinterpreter without the extension leaks memory, too: 1.8 MB on Python 3.12, and as much
    # again on Python 3.13 for `dataclasses`, which the extension imports.
    assert ours_mb < bare_mb + 0.5
