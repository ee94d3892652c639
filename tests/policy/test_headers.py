"""Headers of a response, from a Decision."""

import math

from rate_limiter import Decision, ManualClock, RateLimiter
from rate_limiter.policy.headers import header_values


def test_allowed() -> None:
    limiter = RateLimiter("10/second; burst=20", clock=ManualClock())
    assert header_values(limiter.hit("k")) == {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "19",
        "X-RateLimit-Reset": "1",
    }


def test_denied_has_the_time_to_wait() -> None:
    limiter = RateLimiter("3/minute", clock=ManualClock())
    limiter.hit("k", 3)
    assert header_values(limiter.hit("k")) == {
        "X-RateLimit-Limit": "3",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "60",
        "Retry-After": "20",
        "Cache-Control": "no-store",
    }


def test_whole_seconds_stay_whole() -> None:
    """A wait of one second is 1, whenever it began, and not 2."""
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    for step_ns in (0, 1, 1_234_567_891, 999_999_999_999_999_937):
        clock.advance_ns(step_ns)
        limiter.hit("k")
        assert header_values(limiter.hit("k"))["Retry-After"] == "1"
        clock.advance(1)


def test_tokens_are_rounded_down_and_times_up() -> None:
    decision = Decision(False, 0.999, limit=2.5, retry_after=1e-9, reset_after=1.000000001)
    values = header_values(decision)
    assert values["X-RateLimit-Limit"] == "2"
    assert values["X-RateLimit-Remaining"] == "0"
    assert values["X-RateLimit-Reset"] == "2"
    assert values["Retry-After"] == "1"


def test_a_time_that_never_comes_is_left_out() -> None:
    never = Decision(False, 0, limit=1, retry_after=math.inf, reset_after=math.inf)
    assert header_values(never) == {
        "X-RateLimit-Limit": "1",
        "X-RateLimit-Remaining": "0",
        "Cache-Control": "no-store",
    }
