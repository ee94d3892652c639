"""The C types as Python sees them: values, arguments, and what they say to bad input."""

import copy
import gc
import math
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from rate_limiter import Decision, ManualClock, RateLimiter
from rate_limiter._core import Limiter
from rate_limiter.checks.time_zones import zone_table

ZONE = zone_table("Europe/Berlin")


def limiter_of(capacity: float = 10, refill_rate: float = 1, **arguments: Any) -> Limiter:
    return Limiter([(capacity, refill_rate)], **({"clock": ManualClock()} | arguments))


# --- Decision --------------------------------------------------------------------------------


def test_decision_is_true_when_allowed() -> None:
    assert Decision(True)
    assert not Decision(False)


def test_decision_fields_and_repr() -> None:
    decision = Decision(False, 2.5, 1500, limit=10, reset_after=7.5)
    assert decision.allowed is False
    assert (decision.limit, decision.remaining) == (10.0, 2.5)
    assert (decision.retry_after, decision.retry_after_ms) == (1.5, 1500)
    assert (decision.retry_after_ns, decision.reset_after_ns) == (1_500_000_000, 7_500_000_000)
    assert repr(decision) == (
        "Decision(allowed=False, limit=10.0, remaining=2.5, retry_after=1.5, reset_after=7.5)"
    )
    assert eval(repr(decision)) == decision


def test_decision_by_the_names_of_its_fields() -> None:
    decision = Decision(allowed=True, remaining=9.5, retry_after_ms=0)
    assert (decision.allowed, decision.remaining, decision.retry_after_ms) == (True, 9.5, 0)


def test_decision_is_a_value() -> None:
    one, same = (Decision(True, 1, limit=2, reset_after=3) for _ in range(2))
    other = Decision(True, 1, limit=2, reset_after=3.000000001)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "Decision"
    with pytest.raises(TypeError):
        one < other  # type: ignore[operator]  # noqa: B015


def test_decision_copies_and_pickles_to_the_nanosecond() -> None:
    limiter = limiter_of(10, 1 / 3)
    limiter.hit("k", 10)
    decision = limiter.hit("k", 0.123456789)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(decision, protocol)) == decision
    assert copy.deepcopy(decision) == decision


def test_decision_cannot_be_changed_or_extended() -> None:
    with pytest.raises(AttributeError):
        Decision(True).allowed = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        Decision.allowed = True  # type: ignore[misc,assignment]
    with pytest.raises(TypeError):
        type("Sub", (Decision,), {})


def test_times_that_never_come() -> None:
    limiter = limiter_of(1, 0)
    limiter.hit("k")
    never = limiter.hit("k")
    assert never.retry_after == never.reset_after == math.inf
    assert never.retry_after_ns == never.retry_after_ms == 2**63 - 1
    assert Decision(False, retry_after=math.inf) == Decision(False, retry_after=1e300)


@pytest.mark.parametrize("seconds", [-1e-9, -math.inf, math.nan])
def test_bad_times(seconds: float) -> None:
    with pytest.raises(ValueError, match="reset_after must be a time >= 0, got"):
        Decision(True, reset_after=seconds)
    with pytest.raises(ValueError, match="retry_after must be a time >= 0, got"):
        Decision(True, retry_after=seconds)


def test_sleeping_for_retry_after_is_enough() -> None:
    for wait_ns in (1, 3, 10**9 - 1, 10**9 + 1, 123456789012345678):
        decision = Decision(False, retry_after=wait_ns / 1e9)
        assert math.ceil(decision.retry_after * 1e9) >= decision.retry_after_ns >= wait_ns - 16


# --- ManualClock -----------------------------------------------------------------------------


def test_clock_moves_only_when_advanced() -> None:
    clock = ManualClock(5)
    clock.advance(1.5)
    clock.advance_ns(-2)
    assert clock.now_ns == 1_500_000_003
    clock.set_ns(7)
    assert repr(clock) == "ManualClock(now_ns=7)"


