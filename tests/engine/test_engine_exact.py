"""The engine against a bucket in exact fractions: never above, and exact to the nanosecond."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from rate_limiter import Decision, ManualClock
from rate_limiter._core import MAX_CAPACITY, MAX_REFILL_RATE, Limiter
from support.exact import NEVER_NS, ExactBucket, ExactLimit, gcd

KEYS = ("a", "b", "c")
HOUR_NS = 3600 * 10**9
YEAR_NS = 365 * 24 * HOUR_NS
QUANTUM = Fraction(1, 8)  # costs are multiples of it where capacities are

# --- what is tried ---------------------------------------------------------------------------

whole_limits = st.tuples(
    st.sampled_from([1.0, 2.0, 3.0, 5.0, 10.0, 100.0, 1e3, 1e6, 1e9, 1e12, 1e15]),
    st.sampled_from([0, 1, 2, 3, 7, 10, 1e3, 1e6, 3e8, 1e9, 0.5, 0.1, 1 / 3, 5 / 3, 1 / 3600]),
)
dyadic_limits = st.tuples(
    st.integers(1, 2**12).map(lambda n: n / 8), st.integers(0, 2**12).map(lambda n: n / 64)
)
any_limits = st.tuples(
    st.floats(2**-10, 2**10) | st.floats(2**-10, MAX_CAPACITY),
    st.just(0.0) | st.floats(0, 2**10) | st.floats(0, MAX_REFILL_RATE),
)


def several(limits: st.SearchStrategy[tuple[float, float]]) -> st.SearchStrategy[object]:
    return st.lists(limits, min_size=1, max_size=3, unique_by=lambda limit: limit[0])


limit_sets = several(whole_limits) | several(dyadic_limits) | several(any_limits)
starts_ns = st.just(0) | st.integers(0, 100 * YEAR_NS)
steps_ns = st.integers(0, 1000) | st.integers(0, 10**10) | st.integers(0, YEAR_NS)
keys = st.sampled_from(KEYS)
shares = st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1.01)  # of the smallest capacity


# --- the machine -----------------------------------------------------------------------------


class EngineMachine(RuleBasedStateMachine):
    """A limiter and exact buckets, which see the same requests at the same times."""

    @initialize(limits=limit_sets, start_ns=starts_ns)
    def begin(self, limits: list[tuple[float, float]], start_ns: int) -> None:
        self.clock = ManualClock(start_ns)
        self.limiter = Limiter(limits, clock=self.clock)
        self.moved_ns = 0
        self.capacities = [capacity for capacity, _ in limits]
        self.limits = [ExactLimit.of(*limit) for limit in limits]
        self.buckets = {key: [ExactBucket(limit) for limit in self.limits] for key in KEYS}
        self.whole = all(Fraction(capacity) % QUANTUM == 0 for capacity in self.capacities)
        note(f"Limiter({limits}, clock=ManualClock({start_ns}))")

    # --- rules

    @rule(key=keys, share=shares)
    def hit(self, key: str, share: float) -> None:
        cost = self.cost(share)
        self.see(key)
        decision = self.limiter.hit(key, cost)
        self.check_allowed(key, cost, decision.allowed)
        if not decision.allowed:
            self.check_retry(key, cost, decision)
        self.take(key, cost, decision.allowed)
        self.check_state(key, decision)

    @rule(key=keys, share=shares)
    def peek(self, key: str, share: float) -> None:
        cost = self.cost(share)
        self.see(key)
        decision = self.limiter.peek(key, cost)
        self.check_allowed(key, cost, decision.allowed)
        if not decision.allowed:
            self.check_retry(key, cost, decision)
        self.check_state(key, decision)

    @rule(keys=st.lists(keys, max_size=6), share=shares)
    def allow(self, keys: list[str], share: float) -> None:
        cost = self.cost(share)
        several_at_once = len(keys) % 2 == 0
        results = (
            self.limiter.allow_many(keys, cost)
            if several_at_once
            else [self.limiter.allow(key, cost) for key in keys]
        )
        for key, allowed in zip(keys, results, strict=True):
            self.see(key)
            self.check_allowed(key, cost, allowed)
            self.take(key, cost, allowed)

    @rule(key=keys, share=shares)
    def refund(self, key: str, share: float) -> None:
        cost = self.cost(share)
        self.limiter.refund(key, cost)
        self.see(key)
        for bucket in self.buckets[key]:
            bucket.give_back(bucket.limit.cost(cost), self.clock.now_ns)

    @rule(key=keys)
    def reset(self, key: str) -> None:
        self.limiter.reset(key)
        for bucket in self.buckets[key]:
            bucket.fill()

    @rule(step_ns=steps_ns)
    def advance(self, step_ns: int) -> None:
        self.move(step_ns)

    @rule(key=keys, share=shares)
    def wait_for_retry(self, key: str, share: float) -> None:
        cost = self.cost(share)
        denied = self.limiter.peek(key, cost)
        self.see(key)
        if not denied and self.has_time_for(denied.retry_after_ns):
            self.move(denied.retry_after_ns - 1)
            assert self.limiter.peek(key, cost).retry_after_ns == 1
            self.move(1)
            assert self.limiter.peek(key, cost).allowed
            self.hit(key, share)

    @rule(key=keys)
    def wait_until_full(self, key: str) -> None:
        decision = self.limiter.peek(key, 0)
        self.see(key)
        number = self.tightest(decision)
        if self.has_time_for(decision.reset_after_ns) and decision.reset_after_ns > 0:
            self.move(decision.reset_after_ns)
            deficit = self.buckets[key][number].deficit(self.clock.now_ns)
            assert deficit <= self.error(self.limits[number])
            if len(self.limits) == 1:
                full = self.limiter.peek(key, 0)
                assert (full.remaining, full.reset_after_ns) == (full.limit, 0)

    @rule(step_ns=st.integers(0, HOUR_NS))
    def step_back(self, step_ns: int) -> None:
        # Full buckets may be dropped at any time; drop them now, like the model.
        for key, buckets in self.buckets.items():
            deficits = [bucket.deficit(self.clock.now_ns) for bucket in buckets]
            if not any(deficits):
                for bucket in buckets:
                    bucket.fill()
            elif any(
                0 < deficit <= self.error(bucket.limit) or bucket.may_owe(self.clock.now_ns)
                for deficit, bucket in zip(deficits, buckets, strict=True)
            ):
                self.reset(key)
        in_use = sum(any(b.deficit(self.clock.now_ns) for b in bs) for bs in self.buckets.values())
        assert self.limiter.stats()["keys"] == in_use
        self.clock.set_ns(max(self.clock.now_ns - step_ns, 0))

    # --- what the model does

    def cost(self, share: float) -> float:
        tokens = share * min(self.capacities)
        return float(round(tokens / QUANTUM) * QUANTUM) if self.whole else tokens

    def see(self, key: str) -> None:
        for bucket in self.buckets[key]:
            bucket.see(self.clock.now_ns)

    def take(self, key: str, cost: float, allowed: bool) -> None:
        if allowed:
            for bucket in self.buckets[key]:
                bucket.take(bucket.limit.cost(cost), self.clock.now_ns)

    def has_time_for(self, step_ns: int) -> bool:
        return self.moved_ns + step_ns <= 20 * YEAR_NS

    def move(self, step_ns: int) -> None:
        if self.has_time_for(step_ns):
            self.clock.advance_ns(step_ns)
            self.moved_ns += step_ns

    def tightest(self, decision: Decision) -> int:
        return self.capacities.index(decision.limit)

    def error(self, limit: ExactLimit, in_ns: int = 0) -> Fraction:
        """Return by how many tokens the engine may be wrong: by none where numbers are whole.

        Then every deficit is a multiple of one grain, and the slack is less than that.
        """
        slack = limit.slack(self.moved_ns + in_ns)
        grain = gcd(limit.capacity, limit.per_ns, QUANTUM) if self.whole else Fraction(0)
        return Fraction(0) if grain > slack else slack

    # --- invariants, checked before a request reaches the model

    def check_allowed(self, key: str, cost: float, allowed: bool) -> None:
        now_ns = self.clock.now_ns
        missing = [(b.missing(b.limit.cost(cost), now_ns), b.limit) for b in self.buckets[key]]
        if allowed:
            assert all(m <= self.error(limit) for m, limit in missing), "admitted too much"
        else:
            assert any(m > -self.error(limit) for m, limit in missing), "denied needlessly"

    def check_retry(self, key: str, cost: float, decision: Decision) -> None:
        retry_ns = decision.retry_after_ns
        assert 0 < retry_ns <= NEVER_NS
        then_ns = self.clock.now_ns + retry_ns
        tightest = self.buckets[key][self.tightest(decision)]
        error = self.error(tightest.limit, retry_ns)
        assert tightest.missing(tightest.limit.cost(cost), then_ns - 1) > -error, (
            "retry_after is too long"
        )
        if retry_ns < NEVER_NS:
            for bucket in self.buckets[key]:
                error = self.error(bucket.limit, retry_ns)
                missing = bucket.missing(bucket.limit.cost(cost), then_ns)
                assert missing <= error, "retry_after is too short"

    # --- and after it

    def check_state(self, key: str, decision: Decision) -> None:
        now_ns = self.clock.now_ns
        tightest = self.buckets[key][self.tightest(decision)]
        limit = tightest.limit
        left = max(limit.capacity - tightest.deficit(now_ns), Fraction(0))
        remaining = Fraction(decision.remaining)
        rounded_down = 2 * limit.unit + left / 2**52
        assert left - rounded_down <= remaining <= left + limit.slack(self.moved_ns)
        assert 0 <= remaining <= Fraction(decision.limit)

        reset_ns = decision.reset_after_ns
        error = self.error(limit, reset_ns)
        if reset_ns < NEVER_NS:
            assert tightest.deficit(now_ns + reset_ns) <= error
        if reset_ns > 0 and not error:
            assert tightest.deficit(now_ns + reset_ns - 1) > 0
        if decision.allowed:
            assert decision.retry_after_ns == 0
            for bucket in self.buckets[key]:
                least = bucket.limit.capacity - bucket.deficit(now_ns)
                assert remaining <= least + bucket.limit.slack(self.moved_ns)


EngineMachine.TestCase.settings = settings(stateful_step_count=40)
TestEngineMachine = EngineMachine.TestCase


# --- many requests to one bucket -------------------------------------------------------------

POLLS = 100_000


class Greedy:
    """An exact bucket in integers of a small unit, for speed: without the engine's limits."""

    def __init__(self, capacity: float, refill_rate: Fraction, cost: float) -> None:
        per_ns = refill_rate / 10**9
        numbers = (Fraction(capacity), per_ns, Fraction(cost))
        self.scale = math.lcm(*(number.denominator for number in numbers))
        self.capacity, self.per_ns, self.cost = (int(number * self.scale) for number in numbers)
        self.deficit = 0

    def refill(self, ns: int) -> None:
        self.deficit = max(self.deficit - ns * self.per_ns, 0)

    def above(self) -> int:
        """Return by how much a request would exceed the capacity now."""
        return self.deficit + self.cost - self.capacity


