"""The same calls give the same results and the same errors on every store.

tests/support/store_matrix.py has the cases. Each runs on each store, blocking and awaited, and in
memory; a difference means that one of them is wrong.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from rate_limiter import RateLimiter, StoreError
from support.redis_servers import PATIENT, redis_cluster, redis_server, sentinel_group
from support.store_matrix import (
    CASES,
    HUGE,
    LIMITS,
    MEMORY,
    Caller,
    Store,
    compare,
    health_of,
    on_server,
    plain,
    wider,
)

SERVERS: dict[str, Any] = {
    "redis": redis_server,
    "sentinel": partial(sentinel_group, replicas=0, sentinels_n=1),
    "cluster": partial(redis_cluster, with_replicas=False),
}


@pytest.fixture(scope="module", params=["memory", "shared", *SERVERS])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "memory":
        yield MEMORY
    elif request.param == "shared":
        if sys.platform != "linux":
            pytest.skip("shared memory needs Linux")
        yield Store({"store": f"shared://{folder}/file"})
    else:
        with SERVERS[request.param](folder) as server:
            yield on_server(server.url if "?" in server.url else f"{server.url}?{PATIENT}")


@pytest.fixture(params=[False, True], ids=["blocking", "awaited"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    made = Caller(is_async=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("limits", LIMITS)
def test_results_and_errors(store: Store, caller: Caller, limits: str) -> None:
    found = compare(store, caller, limits, CASES)
    assert not found, "\n".join(found)


def test_huge_keys(store: Store, caller: Caller) -> None:
    found = compare(store, caller, "one of each", {"huge": HUGE})
    assert not found, "\n".join(found)


@pytest.mark.parametrize("limits", LIMITS)
def test_other_limits_keep_usage_and_counts(store: Store, caller: Caller, limits: str) -> None:
    def run(used: Store, with_caller: Caller) -> Any:
        face = with_caller.face(used.limiter(LIMITS[limits]))
        with_caller.call(face, "hit", "k", 3)
        with_caller.call(face, "hit", "k", 99)
        after = with_caller.call(face, "with_limits", wider(LIMITS[limits]))
        each = with_caller.call(after, "peek_each", "k", 2)
        stats = with_caller.call(after, "stats")
        numbers = [(one.allowed, one.limit, round(one.remaining, 2)) for one in each]
        return numbers, stats["allowed"], stats["denied"]

    expected = run(MEMORY, Caller(is_async=False))
    if limits == "frozen" and store.is_remote:  # another capacity is another bucket
        expected = ([(True, 5.75, 5.75)] * 2, 1, 1)
    assert run(store, caller) == expected


def test_attributes(store: Store, caller: Caller) -> None:
    for limits in LIMITS.values():
        one, other = (caller.face(each.limiter(limits)) for each in (store, MEMORY))
        assert repr(one).removeprefix("Redis") == repr(other)
        assert (one.limits, one.waiters_first) == (other.limits, other.waiters_first)
        stats, expected = (caller.call(each, "stats") for each in (one, other))
        assert stats.keys() == expected.keys()
        assert {type(value) for value in stats.values()} == {int}


@pytest.mark.parametrize("copied", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("limits", LIMITS)
def test_copies(store: Store, caller: Caller, limits: str, copied: str) -> None:
    makes = {
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }
    limiter = store.limiter(LIMITS[limits])
    if store is MEMORY:
        with pytest.raises(TypeError, match="in memory cannot be pickled or copied"):
            makes[copied](limiter)
        return
    face = caller.face(limiter)
    caller.call(face, "hit", "k", 2)
    made = makes[copied](face)
    assert (type(made), repr(made)) == (type(face), repr(face))
    assert caller.call(made, "hit", "k", 2)
    assert not caller.call(face, "peek", "k", 9)
    assert round(caller.call(face, "peek", "k").remaining, 2) in (0.75, 1, 8)


@pytest.mark.parametrize("limits", LIMITS)
def test_a_value_that_is_no_bucket_harms_its_key_alone(
    store: Store, caller: Caller, limits: str
) -> None:
    """A client that can make its key fail cannot open the breaker for the others."""
    if not store.is_remote:
        return  # there is nothing else at a key
    limiter: Any = store.limiter(LIMITS[limits])
    face = caller.face(limiter)
    for key, words in (("list", ("LPUSH", "x")), ("text", ("SET", "no bucket"))):
        limiter.store.connection.client.command(words[0], limiter.redis_keys(key)[-1], words[1])
    for method in ("allow", "hit", "hit_each", "peek", "charge", "refund", "acquire", "inspect"):
        for key in ("list", "text"):
            with pytest.raises(StoreError):
                caller.call(face, method, key)
        assert caller.call(face, "hit", f"other {method}")
    with pytest.raises(StoreError):
        caller.call(face, "allow_many", ["list", "one", "two"])
    health = health_of(limiter)
    assert (health["status"], health["breaker"], health["failures"]) == ("ok", "closed", 0)
    caller.call(face, "reset", "list")
    assert caller.call(face, "hit", "list")


def test_a_closed_store_opens_again(store: Store, caller: Caller) -> None:
    limiter: Any = store.limiter(LIMITS["bucket"])
    face = caller.face(limiter)
    if not store.is_remote:
        assert not hasattr(RateLimiter, "close")
        return
    for left in (2.75, 0.75):
        assert caller.call(face, "hit", "k", 2).remaining == pytest.approx(left, abs=0.1)
        limiter.store.close()
        assert plain(caller.call(face, "peek", "k", 0))["allowed"]
