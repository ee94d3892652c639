"""The Lua scripts alone, run by redis-py: exactness, all or nothing, what they write and when."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rate_limiter.stores.connection import scripts
from support.redis_servers import RedisServer, redis_server, wait_until

TAKE, PEEK, REFUND, CHARGE, TAKE_MANY, *_ = scripts()
TOO_MUCH = -1


class Bucket:
    """The numbers of a limit, as the engine would choose them where they are exact."""

    def __init__(self, capacity: int, rate: Fraction) -> None:
        period_us = 1_000_000 / rate
        self.scale = period_us.denominator
        self.token = period_us.numerator
        self.cap = capacity * self.token

    def numbers(self, cost: int, min_ttl_ms: int = 0) -> list[int]:
        units = cost * self.token
        return [self.scale, self.token, self.cap, units if units <= self.cap else -1, min_ttl_ms]


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as client:
        yield client


def run(client: redis.Redis, script: bytes, keys: list[str], *numbers: list[int]) -> list[int]:
    reply = client.eval(script, len(keys), *keys, *itertools.chain(*numbers))
    assert isinstance(reply, list)
    return reply


def now_us(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 1_000_000 + int(microseconds)


SLOW = Bucket(5, Fraction(1, 3600))
THIRDS = Bucket(3, Fraction(3))


def test_a_burst_is_exact(client: redis.Redis) -> None:
    for bucket, capacity in ((SLOW, 5), (THIRDS, 3), (Bucket(1000, Fraction(7, 86400)), 1000)):
        answers = [run(client, TAKE, ["k"], bucket.numbers(1))[0] for _ in range(capacity + 3)]
        # A bucket of three a second may refill in that time, the others do not.
        assert sum(answers) == capacity or bucket is THIRDS
        assert answers[:capacity] == [1] * capacity
        client.delete("k")


def test_the_reply_has_the_deficit(client: redis.Redis) -> None:
    assert run(client, TAKE, ["k"], SLOW.numbers(2)) == [1, 2 * SLOW.token]
    allowed, deficit = run(client, PEEK, ["k"], SLOW.numbers(4))
    assert allowed == 0
    assert 2 * SLOW.token - 60_000_000 < deficit <= 2 * SLOW.token


def test_a_denial_writes_nothing(client: redis.Redis) -> None:
    run(client, TAKE, ["k"], SLOW.numbers(5))
    before = (client.get("k"), client.pexpiretime("k"))
    assert run(client, TAKE, ["k"], SLOW.numbers(1))[0] == 0
    assert (client.get("k"), client.pexpiretime("k")) == before
    assert run(client, TAKE, ["new"], SLOW.numbers(6))[0] == 0
    assert client.exists("new") == 0


def test_no_cost_writes_nothing(client: redis.Redis) -> None:
    assert run(client, TAKE, ["k"], SLOW.numbers(0)) == [1, 0]
    assert client.exists("k") == 0


def test_several_limits_are_all_or_nothing(client: redis.Redis) -> None:
    narrow, wide = Bucket(2, Fraction(1, 3600)), Bucket(10, Fraction(1, 3600))
    for _ in range(2):
        run(client, TAKE, ["{k}n", "{k}w"], narrow.numbers(1), wide.numbers(1))
    before = client.get("{k}w")
    allowed, *_ = run(client, TAKE, ["{k}n", "{k}w"], narrow.numbers(1), wide.numbers(1))
    assert (allowed, client.get("{k}w")) == (0, before)


def test_ttl_is_the_time_until_full_rounded_up(client: redis.Redis) -> None:
    at_us = now_us(client)
    run(client, TAKE, ["k"], SLOW.numbers(1))
    full_us, expires_ms = int(client.get("k") or 0), client.pexpiretime("k")
    assert full_us - at_us >= 3_600_000_000
    # Not sooner: else a bucket would be full before it is.
    assert 0 <= expires_ms * 1000 - full_us < 60_000_000
    run(client, TAKE, ["long"], THIRDS.numbers(1, min_ttl_ms=90_000))
    assert 80_000 < client.pttl("long") <= 90_000


def test_fractions_of_a_microsecond_are_kept(client: redis.Redis) -> None:
    bucket = Bucket(1000, Fraction(3, 1000))  # a token in 333,333,333 1/3 us
    for taken in (1, 2, 3):
        run(client, TAKE, ["k"], bucket.numbers(1))
        text = client.get("k")
        assert isinstance(text, str)
        # The fraction is that of the token alone: the clock has none.
        assert text.partition("+")[2] == ["", "1/3", "2/3", ""][taken % 4]


def test_another_scale_reads_the_fraction(client: redis.Redis) -> None:
    ahead = now_us(client) + 1_000_000_000
    client.set("k", f"{ahead}+1/3")
    seventh = Bucket(1000, Fraction(7))
    _, deficit = run(client, PEEK, ["k"], seventh.numbers(0))
    assert deficit % 7 == 3  # a third of seven, rounded up


def test_peek_writes_nothing_even_on_a_replica(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as master,
        redis_server(tmp_path, "--replicaof", "127.0.0.1", str(master.port)) as replica,
        contextlib.closing(master.admin()) as at,
        contextlib.closing(replica.admin()) as copy,
    ):
        run(at, TAKE, ["k"], SLOW.numbers(2))
        wait_until(lambda: copy.exists("k"), "the replica has the key")
        assert run(copy, PEEK, ["k"], SLOW.numbers(3))[0] == 1
        with pytest.raises(redis.ResponseError, match=r"READONLY|read only"):
            run(copy, TAKE, ["k"], SLOW.numbers(1))


def test_refund(client: redis.Redis) -> None:
    run(client, TAKE, ["k"], SLOW.numbers(5))
    allowed, deficit = run(client, REFUND, ["k"], SLOW.numbers(2))
    assert allowed == 1
    assert 3 * SLOW.token - 60_000_000 < deficit <= 3 * SLOW.token
    assert run(client, REFUND, ["k"], SLOW.numbers(5)) == [1, 0]
    assert client.exists("k") == 0  # full is the same as absent
    assert run(client, REFUND, ["k"], SLOW.numbers(1)) == [1, 0]
    run(client, TAKE, ["k"], SLOW.numbers(5))
    more = SLOW.numbers(1)
    more[3] = 2 * SLOW.cap
    assert run(client, REFUND, ["k"], more) == [1, 0]  # more than all is all


def test_never_refilled(client: redis.Redis) -> None:
    frozen = [0, 1024, 5 * 1024, 2 * 1024, 0]
    assert [run(client, TAKE, ["k"], frozen)[0] for _ in range(3)] == [1, 1, 0]
    assert (client.get("k"), client.ttl("k")) == ("4096", -1)
    assert run(client, REFUND, ["k"], frozen) == [1, 2048]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "full",
        "1.5",
        "-5",
        "12+",
        "12+3",
        "12/3",
        "12+/3",
        "12+1/0",
        "12+0/0",
        "1e5",
        "nan",
        "5@",
        "@5",
        "1@2@3",
        "\x00",
    ],
)
def test_something_else_at_the_key(client: redis.Redis, value: str) -> None:
    client.set("k", value)
    for script in (TAKE, PEEK, REFUND):
        with pytest.raises(redis.ResponseError, match="rate_limiter: the value of k is no bucket"):
            run(client, script, ["k"], SLOW.numbers(1))
    assert many(client, SLOW, ("k", 1)) == [(2, 0)]
    assert client.get("k") == value


def test_an_odd_key_leaves_the_connection_whole(client: redis.Redis) -> None:
    client.set("a\r\n:1\r\n", "full")
    with pytest.raises(redis.ResponseError, match="is no bucket"):
        run(client, TAKE, ["a\r\n:1\r\n"], SLOW.numbers(1))
    assert client.echo("next") == "next"


def test_another_type_at_the_key(client: redis.Redis) -> None:
    client.hset("k", "tokens", "5")
    for script in (TAKE, PEEK, REFUND):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            run(client, script, ["k"], SLOW.numbers(1))
    assert client.hgetall("k") == {"tokens": "5"}


def test_a_state_set_by_hand(client: redis.Redis) -> None:
    client.set("k", f"2.5@{now_us(client) / 1e6:.6f}")
    assert [run(client, TAKE, ["k"], SLOW.numbers(1))[0] for _ in range(3)] == [1, 1, 0]
    client.set("k", f"1@{now_us(client) / 1e6 - 7200:.6f}")
    assert [run(client, TAKE, ["k"], SLOW.numbers(1))[0] for _ in range(4)] == [1, 1, 1, 0]
    client.set("k", f"99@{now_us(client) / 1e6:.6f}")
    assert run(client, PEEK, ["k"], SLOW.numbers(5)) == [1, 0]
    client.set("k", f"-3@{now_us(client) / 1e6:.6f}")
    assert run(client, PEEK, ["k"], SLOW.numbers(1))[1] > SLOW.cap
    client.set("k", "-3@-1.5")  # before 1970, and refilled since
    assert run(client, TAKE, ["k"], SLOW.numbers(5)) == [1, SLOW.cap]


def test_far_ahead_is_no_overflow(client: redis.Redis) -> None:
    for value in ("9007199254740991", "9" * 400, "9" * 400 + "+" + "9" * 400 + "/" + "9" * 400):
        client.set("k", value)
        # Above 2^53 units, where neighbours are equal.
        for script in (TAKE, PEEK):
            assert run(client, script, ["k"], Bucket(10, Fraction(7)).numbers(1)) == [0, 2**53]
        assert many(client, Bucket(10, Fraction(7)), ("k", 1)) == [(0, 2**53)]
        assert client.get("k") == value


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    capacity=st.integers(1, 1000),
    rate=st.fractions(Fraction(1, 1000), 1000, max_denominator=1000),
    ages_us=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=6),
    cost=st.integers(0, 5),
    part=st.fractions(0, Fraction(999, 1000), max_denominator=1000),
)
def test_take_agrees_with_the_model(
    client: redis.Redis,
    capacity: int,
    rate: Fraction,
    ages_us: list[int],
    cost: int,
    part: Fraction,
) -> None:
    """A state that is `age` old is refilled by exactly that, give or take one unit."""
    bucket = Bucket(capacity, rate)
    for age_us in ages_us:
        full_after = Fraction(bucket.cap, bucket.scale)
        before = now_us(client)
        full_us = before - age_us + math.floor(full_after)  # empty `age_us` ago
        client.set("k", f"{full_us}+{part.numerator}/{part.denominator}" if part else str(full_us))
        allowed, deficit = run(client, TAKE, ["k"], bucket.numbers(cost))
        after = now_us(client)
        units = cost * bucket.token
        least, most = (
            max(0, math.ceil((full_us + part - at) * bucket.scale)) for at in (after, before)
        )
        if allowed:
            assert least + units <= deficit <= most + units
            assert deficit <= bucket.cap
        else:
            assert least <= deficit <= most
            assert units > bucket.cap or deficit + units > bucket.cap
        client.delete("k")


# --- One fixed window ---

FAST_WINDOW = (files("rate_limiter") / "stores/lua/take_window.lua").read_bytes()
TIME, AT = b"call('TIME')", b"{1700000123, 456789}"
TAKE_WINDOW = scripts(with_windows=True)[0].replace(TIME, AT)
WITHOUT_FAST_PATH = TAKE_WINDOW.replace(FAST_WINDOW.replace(TIME, AT), b"")
NOW_US = 1_700_000_123_456_789
STATES = {
    "none": None,
    "new": f"{NOW_US}/3/0",
    "ends now": f"{NOW_US - 60_000_000}/3/0",
    "ends in a second": f"{NOW_US - 59_000_000}/3/0",
    "ahead a bit": f"{NOW_US + 50_000}/3/0",
    "ahead": f"{NOW_US + 500_000}/3/0",
    "of this minute": f"{NOW_US // 60_000_000}/3/0",
    "of the last minute": f"{NOW_US // 60_000_000 - 1}/3/0",
    "of the next minute": f"{NOW_US // 60_000_000 + 1}/3/0",
    "above the count": f"{NOW_US}/7/0",
    "of this minute, above the count": f"{NOW_US // 60_000_000}/7/0",
    "empty": f"{NOW_US}/0/0",
    "by hand": f"{NOW_US}/9007199254740993/0",
    "blocked": f"{NOW_US}/3/0!{NOW_US + 5_000_000}",
    "was blocked": f"{NOW_US}/3/0!{NOW_US - 5_000_000}",
    "only blocked": f"!{NOW_US + 5_000_000}",
    "a bucket": str(NOW_US),
    "junk": "x",
}


def took(client: redis.Redis, script: bytes, state: str | None, *numbers: object) -> object:
    """Return the reply of a script that finds a state, and what it leaves."""
    client.delete("k")
    if state is not None:
        client.set("k", state)
    try:
        reply = client.eval(script, 1, "k", *map(str, numbers))
    except redis.ResponseError as error:
        reply = str(error).partition(" script: ")[0]
    left = client.pttl("k")
    return reply, client.get("k"), left if left < 0 else round(left, -4)


@pytest.mark.parametrize("name", STATES)
def test_the_fast_path_of_a_window_agrees_with_the_rest(client: redis.Redis, name: str) -> None:
    assert len(WITHOUT_FAST_PATH) < len(TAKE_WINDOW)
    edges = "1699999980,1700000100,1700000160"
    kinds = ((-1, 60), (-1, edges), (-2, 60), (-4, 60))
    for kind, cost, denied in itertools.product(kinds, (-1, 0, 1, 2, 5, 6), ((), ("1",))):
        numbers = (*kind, 5, cost, 0, *denied)
        fast, rest = (
            took(client, script, STATES[name], *numbers)
            for script in (TAKE_WINDOW, WITHOUT_FAST_PATH)
        )
        assert fast == rest, numbers


def test_the_fast_path_of_a_window_decides(client: redis.Redis) -> None:
    for scale in ("-1", "-4"):
        client.delete("k")
        answers = [client.eval(FAST_WINDOW, 1, "k", scale, 60, 2, 1, 0) for _ in range(3)]
        assert [answer and answer[:2] for answer in answers] == [[1, 1], [1, 2], [0, 2]]


# --- Several clients of one limit ---


def many(client: redis.Redis, bucket: Bucket, *requests: tuple[str, int]) -> list[tuple[int, int]]:
    keys = [key for key, _ in requests]
    costs = [bucket.numbers(cost)[3] for _, cost in requests]
    reply = client.eval(TAKE_MANY, len(keys), *keys, bucket.scale, bucket.cap, 0, *costs)
    assert isinstance(reply, list)
    return list(zip(reply[::2], reply[1::2], strict=True))


def test_many_are_decided_separately(client: redis.Redis) -> None:
    requests = [("a", 3), ("b", 5), ("a", 2), ("a", 1), ("b", 0), ("c", 9), ("c", 1)]
    answers = many(client, SLOW, *requests)
    assert [allowed for allowed, _ in answers] == [1, 1, 1, 0, 1, 0, 1]
    assert answers[0] == (1, 3 * SLOW.token)
    assert answers[2][1] == 5 * SLOW.token
    assert sorted(client.keys()) == ["a", "b", "c"]


def test_many_write_what_take_writes(client: redis.Redis) -> None:
    for bucket in (SLOW, THIRDS, Bucket(1000, Fraction(3, 1000))):
        for _ in range(3):
            many(client, bucket, ("many", 1))
            run(client, TAKE, ["one"], bucket.numbers(1))
        texts = [client.get(key) for key in ("many", "one")]
        times = [int(str(text).partition("+")[0]) for text in texts]
        assert abs(times[0] - times[1]) < 1_000_000
        assert abs(client.pexpiretime("many") - client.pexpiretime("one")) < 1_000
        client.flushall()


def test_many_leave_what_they_do_not_know(client: redis.Redis) -> None:
    client.lpush("list", "x")
    client.set("hand", "2@1732160000")
    client.set("junk", "x")
    answers = many(client, SLOW, ("list", 1), ("good", 1), ("hand", 1), ("junk", 1))
    assert [allowed for allowed, _ in answers] == [2, 1, 2, 2]
    assert client.get("hand") == "2@1732160000"
