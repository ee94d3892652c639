"""Limit: how much a client may do, as a value and as a short text.

A text consists of limits and their options, separated by ``;``::

    100/minute                    a bucket of 100 tokens, refilled at 100 per minute
    100/minute; burst=20          the same refill rate, a bucket of 20
    5 per 30 seconds
    100/minute; window=sliding    a window instead of a bucket, sliding or fixed
    20/minute; window=fixed; start=first     a window that begins with the first request
    1000/month; window=fixed; tz=Europe/Berlin    a calendar month
    5/minute; count_denied=yes    denied requests count too
    10/second; 1000/hour          two limits, where several are accepted; "," and "|" separate too
    0.5/second                    one every two seconds: a bucket holds at least one token
    0/minute                      denies every request
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

from rate_limiter import _core
from rate_limiter.checks import limit_text
from rate_limiter.checks.limit_text import UNITS_S, Clause, short
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.time_zones import checked_zone, zone_table

TOKEN_BUCKET = "token_bucket"
FIXED_WINDOW = "fixed_window"
SLIDING_WINDOW = "sliding_window"

Start: TypeAlias = Literal["clock", "first"]
"""When a fixed window begins: by the clock, or with the first request of a client."""
CalendarUnit: TypeAlias = Literal["day", "week", "month", "year"]
"""What a calendar window is one of."""

_NAMED_UNITS_S = {name: UNITS_S[name] for name in ("second", "minute", "hour", "day")}
_KINDS = {TOKEN_BUCKET: "bucket", FIXED_WINDOW: "fixed", SLIDING_WINDOW: "sliding"}


@dataclass(frozen=True)
class _Values:
    """The checked values of a Limit. Their generated constructor is the only code to set them."""

    capacity: float
    refill_rate: float
    window_s: int = 0
    algorithm: str = TOKEN_BUCKET
    start: Start = "clock"
    unit: CalendarUnit | None = None
    tz: str = "UTC"
    count_denied: bool = False
    text: str = field(default="", compare=False)


@dataclass(frozen=True, init=False, repr=False, match_args=False)
class Limit(_Values):
    """Limit a client to `capacity` tokens at once, refilled at `refill_rate`.

    A token bucket starts full, a request takes its cost, and tokens come back at a steady rate.
    `fixed_window`, `calendar_window` and `sliding_window` make limits of other kinds; see
    docs/limits.md for their texts and docs/algorithms.md for their guarantees. A Limit cannot be
    changed.

    Args:
        capacity: tokens the bucket holds, from 0 (every request is denied) to ``4e15``. With less
            than 1, only requests that cost less than a token pass, and a RateLimiter logs a
            warning.
        refill_rate: tokens per second, from 0 (never refilled) to ``1e9``. A double close to a
            simple fraction, such as ``100 / 60``, counts as exactly that fraction.
        count_denied: whether denied requests take tokens too, up to one capacity beyond an empty
            bucket. A client that keeps asking faster than the rate stays denied.

    Attributes:
        window_s: length of the window in seconds, 0 for a bucket. The capacity of a window is its
            count. A calendar window has the length of its shortest one without a change of the
            clock: 86400, 7, 28 or 365 days.
        algorithm: ``"token_bucket"``, ``"fixed_window"`` or ``"sliding_window"``.
        start: of a fixed window, ``"clock"`` or ``"first"``.
        unit: ``"day"``, ``"week"``, ``"month"`` or ``"year"`` of a calendar window, else None.
        tz: time zone of a calendar window.
        count_denied: as given.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range, or NaN.
    """

    __match_args__ = ("capacity", "refill_rate")

    def __init__(self, capacity: float, refill_rate: float, *, count_denied: bool = False) -> None:
        tokens = checked_number("capacity", capacity)
        rate = checked_number("refill_rate", refill_rate)
        if not 0 <= tokens <= _core.MAX_CAPACITY:
            raise ValueError(
                f"capacity must be from 0 to {_core.MAX_CAPACITY:g} tokens, got {capacity!r}"
            )
        if not 0 <= rate <= _core.MAX_REFILL_RATE:
            raise ValueError(
                f"refill_rate must be from 0 to {_core.MAX_REFILL_RATE:g} tokens per second, "
                f"got {refill_rate!r}"
            )
        super().__init__(tokens, rate, count_denied=_checked_flag("count_denied", count_denied))

    @classmethod
    def fixed_window(
        cls,
        count: int,
        window_s: int,
        *,
        start: Start = "clock",
        count_denied: bool = False,
    ) -> Limit:
        """Return a limit of `count` requests in each window of `window_s` seconds.

        Windows are aligned to the clock: those of 60 s begin with the minute (UTC). Around the
        boundary of two windows, twice the count may pass at once. With ``start="first"`` a window
        begins with the first request of a client after the last one has ended, so windows of
        clients that keep asking have no common boundary.

        Args:
            count: requests, a whole number from 0 (every request is denied) to 2,000,000,000.
            window_s: seconds, a whole number from 1 to 1,000,000,000.
            start: ``"clock"`` or ``"first"``.
            count_denied: whether denied requests count too, up to twice the count.

        Raises:
            TypeError, ValueError: an argument is not such a number or word.
        """
        if start not in ("clock", "first"):
            raise ValueError(f"start must be 'clock' or 'first', got {start!r}")
        return cls._window(FIXED_WINDOW, count, window_s, start=start, count_denied=count_denied)

    @classmethod
    def sliding_window(cls, count: int, window_s: int, *, count_denied: bool = False) -> Limit:
        """Return a limit of `count` requests in the `window_s` seconds before each request.

        Up to a count of 8 this is exact. For larger ones, two counts are kept with the times of
        their first and last request, and those in between are taken as evenly spaced. A steady
        client gets its whole count. In any period t at most ``count * (1 + t / window_s)`` requests
        pass. With `count_denied`, a client that keeps asking too often stays denied.
        Arguments and exceptions are those of fixed_window().
        """
        return cls._window(SLIDING_WINDOW, count, window_s, count_denied=count_denied)

    @classmethod
    def calendar_window(
        cls, count: int, unit: CalendarUnit, tz: str = "UTC", *, count_denied: bool = False
    ) -> Limit:
        """Return a limit of `count` requests in each day, week, month or year of the calendar.

        A window begins at midnight: weeks on Monday, months on the 1st, years on 1 January. A day
        on which a clock changes has 23 or 25 hours.

        Args:
            count: as for fixed_window().
            unit: ``"day"``, ``"week"``, ``"month"`` or ``"year"``.
            tz: a time zone such as ``"Europe/Berlin"``.
            count_denied: as for fixed_window().

        Raises:
            TypeError, ValueError: an argument is none of these.
        """
        if unit not in ("day", "week", "month", "year"):
            raise ValueError(f"unit must be 'day', 'week', 'month' or 'year', got {unit!r}")
        zone = checked_zone(tz)
        window_s = 28 * 86400 if unit == "month" else UNITS_S[unit]
        options: dict[str, Any] = {"unit": unit, "tz": zone}
        if unit == "day" and zone == "UTC":
            options = {}  # the same as a window of 86400 s
        return cls._window(FIXED_WINDOW, count, window_s, count_denied=count_denied, **options)

    @classmethod
    def _window(
        cls, algorithm: str, count: float, window_s: float, *, count_denied: bool, **options: Any
    ) -> Limit:
        numbers = (("count", count, 0, 2_000_000_000), ("window_s", window_s, 1, 1_000_000_000))
        for name, value, least, most in numbers:
            number = checked_number(name, value)
            if not (least <= number <= most and number.is_integer()):
                raise ValueError(
                    f"{name} must be a whole number from {least} to {most:,}, got {value!r}"
                )
        options["count_denied"] = _checked_flag("count_denied", count_denied)
        return cls._of(
            float(count), float(count) / int(window_s), int(window_s), algorithm, **options
        )

    @classmethod
    def _of(cls, *values: Any, **more: Any) -> Limit:
        limit = cls.__new__(cls)
        _Values.__init__(limit, *values, **more)
        return limit

    @property
    def is_window(self) -> bool:
        """Whether this is a window. A window counts whole requests and rounds a part up to one."""
        return self.window_s != 0

    @property
    def period_s(self) -> float:
        """Seconds in which a whole capacity comes back; inf for never."""
        if self.is_window:
            return UNITS_S[self.unit] if self.unit else self.window_s
        return self.capacity / self.refill_rate if self.refill_rate else math.inf

    @property
    def edge_s(self) -> int:
        """Seconds of which the ends of windows are multiples; 0 if there are no such."""
        return 0 if self.start == "first" or self.unit else self.window_s

    @property
    def for_engine(self) -> tuple[Any, ...]:
        """The limit in the form that `_core.Limiter` accepts."""
        kind = "first" if self.start == "first" else _KINDS[self.algorithm]
        if self.count_denied or self.unit or kind == "first":
            amount = self.window_s if self.is_window else self.refill_rate
            zone = zone_table(self.tz) if self.unit else b""
            return (self.capacity, amount, kind, self.count_denied, self.unit or "", zone)
        if self.is_window:
            return (self.capacity, self.window_s, self.algorithm == SLIDING_WINDOW)
        return (self.capacity, self.refill_rate)

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the one limit in `text`, such as ``"100/minute; burst=20"``.

        Raises:
            TypeError: `text` is not a string.
            ValueError: `text` is malformed (the message shows where), out of range, or holds
                several limits.
        """
        limits = parse_limits(text)
        if len(limits) != 1:
            raise ValueError(f"expected one limit, got {len(limits)} in {shown(text)}")
        return limits[0]

    def __str__(self) -> str:
        """Return a short text that parses to this limit, with the numbers that were written."""
        return self.text or self.stored_name

    @property
    def stored_name(self) -> str:
        """A text that parses to this limit, the same for equal limits: part of names in stores."""
        if self.is_window:
            name = f"{self._per_window}; window={_KINDS[self.algorithm]}"
        else:
            name = self._per_unit
        start = "; start=first" if self.start == "first" else ""
        zone = "" if self.tz == "UTC" else f"; tz={self.tz}"
        return f"{name}{start}{zone}{'; count_denied=yes' if self.count_denied else ''}"

    @property
    def _per_window(self) -> str:
        units = {seconds: name for name, seconds in _NAMED_UNITS_S.items()}
        period = self.unit or units.get(self.window_s, f"{self.window_s} seconds")
        return f"{short(self.capacity)}/{period}"

    @property
    def _per_unit(self) -> str:
        unit, amount = "second", self.refill_rate
        for name, unit_s in _NAMED_UNITS_S.items():
            whole = round(self.refill_rate * unit_s)
            if whole > 0 and whole / unit_s == self.refill_rate:
                unit, amount = name, float(whole)
                break
        # A text with less than one token means a bucket of one.
        is_default = amount == self.capacity >= 1
        burst = "" if is_default else f"; burst={short(self.capacity)}"
        return f"{short(amount)}/{unit}{burst}"

    def __repr__(self) -> str:
        denied = ", count_denied=True" if self.count_denied else ""
        if self.unit:
            zone = "" if self.tz == "UTC" else f", {self.tz!r}"
            return f"Limit.calendar_window({short(self.capacity)}, {self.unit!r}{zone}{denied})"
        if self.is_window:
            start = ", start='first'" if self.start == "first" else ""
            numbers = f"{short(self.capacity)}, {self.window_s}"
            return f"Limit.{self.algorithm}({numbers}{start}{denied})"
        return f"Limit(capacity={self.capacity!r}, refill_rate={self.refill_rate!r}{denied})"


