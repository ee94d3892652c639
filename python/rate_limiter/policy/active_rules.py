"""ActiveRule and DenyingRule: the rules that a Policy follows."""

from __future__ import annotations

from dataclasses import dataclass

from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.policy.rules import Rule


@dataclass(frozen=True)
class ActiveRule:
    """A rule with its limiter.

    Attributes:
        awaitable_limiter: the limiter, awaitable if it is remote.
        names: names of its limits in headers.
    """

    rule: Rule
    limiter: RateLimiter
    awaitable_limiter: RateLimiter | AsyncRateLimiter
    names: tuple[str, ...]


@dataclass(frozen=True)
class DenyingRule:
    """A rule that denies, which needs no limiter."""

    rule: Rule
    names: tuple[str, ...] = ()


def policy_names(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's limits in headers."""
    if len(rule.limits) == 1:
        return (rule.name,)
    return tuple(f"{rule.name}-{i}" for i in range(1, len(rule.limits) + 1))
