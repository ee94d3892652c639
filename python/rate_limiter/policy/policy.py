"""Policy: decide about requests by rules.

    request ──> bypass? ──> tier, key ──> rule ──> cost ──> limits ──> Verdict

All fronts are built on it. The engine decides: see csrc/python/check.c. This module compiles the
configuration for it, reloads rules, and awaits what has to be awaited. Coroutines suspend only if
they await something, so `run_now` can run them without an event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

from rate_limiter import _core
from rate_limiter._core import Check, PolicyVersion, StoreError, Verdict
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Limits, as_limits, check_cost
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.limiting.sharing import note_unnamed
from rate_limiter.observe.registry import meter, watch
from rate_limiter.policy.denials import Denial
from rate_limiter.policy.denied_requests import DeniedRequests, OnDenied
from rate_limiter.policy.headers import DEFAULT_STYLE, HeaderStyle
from rate_limiter.policy.keys import (
    BypassSpec,
    Identities,
    KeySpec,
    Source,
    TierSpec,
    shortened,
)
from rate_limiter.policy.rule_sources import RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.policy.settling import CostAfter, Finished, give_back, now, record_of
from rate_limiter.policy.setup_checks import USER_KEYS
from rate_limiter.stores.address import MEMORY, is_shared, redis_store
from rate_limiter.stores.redis_store import RedisStore

__all__ = ["CostAfter", "Finished", "Policy", "SharedLimiter", "Storage", "run_now"]

logger = logging.getLogger("rate_limiter")
_REFUSED = (ValueError, TypeError, MemoryError, ImportError, OSError)
"""Raised for rules that cannot be used."""
Value = TypeVar("Value")


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
    """

    store: object = field(default=MEMORY, repr=False)  # may hold a password
    name: str = ""
    on_store_error: OnStoreError = "memory"
    max_keys: int = 1_000_000
    clock: Clock = "monotonic"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Storage:
        """Return the `store` of some arguments, if it is a Store, else what they stand for."""
        if isinstance(given["store"], Storage):
            return given["store"]
        names = ("store", "name", "on_store_error", "max_keys", "clock")
        return cls(**{name: given[name] for name in names if name in given})

    def new_limiter(self, limits: Limits) -> RateLimiter:
        """Return a RateLimiter with these arguments."""
        made = RateLimiter(
            limits,
            store=self.store,
            name=self.name,
            on_store_error=self.on_store_error,
            max_keys=self.max_keys,
            clock=self.clock,
        )
        return self._noted(made, None)

    def named_limiter(self, limits: Limits, name: str) -> RateLimiter:
        """Return a RateLimiter of another name, below the name of this object."""
        if self.store == MEMORY:
            return RateLimiter.in_memory(limits, self.max_keys, self.clock)
        below = f"{self.name}:{name}" if self.name else name
        return replace(self, name=below).new_limiter(limits)

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
        shared = redis_store(self.store, self.on_store_error)
        if rule.on_store_error is not None:
            # The same Redis and connections, another on_store_error.
            policy = rule.on_store_error
            shared = RedisStore(shared.address, shared.prefix, on_store_error=policy)
        made = RedisRateLimiter(
            rule.limits,
            store=shared,
            name=f"{self.name}:{rule.name}" if self.name else rule.name,
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


def _is_kept(before: Rule, rule: Rule) -> bool:
    fields = ("limits", "on_store_error", "shadow")  # a shadow rule is counted by another meter
    return all(getattr(before, field) == getattr(rule, field) for field in fields)


def _kinds(rule: Rule) -> list[str]:
    return [limit.algorithm for limit in rule.limits]


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
class _Prepared:
    """Rules ready for use.

    Attributes:
        before: the rules whose usage they start from.
        error: why they cannot be used.
    """

    table: RuleTable
    before: dict[str, ActiveRule]
    version: PolicyVersion | None = None
    active: dict[str, ActiveRule] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True)