Limits: TypeAlias = str | Limit | Iterable[str | Limit]
Cost: TypeAlias = float | tuple[float, ...]
"""Tokens of a request: one number for all limits, or a tuple with a number for each."""
"""One limit or several, each as a Limit or a text."""


def as_limits(limits: Limits) -> tuple[Limit, ...]:
    """Return one or several limits as a tuple.

    Args:
        limits: a Limit, a text of one or several limits, or an iterable of both.

    Raises:
        TypeError: `limits` is something else.
        ValueError: a text is malformed, or the number of limits is not within 1 and 8.
    """
    if isinstance(limits, Limit):
        result: tuple[Limit, ...] = (limits,)
    elif isinstance(limits, str):
        result = parse_limits(limits)
    elif isinstance(limits, Mapping):
        raise TypeError(
            f"expected one limit or several, got a mapping {shown(limits)}: tiers are for the "
            f"limits of RateLimitMiddleware and the default_limits of FlaskRateLimiter"
        )
    elif isinstance(limits, Iterable) and not isinstance(limits, bytes):
        items = islice(limits, 1000)  # it may have no end
        result = tuple(one for item in items for one in _as_limits_item(item))
    else:
        raise TypeError(f"expected a Limit, a str or an iterable of them, got {shown(limits)}")
    if not 1 <= len(result) <= _core.MAX_LIMITS:
        raise ValueError(
            f"expected 1 to {_core.MAX_LIMITS} limits, got {len(result)}: {shown(limits)}"
        )
    return result


