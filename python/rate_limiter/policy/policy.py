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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rate_limiter import _core
from rate_limiter._core import Check, PolicyVersion, StoreError, Verdict
from rate_limiter.limit import check_cost
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.registry import limits_come_with_calls, measure, meter
from rate_limiter.policy.active_rules import ActiveRule, DenyingRule, names_of_given, policy_names
from rate_limiter.policy.denied_requests import DeniedRequests, OnDenied
from rate_limiter.policy.dynamic_limits import RuleLimits
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
from rate_limiter.policy.settling import CostAfter, give_back, run_now
from rate_limiter.policy.setup_checks import USER_KEYS
from rate_limiter.policy.storage import LimiterSource

logger = logging.getLogger("rate_limiter")
_REFUSED = (ValueError, TypeError, MemoryError, ImportError, OSError)
"""Raised for rules that cannot be used."""


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
        dimension: returns the dimension of the decisions of a rule in metrics; None: they are
            not measured.
        on_denied: gets a DeniedRequest for each request that is denied; None: no function does.
        tracing: add an event to the current span for each request that is denied.

    Attributes:
        cost: tokens of a request whose rule has no cost.
        denied: reports denied requests.
        identities: turns configured words into sources.
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
        dimension: Callable[[Rule], Dimension] | None = None,
        on_denied: OnDenied | None = None,
        tracing: bool = False,
    ) -> None:
        self.source = source
        self.storage = storage
        self.style = style
        self.cost_after = cost_after
        self.shadow_denied = 0
        self._has_advised = False
        self.denied = DeniedRequests(
            on_denied, identities.framework, blocking=blocking, tracing=tracing
        )
        self.identities = identities
        self._key = identities.key(key)
        self.calls_key = any(one.of_subject for one in self._key)
        self._tier = () if tier is None else identities.tier(tier)
        self._bypass = identities.bypass(bypass or ())
        self.cost = cost
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
            walk=self.identities.address.walk,
            style=self.style.fields,
            shortened=shortened,
            is_wsgi=self.identities.framework.is_wsgi,
            routes_like_werkzeug=self.identities.framework.routes_like_werkzeug,
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
        if rule.cost is None and not callable(self.cost):
            check_cost(self.cost, () if rule.dynamic else rule.limits)
        limiter = self.storage.limiter(rule, before)
        if self._dimension is not None:
            measure(limiter, self._dimension(rule), shadow=rule.shadow)
        waits = limiter.is_remote and not self._blocking
        awaitable_limiter = AsyncRateLimiter.of(limiter) if waits else limiter
        names = self._names or policy_names(rule)
        if rule.dynamic is None:
            return ActiveRule(rule, limiter, awaitable_limiter, names)
        limits_of = RuleLimits(
            rule.dynamic,
            rule.name,
            limiter,
            blocking=self._blocking,
            answers=self.identities.framework.answers,
        )
        limits_come_with_calls(limiter, limits_of)
        return ActiveRule(rule, limiter, awaitable_limiter, (rule.name,), limits_of)

    def _compiled(self, rule: Rule, active: ActiveRule | None) -> tuple[Any, ...]:
        """Return a rule as the engine reads it: see csrc/python/policy.c."""
        cost: Any = self.cost if rule.cost is None else rule.cost
        key: tuple[Source, ...] = () if rule.key is None else self.identities.key(rule.key)
        settles = self.cost_after is not None or bool(rule.refund)
        if rule.deny:
            return self._denying(rule)
        if active is None:
            return (None, None, None, (), None, (), True, False, False, False, None)
        names = active.names if active.limits_of is None else policy_names(rule)
        limits = tuple(
            (name, limit.capacity, limit.period_s, limit.edge_s)
            for name, limit in zip(names, rule.limits, strict=True)
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
            None
            if active.limits_of is None
            else (active.limits_of, names_of_given(active.names[0])),
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
        if isinstance(error, StoreError) or self.identities.framework.answers(error):
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
            outcome = self._check(request, request if subject is None else subject)
            if isinstance(outcome, Verdict) and not outcome.is_denial:
                return outcome  # most requests, which need no other coroutine
            return await self._concluded(request, outcome)
        except BaseException as error:
            await self._give_back_after(error, request)
            raise

    async def _give_back_after(self, error: BaseException, request: Any) -> None:
        """Give tokens back, unless the framework answers the error, such as with a 401.

        Otherwise a client could have endless answers by sending what a key function refuses.
        """
        is_answered = isinstance(error, Exception) and self.identities.framework.answers(error)
        if not is_answered:
            await give_back(request)

    async def _concluded(self, request: Any, outcome: Any) -> Verdict | None:
        """Await a check, and give tokens back if the request is denied."""
        if isinstance(outcome, Check):
            outcome = await self.finish(outcome)
        verdict: Verdict | None = outcome
        if verdict is not None and verdict.is_denial:
            await give_back(request, verdict)
            await self.denied.report(request, verdict)
        return verdict

    def _conclude_now(self, request: Any, outcome: Verdict | Check, has_more: bool) -> Any:
        """Await a check, or report a denial; called by the engine, in decide_now().

        Args:
            has_more: the engine has left verdicts of the denied request to give back.
        """
        if isinstance(outcome, Verdict) and not has_more and not self.denied.is_on:
            return outcome
        return run_now(self._concluded(request, outcome))

    def _fail(self, request: Any, error: BaseException) -> None:
        """Give tokens back after an error; called by the engine, in decide_now()."""
        run_now(self._give_back_after(error, request))

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


def _free_elsewhere(garbage: list[Any]) -> None:
    """Free objects in a thread: thousands of limiters would delay the requests of an event loop."""
    if garbage:
        thread = threading.Thread(target=garbage.clear, name="rate_limiter rules", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many, or the interpreter ends
            thread.start()
