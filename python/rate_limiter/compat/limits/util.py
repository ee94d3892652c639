"""Limits as values of `limits`: an amount in a multiple of a unit of time, and their texts.

A text has one limit or several, separated by ``,``, ``;`` or ``|``::

    5/minute        5 per minute        100 per 2 hours        1/second; 50/day
"""

from __future__ import annotations

import re
from functools import lru_cache, total_ordering
from typing import ClassVar, NamedTuple

KEPT = 1024
"""The number of different limits that are kept; those used last."""

_DAY_S = 86400
_SEPARATOR = re.compile("[,;|]")
# No two neighbouring parts match the same character, so a long text takes linear time.
_ONE = re.compile(
    r"\s*(?P<amount>[0-9]+)\s*(?:/|per)\s*(?:(?P<multiples>[0-9]+)\s*)?(?P<unit>[a-z]+)\s*",
    re.IGNORECASE,
)


class Granularity(NamedTuple):
    """A unit of time."""

    seconds: int
    name: str


class WindowStats(NamedTuple):
    """The state of a window: when it ends (seconds since the epoch), and what is left of it."""

    reset_time: float
    remaining: int


@total_ordering
class RateLimitItem:
    """`amount` requests per `multiples` units. Items are ordered by their unit.

    Args:
        amount: requests.
        multiples: units in one window; None for one.
        namespace: beginning of the key. Items in other namespaces count separately.
    """

    __slots__ = ("_window", "amount", "multiples", "namespace")

    GRANULARITY: ClassVar[Granularity]

    def __init__(self, amount: int, multiples: int | None = 1, namespace: str = "LIMITER") -> None:
        self.amount: int = int(amount)
        self.multiples: int = int(multiples or 1)
        self.namespace: str = namespace
        self._window: str | None = None  # the end of the key, once it is known

    @classmethod
    def check_granularity_string(cls, granularity_string: str) -> bool:
        """Return True for the name of the unit, singular or plural, in any case."""
        return granularity_string.lower() in (cls.GRANULARITY.name, f"{cls.GRANULARITY.name}s")

    def get_expiry(self) -> int:
        """Return the length of the window in seconds."""
        return self.GRANULARITY.seconds * self.multiples

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """Return the key under which requests with these identifiers are counted."""
        window = self._window
        if window is None:
            window = self._window = f"{self.amount}/{self.multiples}/{self.GRANULARITY.name}"
        try:
            return "/".join((self.namespace, *identifiers, window))  # type: ignore[arg-type]
        except TypeError:
            parts = (one.decode() if isinstance(one, bytes) else str(one) for one in identifiers)
            return "/".join((self.namespace, *parts, window))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RateLimitItem) and self._values == other._values

    def __lt__(self, other: RateLimitItem) -> bool:
        return self.GRANULARITY.seconds < other.GRANULARITY.seconds

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return f"{self.amount} per {self.multiples} {self.GRANULARITY.name}"

    @property
    def _values(self) -> tuple[int, int, Granularity]:
        return self.amount, self.multiples, self.GRANULARITY


class RateLimitItemPerSecond(RateLimitItem):
    """A limit per second."""

    __slots__ = ()
    GRANULARITY = Granularity(1, "second")


class RateLimitItemPerMinute(RateLimitItem):
    """A limit per minute."""

    __slots__ = ()
    GRANULARITY = Granularity(60, "minute")


class RateLimitItemPerHour(RateLimitItem):
    """A limit per hour."""

    __slots__ = ()
    GRANULARITY = Granularity(3600, "hour")


class RateLimitItemPerDay(RateLimitItem):
    """A limit per day of 24 hours."""

    __slots__ = ()
    GRANULARITY = Granularity(_DAY_S, "day")


class RateLimitItemPerMonth(RateLimitItem):
    """A limit per month of 30 days."""

    __slots__ = ()
    GRANULARITY = Granularity(30 * _DAY_S, "month")


class RateLimitItemPerYear(RateLimitItem):
    """A limit per year of 360 days."""

    __slots__ = ()
    GRANULARITY = Granularity(360 * _DAY_S, "year")


_ITEMS: tuple[type[RateLimitItem], ...] = (
    RateLimitItemPerSecond,
    RateLimitItemPerMinute,
    RateLimitItemPerHour,
    RateLimitItemPerDay,
    RateLimitItemPerMonth,
    RateLimitItemPerYear,
)


def parse_many(limit_string: str) -> list[RateLimitItem]:
    """Return the limits in a text, in their order.

    Raises:
        ValueError: the text is malformed, or no str.
    """
    if not isinstance(limit_string, str):
        raise ValueError(f"couldn't parse rate limit string '{limit_string}'")
    return [_parse_one(part, limit_string) for part in _SEPARATOR.split(limit_string)]


@lru_cache(maxsize=KEPT)
def known_items(text: str) -> tuple[RateLimitItem, ...]:
    """Return the limits in a text; those of the texts used last are kept.

    Raises:
        ValueError: the text is malformed.
    """
    return tuple(parse_many(text))


def parse(limit_string: str) -> RateLimitItem:
    """Return the first limit in a text.

    Raises:
        ValueError: the text is malformed, or no str.
    """
    return parse_many(limit_string)[0]


def _parse_one(part: str, text: str) -> RateLimitItem:
    match = _ONE.fullmatch(part)
    if match is None:
        raise ValueError(f"couldn't parse rate limit string '{text}'")
    unit = match["unit"]
    for item in _ITEMS:
        if item.check_granularity_string(unit):
            return item(int(match["amount"]), int(match["multiples"] or 1))
    raise ValueError(f"no granularity matched for {unit}")
