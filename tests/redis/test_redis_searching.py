"""Listing and resetting the keys of a Redis: all of a limiter, or those with a prefix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, RateLimiter, StoreError
from rate_limiter.cli.main import main
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.redis_servers import RedisCluster, RedisServer, redis_cluster
from support.tracing import Traces, shape

LONG = "tenant1:" + 300 * "x"
ODD = [
    "tenant1:*",
    "tenant1:[a]",
    "tenant1:{x}%",
    "tenant1:\n",
    "t\\*nant",
    "",
    "%",
    "ten\udcffant",
]


def limiter_at(url: str, limits: Any = "2/hour", **options: Any) -> RateLimiter:
    return RateLimiter(limits, store=url, on_store_error="raise", **options)


def take(limiter: RateLimiter, keys: list[str]) -> None:
    for key in keys:
        assert limiter.allow(key, 2)


@pytest.mark.parametrize(
    "limits",
    ["2/hour", "2/hour; window=fixed", "2/hour; window=sliding", ["2/hour", "9/day"]],
)
def test_prefix_and_all(server: RedisServer, limits: Any) -> None:
    limiter = limiter_at(server.url, limits, name="api")
    others = [limiter_at(server.url, limits), limiter_at(server.url, "5/day", name="api")]
    keys = ["tenant1:a", "tenant1:b", "tenant10:a", "tenant2:a", LONG, *ODD[:5]]
    for one in (limiter, *others):
        take(one, keys)
    listed = limiter.keys()
    assert [one for one in listed if not str(one).startswith("sha256:")] == sorted(
        key for key in keys if key != LONG
    )
    assert len(listed) == len(keys)
    assert limiter.keys("tenant1:[") == ["tenant1:[a]"]
    assert limiter.keys("tenant1:*") == ["tenant1:*"]
    assert limiter.keys(b"tenant10:") == ["tenant10:a"]
    limiter.reset(prefix="tenant1:")
    left = [key for key in keys if not limiter.allow(key)]
    assert left == ["tenant10:a", "tenant2:a", LONG, "t\\*nant"]
    limiter.reset()
    assert all(limiter.peek(key, 2).allowed for key in keys)
    assert not any(one.peek(key, 4).allowed for one in others for key in keys)


def test_a_long_key_is_listed_as_its_hash_and_reset_by_it(server: RedisServer) -> None:
    limiter = limiter_at(server.url)
    take(limiter, [LONG])
    (listed,) = limiter.keys()
    assert str(listed).startswith("sha256:")
    limiter.reset(listed)
    assert limiter.allow(LONG)


def test_odd_keys(server: RedisServer) -> None:
    limiter = limiter_at(server.url)
    for key in (*ODD, b"\xff\xfe"):
        assert limiter.allow(key)
    assert set(limiter.keys()) >= {*ODD[:7], b"\xff\xfe"}
    assert limiter.keys("") == limiter.keys()
    listed = limiter.keys()
    for key in listed:
        limiter.reset(key)
    assert limiter.keys() == []


@pytest.mark.parametrize("limits", ["2/hour", "2/hour; window=fixed"])
def test_an_exact_prefix(server: RedisServer, limits: str) -> None:
    limiter = RedisRateLimiter(limits, store=server.url, exact_prefix="rate_[limit]:")
    take(limiter, ["a:1", "a:2", "b:1"])
    assert limiter.keys("a:") == ["a:1", "a:2"]
    limiter.reset(prefix="a:")
    assert limiter.keys() == ["b:1"]
    limiter.reset()
    assert limiter.keys() == []


def test_tasks(server: RedisServer) -> None:
    async def run() -> None:
        limiter = AsyncRateLimiter("1/hour", store=server.url, on_store_error="raise")
        assert [await limiter.allow(key) for key in ("a:1", "a:2", "b:1")] == [True] * 3
        assert await limiter.keys("a:") == ["a:1", "a:2"]
        await limiter.reset(prefix="a:")
        assert await limiter.keys() == ["b:1"]
        await limiter.reset()
        assert await limiter.keys() == []

    asyncio.run(run())


def test_many_keys(server: RedisServer) -> None:
    limiter = limiter_at(server.url)
    keys = [f"user:{i:04}" for i in range(1300)]
    assert all(limiter.allow_many(keys))
    assert limiter.keys("user:") == keys
    limiter.reset()
    assert limiter.keys() == []


def test_a_redis_that_does_not_answer() -> None:
    limiter = RateLimiter("1/hour", store="redis://127.0.0.1:1")
    assert limiter.allow("k")  # in memory
    for call in (limiter.reset, limiter.keys):
        with pytest.raises(StoreError):
            call()
    with pytest.raises(TypeError, match="prefix must be"):
        limiter.keys(5)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as one:
        yield one


def test_all_masters_of_a_cluster(
    cluster: RedisCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    limiter = limiter_at(cluster.url, name="of_cluster")
    keys = [f"user:{i:03}" for i in range(200)]
    take(limiter, keys)
    nodes = {limiter._client.node_of(limiter.redis_keys(key)[0]) for key in keys}  # type: ignore[attr-defined]
    assert len(nodes) > 1
    assert limiter_at(cluster.url, name="of_cluster").keys("user:") == keys
    limiter.reset(prefix="user:00")
    assert limiter.keys() == keys[10:]
    assert main(["reset", "user:199", "--store", cluster.url]) == 0
    assert main(["reset", "user:1*", "--store", cluster.url]) == 0
    assert limiter.keys() == keys[10:100]
    limiter.reset()
    assert limiter.keys() == []


# --- The commands ---


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_commands(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--store", server.url)
    one, named = limiter_at(server.url), limiter_at(server.url, name="api")
    for limiter in (one, named):
        take(limiter, ["tenant1:a", "tenant1:b", "tenant2:a\x1b", "tenant1*"])
    assert command(capsys, "list", *at) == "tenant1*\ntenant1:a\ntenant1:b\ntenant2:a\\x1b\n"
    assert command(capsys, "list", "tenant2:*", *at) == "tenant2:a\\x1b\n"
    inspected = command(capsys, "inspect", "tenant2:a\x1b", *at)
    assert "{tenant2:a\\x1b}" in inspected
    assert "\x1b" not in inspected
    assert command(capsys, "inspect", "\x9b2J", *at).startswith("\\x9b2J: no buckets")
    assert json.loads(command(capsys, "list", "tenant1:a", *at, "--json")) == ["tenant1:a"]
    of_api = ("--limit", "2/hour", "--name", "api")
    assert command(capsys, "reset", "tenant1:*", *of_api, *at) == "2 removed\n"
    assert json.loads(command(capsys, "list", *of_api, *at, "--json")) == [
        "tenant1*",
        "tenant2:a\x1b",
    ]
    assert command(capsys, "reset", "tenant1:*", *at) == "2 removed\n"
    assert command(capsys, "reset", "--all", *of_api, *at) == "2 removed\n"
    assert one.keys() == ["tenant1*", "tenant2:a\x1b"]
    assert json.loads(command(capsys, "reset", "--all", *at, "--json")) == {"removed": 2}
    assert command(capsys, "list", *at) == ""


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["reset"], "give either KEY or --all"),
        (["reset", "k", "--all"], "give either KEY or --all"),
        (["reset", "--all", "--raw"], "--raw requires KEY"),
        (["reset", "a*", "--name", "api"], "--name requires --limit"),
        (["list", "--name", "api"], "--name requires --limit"),
    ],
)
def test_wrong_usage(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("awaited", [False, True])
def test_spans_have_the_node_of_the_key(
    awaited: bool, cluster: RedisCluster, traces: Traces
) -> None:
    """Of several keys, which may be on several nodes, there is none."""
    limiter = RateLimiter("9/hour", store=cluster.url, tracing=True)
    assert isinstance(limiter, RedisRateLimiter)

    async def call() -> None:
        waiting = AsyncRateLimiter.of(limiter)
        await asyncio.gather(*map(waiting.hit, "abcdef"))
        await waiting.allow_many(["a", "b"])

    if awaited:
        asyncio.run(call())
    else:
        for key in "abcdef":
            limiter.hit(key)
        limiter.allow_many(["a", "b"])
    *calls, of_many = map(shape, traces.calls())
    nodes = {
        key: cluster.master_of(cluster.slot(limiter.redis_keys(key)[0].decode())).port
        for key in "abcdef"
    }
    assert sorted(one["server.port"] for one in calls) == sorted(nodes.values())
    assert len(set(nodes.values())) > 1
    assert "server.address" not in of_many