def test_clock_range() -> None:
    clock = ManualClock(100)
    for move, value in ((clock.advance_ns, -101), (clock.set_ns, -1), (clock.set_ns, 2**62)):
        with pytest.raises(ValueError, match="a clock must be within 0 and"):
            move(value)
    with pytest.raises(ValueError, match="a clock must be within 0 and"):
        clock.advance_ns(2**63 - 1)
    for seconds in (math.nan, math.inf, -math.inf, 1e10):
        with pytest.raises(ValueError, match="seconds must be a finite step of a clock, got"):
            clock.advance(seconds)
    with pytest.raises(OverflowError):
        clock.set_ns(2**70)
    with pytest.raises(TypeError):
        clock.advance("1")  # type: ignore[arg-type]
    assert clock.now_ns == 100


def test_step_back_frees_nothing() -> None:
    clock = ManualClock(10**12)
    limiter = limiter_of(2, 1, clock=clock)
    limiter.hit("k", 2)
    clock.set_ns(0)
    assert limiter.peek("k").remaining == 0
    assert limiter.hit("k").retry_after == 3  # it lacks twice its capacity at most
    clock.set_ns(10**12 + 10**9)
    assert limiter.allow("k")


@pytest.mark.parametrize("clock", ["monotonic", "coarse"])
def test_system_clocks_run(clock: str) -> None:
    limiter = Limiter([(1, 1000)], clock=clock)
    assert limiter.allow("k")
    while not limiter.allow("k"):
        pass
    assert limiter.stats()["allowed"] == 2


# --- keys ------------------------------------------------------------------------------------

KEYS: list[str | bytes] = [
    "",
    "a",
    "\0",
    "a\0",
    "a\0b",
    "é",
    "e\u0301",
    "\U0001f600",
    "\ud800",
    "\udc00",
    "\ud800\udc00",
    "x" * 10_000_000,
    "é" * 5_000_000,
    b"\xff",
    b"\xff" * 10_000_000,
]


def test_any_key_has_a_separate_bucket() -> None:
    limiter = limiter_of(1, 0)
    assert limiter.allow_many(KEYS) == [True] * len(KEYS)
    assert limiter.allow_many(KEYS) == [False] * len(KEYS)


def test_str_is_its_utf8() -> None:
    limiter = limiter_of(1, 0)
    for text in ("", "a", "é", "\U0001f600"):
        assert limiter.allow(text)
        assert not limiter.allow(text.encode())
    assert limiter.allow("\ud800")
    assert not limiter.allow("\ud800".encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("key", [None, 5, 1.5, ("a",), bytearray(b"a"), memoryview(b"a"), object()])
@pytest.mark.parametrize("method", ["allow", "hit", "peek", "refund", "reset"])
def test_other_keys_are_refused(method: str, key: object) -> None:
    with pytest.raises(TypeError, match=f"key must be str or bytes, not {type(key).__name__}"):
        getattr(limiter_of(), method)(key)


def test_subclasses_of_str_and_bytes_are_keys() -> None:
    limiter = limiter_of(1, 0)
    assert limiter.allow(type("S", (str,), {})("k"))
    assert not limiter.allow(type("B", (bytes,), {})(b"k"))


def test_a_bad_key_among_many_takes_nothing() -> None:
    limiter = limiter_of(1, 0)
    with pytest.raises(TypeError, match="not int"):
        limiter.allow_many(["a", "b", 5])  # type: ignore[list-item]
    assert limiter.stats()["allowed"] == 0
    with pytest.raises(TypeError, match=r"takes several keys, got one str; use allow\(\)"):
        limiter.allow_many("abc")
    with pytest.raises(TypeError, match="not iterable"):
        limiter.allow_many(5)  # type: ignore[arg-type]
    assert limiter.allow_many([]) == []


def test_many_is_the_same_as_one_by_one() -> None:
    clock = ManualClock()
    together, alone = limiter_of(3, 1, clock=clock), limiter_of(3, 1, clock=clock)
    keys = [f"k{number * number % 7}" for number in range(50)]
    assert together.allow_many(keys, 0.5) == [alone.allow(key, 0.5) for key in keys]


# --- costs -----------------------------------------------------------------------------------

METHODS = ["allow", "hit", "peek", "refund", "allow_many"]


def called(method: str, cost: object) -> Any:
    key = ["k"] if method == "allow_many" else "k"
    return getattr(limiter_of(), method)(key, cost)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "cost", [-1, -1e-300, math.nan, math.inf, -math.inf, 10**400, -(10**400), Decimal("NaN")]
)
def test_cost_out_of_range(method: str, cost: object) -> None:
    with pytest.raises(ValueError, match="cost must be a finite number >= 0, got"):
        called(method, cost)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cost", ["1", b"1", [], 1j, None])
