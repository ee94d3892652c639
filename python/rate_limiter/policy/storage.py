"""Storage: make the limiters of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rate_limiter.checks.arguments import NoEffectError
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.limiting.sharing import note_unnamed
from rate_limiter.policy.active_rules import ActiveRule
from rate_limiter.policy.rules import Rule
from rate_limiter.stores.address import MEMORY, is_shared, may_trace, redis_store
from rate_limiter.stores.redis_store import RedisStore


class LimiterSource(Protocol):
    """Where a Policy gets the limiters of its rules."""

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        """Return the limiter of a rule; `before` is the active rule of that name, if any."""


@dataclass(frozen=True)
class SharedLimiter:
    """A LimiterSource with one existing limiter, whose buckets all rules share."""

    shared: RateLimiter

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        return self.shared


@dataclass(frozen=True)
class Storage:
    """A LimiterSource that makes a limiter for each rule; users know it as Store.

    Args:
        store, name, on_store_error, max_keys, clock: as for RateLimiter.
        tracing: trace the round trips of the limiters, if the store is a Redis. A front with
            `tracing` sets it.
    """

    store: object = field(default=MEMORY, repr=False)  # may hold a password
    name: str = ""
    on_store_error: OnStoreError = "memory"
    max_keys: int = 1_000_000
    clock: Clock = "monotonic"
    tracing: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Storage:
        """Return the `store` of some arguments, if it is a Store, else what they stand for."""
        if isinstance(given["store"], Storage):
            return given["store"]._traced(given.get("tracing", False))
        names = ("store", "name", "on_store_error", "max_keys", "clock", "tracing")
        return cls(**{name: given[name] for name in names if name in given})

    def _traced(self, of_front: bool) -> Storage:
        """Return the storage of a front, whose `tracing` traces the store too.

        Raises:
            NoEffectError: there are no round trips to trace.
        """
        if self.tracing and not may_trace(self.store):
            raise NoEffectError("tracing", "in a Store without the address of a Redis")
        return replace(self, tracing=True) if of_front else self

    def new_limiter(self, limits: Limits) -> RateLimiter:
        """Return a RateLimiter with these arguments."""
        made = RateLimiter(
            limits,
            store=self.store,
            name=self.name,
            on_store_error=self.on_store_error,
            max_keys=self.max_keys,
            clock=self.clock,
            tracing=self.tracing and may_trace(self.store),
        )
        return self._noted(made, None)

    def below(self, name: str) -> Storage:
        """Return the storage of limits with a name, which is below the name of this object."""
        return replace(self, name=name_below(self.name, name))

    def named_limiter(
        self, limits: Limits, name: str, *, by_application: bool = False
    ) -> RateLimiter:
        """Return a RateLimiter of another name, below the name of this object.

        Args:
            limits: as for RateLimiter.
            name: its name.
            by_application: the name is one that another application may have by chance.
        """
        if self.store == MEMORY:
            return RateLimiter.in_memory(limits, self.max_keys, self.clock)
        made = self.below(name).new_limiter(limits)
        return self._noted(made, None) if by_application else made

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        """Return the limiter of a rule. Clients keep the usage they had under `before`."""
        if before is not None and _is_kept(before.rule, rule):
            return before.limiter
        has_usage = before is not None and _kinds(before.rule) == _kinds(rule)
        if is_shared(self.store):
            if before is not None and has_usage:
                return before.limiter.with_limits(rule.limits)
            shared_limiter = RateLimiter(
                rule.limits,
                store=self.store,
                name=f"{self.name}:{rule.name}",
                max_keys=self.max_keys,
                clock=self.clock,
            )
            return self._noted(shared_limiter, before)
        if self.store == MEMORY:
            if before is not None and has_usage:
                return before.limiter.with_limits(rule.limits)
            return RateLimiter.in_memory(rule.limits, self.max_keys, self.clock)
        shared = redis_store(self.store, self.on_store_error, tracing=self.tracing)
        if rule.on_store_error is not None:
            # The same Redis and connections, another on_store_error.
            policy = rule.on_store_error
            shared = RedisStore(
                shared.address, shared.prefix, on_store_error=policy, tracing=shared.tracing
            )
        made = RedisRateLimiter(
            rule.limits,
            store=shared,
            name=name_below(self.name, rule.name),
            max_keys=self.max_keys,
            clock=self.clock,
            names_limits=False,
        )
        return self._noted(made, before)

    def _noted(self, limiter: RateLimiter, before: ActiveRule | None) -> RateLimiter:
        """Return a limiter; warn if another application has the same rule without a name."""
        if not self.name and before is None and limiter.place is not None:
            note_unnamed(limiter, limiter.place, limiter.limits)
        return limiter


class NamedStorage(Storage):
    """A LimiterSource that names limiters after itself and not after their rules."""

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        if self.store == MEMORY:
            return RateLimiter.in_memory(rule.limits, self.max_keys, self.clock)
        return self.new_limiter(rule.limits)


def name_below(above: str, name: str) -> str:
    """Return a name below another one, which may be empty."""
    return f"{above}:{name}" if above else name


def _is_kept(before: Rule, rule: Rule) -> bool:
    fields = ("limits", "on_store_error", "shadow")  # a shadow rule is counted by another meter
    return all(getattr(before, field) == getattr(rule, field) for field in fields)


def _kinds(rule: Rule) -> list[str]:
    return [limit.algorithm for limit in rule.limits]
