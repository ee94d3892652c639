"""Limiters over the life of a process: forks, its end, event loops that come and go."""

import asyncio
import threading
from collections.abc import Callable

from rate_limiter import AsyncRateLimiter, RateLimiter

FORK = """
import os
from rate_limiter import RateLimiter

limiter = RateLimiter("0/second; burst=3")
limiter.allow("k")
child = os.fork()
if child == 0:
    os._exit([limiter.allow("k") for _ in range(3)] != [True, True, False])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print([limiter.allow("k") for _ in range(3)])
"""


def test_forked_child_goes_on_with_a_copy(run_python: Callable[..., str]) -> None:
    assert run_python(FORK) == "[True, True, False]\n"


FORK_UNDER_LOAD = """
import os, threading, warnings
from rate_limiter import RateLimiter

warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
limiter = RateLimiter("0/second; burst=1000000000")
stop = threading.Event()

def load(number):
    i = 0
    while not stop.is_set():
        limiter.allow(f"{number}:{i % 5000}")
        i += 1

threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        for number in range(2000):
            limiter.allow(f"child:{number}")
        limiter.stats()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join()
print("done")
"""


def test_fork_while_threads_decide(run_python: Callable[..., str]) -> None:
    assert run_python(FORK_UNDER_LOAD) == "done\n"


POOL = """
import multiprocessing
from rate_limiter import RateLimiter

limiter = RateLimiter("0/second; burst=5")

def work(_):
    return limiter.allow("k")

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert sum(pool.map(work, range(100), chunksize=1)) in range(5, 11)
    print(limiter.peek("k").remaining)
"""


def test_each_worker_has_separate_buckets(run_python: Callable[..., str]) -> None:
    assert run_python(POOL) == "5.0\n"


SHUTDOWN = """
import atexit
from rate_limiter import AsyncRateLimiter, Decision, ManualClock, RateLimiter, RateLimitExceeded

class Late:
    def __init__(self):
        self.limiter = RateLimiter("0/second; burst=2")

    def __del__(self):
        said = [self.limiter.allow("k"), repr(self.limiter.hit("k")), self.limiter.stats()["keys"]]
        assert said[0] is True and said[1].startswith("Decision(allowed=True") and said[2] == 1
        print("late")

late = Late()
late.itself = late
atexit.register(lambda: print(late.limiter.peek("k").remaining))
"""


def test_used_while_the_interpreter_ends(run_python: Callable[..., str]) -> None:
    assert run_python(SHUTDOWN) == "2.0\nlate\n"


def test_event_loops_one_after_the_other() -> None:
    limiter = AsyncRateLimiter("0/second; burst=3")
    assert [asyncio.run(limiter.allow("k")) for _ in range(4)] == [True, True, True, False]


def test_event_loops_in_several_threads() -> None:
    limiter = AsyncRateLimiter("0/second; burst=1000")
    allowed: list[bool] = []

    async def several() -> None:
        allowed.extend([await limiter.allow("k") for _ in range(500)])

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (allowed.count(True), allowed.count(False)) == (1000, 1000)


def test_limiter_made_in_one_thread_and_dropped_in_another() -> None:
    box = [RateLimiter("1/second")]
    assert box[0].allow("k")
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert box == []
