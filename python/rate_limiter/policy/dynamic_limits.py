"""DynamicLimits: limits that a function returns for each request.

    request ──> key ──> known for this key? ──> function ──> limits ──> decide
                                                   └── fails: those known before, else the default

The engine calls a RuleLimits with what the user's functions get, and with the key of the request:
see csrc/python/check.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from rate_limiter._core import GivenLimits
from rate_limiter.checks.arguments import checked_whole
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit, Limits, as_limits, checked_number
from rate_limiter.limiting.given_limits import given_limits
from rate_limiter.limiting.limiter import RateLimiter

logger = logging.getLogger("rate_limiter")

LOG_EVERY_S = 1.0
"""The shortest time between two records about the function of one rule."""

LimitsOf: TypeAlias = Callable[..., "Limits | Awaitable[Limits]"]
"""A function that returns limits; what it gets depends on the front."""

AnyLimits: TypeAlias = "Limits | DynamicLimits | LimitsOf"
"""What `limits=` of a front may be."""

RETRY_S = 1.0
"""Seconds until a function that has failed is called again for a client whose limits are kept."""

_NONE = as_limits("0/second")
_LOST: Any = object()


@dataclass(frozen=True)
class DynamicLimits:
    """Limits that a function returns for each request, such as those of the client's plan.

    A plain function, ``limits=plan_of``, is the same as ``limits=DynamicLimits(plan_of)``.

    A client whose limits change keeps what it has used: a bucket is full again at the same time
    as before, so half of 100 a minute becomes half of 1000 a minute.

    Args:
        function: returns a text, a Limit, or several. It gets what a `key` or `cost` function of
            the same front gets. It may be async where those may be. If it raises or returns
            something else, that is logged, at most once a second, and `default` counts.
        default: limits for a request whose limits are not known. None denies it, with a 503.
        ttl_s: seconds for which the limits of a client are kept, which is what the request's key
            names; None calls the function for each request. While it fails, what is kept stays,
            and it is called at most once a second for each client. Tasks of an event loop that
            ask for one client at the same time share a call of an async function.
        max_clients: number of clients whose limits are kept. It needs `ttl_s`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    function: LimitsOf
    default: Limits | None = None
    ttl_s: float | None = None
    max_clients: int = 10_000

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be a function, got {shown(self.function)}")
        if self.default is not None:
            given_limits(self.default)
        if self.ttl_s is not None and not 0 < checked_number("ttl_s", self.ttl_s) < float("inf"):
            raise ValueError(f"ttl_s must be a number of seconds > 0, got {self.ttl_s!r}")
        if checked_whole("max_clients", self.max_clients) < 1:
            raise ValueError(f"max_clients must be 1 or more, got {self.max_clients!r}")
        if self.ttl_s is None and self.max_clients != 10_000:
            raise ValueError("max_clients has no effect without ttl_s")

    @property
    def name(self) -> str:
        """The name of the function."""
        found = getattr(self.function, "__name__", "") or type(self.function).__name__
        return "limits" if found == "<lambda>" else found

    @property
    def text(self) -> str:
        """What is shown instead of limits."""
        others = "" if self.default is None else f", default {', '.join(map(str, self.fixed))}"
        return f"those of {self.name}(){others}"

    @property
    def fixed(self) -> tuple[Limit, ...]:
        """The limits of a limiter whose calls give theirs: the default, or limits that deny all."""
        return _NONE if self.default is None else as_limits(self.default)

    def with_function(self, wrapped: Callable[[Any], Any]) -> DynamicLimits:
        """Return the same with another function, which gets the name of this one."""
        wrapped.__name__ = self.name
        return replace(self, function=wrapped)


def dynamic_of(limits: Any) -> DynamicLimits | None:
    """Return the DynamicLimits that `limits=` stands for; None for limits that do not change."""
    if isinstance(limits, DynamicLimits):
        return limits
    return DynamicLimits(limits) if callable(limits) else None


def fixed_limits(limits: Any) -> Any:
    """Return limits, those of a function replaced by its default."""
    dynamic = dynamic_of(limits)
    return limits if dynamic is None else dynamic.fixed


