"""Limit: how much a client may do, as a value and as a short text.

A text consists of clauses separated by ``;``::

    100/minute                    a bucket of 100 tokens, refilled at 100 per minute
    100/minute; burst=20          the same refill rate, a bucket of 20
    5 per 30 seconds
    100/minute; window=sliding    a window instead of a bucket, sliding or fixed
    10/second; 1000/hour          two limits, where several are accepted
    0.5/second                    one every two seconds: a bucket holds at least one token
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, TypeVar

from rate_limiter import _core
from rate_limiter.checks.redaction import redacted, shown

TOKEN_BUCKET = "token_bucket"
FIXED_WINDOW = "fixed_window"
SLIDING_WINDOW = "sliding_window"

_UNITS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_UNIT_NAMES = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "second"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "minute"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "hour"),
    **dict.fromkeys(("d", "day", "days"), "day"),
}
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PER = re.compile(r"/|per\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+")
_BURST = re.compile(r"burst\s*=", re.IGNORECASE)
_WINDOW = re.compile(r"window\s*=", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
_SEMICOLON = re.compile(";")
_TEXT_MAX = 500


@dataclass(frozen=True)
class _Values:
    """The checked values of a Limit. Their generated constructor is the only code to set them."""

    capacity: float
    refill_rate: float
    window_s: int
    algorithm: str


@dataclass(frozen=True, init=False, repr=False, match_args=False)
class Limit(_Values):
    """Limit a client to `capacity` tokens at once, refilled at `refill_rate`.

    A token bucket starts full, a request takes its cost, and tokens come back at a steady rate.
    `fixed_window` and `sliding_window` make limits of other kinds; see docs/algorithms.md for
    their guarantees. A Limit cannot be changed.

    Args:
        capacity: tokens the bucket holds, above 0 and at most ``4e15``. With less than 1, only
            requests that cost less than a token pass, and a RateLimiter logs a warning.
        refill_rate: tokens per second, from 0 (never refilled) to ``1e9``. A double close to a
            simple fraction, such as ``100 / 60``, counts as exactly that fraction.

    Attributes:
        window_s: length of the window in seconds, 0 for a bucket. The capacity of a window is its
            count.
        algorithm: ``"token_bucket"``, ``"fixed_window"`` or ``"sliding_window"``.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range, or NaN.
    """

    __match_args__ = ("capacity", "refill_rate")

    def __init__(self, capacity: float, refill_rate: float) -> None:
        tokens = checked_number("capacity", capacity)
        rate = checked_number("refill_rate", refill_rate)
        if not 0 < tokens <= _core.MAX_CAPACITY:
            raise ValueError(
                f"capacity must be above 0 and at most {_core.MAX_CAPACITY:g} tokens, "
                f"got {capacity!r}"
            )
        if not 0 <= rate <= _core.MAX_REFILL_RATE:
            raise ValueError(
                f"refill_rate must be from 0 to {_core.MAX_REFILL_RATE:g} tokens per second, "
                f"got {refill_rate!r}"
            )
        super().__init__(tokens, rate, 0, TOKEN_BUCKET)

    @classmethod
    def fixed_window(cls, count: int, window_s: int) -> Limit:
        """Return a limit of `count` requests in each window of `window_s` seconds.

        Windows are aligned to the clock: those of 60 s begin with the minute (UTC). Around the
        boundary of two windows, twice the count may pass at once.

        Args:
            count: requests, a whole number from 1 to 2,000,000,000.
            window_s: seconds, a whole number from 1 to 1,000,000,000.

        Raises:
            TypeError, ValueError: an argument is not such a number.
        """
        return cls._window(FIXED_WINDOW, count, window_s)

    @classmethod
    def sliding_window(cls, count: int, window_s: int) -> Limit:
        """Return a limit of `count` requests in the `window_s` seconds before each request.

        Up to a count of 8 this is exact. For larger ones, two counts are kept with the times of
        their first and last request, and those in between are taken as evenly spaced. A steady
        client gets its whole count. In any period t at most ``count * (1 + t / window_s)`` requests
        pass.
        Arguments and exceptions are those of fixed_window().
        """
        return cls._window(SLIDING_WINDOW, count, window_s)

    @classmethod
    def _window(cls, algorithm: str, count: float, window_s: float) -> Limit:
        numbers = (("count", count, 2_000_000_000), ("window_s", window_s, 1_000_000_000))
        for name, value, most in numbers:
            number = checked_number(name, value)
            if not (1 <= number <= most and number.is_integer()):
                raise ValueError(f"{name} must be a whole number from 1 to {most:,}, got {value!r}")
        limit = cls.__new__(cls)
        _Values.__init__(
            limit, float(count), float(count) / int(window_s), int(window_s), algorithm
        )
        return limit

    @property
    def is_window(self) -> bool:
        """Whether this is a window. A window counts whole requests and rounds a part up to one."""
        return self.window_s != 0

    @property
    def period_s(self) -> float:
        """Seconds in which a whole capacity comes back; inf for never."""
        if self.is_window:
            return self.window_s
        return self.capacity / self.refill_rate if self.refill_rate else math.inf

    @property
    def for_engine(self) -> tuple[float, float] | tuple[float, int, bool]:
        """The limit in the form that `_core.Limiter` accepts."""
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
        """Return a short text that parses to this limit."""
        if self.is_window:
            units = {seconds: name for name, seconds in _UNITS_S.items()}
            period = units.get(self.window_s, f"{self.window_s} seconds")
            kind = self.algorithm.removesuffix("_window")
            return f"{_short(self.capacity)}/{period}; window={kind}"
        unit, amount = "second", self.refill_rate
        for name, unit_s in _UNITS_S.items():
            whole = round(self.refill_rate * unit_s)
            if whole > 0 and whole / unit_s == self.refill_rate:
                unit, amount = name, float(whole)
                break
        # A text with less than one token means a bucket of one.
        is_default = amount == self.capacity >= 1
        burst = "" if is_default else f"; burst={_short(self.capacity)}"
        return f"{_short(amount)}/{unit}{burst}"

    def __repr__(self) -> str:
        if self.is_window:
            return f"Limit.{self.algorithm}({_short(self.capacity)}, {self.window_s})"
        return f"Limit(capacity={self.capacity!r}, refill_rate={self.refill_rate!r})"


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
        result = tuple(one for item in limits for one in _as_limits_item(item))
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
        if tokens > limit.capacity:
            raise ValueError(
                f"cost {cost!r} is above the capacity of the limit '{limit}', so no request "
                f"could ever pass"
            )
    return cost


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Return the limits in `text`, such as ``"10/second; 1000/hour"``.

    ``burst=`` and ``window=`` belong to the limit before them.

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` is malformed (the message shows where), or a number is out of range.
    """
    if not isinstance(text, str):
        raise TypeError(f"a limit must be a str such as '100/minute', got {shown(text)}")
    if len(text) > _TEXT_MAX:
        raise ValueError(
            f"a limit has at most {_TEXT_MAX} characters, got {len(text)}: {shown(text)[:40]}..."
        )
    return _Parser(text).limits()


