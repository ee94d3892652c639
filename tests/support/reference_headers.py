"""What a response tells the client about its limits."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rate_limiter._core import Decision
from rate_limiter.checks.arguments import NoEffectError, checked_seconds, checked_switch
from rate_limiter.limit import Limit

DENIED_DETAIL = "Rate limit exceeded. Please try again later."
"""The text of a denied response's JSON body, under ``detail``."""

NO_STORE_DETAIL = "Rate limiting is temporarily unavailable. Please try again later."
"""The same, of a response to a request that nobody could decide on."""

STYLES = ("x-ratelimit", "ietf", "both", "off")
RESETS = ("seconds", "epoch")


def header_values(decision: Decision) -> dict[str, str]:
    """Return the headers of a response to a request with this decision.

    ``X-RateLimit-Limit`` and ``X-RateLimit-Remaining`` are whole tokens, rounded down.
    ``X-RateLimit-Reset`` is the time until the bucket is full and, on a denied response,
    ``Retry-After`` the time until the same request would pass: whole seconds, rounded up (RFC
    9110, section 10.2.3). A time that never comes is left out. A denied response is not to be
    cached.

    Args:
        decision: what became of the request.
    """
    return DEFAULT_STYLE.values(decision)


@dataclass(frozen=True)
class LimitState:
    """Tell of one limit: the policy's name, the limit, and what was decided by it."""

    name: str
    limit: Limit
    decision: Decision


@dataclass(frozen=True)
class HeaderStyle:
    """Say which headers responses carry.

    Args:
        style: ``"x-ratelimit"``, ``"ietf"`` (``RateLimit-Policy`` and ``RateLimit`` of
            draft-ietf-httpapi-ratelimit-headers-11, structured fields of RFC 9651), ``"both"``,
            or ``"off"``.
        reset: ``X-RateLimit-Reset`` in seconds from now, or as seconds since the epoch. It needs
            ``"x-ratelimit"`` or ``"both"``.
        retry_jitter_s: ``Retry-After`` is up to so many seconds longer, at random, so that not
            all who were denied come back at once.
        cors: let scripts of other origins read the headers (``Access-Control-Expose-Headers``).

    Raises:
        TypeError, ValueError: an argument is not one of these.
    """

    style: str = "x-ratelimit"
    reset: str = "seconds"
    retry_jitter_s: float = 0
    cors: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            known = ", ".join(map(repr, STYLES))
            raise ValueError(f"headers must be one of {known}, got {self.style!r}")
        if self.reset not in RESETS:
            raise ValueError(f"reset must be 'seconds' or 'epoch', got {self.reset!r}")
        checked_seconds("retry_jitter_s", self.retry_jitter_s)
        checked_switch("cors", self.cors)
        if self.reset != "seconds" and self.style in ("ietf", "off"):
            raise NoEffectError("reset", f"with headers={self.style!r}")

    @property
    def is_plain(self) -> bool:
        """Whether the engine can write them by itself."""
        return (self.style, self.reset, self.retry_jitter_s, self.cors) == (
            "x-ratelimit",
            "seconds",
            0,
            False,
        )

    def values(
        self, decision: Decision, each: Sequence[LimitState] = (), spread: float | None = None
    ) -> dict[str, str]:
        """Return the headers of a response.

        Args:
            decision: the decision of the most constrained limit.
            each: all limits, for ``ietf``.
            spread: how much of the jitter counts, from 0 to 1; at random by default.
        """
        values: dict[str, str] = {}
        if self.style == "off":
            return values
        if self.style != "ietf":
            values["X-RateLimit-Limit"] = str(math.floor(decision.limit))
            values["X-RateLimit-Remaining"] = str(math.floor(decision.remaining))
            if math.isfinite(decision.reset_after):
                values["X-RateLimit-Reset"] = str(self._reset(decision, each))
        if self.style != "x-ratelimit" and each:
            ordered = most_constrained_first(each)
            values["RateLimit-Policy"] = ", ".join(map(_policy, ordered))
            values["RateLimit"] = ", ".join(map(_state, ordered))
        if not decision.allowed:
            if math.isfinite(decision.retry_after):
                values["Retry-After"] = str(self.retry_after_s(decision, spread))
            values["Cache-Control"] = "no-store"
        if self.cors:
            values["Access-Control-Expose-Headers"] = ", ".join(
                name for name in values if name != "Cache-Control"
            )
        return values

    def retry_after_s(self, decision: Decision, spread: float | None = None) -> int | None:
        """Return the seconds of ``Retry-After``, at least 1, with jitter; None for never."""
        if math.isinf(decision.retry_after):
            return None
        share = random.random() if spread is None else spread
        return max(1, math.ceil(decision.retry_after + share * self.retry_jitter_s))

    def _reset(self, decision: Decision, each: Sequence[LimitState]) -> int:
        if self.reset == "seconds":
            return math.ceil(decision.reset_after)
        return reset_at_s(
            decision, next((one.limit for one in each if one.decision == decision), None)
        )


DEFAULT_STYLE = HeaderStyle()


def reset_at_s(decision: Decision, limit: Limit | None) -> int:
    """Return when all is there again, in seconds since the epoch, rounded up.

    Windows end on whole multiples of their length, which the time that a decision took must not
    blur.
    """
    at_s = time.time() + decision.reset_after
    if limit is not None and limit.is_window:
        return round(at_s / limit.window_s) * limit.window_s
    return math.ceil(at_s)


def most_constrained_first(each: Sequence[LimitState]) -> list[LimitState]:
    """Return limits in the order in which they matter to the client."""
    return sorted(
        each,
        key=lambda one: (
            one.decision.allowed,
            -one.decision.retry_after,
            one.decision.remaining,
        ),
    )


def _policy(one: LimitState) -> str:
    window = one.limit.period_s
    parameters = f";q={_sf_integer(math.floor(one.limit.capacity))}"
    if math.isfinite(window):
        parameters += f";w={_sf_integer(math.ceil(window))}"
    return _sf_string(one.name) + parameters


def _state(one: LimitState) -> str:
    decision = one.decision
    after_s = decision.reset_after if decision.allowed else decision.retry_after
    parameters = f";r={_sf_integer(math.floor(decision.remaining))}"
    if math.isfinite(after_s):
        parameters += f";t={_sf_integer(math.ceil(after_s))}"
    return _sf_string(one.name) + parameters


def _sf_integer(number: int) -> int:
    """Return an integer of RFC 9651, section 3.3.1, which has 15 digits at most."""
    return min(number, 999_999_999_999_999)


def _sf_string(text: str) -> str:
    """Return a string of RFC 9651, section 3.3.3, which has visible ASCII only."""
    visible = "".join(char if " " <= char <= "~" else "_" for char in text)
    return '"' + visible.replace("\\", "\\\\").replace('"', '\\"') + '"'
