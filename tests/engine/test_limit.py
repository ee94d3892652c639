"""Limit and its texts: what they mean, and what a mistake in one says."""

import copy
import logging
import math
import pickle
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock, RateLimiter
from rate_limiter.limit import as_limits, check_cost, parse_limits
from rate_limiter.policy.rule_files import RulesError, check_rules
from rate_limiter.stores.address import shared_file
from support.redis_servers import RedisServer


@pytest.mark.parametrize(
    ("text", "capacity", "refill_rate"),
    [
        ("100/minute", 100, 100 / 60),
        ("100 / minute", 100, 100 / 60),
        ("100 per minute", 100, 100 / 60),
        ("100 PER Minutes", 100, 100 / 60),
        ("100/m", 100, 100 / 60),
        ("10/s", 10, 10),
        ("10/sec", 10, 10),
        ("1000/hour", 1000, 1000 / 3600),
        ("1000/hr", 1000, 1000 / 3600),
        ("5/day", 5, 5 / 86400),
        ("5/30 seconds", 5, 5 / 30),
        ("5 per 30s", 5, 5 / 30),
        ("2.5/second", 2.5, 2.5),
        ("0.5/second", 1, 0.5),
        ("0.25 per 2 minutes", 1, 0.25 / 120),
        ("0.5/second; burst=3", 3, 0.5),
        ("0.5/second; burst=0.5", 0.5, 0.5),
        ("1e3/second", 1000, 1000),
        ("100/minute; burst=20", 20, 100 / 60),
        ("100/minute;BURST = 20 ;", 20, 100 / 60),
        ("  7/s  ", 7, 7),
        ("0/second; burst=10", 10, 0),
    ],
)
def test_text_means_a_bucket(text: str, capacity: float, refill_rate: float) -> None:
    assert Limit.parse(text) == Limit(capacity, refill_rate)


def test_several_limits_and_whose_burst_it_is() -> None:
    assert parse_limits("10/second; burst=5; 1000/hour; burst=70") == (
        Limit(5, 10),
        Limit(70, 1000 / 3600),
    )
    assert parse_limits("10/second; 1000/hour") == (Limit(10, 10), Limit(1000, 1000 / 3600))


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", 0, "a number of requests"),
        ("lots", 0, "a number of requests"),
        ("-1/s", 0, "a number of requests"),
        ("nan/s", 0, "a number of requests"),
        ("inf/s", 0, "a number of requests"),
        ("100", 3, "'/' or 'per'"),
        ("100 perminute", 4, "'/' or 'per'"),
        ("100/", 4, "a unit"),
        ("100/minut", 4, "a unit"),
        ("100/5", 5, "a unit"),
        ("100/0 minutes", 4, "a period in range"),
        ("100/1e400 s", 4, "a period in range"),
        ("1e300/1e-300 s", 6, "a period in range"),
        ("100/minute burst=5", 11, "';' or the end"),
        ("100/minute  5/s", 12, "',', '|', ';' or the end"),
        ("100/minute,", 11, "a number of requests"),
        ("1,000/minute", 1, "'/' or 'per'"),
        ("5 per minute per second", 13, "';' or the end"),
        ("100/minute;;", 11, "a number of requests"),
        ("100/minute; burst=", 18, "a number of tokens"),
        ("100/minute; burst=nan", 18, "a number of tokens"),
        ("100/minute; burst=1e300", 0, "capacity must be from 0"),
        ("1e300/s", 0, "capacity must be from 0"),
        ("5/s; 2e9/s", 5, "refill_rate must be from 0"),
        ("burst=5", 0, "a number of requests"),
        ("0.5/minute; window=sliding", 0, "such as '1 per 120 seconds; window=sliding'"),
        ("1.5/minute; window=fixed", 0, "such as '3 per 120 seconds; window=fixed'"),
        ("9/s; 0.35/second; window=fixed", 5, "such as '7 per 20 seconds; window=fixed'"),
        ("3e9/minute; window=fixed", 0, "count must be a whole number from 0"),
        ("5/minute; burst=2; burst=3", 19, "burst= cannot follow burst="),
        ("5/minute; burst=2; window=fixed", 19, "window= cannot follow burst="),
        ("5/minute; rate=2", 10, "an option (burst, window, start, tz, count_denied)"),
        ("5/minute; count_denied", 10, "a number of requests"),
        ("5/minute; count_denied=maybe", 23, "'yes' or 'no'"),
        ("5/minute; window=fixed; start=last", 30, "'clock' or 'first'"),
        ("5/minute; start=first", 0, "start= is of a fixed window"),
        ("5/minute; window=sliding; start=first", 0, "not of a sliding one"),
        ("5/day; tz=Europe/Berlin", 0, "tz= is of a fixed window"),
        ("5/day; window=sliding; tz=Europe/Berlin", 0, "not of a sliding one"),
        ("5/hour; window=fixed; tz=Europe/Berlin", 0, "one day, week, month or year"),
        ("5 per 2 days; window=fixed; tz=Europe/Berlin", 0, "one day, week, month or year"),
        ("5/day; window=fixed; start=first; tz=Europe/Berlin", 0, "no effect beside start=first"),
        ("5/day; window=fixed; tz=Mars/Base", 0, "a time zone such as 'Europe/Berlin', got 'Mars"),
        ("5/day; window=fixed; tz=../etc", 24, "a time zone, as in"),
        ("5/day; window=fixed; tz=", 24, "a time zone, as in"),
        ("5 per 2 months; window=fixed", 0, "a fixed window is one month of the calendar"),
        ("٣/s", 0, "a number of requests"),
    ],
)
def test_mistake_shows_the_text_and_the_place(text: str, place: int, expected: str) -> None:
    with pytest.raises(ValueError, match="invalid limit") as caught:
        parse_limits(text)
    first, shown, caret = str(caught.value).split("\n")
    assert repr(text) in first
    assert f"at position {place}" in first
    assert expected in first
    assert shown == "    " + text
    assert caret.index("^") == 4 + place


