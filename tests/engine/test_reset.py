"""reset() without a key: all buckets of a limiter in memory and in shared memory."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, Limit, ManualClock, RateLimiter

LIMITS = ["2/hour", "2/hour; window=fixed", "2/hour; window=sliding", ["2/hour", "9/day"]]


@pytest.fixture(params=["memory", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"shared://{tmp_path}/limits"


@pytest.mark.parametrize("limits", LIMITS)
def test_all_keys_are_full_again(store: str, limits: Any) -> None:
    limiter = RateLimiter(limits, store=store)
    keys = [f"user:{i}" for i in range(500)]
    assert all(limiter.allow_many(keys, 2))
    limiter.reset()
    assert all(limiter.allow_many(keys, 2))
    assert not any(limiter.allow_many(keys))
    limiter.reset("user:7")
    assert [limiter.allow(key) for key in ("user:7", "user:8")] == [True, False]


def test_other_limiters_keep_their_buckets(store: str) -> None:
    one, other = (RateLimiter(f"1/{unit}", store=store) for unit in ("hour", "day"))
    assert one.allow("k")
    assert other.allow("k")
    one.reset()
    assert one.allow("k")
    assert not other.allow("k")


def test_all_who_wait_are_woken() -> None:
    limiter = RateLimiter("1/hour")
    assert all(limiter.allow_many(["a", "b"]))
    passed = []
    waiting = [
        threading.Thread(target=lambda key=key: passed.append(limiter.acquire(key).allowed))
        for key in ("a", "b")
    ]
    for one in waiting:
        one.start()
    while len(limiter._lines._lines) < 2:
        pass
    limiter.reset()
    for one in waiting:
        one.join(60)
    assert passed == [True, True]


def test_tasks() -> None:
    async def run() -> None:
        limiter = AsyncRateLimiter("1/hour")
        assert await limiter.allow("k")
        await limiter.reset()
        assert await limiter.allow("k")
        with pytest.raises(ValueError, match="stores hashes of keys"):
            await limiter.keys()
        with pytest.raises(ValueError, match="stores hashes of keys"):
            await limiter.reset(prefix="k")

    asyncio.run(run())


def test_a_missing_key_resets_nothing() -> None:
    limiter = RateLimiter(Limit(1, 0), clock=ManualClock())
    assert limiter.allow("k")
    for wrong in ((None,), (5,)):
        with pytest.raises(TypeError, match="key must be str or bytes"):
            limiter.reset(*wrong)
    with pytest.raises(TypeError, match="prefix must be str or bytes, not NoneType"):
        limiter.reset(prefix=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix must not be empty"):
        limiter.reset(prefix="")
    with pytest.raises(TypeError, match="a key or a prefix, not both"):
        limiter.reset("k", prefix="k")
    with pytest.raises(ValueError, match="stores hashes of keys"):
        limiter.reset(prefix="k")
    with pytest.raises(ValueError, match="stores hashes of keys"):
        limiter.keys()
    assert not limiter.allow("k")


def test_threads_reset_and_take() -> None:
    limiter = RateLimiter("5/hour", max_keys=100_000)
    stop = threading.Event()

    def take() -> None:
        i = 0
        while not stop.is_set():
            limiter.allow(f"k{i % 5000}")
            i += 1

    threads = [threading.Thread(target=take) for _ in range(2)]
    for one in threads:
        one.start()
    for _ in range(50):
        limiter.reset()
    stop.set()
    for one in threads:
        one.join(60)
    limiter.reset()
    assert limiter.stats()["keys"] == 0


def test_the_store_of_a_limiter(store: str) -> None:
    limiter = RateLimiter("1/hour", store=store)
    assert limiter.store == AsyncRateLimiter.of(limiter).store == store
    assert RateLimiter("1/hour").store == "memory://"
    remote = RateLimiter("1/hour", store="redis://127.0.0.1:1")
    assert remote.store is AsyncRateLimiter.of(remote).store
    assert remote.store.on_store_error == "memory"
