"""The scripts of fixed and sliding windows, run by redis-py."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.resources import files

import pytest
import redis
from redis_servers import RedisServer

FOLDER = files("rate_limiter") / "lua"
FIXED = (FOLDER / "fixed_window.lua").read_bytes()
SLIDING = (FOLDER / "sliding_window.lua").read_bytes()
DAY_S = 86400


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as client:
        yield client


def run(client: redis.Redis, script: bytes, key: str, *numbers: int) -> list[int]:
    reply = client.eval(script, 1, key, *numbers)
    assert isinstance(reply, list)
    return reply


def steady(client: redis.Redis, window_s: int, part: float = 0.5) -> int:
    """Wait until a window has so much of it left; return the server's second."""
    while True:
        now_s = int(client.time()[0])
        if now_s % window_s < window_s * (1 - part):
            return now_s
        time.sleep(0.05)


# --- Fixed ---


def test_fixed_window(client: redis.Redis) -> None:
    now_s = steady(client, 60, 0.1)
    answers = [run(client, FIXED, "rate:user:bob", 60, 20, 1) for _ in range(25)]
    assert [allowed for allowed, _, _ in answers] == [1] * 20 + [0] * 5
    assert [count for _, count, _ in answers] == [*range(1, 21), *[20] * 5]
    minute = datetime.fromtimestamp(now_s - now_s % 60, timezone.utc).strftime("%Y-%m-%d-%H:%M")
    (key,) = client.keys()
    assert key == f"rate:user:bob:{minute}"
    assert client.get(key) == "20"
    assert client.expiretime(key) == now_s - now_s % 60 + 60
    assert 0 < answers[-1][2] <= 60_000_000


def test_fixed_window_looks_for_nothing(client: redis.Redis) -> None:
    assert run(client, FIXED, "k", 60, 20, 0)[:2] == [1, 0]
    assert client.dbsize() == 0
    assert run(client, FIXED, "k", 60, 20, 21)[:2] == [0, 0]
    assert client.dbsize() == 0


def test_fixed_windows_end(client: redis.Redis) -> None:
    steady(client, 1)
    assert [run(client, FIXED, "k", 1, 2, 1)[0] for _ in range(3)] == [1, 1, 0]
    _, _, left_us = run(client, FIXED, "k", 1, 2, 1)
    time.sleep(left_us / 1e6 + 0.01)
    assert run(client, FIXED, "k", 1, 2, 1)[:2] == [1, 1]
    assert any(name.count(":") == 3 for name in client.scan_iter())  # with seconds


@pytest.mark.parametrize("window_s", [60, 3600, 86400, 7 * DAY_S, 400 * DAY_S, 30, 7])
def test_the_date_in_the_key(client: redis.Redis, window_s: int) -> None:
    now_s = steady(client, window_s, 0.0001)
    run(client, FIXED, "k", window_s, 5, 1)
    (key,) = client.keys()
    start = datetime.fromtimestamp(now_s - now_s % window_s, timezone.utc)
    pattern = "k:%Y-%m-%d-%H:%M" if window_s % 60 == 0 else "k:%Y-%m-%d-%H:%M:%S"
    assert key == start.strftime(pattern)


def test_eight_threads_are_counted_exactly(server: RedisServer, client: redis.Redis) -> None:
    steady(client, 86400, 0.0001)
    allowed: list[int] = []

    def work() -> None:
        with contextlib.closing(server.admin()) as own:
            allowed.extend(run(own, FIXED, "k", 86400, 20, 1)[0] for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 20


# --- Sliding ---


def used(current: int, previous: int, overlap: float) -> float:
    return current + previous * overlap


def test_sliding_window(client: redis.Redis) -> None:
    steady(client, 3600, 0.01)
    answers = [run(client, SLIDING, "k", 3600, 5, 1) for _ in range(7)]
    assert [allowed for allowed, _, _ in answers] == [1] * 5 + [0] * 2
    assert [count for _, count, _ in answers] == [1, 2, 3, 4, 5, 5, 5]
    number = int(client.time()[0]) // 3600
    assert client.get("k") == f"{number}/5/0"
    assert client.pttl("k") <= 7200_001


@pytest.mark.parametrize("previous", [0, 1, 7, 10])
@pytest.mark.parametrize("current", [0, 3, 9])
def test_the_window_before_counts_in_part(client: redis.Redis, current: int, previous: int) -> None:
    """Never more than limit, by the weighted sum, and no request that fits is denied."""
    now_s = steady(client, DAY_S, 0.001)
    overlap = 1 - now_s % DAY_S / DAY_S
    client.set("k", f"{now_s // DAY_S}/{current}/{previous}")
    admitted = sum(run(client, SLIDING, "k", DAY_S, 10, 1)[0] for _ in range(12))
    fits = used(current + admitted, previous, overlap)
    assert fits <= 10 + 0.001 or admitted == 0
    assert used(current + admitted + 1, previous, overlap) > 10 - 1


def test_waiting_as_told_passes(client: redis.Redis) -> None:
    steady(client, 2, 0.6)
    assert [run(client, SLIDING, "k", 2, 4, 1)[0] for _ in range(5)] == [1, 1, 1, 1, 0]
    for _ in range(3):
        _, _, wait_us = run(client, SLIDING, "k", 2, 4, 1)
        assert 0 < wait_us <= 4_000_000
        time.sleep(wait_us / 1e6 + 0.005)
        assert run(client, SLIDING, "k", 2, 4, 1)[0] == 1


def test_old_windows_do_not_count(client: redis.Redis) -> None:
    now_s = steady(client, DAY_S, 0.001)
    client.set("k", f"{now_s // DAY_S - 2}/10/10")
    assert run(client, SLIDING, "k", DAY_S, 10, 10)[:2] == [1, 10]
    client.set("k", f"{now_s // DAY_S + 1}/10/0")  # a clock that stepped back
    assert run(client, SLIDING, "k", DAY_S, 10, 1)[0] == 0


def test_sliding_window_writes_only_what_it_must(client: redis.Redis) -> None:
    assert run(client, SLIDING, "k", 3600, 5, 0) == [1, 0, 0]
    assert run(client, SLIDING, "k", 3600, 5, 6) == [0, 0, -1]
    assert client.dbsize() == 0


@pytest.mark.parametrize(("script", "value"), [(FIXED, "x"), (SLIDING, "x"), (SLIDING, "1/2")])
def test_something_else_at_the_key(client: redis.Redis, script: bytes, value: str) -> None:
    now_s = steady(client, 60, 0.1)
    start = datetime.fromtimestamp(now_s - now_s % 60, timezone.utc)
    client.set("k" if script is SLIDING else start.strftime("k:%Y-%m-%d-%H:%M"), value)
    with pytest.raises(redis.ResponseError, match=r"rate_limiter: the value of k.* is no"):
        run(client, script, "k", 60, 5, 1)
