"""ActiveRule and DenyingRule: the rules that a Policy follows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rate_limiter import _core
from rate_limiter._core import GivenLimits
from rate_limiter.limit import Limit
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.policy.dynamic_limits import RuleLimits
from rate_limiter.policy.rules import Rule
from rate_limiter.stores.address import store_name


@dataclass(frozen=True)
class ActiveRule:
    """A rule with its limiter.

    Attributes:
        awaitable_limiter: the limiter, awaitable if it is remote.
        names: names of its limits in headers.
        limits_of: finds the limits of a request; None: those of the rule count.
    """

    rule: Rule
    limiter: RateLimiter
    awaitable_limiter: RateLimiter | AsyncRateLimiter
    names: tuple[str, ...]
    limits_of: RuleLimits | None = None

    def named(self, given: GivenLimits | None) -> list[tuple[str, Limit]]:
        """Return the limits of a request with their names; `given` are its own, if any."""
        if self.limits_of is None:
            return list(zip(self.names, self.rule.limits, strict=True))
        limits = () if given is None else given.limits
        names = names_of_given(self.names[0])
        return list(zip(names[:1] if len(limits) == 1 else names[1:], limits, strict=False))

    @cached_property
    def store_name(self) -> str:
        """Where the buckets are, in traces."""
        return store_name(self.limiter.store)


@dataclass(frozen=True)
class DenyingRule:
    """A rule that denies, which needs no limiter."""

    rule: Rule
    names: tuple[str, ...] = ()
    store_name: str = ""

    def named(self, given: GivenLimits | None) -> list[tuple[str, Limit]]:
        """Return nothing, as it has no limits."""
        return []


def policy_names(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's limits in headers."""
    if len(rule.limits) == 1:
        return (rule.name,)
    return tuple(f"{rule.name}-{i}" for i in range(1, len(rule.limits) + 1))


def names_of_given(name: str) -> tuple[str, ...]:
    """Return the name of a single given limit, and those of several."""
    return (name, *(f"{name}-{i}" for i in range(1, _core.MAX_LIMITS + 1)))