class _Parser:
    """Parse a text from left to right; errors show the position."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def limits(self) -> tuple[Limit, ...]:
        limits: list[Limit] = []
        while True:
            self._accept(_SPACE)
            start = self._at
            amount, period_s = self._rate()
            algorithm = self._algorithm()
            if algorithm is not None:
                self._check_whole(start, algorithm, amount, period_s)
                limits.append(self._in_range(start, Limit._window, algorithm, amount, period_s))
            else:
                burst = self._burst()
                # A bucket of less than one token would admit no request.
                at_once = max(amount, 1.0) if amount else 0.0
                capacity = at_once if burst is None else burst
                limits.append(self._in_range(start, Limit, capacity, amount / period_s))
            if self._at == len(self._text):
                return tuple(limits)

    def _rate(self) -> tuple[float, float]:
        amount = self._number("a number of requests, as in '100/minute'")
        if self._accept(_PER) is None:
            raise self._error("'/' or 'per', as in '100/minute'")
        start = self._at
        every = 1.0 if _NUMBER.match(self._text, start) is None else self._number("a number")
        name = self._accept(_WORD)
        if name is None or name.lower() not in _UNIT_NAMES:
            raise self._error("a unit (second, minute, hour or day)", name)
        self._end_of_clause()
        period_s = every * _UNITS_S[_UNIT_NAMES[name.lower()]]
        if not 0 < period_s < math.inf or math.isinf(amount / period_s):
            raise self._error("a period in range", at=start)
        return amount, period_s

    def _algorithm(self) -> str | None:
        if self._accept(_WINDOW) is None:
            return None
        name = self._accept(_WORD)
        if name is None or name.lower() not in ("fixed", "sliding"):
            raise self._error("'fixed' or 'sliding'", name)
        self._end_of_clause()
        return f"{name.lower()}_window"

    def _check_whole(self, start: int, algorithm: str, amount: float, period_s: float) -> None:
        """Check the count of a window; the error proposes the same rate in whole numbers."""
        rate = Fraction(amount).limit_denominator(1000)
        if amount.is_integer() or not rate:
            return
        kind = algorithm.removesuffix("_window")
        same = f"{rate.numerator} per {_short(rate.denominator * period_s)} seconds; window={kind}"
        reason = f"count must be a whole number, such as {same!r}"
        raise self._error("a limit in range", at=start, reason=reason)

    def _burst(self) -> float | None:
        if self._accept(_BURST) is None:
            return None
        burst = self._number("a number of tokens, as in 'burst=20'")
        self._end_of_clause()
        return burst

    def _in_range(self, start: int, make: Callable[..., Limit], *given: float | str) -> Limit:
        try:
            return make(*given)
        except ValueError as error:
            raise self._error("a limit in range", at=start, reason=str(error)) from None

    def _number(self, expected: str) -> float:
        digits = self._accept(_NUMBER)
        if digits is None:
            raise self._error(expected)
        return float(digits)

    def _end_of_clause(self) -> None:
        if self._at < len(self._text) and self._accept(_SEMICOLON) is None:
            raise self._error("';' or the end")

    def _accept(self, pattern: re.Pattern[str]) -> str | None:
        """Return the text of the pattern and skip it with the space after it, if it is next."""
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        space = _SPACE.match(self._text, match.end())
        self._at = space.end() if space else match.end()
        return match.group()

    def _error(
        self, expected: str, found: str | None = None, *, at: int | None = None, reason: str = ""
    ) -> ValueError:
        if at is None:
            at = self._at
        if found:
            at = self._text.rindex(found, 0, self._at)
        why = f" ({reason})" if reason else ""
        # The text may be an address given by mistake, so secrets are hidden.
        return ValueError(
            f"invalid limit {shown(self._text)}: expected {expected} at position {at}{why}\n"
            f"    {redacted(_printable(self._text))}\n"
            f"    {' ' * at}^"
        )


def _as_limits_item(item: str | Limit) -> tuple[Limit, ...]:
    if isinstance(item, Limit):
        return (item,)
    return parse_limits(item)


def _short(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)


def _printable(text: str) -> str:
    """Return a text of the same width, so that the caret points at the right column."""
    return "".join(char if char.isprintable() else "?" for char in text)
