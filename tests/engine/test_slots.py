"""Slots and decorators: calls that wait for their turn."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, ManualClock, RateLimiter, RateLimitExceeded


def limiter_of(limits: str = "3/day; 100/day") -> RateLimiter:
    return RateLimiter(limits, clock=ManualClock())


def left(limiter: RateLimiter, key: str = "api") -> tuple[float, ...]:
    return tuple(one.remaining for one in limiter.peek_each(key)[1:])


def test_a_function_takes_its_cost_before_it_runs() -> None:
    limiter = limiter_of()

    @limiter.limited("api", cost=(1, 10), timeout=0)
    def double(number: int, *, more: int = 0) -> int:
        """Return twice the number."""
        assert left(limiter) == (2 - number, 90 - 10 * number)
        return 2 * number + more

    assert (double(0), double(1, more=5)) == (0, 7)
    assert (double.__name__, double.__doc__) == ("double", "Return twice the number.")
    double(2)
    with pytest.raises(RateLimitExceeded):
        double(3)


@pytest.mark.parametrize("of", [RateLimiter, AsyncRateLimiter])
async def test_a_coroutine_function_is_awaited(of: Any) -> None:
    limiter = limiter_of()
    kept = limiter if of is RateLimiter else AsyncRateLimiter.of(limiter)

    @kept.limited("api", timeout=0)
    async def answer() -> int:
        return 42

    assert inspect.iscoroutinefunction(answer)
    waiting = answer()
    assert left(limiter) == (3, 100)
    assert await waiting == 42
    assert left(limiter) == (2, 99)


async def test_a_coroutine_function_waits_without_blocking() -> None:
    limiter = RateLimiter("100/second; burst=1")
    ran: list[int] = []

    @limiter.limited("api")
    async def work(number: int) -> None:
        ran.append(number)

    await asyncio.gather(*(work(i) for i in range(4)))
    assert ran == [0, 1, 2, 3]


def test_a_key_of_the_arguments() -> None:
    limiter = limiter_of()

    class Client:
        name = "one"

        @limiter.limited(lambda self, user, **_: f"{self.name}:{user}", timeout=0)
        def fetch(self, user: str, *, page: int = 0) -> str:
            return f"{user}{page}"

    assert Client().fetch("u", page=2) == "u2"
    assert left(limiter, "one:u") == (2, 99)


def test_an_exception_keeps_the_tokens() -> None:
    limiter = limiter_of()

    @limiter.limited("api")
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        fail()
    with pytest.raises(LookupError), limiter.slot("api"):
        raise LookupError
    assert left(limiter) == (1, 98)


async def test_slots() -> None:
    limiter = limiter_of()
    with limiter.slot("api", cost=(1, 50), timeout=0) as decision:
        assert (decision.allowed, left(limiter)) == (True, (2, 50))
    slot = AsyncRateLimiter.of(limiter).slot("api", cost=(2, 0), timeout=0)
    async with slot as decision:
        assert (decision.allowed, left(limiter)) == (True, (0, 50))
    with pytest.raises(RateLimitExceeded):
        async with slot:
            pytest.fail("it has no turn")
    with pytest.raises(RateLimitExceeded), limiter.slot("api", timeout=0):
        pytest.fail("it has no turn")


def test_slots_wait() -> None:
    limiter = RateLimiter("100/second; burst=1")
    order = []
    for i in range(3):
        with limiter.slot("api"):
            order.append(i)
    assert order == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"key": 5}, TypeError, "not int"),
        ({"key": "api", "cost": -1}, ValueError, "got -1"),
        ({"key": "api", "cost": (1, 2, 3)}, ValueError, "got (1, 2, 3)"),
        ({"key": "api", "timeout": -1}, ValueError, "got -1"),
    ],
)
def test_bad_arguments(arguments: Any, kind: Any, message: str) -> None:
    for limiter in (limiter_of(), AsyncRateLimiter.of(limiter_of())):
        with pytest.raises(kind) as caught:
            limiter.limited(**arguments)
        assert message in str(caught.value)


def test_generators_are_refused() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for one in (numbers, later):
        with pytest.raises(TypeError, match=r"is a generator: use slot\(\) in it"):
            limiter_of().limited("api")(one)
