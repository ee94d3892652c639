"""Several interpreters in one process, each with the module to itself."""

from collections.abc import Callable

# Run in a subinterpreter. On Python 3.12 and later it has a GIL of its own, which only modules
# that declare themselves safe for that may be imported under.
INNER = """
import sys
from rate_limiter import Decision, ManualClock, RateLimiter, RateLimitExceeded
clock = ManualClock()
limiter = RateLimiter("5/second; 9/minute", clock=clock)
assert [limiter.allow("k") for _ in range(6)] == [True] * 5 + [False]
assert repr(limiter.hit("k")).startswith("Decision(allowed=False")
assert limiter.stats()["keys"] == 1
clock.advance(1)
assert limiter.allow_many(["k"] * 5) == [True] * 4 + [False]
"""

OUTER = """
import sys, threading
try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

def create():
    # "isolated", the default from 3.12 on: a GIL of its own
    return interpreters.create()

def run(interpreter):
    result = interpreters.run_string(interpreter, INNER)
    assert result is None, result  # 3.13 returns what was raised

def run_all(all_interpreters):
    if sys.version_info < (3, 12):  # they share one GIL, and cannot run in threads
        for interpreter in all_interpreters:
            run(interpreter)
        return
    failed = []
    threading.excepthook = failed.append
    threads = [threading.Thread(target=run, args=(each,)) for each in all_interpreters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed

INNER = sys.argv[1]
import rate_limiter
outer_type = rate_limiter.Decision

for _ in range(20):
    one, two = create(), create()
    run_all((one, two))
    for each in (one, two):
        interpreters.destroy(each)

assert rate_limiter.Decision is outer_type
limiter = rate_limiter.RateLimiter("1/hour")
assert [limiter.allow("k"), limiter.allow("k")] == [True, False]
print("done")
"""


def test_subinterpreters(run_python: Callable[..., str]) -> None:
    assert run_python(OUTER, INNER) == "done\n"


REIMPORT = """
import sys
import rate_limiter._core as first
limiter = first.Limiter([(1, 0)])
del sys.modules["rate_limiter._core"]
import importlib
second = importlib.import_module("rate_limiter._core")
assert second is not first
assert second.Decision is not first.Decision
assert type(limiter.hit("k")) is first.Decision
try:
    second.Limiter([(1, 1)], clock=first.ManualClock())
except ValueError as error:
    assert "ManualClock" in str(error)
else:
    raise AssertionError("a clock of another import was taken for one's own")
print("done")
"""


def test_module_imported_twice(run_python: Callable[..., str]) -> None:
    assert run_python(REIMPORT) == "done\n"
