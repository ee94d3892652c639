"""Calendar windows in memory, against zoneinfo and datetime."""

from __future__ import annotations

from bisect import bisect_right
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock, RateLimiter
from rate_limiter.limit import CalendarUnit, parse_limits

NS = 10**9
LAST_S = 4_600_000_000  # in 2115

# Zones with changes at midnight, of half an hour, a skipped day, and none.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
]
UNITS: list[CalendarUnit] = ["day", "week", "month", "year"]


def next_date(day: date, unit: CalendarUnit) -> date:
    if unit in ("day", "week"):
        return day + timedelta(7 if unit == "week" else 1)
    if unit == "year":
        return date(day.year + 1, 1, 1)
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def midnight_s(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def window_of(unit: CalendarUnit, tz: str, now_s: int) -> tuple[int, int]:
    """Return when the window that holds a second begins and ends, by zoneinfo."""
    zone = ZoneInfo(tz)
    around = datetime.fromtimestamp(now_s, zone).date()
    starts = {"year": date(around.year - 1, 1, 1), "month": date(around.year - 1, 12, 1)}
    day = starts.get(unit, around - timedelta(around.weekday() + 14))
    edges: list[int] = []
    while not edges or edges[-1] <= now_s:
        edges.append(midnight_s(day, zone))
        day = next_date(day, unit)
    return edges[bisect_right(edges, now_s) - 1], edges[-1]


@given(unit=st.sampled_from(UNITS), tz=st.sampled_from(ZONES), now_s=st.integers(0, LAST_S))
@example("day", "Europe/Berlin", 1_774_746_000)  # of 23 hours
@example("day", "Europe/Berlin", 1_792_883_000)  # of 25 hours
@example("day", "Pacific/Apia", 1_325_239_199)  # before the skipped day
@example("day", "Pacific/Apia", 1_325_239_200)  # after it
@example("day", "America/Sao_Paulo", 1_541_300_400)  # begins at one o'clock
@example("day", "America/Havana", 1_541_307_600)  # has two midnights
@example("year", "UTC", 951_782_400)  # 29 February
def test_windows_are_those_of_the_calendar(unit: CalendarUnit, tz: str, now_s: int) -> None:
    start_s, end_s = window_of(unit, tz, now_s)
    clock = ManualClock(now_s * NS)
    limiter = RateLimiter(Limit.calendar_window(2, unit, tz), clock=clock)
    assert limiter.hit("k", 2).reset_after_ns == (end_s - now_s) * NS
    denied = limiter.hit("k")
    assert not denied
    assert denied.retry_after_ns == denied.reset_after_ns == (end_s - now_s) * NS
    clock.set_ns(end_s * NS - 1)
    assert limiter.peek("k").retry_after_ns == 1
    clock.set_ns(end_s * NS)
    assert limiter.peek("k").remaining == 2
    clock.set_ns(max(0, start_s) * NS)  # a clock that is set back frees nothing
    assert limiter.peek("k").remaining == 0


def test_days_of_23_and_25_hours() -> None:
    clock = ManualClock()
    limiter = RateLimiter("5/day; window=fixed; tz=Europe/Berlin", clock=clock)
    for month, day, hours in ((3, 28, 24), (3, 29, 23), (3, 30, 24), (10, 25, 25), (10, 26, 24)):
        begin = datetime(2026, month, day, tzinfo=ZoneInfo("Europe/Berlin"))
        clock.set_ns(int(begin.timestamp()) * NS)
        assert limiter.peek("k").reset_after == hours * 3600


def test_values_and_texts() -> None:
    month = Limit.calendar_window(1000, "month", "Europe/Berlin")
    assert (month.unit, month.tz, month.window_s) == ("month", "Europe/Berlin", 28 * 86400)
    assert month.period_s == 30 * 86400
    assert str(month) == "1000/month; window=fixed; tz=Europe/Berlin"
    assert Limit.parse("1000 per month; tz=Europe/Berlin; window=fixed") == month
    assert Limit.parse("5/week; window=fixed") == Limit.calendar_window(5, "week")
    assert Limit.calendar_window(5, "day") == Limit.fixed_window(5, 86400)
    assert month != Limit.calendar_window(1000, "month") != Limit.fixed_window(1000, 28 * 86400)
    for text, days in (("week", 7), ("month", 30), ("mo", 30), ("years", 365), ("w", 7)):
        assert Limit.parse(f"9/{text}") == Limit(9, 9 / (days * 86400))
        assert Limit.parse(f"9/{text}; window=sliding") == Limit.sliding_window(9, days * 86400)
    first = Limit.parse("9 per 2 months; window=fixed; start=first")
    assert first == Limit.fixed_window(9, 60 * 86400, start="first")


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="unit must be 'day', 'week', 'month' or 'year', got 'h"):
        Limit.calendar_window(5, "hour")  # type: ignore[arg-type]
    for tz in ("Mars/Base", "", "../UTC", "America"):
        with pytest.raises(ValueError, match=f"tz must be a time zone .* got '{tz}'"):
            Limit.calendar_window(5, "day", tz)
    with pytest.raises(TypeError, match="tz must be the name of a time zone, got 3"):
        Limit.calendar_window(5, "day", 3)  # type: ignore[arg-type]


def test_processes_share_a_calendar_window(tmp_path: Path) -> None:
    text, store = "3/month; window=fixed; tz=Asia/Kolkata", f"shared://{tmp_path}/calendar"
    one, other = (RateLimiter(text, store=store, max_keys=100) for _ in range(2))
    assert [one.allow("k"), other.allow("k"), one.allow("k"), other.allow("k")] == [
        *(True, True, True),
        False,
    ]
    utc = RateLimiter("3/month; window=fixed", store=store, max_keys=100)
    assert utc.peek("k").remaining == 3  # another file


def test_other_limits_keep_the_count_of_the_same_calendar() -> None:
    clock = ManualClock(1_000_000 * NS)
    before = RateLimiter(Limit.calendar_window(5, "week", "Europe/Berlin"), clock=clock)
    before.hit("k", 3)
    kept = before.with_limits(Limit.calendar_window(9, "week", "Europe/Berlin"))
    assert kept.peek("k").remaining == 6
    for limit in (Limit.calendar_window(9, "week"), Limit.fixed_window(9, 7 * 86400)):
        assert before.with_limits(limit).peek("k").remaining == 9


def test_epoch_headers_name_the_edge() -> None:
    from rate_limiter.policy.headers import reset_at_s

    limiter = RateLimiter("5/month; window=fixed; tz=Asia/Kolkata")
    at_s = reset_at_s(limiter.hit("k"), limiter.limits[0])
    edge = datetime.fromtimestamp(at_s - 1, ZoneInfo("Asia/Kolkata")) + timedelta(seconds=1)
    assert (edge.day, edge.hour, edge.minute) == (1, 0, 0) or at_s % 60 == 1


def test_weeks_begin_on_monday() -> None:
    (week,) = parse_limits("5/week; window=fixed")
    clock = ManualClock(int(datetime(2026, 11, 29, 23, 59, tzinfo=timezone.utc).timestamp()) * NS)
    assert RateLimiter(week, clock=clock).peek("k").reset_after == 60
