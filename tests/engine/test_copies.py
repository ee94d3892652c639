"""Limiters that are pickled, copied and sent to other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest
from rate_limiter import AsyncRateLimiter, Limit, RateLimiter


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_limiter_in_memory_says_why_it_is_not_copied(copied: object) -> None:
    with pytest.raises(TypeError, match=r"in memory cannot be pickled.*store='shared://"):
        copied(RateLimiter("5/s"))  # type: ignore[operator]


def test_awaited_limiter_in_memory() -> None:
    limiter = AsyncRateLimiter("5/s")
    assert copy.copy(limiter)._limiter is limiter._limiter
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="in memory cannot be pickled"):
            copied(limiter)  # type: ignore[operator]


@pytest.fixture
def shared(tmp_path: Path) -> RateLimiter:
    if sys.platform != "linux":
        pytest.skip("shared memory needs Linux")
    return RateLimiter(
        "5/hour; 9/day; window=sliding",
        store=f"shared://{tmp_path}/file",
        name="login",
        max_keys=100,
        clock="coarse",
        waiters_first=True,
    )


def test_limiter_in_shared_memory_is_made_again(shared: RateLimiter) -> None:
    shared.hit("k", 2)
    for made in (pickle.loads(pickle.dumps(shared)), copy.deepcopy(shared), copy.copy(shared)):
        assert type(made) is RateLimiter
        assert made.limits == shared.limits
        assert made.waiters_first
        assert made.peek("k", 0) == shared.peek("k", 0)
        assert made._lines is shared._lines
        assert made.with_limits("6/hour; 9/day; window=sliding").peek("k", 0).remaining < 5
    both = pickle.loads(pickle.dumps(AsyncRateLimiter.of(shared)))
    assert type(both) is AsyncRateLimiter
    assert both.limits == shared.limits


def hit(limiter: RateLimiter) -> None:
    """Take a token in another process."""
    limiter.hit("k")


def test_limiter_goes_to_a_spawned_process(shared: RateLimiter) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hit, args=(shared,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert shared.limits[1] == Limit.sliding_window(9, 86400)
    assert shared.peek_each("k", 0)[2].remaining == 8