def checked_number(name: str, value: float) -> float:
    """Return the argument `name` as a float; inf if it is too large for one.

    Raises:
        TypeError: `value` is not a number. A bool is not one.
    """
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


C = TypeVar("C", bound="Cost")


def check_cost(cost: C, limits: tuple[Limit, ...]) -> C:
    """Return a constant cost after checking it.

    Args:
        cost: tokens per request: a number, or a tuple with one for each limit.
        limits: the limits that requests of this cost take tokens from.

    Raises:
        TypeError: `cost` is not a number.
        ValueError: `cost` is negative, not finite, or above a capacity, so that no request could
            ever pass.
    """
    if isinstance(cost, tuple):
        if limits and len(cost) != len(limits):
            raise ValueError(
                f"cost must have one number for each limit, {len(limits)} in all, got {cost!r}"
            )
        for one, limit in zip(cost, limits or (None,) * len(cost), strict=True):
            check_cost(one, (limit,) if limit is not None else ())
        return cost
    tokens = checked_number("cost", cost)
    if not (tokens >= 0 and math.isfinite(tokens)):
        raise ValueError(f"cost must be a finite number >= 0, got {cost!r}")
    for limit in limits:
        if limit.is_window and not tokens.is_integer():
            raise ValueError(f"cost must be whole for the window '{limit}', got {cost!r}")
        if tokens > limit.capacity > 0:
            raise ValueError(
                f"cost {cost!r} is above the capacity of the limit '{limit}', so no request "
                f"could ever pass"
            )
    return cost


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Return the limits in `text`, such as ``"10/second; 1000/hour"``.

    Options such as ``burst=`` and ``window=`` belong to the limit before them.

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` is malformed (the message shows where), or a number is out of range.
    """
    return limit_text.parse(text, _limit_of)


def _limit_of(clause: Clause) -> Limit:
    limit = _window_of(clause) if "window" in clause.words else _bucket_of(clause)
    return Limit._of(**{**vars(limit), "text": str(clause)})


def _bucket_of(clause: Clause) -> Limit:
    for name in ("start", "tz"):
        if name in clause.words:
            raise ValueError(f"{name}= is of a fixed window: add window=fixed, or leave it out")
    # A bucket of less than one token would admit no request.
    at_once = max(clause.amount, 1.0) if clause.amount else 0.0
    capacity = at_once if clause.burst is None else clause.burst
    return Limit(capacity, clause.amount / clause.period_s, count_denied=_counts_denied(clause))


def _window_of(clause: Clause) -> Limit:
    """Return the window of a clause.

    Raises:
        ValueError: an option does not fit, or the count is not whole; the message proposes the same
            rate in whole numbers.
    """
    words, count, denied = clause.words, clause.amount, _counts_denied(clause)
    is_sliding, start = words["window"] == "sliding", words.get("start", "clock")
    for name in ("start", "tz"):
        if name in words and is_sliding:
            raise ValueError(f"{name}= is of a fixed window, not of a sliding one")
    if not count.is_integer():
        raise ValueError(f"count must be a whole number{_in_whole_numbers(clause)}")
    if is_sliding:
        return Limit.sliding_window(_whole(count), _whole(clause.period_s), count_denied=denied)
    if "tz" in words and start == "first":
        raise ValueError("tz= has no effect beside start=first: give one of them")
    is_calendar = clause.unit in ("week", "month", "year") and start == "clock"
    if is_calendar or "tz" in words:
        return _calendar_of(clause, denied)
    return Limit.fixed_window(
        _whole(count),
        _whole(clause.period_s),
        start="first" if start == "first" else "clock",
        count_denied=denied,
    )


def _calendar_of(clause: Clause, denied: bool) -> Limit:
    unit: Any = clause.unit
    if unit not in ("day", "week", "month", "year") or clause.every != 1:
        if "tz" in clause.words:
            raise ValueError("tz= is of windows of one day, week, month or year")
        raise ValueError(
            f"a fixed window is one {unit} of the calendar; add start=first for windows of "
            f"{short(clause.every)} {unit}s, or give their length in days"
        )
    tz = clause.words.get("tz", "UTC")
    return Limit.calendar_window(_whole(clause.amount), unit, tz, count_denied=denied)


def _in_whole_numbers(clause: Clause) -> str:
    rate = Fraction(clause.amount).limit_denominator(1000)
    if not rate:
        return f", got {clause.amount!r}"
    period_s = short(rate.denominator * clause.period_s)
    same = f"{rate.numerator} per {period_s} seconds; window={clause.words['window']}"
    return f", such as {same!r}"


def _whole(number: float) -> int:
    """Return a number as an int, where it is one; _window() refuses others."""
    return int(number) if number.is_integer() else number  # type: ignore[return-value]


def _counts_denied(clause: Clause) -> bool:
    return clause.words.get("count_denied") == "yes"


def _checked_flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _as_limits_item(item: str | Limit) -> tuple[Limit, ...]:
    if isinstance(item, Limit):
        return (item,)
    return parse_limits(item)