def trace(capacity: float, refill_rate: Fraction, cost: float, gap_ns: int) -> tuple[int, int]:
    """Poll at random; return how many requests the engine admitted, and how many it might have."""
    rng = random.Random(f"{capacity} {refill_rate} {cost}")
    clock = ManualClock(rng.randrange(YEAR_NS))
    limiter = Limiter([(capacity, float(refill_rate))], clock=clock)
    unit = ExactLimit.of(capacity, float(refill_rate)).unit
    follows = Greedy(capacity, refill_rate, cost)  # is given what the engine admitted
    model = Greedy(capacity, refill_rate, cost)  # makes its own decisions
    error = unit * follows.scale
    admitted = expected = 0
    for _ in range(POLLS):
        step_ns = rng.randrange(2 * gap_ns)
        clock.advance_ns(step_ns)
        follows.refill(step_ns)
        model.refill(step_ns)
        if limiter.allow("k", cost):
            assert follows.above() <= error
            follows.deficit += follows.cost
            admitted += 1
        if model.above() <= 0:
            model.deficit += model.cost
            expected += 1
    return admitted, expected


@pytest.mark.parametrize(
    ("capacity", "refill_rate", "cost", "gap_ns"),
    [
        (10, Fraction(1), 1, 500_000_000),
        (5, Fraction(10, 3), 1, 200_000_000),
        (100, Fraction(100, 60), 3, 900_000_000),
        (20, Fraction(1000, 3600), 1, 2_000_000_000),
        (1, Fraction(1, 86_400), 1, 30_000 * 10**9),
        (1, Fraction(3 * 10**8), 1, 2),
        (1000, Fraction(3 * 10**8), 7, 15),
        (1, Fraction(10**9), 1, 1),
        (50, Fraction(10**6), 0.5, 300),
        (10**6, Fraction(10**6), 1000, 400_000),
        (10**12, Fraction(10**7), 10**9, 50 * 10**9),
        (4 * 10**15, Fraction(10**9), 10**12, 400 * 10**9),
        (1, Fraction(0), 0.0001220703125, 10),
    ],
)
def test_whole_numbers_admit_the_very_count(
    capacity: float, refill_rate: Fraction, cost: float, gap_ns: int
) -> None:
    admitted, expected = trace(capacity, refill_rate, cost, gap_ns)
    assert admitted == expected
    assert expected < POLLS  # the limit was felt


@pytest.mark.parametrize(
    ("capacity", "refill_rate", "cost", "gap_ns"),
    [
        (1, Fraction(10**6), 0.1, 60),
        (7, Fraction(10**6), 0.7, 400),
        (0.35, Fraction(10**9), 0.1, 1),
        (10, Fraction(1), 0.1, 50_000_000),
        (10**15, Fraction(10**9), 12345.678, 6_000),
        (1, Fraction(1, 7), 1 / 3, 10**9),
    ],
)
def test_any_numbers_never_admit_more(
    capacity: float, refill_rate: Fraction, cost: float, gap_ns: int
) -> None:
    """A cost is rounded up to a unit, so that a request now and then comes later."""
    admitted, expected = trace(capacity, refill_rate, cost, gap_ns)
    assert admitted <= expected
    assert expected - admitted <= expected / 5_000
