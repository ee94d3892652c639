"""Headers that describe the limits of a request in its response.

They are written in C: see csrc/http/fields.h.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rate_limiter._core import Decision, FieldStyle
from rate_limiter.checks.arguments import NoEffectError, checked_seconds, checked_switch
from rate_limiter.checks.words import HeaderWord, ResetWord
from rate_limiter.limit import Limit

DENIED_DETAIL = "Rate limit exceeded. Please try again later."
"""The text of a denied response's JSON body, under ``detail``."""

NO_STORE_DETAIL = "Rate limiting is temporarily unavailable. Please try again later."
"""The same, of a request that was denied because the store is unavailable."""

STYLES = ("x-ratelimit", "ietf", "both", "off")
RESETS = ("seconds", "epoch")


def header_values(decision: Decision) -> dict[str, str]:
    """Return the headers of a response to a request with this decision.

    ``X-RateLimit-Limit`` and ``X-RateLimit-Remaining`` are whole tokens, rounded down.
    ``X-RateLimit-Reset`` is the time until the bucket is full and, on a denied response,
    ``Retry-After`` the time until the same request would pass: whole seconds, rounded up (RFC
    9110, section 10.2.3). A time that never comes is left out. ``Cache-Control`` keeps caches from
    storing a denied response.

    Args:
        decision: the one about the request.
    """
    return DEFAULT_STYLE.values(decision)


@dataclass(frozen=True)
class LimitState:
    """One limit of a request: the policy's name, the limit, and its decision."""

    name: str
    limit: Limit
    decision: Decision


@dataclass(frozen=True)
class HeaderStyle:
    """Which headers responses carry.

    Args:
        style: ``"x-ratelimit"``, ``"ietf"`` (``RateLimit-Policy`` and ``RateLimit`` of
            draft-ietf-httpapi-ratelimit-headers-11, structured fields of RFC 9651), ``"both"``,
            or ``"off"``.
        reset: ``X-RateLimit-Reset`` in seconds from now, or as seconds since the epoch. It needs
            ``"x-ratelimit"`` or ``"both"``.
        retry_jitter_s: ``Retry-After`` is up to so many seconds longer, at random, so that denied
            clients do not all come back at once.
        cors: let scripts of other origins read the headers (``Access-Control-Expose-Headers``).

    Raises:
        TypeError, ValueError: an argument is not one of these.
    """

    style: HeaderWord = "x-ratelimit"
    reset: ResetWord = "seconds"
    retry_jitter_s: float = 0
    cors: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> HeaderStyle:
        """Return the `headers` of some arguments, else what the flat ones stand for."""
        headers = given["headers"]
        if isinstance(headers, HeaderStyle):
            return headers
        return cls(headers, given["reset"], given["retry_jitter_s"], given["cors"])

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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.style, self.reset, self.retry_jitter_s, self.cors)

    @cached_property
    def fields(self) -> FieldStyle:
        """The style as the engine reads it."""
        return FieldStyle(
            self.style,
            epoch=self.reset == "epoch",
            jitter_s=self.retry_jitter_s,
            cors=self.cors,
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
        share = random.random() if spread is None else spread
        return self.fields.values(decision, each, share, time.time())

    def retry_after_s(self, decision: Decision, spread: float | None = None) -> int | None:
        """Return the seconds of ``Retry-After``, at least 1, with jitter; None for never."""
        share = random.random() if spread is None else spread
        return self.fields.retry_after_s(decision, share)


DEFAULT_STYLE = HeaderStyle()
_FIELDS = FieldStyle("both")


def reset_at_s(decision: Decision, limit: Limit | None) -> int:
    """Return when the limit resets, in seconds since the epoch, rounded up.

    Windows end on whole multiples of their length, which the time that a decision took must not
    blur.
    """
    return _FIELDS.reset_at_s(decision, 0 if limit is None else limit.edge_s, time.time())
