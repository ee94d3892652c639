"""Subinterpreters: each has its own copy of the module, and from 3.12 on its own GIL.

They run in a process of their own, so that a crash is a failed test.
"""

from collections.abc import Callable

SUPPORT = """
import os
import sys

try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

OWN_GIL = sys.version_info >= (3, 12)  # before that all of them share one


def create():
    # Isolated interpreters refuse every module that does not declare its support.
    return interpreters.create("isolated") if sys.version_info >= (3, 13) else interpreters.create(
        isolated=OWN_GIL
    )


def run(interpreter, program, **names):
    # 3.13 returns what went wrong; older versions raise it.
    wrong = interpreters.run_string(
        interpreter, "\\n".join(f"{k} = {v!r}" for k, v in names.items()) + "\\n" + program
    )
    assert wrong is None, wrong.formatted


def ask(program):
    # Run a program that writes to the descriptor `out`, in an interpreter of its own.
    reader, writer = os.pipe()
    interpreter = create()
    run(interpreter, program, out=writer)
    interpreters.destroy(interpreter)
    os.close(writer)
    with open(reader) as file:
        return file.read()
"""

DECIDES = """
import os
from rate_limiter import Decision, ManualClock, RateLimiter, RateLimitExceeded
clock = ManualClock()
limiter = RateLimiter("3/second", clock=clock)
results = [limiter.allow("k") for _ in range(4)]
decision = limiter.hit("k")
try:
    limiter.acquire("k", timeout=0)
except RateLimitExceeded as error:
    results.append(error.decision == decision)
clock.advance(1)
results.append(limiter.hit("k") == Decision(True, 2, limit=3, reset_after=1 / 3))
os.write(out, repr(results).encode())
"""


def test_a_subinterpreter_makes_decisions(run_python: Callable[..., str]) -> None:
    program = SUPPORT + "print(ask(sys.argv[1]))"
    expected = "[True, True, True, False, True, True]\n"
    assert run_python(program, DECIDES) == expected


def test_it_does_so_after_the_first_interpreter_did(run_python: Callable[..., str]) -> None:
    program = SUPPORT + """
from rate_limiter import RateLimiter
limiter = RateLimiter("2/day")
assert limiter.allow("k")
answer = ask(sys.argv[1])
assert [limiter.allow("k") for _ in range(2)] == [True, False]
print(answer)
"""
    assert run_python(program, DECIDES) == "[True, True, True, False, True, True]\n"


IDENTIFIES = """
import os
from rate_limiter import _core
ids = [id(x) for x in (_core, _core.Limiter, _core.Decision, _core.ManualClock)]
limiter = _core.Limiter([(1, 0)])
assert type(limiter.hit("k")) is _core.Decision
os.write(out, repr(ids).encode())
"""


def test_nothing_is_shared(run_python: Callable[..., str]) -> None:
    program = SUPPORT + """
from rate_limiter import _core
ours = {id(x) for x in (_core, _core.Limiter, _core.Decision, _core.ManualClock)}

# Two that are alive at the same time, so that no address is used again.
reader, writer = os.pipe()
both = [create(), create()]
for interpreter in both:
    run(interpreter, sys.argv[1], out=writer)
    os.write(writer, b"\\n")
os.close(writer)
with open(reader) as file:
    theirs = [set(eval(line)) for line in file]
for interpreter in both:
    interpreters.destroy(interpreter)
print(len(ours | theirs[0] | theirs[1]))
assert _core.Limiter([(1, 0)]).allow("k")
"""
    assert run_python(program, IDENTIFIES).split() == ["12"]


COUNTS = """
import os
from rate_limiter._core import Limiter
limiter = Limiter([(30_000, 0)])
allowed = sum(limiter.allow("k") for _ in range(40_000))
allowed += sum(limiter.allow_many(b"%d" % i for i in range(10_000)))
os.write(out, b"%d " % allowed)
"""


def test_many_at_once(run_python: Callable[..., str]) -> None:
    """With a GIL each, they truly run at the same time."""
    program = SUPPORT + """
import threading
answers = []
threads = [threading.Thread(target=lambda: answers.append(ask(sys.argv[1]))) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*answers)
"""
    assert run_python(program, COUNTS).split() == ["40000"] * 6


def test_made_and_destroyed_many_times(run_python: Callable[..., str]) -> None:
    """A limiter is left over each time, with its clock and a million slots."""
    program = SUPPORT + """
import psutil
small = "import sys"
large = sys.argv[1]


def grown(program, times):
    before = psutil.Process().memory_info().rss
    for _ in range(times):
        interpreter = create()
        run(interpreter, program)
        interpreters.destroy(interpreter)
    return (psutil.Process().memory_info().rss - before) / times / 1e6


grown(large, 5)
print(grown(small, 10), grown(large, 10))
"""
    leaves_much = """
from rate_limiter._core import Decision, Limiter, ManualClock
clock = ManualClock()
limiter = Limiter([(5, 1)], clock=clock)
limiter.allow_many(b"%d" % i for i in range(100_000))
kept = [limiter, limiter.hit("k"), Decision]
kept.append(kept)
"""
    plain_mb, ours_mb = map(float, run_python(program, leaves_much).split())
    # The table alone takes 3 MB. A bare interpreter may leave something behind, too.
    assert ours_mb < plain_mb + 1