def test_unprintable_text_keeps_its_columns() -> None:
    with pytest.raises(ValueError, match="position 5") as caught:
        parse_limits("1/s\n;\x1b[31mx")
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).split("\n")[1] == "    1/s?;?[31mx"


def test_long_text_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="at most 500 characters, got 1000000") as caught:
        parse_limits("1" * 1_000_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, 5, b"5/s", ["5/s"]])
def test_only_a_str_is_a_text(value: object) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        parse_limits(value)  # type: ignore[arg-type]


def test_parse_takes_one_limit() -> None:
    with pytest.raises(ValueError, match="expected one limit, got 2"):
        Limit.parse("1/s; 5/m")


@given(st.text(alphabet="0123456789./;= eE+-perburstminhdayxwofslg\n", max_size=40))
def test_any_text_parses_or_says_what_is_wrong(text: str) -> None:
    try:
        parsed = [repr(limit) for limit in parse_limits(text)]
    except ValueError as error:
        parsed = [str(error)]
    assert all(one.startswith("Limit") or repr(text) in one for one in parsed)


@given(
    st.floats(min_value=1e-6, max_value=4e15),
    st.floats(min_value=0, max_value=1e9, allow_subnormal=False),
)
def test_str_parses_to_the_same_limit(capacity: float, refill_rate: float) -> None:
    limit = Limit(capacity, refill_rate)
    assert Limit.parse(str(limit)) == limit


NUMBERS = st.one_of(st.integers(0, 10**6), st.floats(0, 1e6, allow_subnormal=False))
DENIED = st.booleans()
LIMITS = st.one_of(
    st.builds(Limit, NUMBERS, NUMBERS, count_denied=DENIED),
    st.builds(
        Limit.fixed_window,
        st.integers(0, 2 * 10**9),
        st.integers(1, 10**9),
        start=st.sampled_from(("clock", "first")),
        count_denied=DENIED,
    ),
    st.builds(
        Limit.sliding_window, st.integers(0, 2 * 10**9), st.integers(1, 10**9), count_denied=DENIED
    ),
    st.builds(
        Limit.calendar_window,
        st.integers(0, 2 * 10**9),
        st.sampled_from(("day", "week", "month", "year")),
        st.sampled_from(("UTC", "Europe/Berlin", "Etc/GMT+5")),
        count_denied=DENIED,
    ),
)


@given(LIMITS)
def test_every_text_of_a_limit_parses_to_it(limit: Limit) -> None:
    for text in (str(limit), limit.stored_name, limit.stored_name.replace(" ", "")):
        assert Limit.parse(text) == limit
        assert str(Limit.parse(text)) == str(Limit.parse(str(Limit.parse(text))))
    assert eval(repr(limit), {"Limit": Limit}) == limit
    assert pickle.loads(pickle.dumps(limit)).text == limit.text


