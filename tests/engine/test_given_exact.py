"""Limits of calls against buckets in exact fractions, while the limits of a key change.

A timed bucket counts in units of 2**-34 s. A token is so many units as the tap delivers in its
time, rounded up. Costs and capacities are rounded up to units, and V down to a unit.
"""

import math
from fractions import Fraction

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from rate_limiter import Decision, Limit, ManualClock, RateLimiter
from support.exact import meant_by

UNITS_PER_S = 2**34
KEYS = ("a", "b")
DAY_NS = 86400 * 10**9

rates = st.sampled_from([1, 3, 7, 0.1, 1 / 3, 5 / 3, 100 / 60, 1 / 3600, 1000, 1e6]) | st.floats(
    1e-4, 1e5
)
buckets = st.builds(Limit, st.integers(1, 1000) | st.floats(0.1, 1000), rates)
limit_sets = st.lists(buckets, min_size=1, max_size=4).map(tuple)
steps_ns = st.integers(0, 1000) | st.integers(0, 10**10) | st.integers(0, DAY_NS)
keys = st.sampled_from(KEYS)
shares = st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1.01)  # of the smallest capacity


class Timed:
    """A limit, in units."""

    def __init__(self, limit: Limit) -> None:
        self.per_token = math.ceil(UNITS_PER_S / meant_by(limit.refill_rate))
        self.cap = self.units(limit.capacity)

    def units(self, tokens: float) -> int:
        return math.ceil(Fraction(tokens) * self.per_token)


def fill_s(limit: Limit) -> float:
    """Return the seconds until an empty bucket is full, with 40 significant bits."""
    seconds = limit.capacity / limit.refill_rate if limit.refill_rate else 0.0
    mantissa, exponent = math.frexp(seconds)
    return math.ldexp(math.floor(math.ldexp(mantissa, 40) + 0.5), exponent)


def ranked(limits: tuple[Limit, ...]) -> list[tuple[Timed, int]]:
    """Return each limit with the place of its bucket: the one that takes longest to fill is 0."""
    timed = [Timed(limit) for limit in limits]
    order = sorted(range(len(timed)), key=lambda i: -fill_s(limits[i]))
    return [(one, order.index(i)) for i, one in enumerate(timed)]


class GivenMachine(RuleBasedStateMachine):
    """A limiter and exact buckets, which see the same requests under the same limits."""

    @initialize(start_ns=st.just(0) | st.integers(0, 10**9 * DAY_NS // 86400))
    def begin(self, start_ns: int) -> None:
        self.clock = ManualClock(start_ns)
        self.limiter = RateLimiter("1/second", clock=self.clock)
        self.full_at = {key: [Fraction(0)] * 4 for key in KEYS}  # units of the tap
        note(f"ManualClock({start_ns})")

    @property
    def now(self) -> Fraction:
        return Fraction(self.clock.now_ns * UNITS_PER_S, 10**9)

    def lacks(self, key: str, limit: Timed, place: int) -> Fraction:
        return min(max(self.full_at[key][place] - self.now, Fraction(0)), Fraction(2 * limit.cap))

    def missing(self, key: str, cost: float, limits: tuple[Limit, ...]) -> Fraction:
        """Return by how many units a request misses; it passes when that is zero or less."""
        return max(
            self.lacks(key, one, place) + one.units(cost) - one.cap for one, place in ranked(limits)
        )

    def set_lack(self, key: str, limit: Timed, place: int, lacks: Fraction) -> None:
        self.full_at[key][place] = self.now + lacks

    @rule(key=keys, share=shares, limits=limit_sets)
    def hit(self, key: str, share: float, limits: tuple[Limit, ...]) -> None:
        cost = share * min(limit.capacity for limit in limits)
        missing = self.missing(key, cost, limits)
        decision = self.limiter.hit(key, cost, limits)
        assert abs(missing) <= 2 or decision.allowed == (missing <= 0)
        for one, place in ranked(limits):
            lacks = self.lacks(key, one, place)
            self.set_lack(key, one, place, lacks + one.units(cost) * decision.allowed)
        self.check_state(key, limits, decision)
        if not decision.allowed and math.isfinite(decision.retry_after):
            self.check_wait(key, cost, limits)

    def check_state(self, key: str, limits: tuple[Limit, ...], decision: Decision) -> None:
        lefts = [(one.cap - self.lacks(key, one, place), one) for one, place in ranked(limits)]
        tokens = [max(Fraction(0), units) / one.per_token for units, one in lefts]
        slack = max(Fraction(2, one.per_token) for _, one in lefts)
        if decision.allowed:  # the tightest: the one with the fewest tokens
            assert abs(Fraction(decision.remaining) - min(tokens)) <= slack + min(tokens) / 2**52

    def check_wait(self, key: str, cost: float, limits: tuple[Limit, ...]) -> None:
        """A wait of retry_after passes, and one nanosecond less does not."""
        before_ns = self.clock.now_ns
        wait_ns = self.limiter.peek(key, cost, limits)
        step_ns = round(wait_ns.retry_after * 1e9)
        if wait_ns.allowed or abs(step_ns) > 2**52:  # beyond it a float has no nanoseconds
            return
        self.clock.advance_ns(step_ns - 1)
        assert not self.limiter.peek(key, cost, limits).allowed
        self.clock.advance_ns(1)
        assert self.limiter.peek(key, cost, limits).allowed
        self.clock.set_ns(before_ns)

    @rule(key=keys, share=shares, limits=limit_sets)
    def refund(self, key: str, share: float, limits: tuple[Limit, ...]) -> None:
        tokens = share * min(limit.capacity for limit in limits)
        self.limiter.refund(key, tokens, limits)
        for one, place in ranked(limits):
            lacks = self.lacks(key, one, place)
            self.set_lack(key, one, place, max(Fraction(0), lacks - one.units(tokens)))

    @rule(key=keys, share=shares, limits=limit_sets)
    def charge(self, key: str, share: float, limits: tuple[Limit, ...]) -> None:
        tokens = share * min(limit.capacity for limit in limits)
        assert self.limiter.charge(key, tokens, limits).allowed
        for one, place in ranked(limits):
            lacks = self.lacks(key, one, place) + one.units(tokens)
            self.set_lack(key, one, place, min(lacks, Fraction(2 * one.cap)))

    @rule(step_ns=steps_ns)
    def wait(self, step_ns: int) -> None:
        self.clock.advance_ns(step_ns)


TestGiven = GivenMachine.TestCase
TestGiven.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