class DenyingRule:
    """A rule that denies, which needs no limiter."""

    rule: Rule
    names: tuple[str, ...] = ()


class Policy(_core.Policy):
    """Decide about requests by rules.

    Args:
        source: the rules.
        storage: makes the limiters of the rules.
        identities: turns configured words into sources.
        key: who a request counts for, unless its rule has a key.
        tier: the source of a request's tiers; None: there are none.
        bypass: requests that are not limited.
        cost: tokens that a request takes, unless its rule has a cost: a number, or a function of
            the request.
        cost_after: returns the final cost after the response; None: the cost stays.
        style: the style of the headers.
        names: names of the limits in headers, if there is only one rule; its name by default.
        blocking: there is no event loop, so calls to a store block.
        dimension: returns the name that the decisions of a rule have in metrics; None: they are
            not measured.
        on_denied: gets a DeniedRequest for each request that is denied; None: no function does.

    Attributes:
        denied: reports denied requests.
        shadow_denied: number of requests that a shadow rule would have denied.
        calls_key: the key may come from a user's function.
    """

    def __init__(
        self,
        source: RuleSource,
        storage: LimiterSource,
        identities: Identities,
        *,
        key: KeySpec = "ip",
        tier: TierSpec | None = None,
        bypass: BypassSpec = (),
        cost: Any = 1,
        cost_after: CostAfter | None = None,
        style: HeaderStyle = DEFAULT_STYLE,
        names: tuple[str, ...] | None = None,
        blocking: bool = False,
        dimension: Callable[[Rule], str] | None = None,
        on_denied: OnDenied | None = None,
    ) -> None:
        self.source = source
        self.storage = storage
        self.style = style
        self.cost_after = cost_after
        self.shadow_denied = 0
        self._has_advised = False
        self.denied = DeniedRequests(on_denied, identities.framework, blocking=blocking)
        self._identities = identities
        self._key = identities.key(key)
        self.calls_key = any(one.of_subject for one in self._key)
        self._tier = () if tier is None else identities.tier(tier)
        self._bypass = identities.bypass(bypass or ())
        self._cost = cost
        self._names = names
        self._blocking = blocking
        self._dimension = dimension
        self._table: RuleTable | None = None
        self._refused: RuleTable | None = None
        self._active: dict[str, ActiveRule] = {}
        self._prepared: _Prepared | None = None
        self._version: PolicyVersion | None = None
        self._lock = threading.Lock()  # held while rules change; of the process `_lock_pid`
        self._lock_pid = os.getpid()
        self._use_rules(self._compile(source.current()))
        source.follow(self)

    # --- Rules ---

    def prepare(self, table: RuleTable) -> None:
        """Compile rules that become current; the next request only has to switch to them.

        The source calls it in the thread that has loaded them. What other threads take from a
        limiter while its usage is copied may be missing in the new one.
        """
        try:
            self._prepared = self._compile(table)
        except Exception as error:
            self._prepared = _Prepared(table, self._active, error=error)

    def _compile(self, table: RuleTable) -> _Prepared:
        before = self._active
        limited = [rule for rule in table.rules.values() if rule.limits]
        active = {rule.name: self._active_rule(rule, before.get(rule.name)) for rule in limited}
        rules = list(table.rules.values())
        is_alone = len(rules) == 1 and not rules[0].has_conditions and not rules[0].exempt
        version = PolicyVersion(
            owner=self,
            rules=tuple(self._compiled(rule, active.get(rule.name)) for rule in rules),
            routes=None if is_alone else table.routes,
            bypass=self._bypass,
            tier=self._tier,
            tier_ranks=table.ranks,
            key=self._key,
            walk=self._identities.address.walk,
            style=self.style.fields,
            shortened=shortened,
            is_wsgi=self._identities.framework.is_wsgi,
            routes_like_werkzeug=self._identities.framework.routes_like_werkzeug,
            uses_keys=table.uses_keys,
        )
        return _Prepared(table, before, version, active)

    def _use_rules(self, prepared: _Prepared) -> None:
        if prepared.error is not None:
            raise prepared.error
        assert prepared.version is not None
        self._table, self._active = prepared.table, prepared.active
        self._version = prepared.version
        self._use(prepared.version, not self.source.is_fixed)

    def _active_rule(self, rule: Rule, before: ActiveRule | None) -> ActiveRule:
        if rule.cost is None and not callable(self._cost):
            check_cost(self._cost, rule.limits)
        limiter = self.storage.limiter(rule, before)
        if self._dimension is not None:
            watch(limiter, self._dimension(rule), shadow=rule.shadow)
        waits = limiter.is_remote and not self._blocking
        awaitable_limiter = AsyncRateLimiter.of(limiter) if waits else limiter
        return ActiveRule(rule, limiter, awaitable_limiter, self._names or policy_names(rule))

    def _compiled(self, rule: Rule, active: ActiveRule | None) -> tuple[Any, ...]:
        """Return a rule as the engine reads it: see csrc/python/policy.c."""
        cost: Any = self._cost if rule.cost is None else rule.cost
        key: tuple[Source, ...] = () if rule.key is None else self._identities.key(rule.key)
        settles = self.cost_after is not None or bool(rule.refund)
        if rule.deny:
            return self._denying(rule)
        if active is None:
            return (None, None, None, (), None, (), True, False, False, False, None)
        limits = tuple(
            (name, limit.capacity, limit.period_s, limit.edge_s)
            for name, limit in zip(active.names, rule.limits, strict=True)
        )
        decides_here = active.limiter.decides_here
        return (
            active,
            active.limiter if decides_here else None,
            None if decides_here else active.awaitable_limiter.hit_each,
            key,
            None if cost == 1 and not callable(cost) else cost,
            limits,
            False,
            False,
            rule.shadow,
            settles,
            None,
        )

    def _denying(self, rule: Rule) -> tuple[Any, ...]:
        dimension = None if self._dimension is None else self._dimension(rule)
        counts = None if dimension is None else meter(dimension, shadow=rule.shadow)
        denying = DenyingRule(rule)
        return (denying, None, None, (), None, (), False, True, rule.shadow, False, counts)

    def _refresh(self) -> None:
        """Take new rules, if the source has some. The engine calls it before each check."""
        table = self.source.current()
        if table is not self._table and table is not self._refused:
            _free_elsewhere(self._change(table))

    def _change(self, table: RuleTable) -> list[Any]:
        """Switch to new rules; return what was used before."""
        before: list[Any] = []
        if self._lock_pid != os.getpid():  # a fork may have copied a held lock
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        if not self._lock.acquire(blocking=False):
            return before
        try:
            if table is not self._table:
                before += (self._version, self._active)
                prepared, self._prepared = self._prepared, None
                is_of_these = prepared is not None and prepared.table is table
                if prepared is None or not is_of_these or prepared.before is not self._active:
                    prepared = self._compile(table)
                self._use_rules(prepared)
        except _REFUSED as error:
            self._refused = table
            self.source.refused += 1
            self.source.last_error = str(error)
            logger.error("new rules cannot be used, so the old ones stay: %s", error)
        finally:
            self._lock.release()
        return before

    def _shadowed(self, active: ActiveRule | DenyingRule) -> None:
        """Count a request that a shadow rule would have denied; called by the engine."""
        self.shadow_denied += 1
        logger.debug("the shadow rule %r would have denied a request", active.rule.name)

    def _failed(self, place: tuple[str, ActiveRule | DenyingRule | None], error: Exception) -> None:
        """Log what a user's function raised; called by the engine.

        Args:
            place: ``"key"``, ``"cost"`` and so on, and the rule.
            error: goes on to the framework.
        """
        if isinstance(error, StoreError) or self._identities.framework.answers(error):
            return
        part, active = place
        rule = "" if active is None else f" of the rule {active.rule.name!r}"
        logger.error("the %s%s raised %r", part, rule, error)
        if part == "key" and not self._has_advised:
            self._has_advised = True
            logger.warning("if the key%s reads what authentication sets, %s", rule, USER_KEYS)

    def limiters(self) -> dict[str, RateLimiter]:
        """Return the limiters by the names of their rules."""
        return {name: one.limiter for name, one in self._active.items()}

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets of all rules full, see RateLimiter.reset."""
        for limiter in dict.fromkeys(self.limiters().values()):
            limiter.reset(key, prefix=prefix)

    def active(self, rule: ActiveRule) -> ActiveRule:
        """Return the rule of this name in the current version, else the given one."""
        return self._active.get(rule.rule.name, rule)

    # --- Decisions ---

    async def decide(self, request: Any, subject: Any = None) -> Verdict | None:
        """Decide about a request; return None if no limit applies.

        If a limit denies, the others of the request get their tokens back.

        Args:
            request: the ASGI scope or the WSGI environ.
            subject: the argument of users' functions; the request by default.

        Raises:
            TypeError, ValueError: a user's function returned an invalid key or cost.
            StoreError: the store is unavailable and on_store_error is ``"raise"``.
        """
        try:
            verdict = self._check(request, request if subject is None else subject)
        except Exception as error:
            await self._give_back_after(error, request)
            raise
        return await self._concluded(request, verdict)

    async def _give_back_after(self, error: BaseException, request: Any) -> None:
        """Give tokens back, unless the framework answers the error, such as with a 401.

        Otherwise a client could have endless answers by sending what a key function refuses.
        """
        is_answered = isinstance(error, Exception) and self._identities.framework.answers(error)
        if not is_answered:
            await give_back(request)

    async def _concluded(self, request: Any, outcome: Any) -> Verdict | None:
        """Await a check, and give tokens back where the request does not pass."""
        if isinstance(outcome, Check):
            try:
                outcome = await self.finish(outcome)
            except BaseException as error:
                await self._give_back_after(error, request)
                raise
        verdict: Verdict | None = outcome
        if verdict is not None and verdict.is_denial:
            await give_back(request, verdict)
            await self.denied.report(request, verdict)
        return verdict

    def decide_now(self, request: Any) -> Verdict | None:
        """Do what decide() does, without an event loop.

        Raises:
            TypeError: something must be awaited.
        """
        try:
            outcome = self._check(request, request)
        except Exception as error:
            run_now(self._give_back_after(error, request))
            raise
        if isinstance(outcome, Verdict) and not outcome.is_denial:
            return outcome
        return run_now(self._concluded(request, outcome))

    async def finish(self, check: Check) -> Any:
        """Await what a check waits for, until it ends; return its outcome."""
        outcome: Any = check
        while isinstance(outcome, Check):
            try:
                value = await outcome.awaitable
            except Exception as error:
                self._failed(outcome.place, error)
                raise
            outcome = self._resume(outcome, value)
        return outcome

    async def find(
        self, request: Any, path: str, method: str
    ) -> list[tuple[ActiveRule | DenyingRule, Any]]:
        """Return the rules that limit a path and method, each with the key of the caller."""
        found = self._find(request, request, path, method)
        if isinstance(found, Check):
            found = await self.finish(found)
        return found or []

    async def status(self, request: Any) -> dict[str, Any]:
        """Return what the caller has left, without taking tokens.

        ``?path=`` and ``?method=`` choose the request to look up; ``GET /`` by default.
        """
        scope = self._identities.framework.scope(request)
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        path = query.get("path", ["/"])[0]
        method = query.get("method", ["GET"])[0].upper()
        found = await self.find(request, path, method)
        if not found:
            return {"limited": False, "rule": None, "limits": []}
        active, key = found[0]
        shown_key = key if isinstance(key, str) else key.decode("utf-8", "replace")
        if isinstance(active, DenyingRule):
            rule = active.rule
            return {
                "limited": True,
                "rule": rule.name,
                "key": shown_key,
                "allowed": rule.shadow,
                "limits": [],
            }
        decision, *each = await now(active.awaitable_limiter.peek_each(key, 0))
        cost: Any = self._cost if active.rule.cost is None else active.rule.cost
        if callable(cost):
            cost = await now(cost(request))
        return {
            "limited": True,
            "rule": active.rule.name,
            "key": shown_key,
            "allowed": active.rule.shadow or decision.remaining >= cost,
            "limits": [
                {
                    "name": name,
                    "limit": str(limit),
                    "algorithm": limit.algorithm,
                    "capacity": limit.capacity,
                    "remaining": one.remaining,
                    "reset_after": None if one.reset_after == float("inf") else one.reset_after,
                }
                for name, limit, one in zip(active.names, active.rule.limits, each, strict=True)
            ],
        }


def _free_elsewhere(garbage: list[Any]) -> None:
    """Free objects in a thread: thousands of limiters would delay the requests of an event loop."""
    if garbage:
        thread = threading.Thread(target=garbage.clear, name="rate_limiter rules", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many, or the interpreter ends
            thread.start()


def denial_of(request: Any, verdict: Verdict) -> Denial:
    """Return the values that the body of a denied response is made of."""
    record = record_of(request)
    retry_after_s = None if record is None else record._retry_after_s()
    active: ActiveRule | DenyingRule = verdict.active
    each = list(zip(active.names, active.rule.limits, verdict.decisions, strict=True))
    decision = verdict.decision
    tightest = [limit for _, limit, one in each if one == decision]
    limit = next(iter(tightest or active.rule.limits), None)
    violated = tuple(name for name, _, one in each if not one.allowed)
    return Denial(active.rule.name, limit, verdict.key, decision, retry_after_s, violated)


def key_of(identities: Identities, key: KeySpec, request: Any) -> Any:
    """Return the key that a request counts for, without an event loop.

    Raises:
        TypeError, ValueError: `key` is invalid, or something must be awaited.
    """
    any_request = RuleSource(RuleTable([Rule("default", as_limits("1/second"))]))
    policy = Policy(any_request, Storage(max_keys=1), identities, key=key)
    return run_now(policy.find(request, "/", "GET"))[0][1]


def tiers_of(identities: Identities, tier: TierSpec, request: Any) -> list[str]:
    """Return the tiers of a request, without an event loop.

    Raises:
        TypeError, ValueError: `tier` is invalid, or something must be awaited.
    """
    (source,) = identities.tier(tier)
    if source.call is None:
        return [identities.address.key_of_scope(request) if source.kind == "ip" else source.kind]
    found = run_now(now(source.call(request)))
    if found is None:
        return []
    return [str(one) for one in found] if isinstance(found, (list, tuple, set)) else [str(found)]


def policy_names(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's limits in headers."""
    if len(rule.limits) == 1:
        return (rule.name,)
    return tuple(f"{rule.name}-{i}" for i in range(1, len(rule.limits) + 1))


def rules_of_limits(limits: Limits | Mapping[str, Limits]) -> RuleTable:
    """Return limits as rules: one for all clients, or one for each tier.

    Tiers are in order from the lowest to the highest. A client without a tier gets the limits of
    ``default``, else those of the lowest tier.

    Raises:
        TypeError, ValueError: `limits` is invalid.
    """
    if not isinstance(limits, Mapping):
        return RuleTable([Rule("default", as_limits(limits))])
    if not limits:
        raise ValueError("limits: expected at least one tier")
    rules = [
        Rule(tier, as_limits(of_tier), tiers=(tier,))
        for tier, of_tier in limits.items()
        if tier != "default"
    ]
    lowest = limits.get("default", next(iter(limits.values())))
    return RuleTable([Rule("default", as_limits(lowest)), *rules])


def run_now(steps: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine that never suspends, without an event loop.

    Raises:
        TypeError: it suspends.
    """
    try:
        steps.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    steps.close()
    raise TypeError("an async function cannot be used here, where there is no event loop")