@given(
    st.integers(0, 10**6),
    st.integers(1, 1000),
    st.sampled_from(("second", "minute", "hour", "day", "week", "month", "year")),
)
def test_str_gives_back_what_was_written(amount: int, every: int, unit: str) -> None:
    text = f"{amount}/{unit}" if every == 1 else f"{amount} per {every} {unit}s"
    for options in ("", "; burst=7", "; window=sliding; count_denied=yes"):
        if not (every * 365 > 10**4 and options.startswith("; window")):
            assert str(Limit.parse(text + options)) == text + options


def test_equal_limits_have_one_name_in_stores() -> None:
    written, reduced = Limit.parse("100 per 15 minutes"), Limit.parse("400/hour; burst=100")
    assert str(written) == "100 per 15 minutes"
    assert str(reduced) == "400/hour; burst=100"
    assert (written, hash(written)) == (reduced, hash(reduced))
    assert written.stored_name == reduced.stored_name == "400/hour; burst=100"
    assert shared_file("shared:///x", "", written) == shared_file("shared:///x", "", reduced)
    assert Limit.parse("0.5/second").stored_name == "30/minute; burst=1"


@pytest.mark.parametrize(
    ("text", "limits"),
    [  # as the package limits writes them
        ("5/minute, 10/hour", ("5/minute", "10/hour")),
        ("10 per hour;5/minute", ("10/hour", "5/minute")),
        ("1/second|9 per 1 day", ("1/second", "9/day")),
        ("5 per 2 minutes", ("5 per 2 minutes",)),
        ("1 per 2 hour, 3 PER 4 Seconds ; 5/1year", ("1 per 2 hours", "3 per 4 seconds", "5/year")),
    ],
)
def test_texts_of_the_package_limits(text: str, limits: tuple[str, ...]) -> None:
    assert tuple(map(str, parse_limits(text))) == limits


def test_str_is_what_a_person_would_write() -> None:
    assert str(Limit.parse("100/minute")) == "100/minute"
    assert str(Limit.parse("1000/hour; burst=50")) == "1000/hour; burst=50"
    assert repr(Limit(20, 5.0)) == "Limit(capacity=20.0, refill_rate=5.0)"


def test_limit_is_a_value() -> None:
    assert Limit(10, 2) == Limit(10.0, Fraction(2))  # type: ignore[arg-type]
    assert len({Limit(10, 2), Limit(10.0, 2.0)}) == 1
    with pytest.raises(AttributeError):
        Limit(10, 2).capacity = 5  # type: ignore[misc]


@pytest.mark.parametrize("capacity", [-1, -1e-9, math.nan, math.inf, -math.inf, 4.1e15, 10**400])
def test_capacity_out_of_range(capacity: float) -> None:
    with pytest.raises(ValueError, match=r"capacity must be from 0 to 4e\+15 tokens, got"):
        Limit(capacity, 1)


@pytest.mark.parametrize("rate", [-1, -1e-9, math.nan, math.inf, 1.1e9, 10**400, -(10**400)])
def test_refill_rate_out_of_range(rate: float) -> None:
    with pytest.raises(ValueError, match=r"refill_rate must be from 0 to 1e\+09 .* got"):
        Limit(1, rate)


@pytest.mark.parametrize("value", ["10", b"10", None, [], 1j, True, False])
def test_numbers_must_be_numbers(value: object) -> None:
    with pytest.raises(TypeError, match="capacity must be a number, got"):
        Limit(value, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="refill_rate must be a number, got"):
        Limit(1, value)  # type: ignore[arg-type]


def test_capacity_too_fine_for_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"capacity is out of range in .*\(1e-06, 1000000000.0\)"):
        RateLimiter(Limit(1e-6, 1e9))


def test_limits_come_in_several_shapes() -> None:
    ten = Limit(10, 10)
    hour = Limit(1000, 1000 / 3600)
    assert as_limits(ten) == (ten,)
    assert as_limits("10/second; 1000/hour") == (ten, hour)
    assert as_limits(["10/second", hour]) == (ten, hour)
    assert as_limits(iter(["10/second; 1000/hour"])) == (ten, hour)


@pytest.mark.parametrize("value", [None, 5, b"10/s", [5], [b"10/s"], [["10/s"]]])
def test_other_shapes_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="str"):
        as_limits(value)  # type: ignore[arg-type]


def test_number_of_limits() -> None:
    assert len(as_limits(["1/s"] * 8)) == 8
    with pytest.raises(ValueError, match="expected 1 to 8 limits, got 9"):
        as_limits(["1/s"] * 9)
    with pytest.raises(ValueError, match="expected 1 to 8 limits, got 0"):
        as_limits([])
    with pytest.raises(ValueError, match="expected 1 to 8 limits, got 1000"):
        as_limits(repeat("1/s"))  # without an end


