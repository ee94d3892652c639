"""A token bucket in exact fractions, to hold the engine against.

It follows what csrc/engine/bucket.h promises, and none of how it is done: no clock that wraps, no
multiplication in place of a division, no whole numbers for what the tap has delivered.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

NEVER_NS = 2**63 - 1
"""A time that does not come, or not within 292 years."""


def frac_bits(capacity: float, refill_rate: float) -> int:
    """Return f of a limit, whose unit is 2**-f tokens."""
    return next(
        f
        for f in range(52, 9, -1)
        if f == 10
        or (
            # A hair below the documented 2**62, for the one step of the clock.
            Fraction(capacity) * 2**f < 2**62 - 2**12 and Fraction(refill_rate) * 2**f < 2**41
        )
    )


def meant_by(rate: float) -> Fraction:
    """Return the simple fraction that `rate` is the nearest double of, else the rate itself."""
    exact = Fraction(rate)
    if exact.denominator == 1:
        return exact
    rest, p, q, last_p, last_q = exact, 1, 0, 0, 1
    while True:
        term = math.floor(rest)
        p, q, last_p, last_q = term * p + last_p, term * q + last_q, p, q
        if q > 10_000_000 or p >= 2**53:
            return exact
        if p / q == rate:
            return Fraction(p, q)
        rest = 1 / (rest - term)


def gcd(*numbers: Fraction) -> Fraction:
    """Return the largest fraction that all numbers are whole multiples of."""
    denominator = math.lcm(*(number.denominator for number in numbers))
    return Fraction(math.gcd(*(int(number * denominator) for number in numbers)), denominator)


@dataclass(frozen=True)
class ExactLimit:
    """A limit, in tokens and nanoseconds."""

    capacity: Fraction  # whole units
    per_ns: Fraction
    unit: Fraction

    @classmethod
    def of(cls, capacity: float, refill_rate: float) -> "ExactLimit":
        unit = Fraction(1, 2 ** frac_bits(capacity, refill_rate))
        whole = math.ceil(Fraction(capacity) / unit) * unit
        return cls(whole, meant_by(refill_rate) / 10**9, unit)

    @property
    def most(self) -> Fraction:
        """The most that a bucket lacks: what charges may owe, or what a clock took away."""
        return self.capacity + min(self.capacity, 2**61 * self.unit)

    def cost(self, tokens: float) -> Fraction:
        """Return a cost rounded up to units."""
        return math.ceil(Fraction(tokens) / self.unit) * self.unit

    def slack(self, elapsed_ns: int) -> Fraction:
        """Return by how much the engine may err, in tokens, after that time in all.

        It counts whole units, so by one, however many requests there were. It also may refill
        too fast by one part in 2**62: in 24 days at the highest rate, that is another unit.
        """
        return self.unit + elapsed_ns * self.per_ns / 2**62

    def wait_ns(self, tokens: Fraction) -> int:
        """Return after how many whole nanoseconds so many tokens have come."""
        if tokens <= 0:
            return 0
        return min(math.ceil(tokens / self.per_ns), NEVER_NS) if self.per_ns else NEVER_NS


class ExactBucket:
    """One bucket of a limit.

    A clock that steps back takes away what had been refilled. The first request that sees that
    the bucket lacks more than it ever can cuts it down to the most.
    """

    def __init__(self, limit: ExactLimit) -> None:
        self.limit = limit
        self.fill()

    def fill(self) -> None:
        """Make it full, also for a clock that steps back."""
        self._full_at = Fraction(-1)  # tokens that the tap has delivered by then

    def _delivered(self, now_ns: int) -> Fraction:
        return now_ns * self.limit.per_ns

    def deficit(self, now_ns: int) -> Fraction:
        """Return how many tokens it lacks."""
        return max(self._full_at - self._delivered(now_ns), Fraction(0))

    def see(self, now_ns: int) -> None:
        """Cut what it lacks down to the most, as every request does."""
        self._full_at = min(self._full_at, self._delivered(now_ns) + self.limit.most)

    def may_owe(self, now_ns: int) -> bool:
        """Return true if it has been full for so long that a clock stepping back may make it owe.

        The engine may take it as full only since now, lest its number wraps (shard_renew_words).
        """
        return self._delivered(now_ns) - self._full_at > 2**40 * self.limit.unit

    def missing(self, cost: Fraction, now_ns: int) -> Fraction:
        """Return how many tokens a request lacks; it passes when that is zero or less."""
        return self.deficit(now_ns) + cost - self.limit.capacity

    def take(self, cost: Fraction, now_ns: int) -> None:
        """Take tokens, whether they are there or not."""
        self._full_at = self._delivered(now_ns) + self.deficit(now_ns) + cost

    def give_back(self, cost: Fraction, now_ns: int) -> None:
        """Put tokens back, until it is full."""
        self._full_at = self._delivered(now_ns) + max(self.deficit(now_ns) - cost, Fraction(0))
