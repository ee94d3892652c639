"""Model of the header fields of a response: the Python that the C code replaced."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rate_limiter._core import Decision
from rate_limiter.limit import Limit
from rate_limiter.policy.headers import LimitState


@dataclass(frozen=True)
class HeaderStyle:
    """Write headers as rate_limiter.policy.headers.HeaderStyle does."""

    style: str = "x-ratelimit"
    reset: str = "seconds"
    retry_jitter_s: float = 0
    cors: bool = False

    def values(
        self, decision: Decision, each: Sequence[LimitState] = (), spread: float | None = None
    ) -> dict[str, str]:
        """Return the headers of a response."""
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


def reset_at_s(decision: Decision, limit: Limit | None) -> int:
    """Return when the limit resets, in seconds since the epoch, rounded up."""
    at_s = time.time() + decision.reset_after
    if limit is not None and limit.edge_s:
        return round(at_s / limit.edge_s) * limit.edge_s
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