def test_constant_cost_is_checked_where_it_is_configured() -> None:
    limits = parse_limits("10/second; 1000/hour")
    assert check_cost(10, limits) == 10
    assert check_cost(0, limits) == 0
    with pytest.raises(ValueError, match="cost 11 is above the capacity of the limit '10/second'"):
        check_cost(11, limits)
    for cost in (-1, math.nan, math.inf, 10**400):
        with pytest.raises(ValueError, match="cost must be a finite number >= 0, got"):
            check_cost(cost, limits)
    with pytest.raises(TypeError, match="cost must be a number, got True"):
        check_cost(True, limits)
    with pytest.raises(TypeError, match="cost must be a number, got '3'"):
        check_cost("3", limits)  # type: ignore[arg-type]


def test_less_than_one_request_a_period_admits_one_in_several() -> None:
    clock = ManualClock()
    limiter = RateLimiter("0.5/second", clock=clock)
    admitted = 0
    for _ in range(100):
        admitted += limiter.allow("k")
        clock.advance(0.5)
    assert admitted == 25  # one every two seconds in fifty, the first at once


def test_less_than_one_request_a_period_in_shared_memory(tmp_path: Path) -> None:
    limiter = RateLimiter("0.5/hour", store=f"shared://{tmp_path}/half", max_keys=100)
    first, second = limiter.hit("k"), limiter.hit("k")
    assert (first.allowed, second.allowed) == (True, False)
    assert second.retry_after == pytest.approx(7200, abs=60)


def test_less_than_one_request_a_period_in_redis(server: RedisServer) -> None:
    for store in (server.url, "memory://"):
        limiter = RateLimiter(["0.5/hour", "0.1/minute"], store=store)
        first, second = limiter.hit("k"), limiter.hit("k")
        assert (first.allowed, second.allowed) == (True, False)
        assert second.retry_after == pytest.approx(7200, abs=60)


def test_less_than_one_request_a_period_in_rules() -> None:
    limits = check_rules({"default": {"limits": "0.5/second"}}).rules["default"].limits
    assert limits == (Limit(1, 0.5),)
    with pytest.raises(RulesError, match=r"cost 1 is above the capacity of the limit"):
        check_rules({"default": {"capacity": 0.5, "refill_rate": 1}})


def test_a_bucket_of_less_than_one_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rate_limiter"):
        limiter = RateLimiter(["5/s", Limit(0.5, 1)])
        assert not limiter.allow("k")
        assert limiter.allow("k", 0.25)
    (record,) = caplog.records
    assert "'1/second; burst=0.5' holds less than one token" in record.message
    caplog.clear()
    RateLimiter(["0.5/second", "1/hour; window=fixed"])
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1/hour", 3600), ("1/7 minutes", 420), ("3/minute", 20), ("7/day", 86400 / 7), ("1/s", 1)],
)
def test_a_token_comes_at_the_very_nanosecond(text: str, seconds: float) -> None:
    """A double next to 1/3600 is not 1/3600, but it is what it means."""
    for begin_ns in (0, 123_456_789_123_456_789):
        limiter = RateLimiter(f"{text}; burst=1", clock=ManualClock(begin_ns))
        limiter.hit("k")
        assert limiter.hit("k").retry_after_ns == math.ceil(seconds * 1e9)


@pytest.mark.parametrize(
    "limit", [Limit(10, 2), Limit.fixed_window(5, 60), Limit.sliding_window(5, 60)], ids=str
)
def test_limit_cannot_be_changed_and_can_be_copied(limit: Limit) -> None:
    for name in ("capacity", "refill_rate", "window_s", "algorithm", "other"):
        with pytest.raises(AttributeError):
            setattr(limit, name, 1)
        with pytest.raises(AttributeError):
            delattr(limit, name)
    for same in (copy.copy(limit), copy.deepcopy(limit), pickle.loads(pickle.dumps(limit))):
        assert (same, hash(same), repr(same)) == (limit, hash(limit), repr(limit))
        assert same.algorithm == limit.algorithm


def test_limits_of_different_kinds_are_not_equal() -> None:
    window = Limit.fixed_window(60, 60)
    assert window != Limit(window.capacity, window.refill_rate)
    assert window != Limit.sliding_window(60, 60)
    assert Limit(10, 2) != (10.0, 2.0, 0, "token_bucket")
