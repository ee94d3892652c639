"""Slots and decorators: calls that wait for their turn before they run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from rate_limiter._core import Decision
from rate_limiter.limit import Cost
from rate_limiter.limiting.takers import AsyncTaker, Taker
from rate_limiter.limiting.waiting import Patience

P = ParamSpec("P")
R = TypeVar("R")

CallKey: TypeAlias = str | bytes | Callable[..., str | bytes]
"""A key, or a function of the arguments of a call that returns one."""


class Slot:
    """A block that waits for its turn before it runs, see RateLimiter.slot."""

    def __init__(self, limiter: Taker, key: str | bytes, cost: Cost, timeout: float | None) -> None:
        self._limiter = limiter
        self._asked = (key, cost, timeout)

    def __enter__(self) -> Decision:
        return self._limiter.acquire(*self._asked)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the tokens: the call was made, even if it failed."""


class AsyncSlot:
    """A block that waits for its turn before it runs, see AsyncRateLimiter.slot."""

    def __init__(
        self, limiter: AsyncTaker, key: str | bytes, cost: Cost, timeout: float | None
    ) -> None:
        self._limiter = limiter
        self._asked = (key, cost, timeout)

    async def __aenter__(self) -> Decision:
        return await self._limiter.acquire(*self._asked)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the tokens: the call was made, even if it failed."""


def limited(
    limiter: Taker,
    asynchronous: AsyncTaker,
    key: CallKey,
    cost: Cost,
    timeout: float | None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the decorator of RateLimiter.limited and AsyncRateLimiter.limited."""
    if not callable(key) and not isinstance(key, (str, bytes)):
        raise TypeError(
            "key must be str, bytes or a function of the arguments, "
            f"not {type(key).__name__}: write @limiter.limited('api')"
        )
    limiter.peek("" if callable(key) else key, cost)  # which checks both
    Patience(timeout)

    def key_of(args: Any, kwargs: Any) -> str | bytes:
        return key(*args, **kwargs) if callable(key) else key

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"limited() takes a function or a coroutine function, and {function!r} is a "
                "generator: use slot() in it"
            )
        if inspect.iscoroutinefunction(function):
            awaited = cast("Callable[P, Awaitable[Any]]", function)

            @wraps(function)
            async def later(*args: P.args, **kwargs: P.kwargs) -> Any:
                await asynchronous.acquire(key_of(args, kwargs), cost, timeout)
                return await awaited(*args, **kwargs)

            return cast("Callable[P, R]", later)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            limiter.acquire(key_of(args, kwargs), cost, timeout)
            return function(*args, **kwargs)

        return call

    return decorate