class RuleLimits:
    """Find the limits of a request for one rule. The engine calls it.

    Args:
        dynamic: what the user gave.
        rule: the name of the rule, for the log.
        limiter: decides.
        blocking: there is no event loop.
        answers: returns whether the framework answers an error of the function, such as a 401;
            those are raised.

    Attributes:
        text: what the live page shows instead of limits.
    """

    def __init__(
        self,
        dynamic: DynamicLimits,
        rule: str,
        limiter: RateLimiter,
        *,
        blocking: bool,
        answers: Callable[[Exception], bool],
    ) -> None:
        self._function = dynamic.function
        self.text = dynamic.text
        self._default = None if dynamic.default is None else given_limits(dynamic.default)
        self._rule = rule
        self._limiter = limiter
        self._blocking = blocking
        self._answers = answers
        self._known = None if dynamic.ttl_s is None else _Known(dynamic.ttl_s, dynamic.max_clients)
        self._flights: dict[tuple[int, Any], asyncio.Future[Any]] = {}
        self._logged_s = float("-inf")
        self._left_out = 0
        if self._default is not None:
            limiter._prepare(self._default)

    def __call__(self, subject: Any, key: Any) -> Any:
        """Return the GivenLimits of a request, None if they are unknown, or an awaitable."""
        if self._known is not None:
            given = self._known.get(key)
            if given is not None:
                return given
            if self._flights and not self._blocking:
                flight = self._flights.get((id(asyncio.get_running_loop()), key))
                if flight is not None:
                    return self._joined(flight, subject, key)
        try:
            found = self._function(subject)
        except Exception as error:
            return self._failed(error, key)
        if hasattr(found, "__await__"):
            return self._awaited(found, key)
        return self._read(found, key)

    def known(self, key: Any) -> GivenLimits | None:
        """Return the limits of a client as they were found last; None if they are not kept."""
        return None if self._known is None else self._known.get_old(key)

    def _awaited(self, found: Any, key: Any) -> Any:
        if self._blocking:
            if isinstance(found, Coroutine):
                found.close()
            error = TypeError("it is async, and there is no event loop to await it")
            return self._failed(error, key)
        return self._value_of(found, key) if self._known is None else self._flown(found, key)

    async def _value_of(self, found: Awaitable[Any], key: Any) -> GivenLimits | None:
        try:
            value = await found
        except Exception as error:
            return self._failed(error, key)
        return self._read(value, key)

    async def _flown(self, found: Awaitable[Any], key: Any) -> GivenLimits | None:
        """Await the function, and let others that ask for the same client wait for this call."""
        loop = asyncio.get_running_loop()
        name = (id(loop), key)
        flight = self._flights.setdefault(name, loop.create_future())
        given: Any = _LOST  # if this task is cancelled, the others ask again
        try:
            given = await self._value_of(found, key)
            return given  # type: ignore[no-any-return]
        finally:
            self._flights.pop(name, None)
            if not flight.done():
                flight.set_result(given)

    async def _joined(self, flight: asyncio.Future[Any], subject: Any, key: Any) -> Any:
        given = await asyncio.shield(flight)
        if given is not _LOST:
            return given
        again = self(subject, key)
        return await again if hasattr(again, "__await__") else again

    def _read(self, found: Any, key: Any) -> GivenLimits | None:
        """Return what the function returned as GivenLimits, and keep it."""
        try:
            given = given_limits(found)
            if given.has_windows:
                self._limiter._prepare(given)
        except Exception as error:
            return self._failed(error, key)
        if self._known is not None:
            self._known.put(key, given)
        return given

    def _failed(self, error: Exception, key: Any) -> GivenLimits | None:
        """Log why the limits of a request are unknown; return those that count instead."""
        if self._answers(error):
            raise error
        kept = None if self._known is None else self._known.renewed(key)
        self._log(error, "those known before count" if kept else self._instead)
        return self._default if kept is None else kept

    @property
    def _instead(self) -> str:
        return "its default counts" if self._default is not None else "the request is denied"

    def _log(self, error: Exception, instead: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s < LOG_EVERY_S:
            self._left_out += 1
            return
        left_out, self._left_out, self._logged_s = self._left_out, 0, now_s
        logger.error(
            "the limits of the rule %r are unknown, so %s: %r%s",
            self._rule,
            instead,
            error,
            f" ({left_out} more before it)" if left_out else "",
        )


class _Known:
    """The limits of the clients that asked last, for some time."""

    def __init__(self, ttl_s: float, size: int) -> None:
        self._ttl_s = ttl_s
        self._size = size
        self._entries: dict[Any, tuple[float, GivenLimits]] = {}

    def get(self, key: Any) -> GivenLimits | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and time.monotonic() < entry[0] else None

    def get_old(self, key: Any) -> GivenLimits | None:
        """Return what is known of a client, even if its time has passed."""
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def renewed(self, key: Any) -> GivenLimits | None:
        """Return what is known of a client, and let it count for a little longer."""
        given = self.get_old(key)
        if given is not None:
            self._put(key, given, min(RETRY_S, self._ttl_s))
        return given

    def put(self, key: Any, given: GivenLimits) -> None:
        self._put(key, given, self._ttl_s)

    def _put(self, key: Any, given: GivenLimits, for_s: float) -> None:
        self._entries.pop(key, None)  # so that it is the newest
        self._entries[key] = (time.monotonic() + for_s, given)
        while len(self._entries) > self._size:
            # Another thread may change the dict.
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                del self._entries[next(iter(self._entries))]
