"""The grammar of limit texts: from ``"100/minute; burst=20"`` to clauses.

A text has one limit or several, separated by ``;``, ``,`` or ``|``. Options follow their limit
after a ``;``. What a clause means is up to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rate_limiter.checks.redaction import redacted, shown

UNITS_S = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 7 * 86400,
    "month": 30 * 86400,
    "year": 365 * 86400,
}
"""Seconds of each unit. Months and years have a length only as calendar windows."""

_UNIT_NAMES = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "second"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "minute"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "hour"),
    **dict.fromkeys(("d", "day", "days"), "day"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "week"),
    **dict.fromkeys(("mo", "mos", "month", "months"), "month"),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), "year"),
}
_WORDS = {
    "window": ("fixed", "sliding"),
    "start": ("clock", "first"),
    "count_denied": ("yes", "no"),
}
_OPTIONS = ("burst", "window", "start", "tz", "count_denied")
_EXCLUDES = {"burst": "window", "window": "burst"}
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PER = re.compile(r"/|per\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")
_OPTION = re.compile(r"([A-Za-z_]+)\s*=")
_SPACE = re.compile(r"\s*")
_SEMICOLON = re.compile(";")
_COMMA = re.compile(r"[,|]")
_TEXT_MAX = 500

Made = TypeVar("Made")


@dataclass
class Clause:
    """One limit of a text: ``amount`` per ``every`` units, with its options as they are written.

    Words of options are in lower case, and without options that are not given.
    """

    amount: float
    every: float
    unit: str
    burst: float | None = None
    words: dict[str, str] = field(default_factory=dict)

    @property
    def period_s(self) -> float:
        """Seconds of the period."""
        return self.every * UNITS_S[self.unit]

    def __str__(self) -> str:
        """Return the text that a person would write."""
        per = f"/{self.unit}" if self.every == 1 else f" per {short(self.every)} {self.unit}s"
        burst = "" if self.burst is None else f"; burst={short(self.burst)}"
        options = (f"; {name}={value}" for name, value in self.words.items())
        return f"{short(self.amount)}{per}{burst}{''.join(options)}"


def parse(text: str, make: Callable[[Clause], Made]) -> tuple[Made, ...]:
    """Return what `make` makes of each clause of a text.

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` is malformed, or `make` raised a ValueError. The message shows where.
    """
    if not isinstance(text, str):
        raise TypeError(f"a limit must be a str such as '100/minute', got {shown(text)}")
    if len(text) > _TEXT_MAX:
        raise ValueError(
            f"a limit has at most {_TEXT_MAX} characters, got {len(text)}: {shown(text)[:40]}..."
        )
    return tuple(_Parser(text).clauses(make))


def short(number: float) -> str:
    """Return a number as text, without a fraction if it is whole."""
    return str(int(number)) if number.is_integer() else repr(number)


class _Parser:
    """Parse a text from left to right; errors show the position."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def clauses(self, make: Callable[[Clause], Made]) -> list[Made]:
        made: list[Made] = []
        while True:
            self._accept(_SPACE)
            start = self._at
            clause = self._rate()
            is_last = self._end_of_limit() or self._options(clause)
            try:
                made.append(make(clause))
            except ValueError as error:
                raise self._error("a limit in range", at=start, reason=str(error)) from None
            if is_last:
                return made

    def _rate(self) -> Clause:
        amount = self._number("a number of requests, as in '100/minute'")
        if self._accept(_PER) is None:
            raise self._error("'/' or 'per', as in '100/minute'")
        start = self._at
        every = 1.0 if _NUMBER.match(self._text, start) is None else self._number("a number")
        name = self._accept(_WORD)
        if name is None or name.lower() not in _UNIT_NAMES:
            raise self._error("a unit (second, minute, hour, day, week, month or year)", name)
        clause = Clause(amount, every, _UNIT_NAMES[name.lower()])
        period_s = clause.period_s
        if not 0 < period_s < float("inf") or amount / period_s == float("inf"):
            raise self._error("a period in range", at=start)
        return clause

    def _end_of_limit(self) -> bool:
        """Skip what ends a limit or an option; return True at the end of the text."""
        if self._at == len(self._text):
            return True
        if self._accept(_COMMA) is not None:
            return False
        if self._accept(_SEMICOLON) is None:
            raise self._error("',', '|', ';' or the end")
        return self._at == len(self._text)

    def _options(self, clause: Clause) -> bool:
        """Read the options of a limit; return True at the end of the text."""
        while (option := _OPTION.match(self._text, self._at)) is not None:
            name = option[1].lower()
            if name not in _OPTIONS:
                raise self._error(f"a number of requests, or an option ({', '.join(_OPTIONS)})")
            given = {*clause.words} if clause.burst is None else {*clause.words, "burst"}
            for other in given & {name, _EXCLUDES.get(name, name)}:
                raise self._error(f"a number of requests, as {name}= cannot follow {other}=")
            self._accept(_OPTION)
            if name == "burst":
                clause.burst = self._number("a number of tokens, as in 'burst=20'")
            else:
                clause.words[name] = self._word(name)
            if self._end_of_limit():
                return True
        return False

    def _word(self, name: str) -> str:
        if name == "tz":
            zone = self._accept(_ZONE)
            if zone is None:
                raise self._error("a time zone, as in 'tz=Europe/Berlin'")
            return zone
        word = self._accept(_WORD)
        if word is None or word.lower() not in _WORDS[name]:
            raise self._error(" or ".join(map(repr, _WORDS[name])), word)
        return word.lower()

    def _number(self, expected: str) -> float:
        digits = self._accept(_NUMBER)
        if digits is None:
            raise self._error(expected)
        return float(digits)

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


def _printable(text: str) -> str:
    """Return a text of the same width, so that the caret points at the right column."""
    return "".join(char if char.isprintable() else "?" for char in text)