def test_cost_of_another_type(method: str, cost: object) -> None:
    with pytest.raises(TypeError, match=f"cost must be a number, not {type(cost).__name__}"):
        called(method, cost)


@pytest.mark.parametrize("cost", [3, 3.0, Fraction(3), Decimal(3), 2.5 + 0.5])
def test_numbers_of_all_kinds_are_costs(cost: float) -> None:
    assert limiter_of().hit("k", cost).remaining == 7


def test_cost_above_the_capacity_never_passes() -> None:
    denied = limiter_of().hit("k", 10.1)
    assert (denied.allowed, denied.remaining, denied.retry_after) == (False, 10, math.inf)


def test_cost_nothing() -> None:
    limiter = limiter_of(1, 0)
    assert limiter.hit("k", 0).remaining == 1
    limiter.hit("k")
    assert limiter.hit("k", 0).allowed
    assert limiter.stats()["keys"] == 1


# --- arguments -------------------------------------------------------------------------------


def test_arguments_by_name() -> None:
    limiter = limiter_of()
    assert limiter.hit(key="k", cost=4).remaining == 6
    assert limiter.hit("k", cost=4).remaining == 2
    assert limiter.allow_many(keys=["a"], cost=10) == [True]


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, r"allow\(\) missing required argument 'key'"),
        (
            ("k", 1, None, 2),
            {},
            r"allow\(\) takes key, cost and limits, but 4 positional arguments were given",
        ),
        (("k",), {"weight": 1}, r"allow\(\) got an unexpected keyword argument 'weight'"),
        (("k",), {"key": "k"}, r"allow\(\) got multiple values for argument 'key'"),
        (("k", 1), {"cost": 1}, r"allow\(\) got multiple values for argument 'cost'"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        limiter_of().allow(*arguments, **named)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ([], ValueError, "expected 1 to 8 limits, got 0"),
        ([(1, 1)] * 9, ValueError, "expected 1 to 8 limits, got 9"),
        ([(-1, 1)], ValueError, "capacity is out of range"),
        ([(math.nan, 1)], ValueError, "capacity is out of range"),
        ([(5e15, 1)], ValueError, "capacity is out of range"),
        ([(1, -1)], ValueError, "refill_rate is out of range"),
        ([(1, math.inf)], ValueError, "refill_rate is out of range"),
        ([(1,)], TypeError, "argument"),
        ([[1, 1]], TypeError, r"a limit must be a tuple \(capacity, refill_rate\) or .*, not list"),
        ([(-1, 60, False)], ValueError, r"count is out of range in \(count, window_s, sliding\)"),
        ([(2.5, 60, True)], ValueError, "count is out of range"),
        ([(5, 0, True)], ValueError, "window_s is out of range"),
        ([(5, 1.5, True)], TypeError, "integer"),
        ([(5, 60, "round", False, "", b"")], ValueError, "kind is out of range"),
        ([(5, 60, "sliding", False, "day", b"")], ValueError, "kind is out of range"),
        ([(5, 60, "fixed", False, "hour", b"")], ValueError, "unit is out of range"),
        ([(5, 60, "fixed", False, "day", b"")], ValueError, "zone is out of range"),
        ([(5, 60, "fixed", False, "day", ZONE[:-1])], ValueError, "zone is out of range"),
        ([(5, 60, "fixed", False, "day", ZONE + ZONE[8:])], ValueError, "zone is out of range"),
        ([(5, 60, "fixed", False, "day", bytes(24 * 8))], ValueError, "zone is out of range"),
        ([(-5, 60, "first", False, "", b"")], ValueError, "count is out of range"),
        ([(5, 0, "first", False, "", b"")], ValueError, "window_s is out of range"),
        ([(5, 1.5, "first", False, "", b"")], TypeError, "integer"),
        ([(5, "1", "bucket", True, "", b"")], TypeError, "number"),
        ([(5, -1, "bucket", True, "", b"")], ValueError, "refill_rate is out of range"),
        ([(5, 10**30, True)], OverflowError, "too big"),
        (5, TypeError, "not iterable"),
    ],
)
def test_bad_limits(limits: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Limiter(limits)


def test_uninitialised_and_initialised_twice() -> None:
    bare = Limiter.__new__(Limiter)
    for call in (bare.stats, lambda: bare.allow("k"), lambda: bare.allow_many([])):
        with pytest.raises(RuntimeError, match="was not initialised"):
            call()
    limiter = limiter_of()
    with pytest.raises(RuntimeError, match="cannot be initialised twice"):
        limiter.__init__([(1, 1)])  # type: ignore[misc]
    assert limiter.peek("k").limit == 10


def test_failed_init_can_be_tried_again() -> None:
    limiter = Limiter.__new__(Limiter)
    with pytest.raises(ValueError, match="capacity"):
        limiter.__init__([(-1, 1)])  # type: ignore[misc]
    limiter.__init__([(1, 1)])  # type: ignore[misc]
    assert limiter.allow("k")


def test_subclass_and_garbage_collection() -> None:
    class Counting(RateLimiter):
        pass

    limiter = Counting("5/second", clock=ManualClock())
    limiter.me = limiter  # type: ignore[attr-defined]
    assert limiter.allow("k")
    del limiter
    assert gc.collect() > 0


# --- the table -------------------------------------------------------------------------------


def test_stats_of_a_flood() -> None:
    limiter = limiter_of(1, 0, max_keys=1000)
    allowed = sum(limiter.allow(f"{number}") for number in range(20_000))
    stats = limiter.stats()
    assert allowed == stats["allowed"] == stats["slots"] == stats["keys"]
    assert stats["denied"] == 20_000 - allowed
    assert 1000 <= stats["slots"] < 2000
    assert stats["bytes"] < 40_000
    assert stats["grow_failures"] == 0
    assert set(stats) == {
        "keys",
        "slots",
        "bytes",
        "allowed",
        "denied",
        "inserted",
        "evicted_active",
        "grow_failures",
    }


def test_flood_evicts_and_mints_nothing() -> None:
    limiter = limiter_of(10, 0, max_keys=1000)
    allowed = sum(limiter.allow(f"{number}") for number in range(50_000))
    stats = limiter.stats()
    assert stats["evicted_active"] > 0
    assert allowed <= stats["slots"] * 10


def test_memory_follows_the_keys() -> None:
    clock = ManualClock()
    limiter = limiter_of(2, 1, clock=clock)
    empty = limiter.stats()["bytes"]
    limiter.allow_many([f"{number}" for number in range(200_000)])
    full = limiter.stats()
    assert (full["keys"], full["evicted_active"]) == (200_000, 0)
    assert full["bytes"] < 200_000 * 50
    clock.advance(1)
    after = limiter.stats()
    assert (after["keys"], after["bytes"]) == (0, empty)
