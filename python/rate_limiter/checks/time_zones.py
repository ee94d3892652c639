"""Time zones of calendar windows, as a table that the engine reads."""

from __future__ import annotations

from array import array
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_EPOCH = datetime(1970, 1, 1)
# A ManualClock can be set up to the year 2116.
_FIRST_DAY, _LAST_DAY = -31, 53_700
# Finds every change since 1970: none of any zone is taken back within a week.
_STEP_DAYS = 7


def checked_zone(tz: str) -> str:
    """Return the name of a time zone after checking it.

    Raises:
        TypeError: `tz` is not a str.
        ValueError: this system has no such time zone.
    """
    if not isinstance(tz, str):
        raise TypeError(f"tz must be the name of a time zone, got {tz!r}")
    if tz != "UTC":
        _zone(tz)
    return tz


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = "" if available_timezones() else " (this system has no time zones: install tzdata)"
        raise ValueError(
            f"tz must be a time zone such as 'Europe/Berlin', got {tz!r}{hint}"
        ) from None


@lru_cache(maxsize=64)
def zone_table(tz: str) -> bytes:
    """Return when days begin in a time zone: 64-bit integers, as csrc/engine/calendar.h has them.

    They are a number of pairs, then each pair: a day and an offset.

    From that day on (counted from 1970-01-01, in local time) midnight is as many seconds before
    midnight UTC. A midnight that a change of the clock skips or repeats is the earlier one.
    """
    if tz == "UTC":
        return array("q", (1, _FIRST_DAY, 0)).tobytes()
    zone = _zone(tz)

    def offset_s(day: int) -> int:
        offset = zone.utcoffset(_EPOCH + timedelta(day))
        assert offset is not None
        return offset.days * 86400 + offset.seconds

    before_s = offset_s(_FIRST_DAY)
    table = array("q", (0, _FIRST_DAY, before_s))
    for day in range(_FIRST_DAY, _LAST_DAY, _STEP_DAYS):
        if offset_s(day + _STEP_DAYS) == before_s:
            continue
        for each in range(day + 1, day + _STEP_DAYS + 1):
            after_s = offset_s(each)
            if after_s != before_s:
                table.extend((each, after_s))
                before_s = after_s
    table[0] = len(table) // 2
    return table.tobytes()
