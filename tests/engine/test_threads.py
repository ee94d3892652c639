"""Many threads on one limiter: the exact total, with the GIL and without."""

import sys
import threading
import time
from collections.abc import Callable

import pytest
import rate_limiter
from rate_limiter import RateLimiter

THREADS = 8


def together(work: Callable[[int], int]) -> int:
    """Run the work in eight threads that start at one moment; return the sum."""
    barrier = threading.Barrier(THREADS)
    results = [0] * THREADS
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait()
            results[number] = work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return sum(results)


@pytest.fixture(autouse=True)
def _switch_often() -> object:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_one_key() -> None:
    limiter = RateLimiter("0/second; burst=20000")

    def work(number: int) -> int:
        calls = (limiter.allow, limiter.hit, lambda key: limiter.allow_many([key])[0])
        return sum(bool(calls[i % 3]("k")) for i in range(5000))

    assert together(work) == 20_000
    assert limiter.stats()["denied"] == THREADS * 5000 - 20_000


def test_ten_thousand_keys() -> None:
    limiter = RateLimiter("0/second; burst=3")
    keys = [f"key:{number}" for number in range(10_000)]

    def work(number: int) -> int:
        mine = keys[number * 1000 :] + keys[: number * 1000]
        return sum(map(limiter.allow, mine))

    assert together(work) == 30_000
    assert limiter.stats()["keys"] == 10_000


def test_several_limits_are_all_or_nothing() -> None:
    limiter = RateLimiter("0/second; burst=9000; 0/second; burst=5000")
    assert together(lambda number: sum(limiter.allow("k") for _ in range(2000))) == 5000
    assert limiter.peek("k", 0).remaining == 0
    limiter.refund("k", 9000)
    assert limiter.peek("k", 0).remaining == 5000


def test_reading_while_others_write() -> None:
    limiter = RateLimiter("0/second; burst=100", max_keys=100_000)

    def work(number: int) -> int:
        if number < 2:
            return 0 * sum(limiter.stats()["keys"] for _ in range(50))
        return sum(limiter.allow(f"{i % 1000}") for i in range(20_000))

    assert together(work) == 100_000


def test_importing_leaves_the_gil_as_it_is() -> None:
    """A free-threaded build turns the GIL on for a module that does not declare itself safe."""
    gil_is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    built_without = "free-threading" in sys.version
    assert rate_limiter._core.__name__ == "rate_limiter._core"  # type: ignore[attr-defined]
    assert gil_is_enabled is not built_without


def test_stats_of_a_large_table_let_other_threads_run() -> None:
    """The switch interval of an hour leaves only the pauses that stats() itself makes."""
    limiter = RateLimiter("1/hour", max_keys=200_000)
    for i in range(0, 200_000, 10_000):
        limiter.allow_many([str(number) for number in range(i, i + 10_000)])
    stop = threading.Event()
    turns = 0

    def run() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(1e-6)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        sys.setswitchinterval(3600)
        found = []
        for _ in range(50):
            before = turns
            assert limiter.stats()["keys"] == 200_000
            found.append(turns - before)
    finally:
        sys.setswitchinterval(1e-6)
        stop.set()
        thread.join()
    assert any(found)
