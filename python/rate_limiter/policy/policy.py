"""Policy: decide about requests by rules, and settle their cost after the response.

    request ──> bypass? ──> tier, key ──> rule ──> limiter ──> Verdict ──> headers or denial
                                                                  └──> after the response: settle

The ASGI middleware and the Flask extension are built on it. Its methods are coroutines that
suspend only if they await something, so `run_now` can run them without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

from rate_limiter._core import Decision, ManualClock
from rate_limiter.limit import Limits, as_limits, check_cost
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.observe.registry import watch
from rate_limiter.policy.denials import Denial
from rate_limiter.policy.headers import HeaderStyle, LimitState
from rate_limiter.policy.keys import Identities, KeySpec, Source
from rate_limiter.policy.request_fields import method_of, route_path
from rate_limiter.policy.rule_sources import RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.stores.address import MEMORY, is_shared, redis_store
from rate_limiter.stores.redis_store import RedisStore

logger = logging.getLogger("rate_limiter")
_NOT_SETTLED = "the cost of a request could not be settled"

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
    """A LimiterSource that makes a limiter for each rule.

    The fields are arguments of RateLimiter.
    """

    store: object = field(default=MEMORY, repr=False)  # may hold a password
    name: str = ""
    on_store_error: str = "memory"
    max_keys: int = 1_000_000
    clock: str | ManualClock = "monotonic"

    def new_limiter(self, limits: Limits) -> RateLimiter:
        """Return a RateLimiter with these arguments."""
        return RateLimiter(
            limits,
            store=self.store,
            name=self.name,
            on_store_error=self.on_store_error,
            max_keys=self.max_keys,
            clock=self.clock,
        )

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        """Return the limiter of a rule. Clients keep the usage they had under `before`."""
        if before is not None and _is_kept(before.rule, rule):
            return before.limiter
        if is_shared(self.store):
            return RateLimiter(
                rule.limits,
                store=self.store,
                name=f"{self.name}:{rule.name}",
                max_keys=self.max_keys,
                clock=self.clock,
            )
        if self.store == MEMORY:
            if before is not None and _kinds(before.rule) == _kinds(rule):
                return before.limiter.with_limits(rule.limits)
            return RateLimiter.in_memory(rule.limits, self.max_keys, self.clock)
        shared = redis_store(self.store, self.on_store_error)
        if rule.on_store_error is not None:
            # The same Redis and connections, another on_store_error.
            policy = rule.on_store_error
            shared = RedisStore(shared.address, shared.prefix, on_store_error=policy)
        return RedisRateLimiter(
            rule.limits,
            store=shared,
            name=f"{self.name}:{rule.name}" if self.name else rule.name,
            max_keys=self.max_keys,
            clock=self.clock,
            names_limits=False,
        )


def _is_kept(before: Rule, rule: Rule) -> bool:
    return (before.limits, before.on_store_error) == (rule.limits, rule.on_store_error)


def _kinds(rule: Rule) -> list[str]:
    return [limit.algorithm for limit in rule.limits]


@dataclass(frozen=True)
class ActiveRule:
    """A rule with its limiter and the source of its keys."""

    rule: Rule
    limiter: RateLimiter
    awaitable_limiter: RateLimiter | AsyncRateLimiter  # the limiter, awaitable if it is remote
    key: Source
    names: tuple[str, ...]  # of its limits, in headers


@dataclass(frozen=True)
class Verdict:
    """The decision about a request, with the rule and key that it was made for."""

    active: ActiveRule
    key: str | bytes
    cost: float
    decision: Decision
    decisions: tuple[Decision, ...]
    also: tuple[Verdict, ...] = ()  # by other rules: more remaining, or shadow rules
    spread: float = field(default_factory=random.random)  # of Retry-After, set once

    @property
    def is_denial(self) -> bool:
        """Whether to deny the request: a shadow rule only counts."""
        return not self.decision.allowed and not self.active.rule.shadow

    @property
    def store_unavailable(self) -> bool:
        """Whether the denial is due to an unavailable store: 503, not 429."""
        return self.decision.store_unavailable

    def each(self) -> list[LimitState]:
        """Return the state of each limit."""
        limits = self.active.rule.limits
        own = [
            LimitState(*one) for one in zip(self.active.names, limits, self.decisions, strict=True)
        ]
        return own + [state for one in self.also if one.decision.allowed for state in one.each()]

    def headers(self, style: HeaderStyle) -> dict[str, str]:
        """Return the header fields of the response."""
        if self.active.rule.shadow and not self.decision.allowed:
            return {}  # clients must not see shadow rules
        return style.values(self.decision, self.each(), self.spread)

    def denial(self, style: HeaderStyle) -> Denial:
        """Return the values that a denial body is made of."""
        each = self.each()
        limit = next((one.limit for one in each if one.decision == self.decision), each[0].limit)
        violated = tuple(one.name for one in each if not one.decision.allowed)
        retry_after_s = style.retry_after_s(self.decision, self.spread)
        return Denial(
            self.active.rule.name, limit, self.key, self.decision, retry_after_s, violated
        )


@dataclass
class Finished:
    """A request after its response: the argument of `cost_after`.

    Attributes:
        scope: the request's ASGI scope; in Flask a dict with the same type, method, path,
            query_string, headers and client.
        status: of the response; None if the application sent none.
        headers: of the response.
        body_bytes: size of the body that was passed to the server; 0 for responses without a
            body (to HEAD, and with status 204 or 304).
        disconnected: the client left before the end.
        error: what the application raised.
        cost: tokens taken before the response.
        key: the key they were taken for.
    """

    scope: Any
    cost: float
    key: str | bytes
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body_bytes: int = 0
    disconnected: bool = False
    error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the application raised, or sent a status of 400 or more."""
        return self.error is not None or (self.status is not None and self.status >= 400)

    @property
    def is_bodyless(self) -> bool:
        """Whether HTTP allows the response no body, even if the application sends one."""
        status = self.status or 0
        is_head = self.scope.get("method") == "HEAD"
        return is_head or 100 <= status < 200 or status in (204, 304)

    @property
    def content_length(self) -> int | None:
        """The response's Content-Length; None if it has none."""
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        return int(lengths[0]) if lengths and lengths[0].isdigit() else None


CostAfter = Callable[[Finished], "float | Awaitable[float | None] | None"]


class Policy:
    """Decide about requests by rules.

    Args:
        source: the rules.
        storage: makes the limiters of the rules.
        identities: turns configured words into functions of a scope.
        key: who a request counts for, unless its rule has a key.
        tier: returns the tiers of a request, see Identities.tier; None: there are none.
        bypass: returns True for a request that is not limited; None: every request is limited.
        cost: tokens that a request takes, unless its rule has a cost: a number, or a function of
            the scope.
        cost_after: returns the final cost after the response; None: the cost stays.
        blocking: there is no event loop, so calls to a store block.
        dimension: returns the name that the decisions of a rule have in metrics; None: they are
            not measured.
        owner: the object that the limits belong to, if any.

    Attributes:
        shadow_denied: number of requests that a shadow rule would have denied.
    """

    def __init__(
        self,
        source: RuleSource,
        storage: LimiterSource,
        identities: Identities,
        *,
        key: KeySpec = "ip",
        tier: Source | None = None,
        bypass: Source | None = None,
        cost: Any = 1,
        cost_after: CostAfter | None = None,
        blocking: bool = False,
        dimension: Callable[[Rule], str] | None = None,
        owner: object = None,
    ) -> None:
        self.source = source
        self.storage = storage
        self.owner = owner
        self.shadow_denied = 0
        self._identities = identities
        self._key = identities.key(key)
        self._tier = tier
        self._bypass = bypass
        self._cost = cost
        self._cost_after = cost_after
        self._blocking = blocking
        self._dimension = dimension
        self._refused: RuleTable | None = None
        self._lock = threading.Lock()  # held while rules change; of the process `_lock_pid`
        self._lock_pid = os.getpid()
        # One tuple, so that every request sees rules and limiters of the same version.
        self._state: tuple[RuleTable, dict[str, ActiveRule]] = (RuleTable(()), {})
        self._activate(source.current())

    # --- Rules ---

    def _activate(self, table: RuleTable) -> None:
        active: dict[str, ActiveRule] = {}
        for rule in table.rules.values():
            if rule.exempt:
                continue
            if rule.cost is None and not callable(self._cost):
                check_cost(self._cost, rule.limits)
            limiter = self.storage.limiter(rule, self._state[1].get(rule.name))
            if self._dimension is not None:
                watch(limiter, self._dimension(rule))
            waits = limiter.is_remote and not self._blocking
            awaitable_limiter = AsyncRateLimiter.of(limiter) if waits else limiter
            key = self._key if rule.key is None else self._identities.key(rule.key)
            active[rule.name] = ActiveRule(
                rule, limiter, awaitable_limiter, key, policy_names(rule)
            )
        self._state = (table, active)

    def _rules(self) -> tuple[RuleTable, dict[str, ActiveRule]]:
        table = self.source.current()
        if table is not self._state[0] and table is not self._refused:
            self._change(table)
        return self._state

    def _change(self, table: RuleTable) -> None:
        if self._lock_pid != os.getpid():  # a fork may have copied a held lock
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        if not self._lock.acquire(blocking=False):
            return
        try:
            if table is not self._state[0]:
                self._activate(table)
        except (ValueError, TypeError, MemoryError, ImportError, OSError) as error:
            self._refused = table
            self.source.refused += 1
            self.source.last_error = str(error)
            logger.error("new rules cannot be used, so the old ones stay: %s", error)
        finally:
            self._lock.release()

    def limiters(self) -> dict[str, RateLimiter]:
        """Return the limiters by the names of their rules."""
        return {name: one.limiter for name, one in self._state[1].items()}

    # --- Before the response ---

    async def find(
        self, scope: Any, path: str | None = None, method: str | None = None
    ) -> list[tuple[ActiveRule, str | bytes]]:
        """Return the rules that limit a request, each with the key it counts for."""
        if self._bypass is not None and await now(self._bypass(scope)):
            return []
        table, active_rules = self._rules()
        tiers = None
        if self._tier is not None and table.tiers:
            tiers = await now(self._tier(scope))
        key = await now(self._key(scope)) if table.uses_keys else None
        rules = table.limiting(
            route_path(scope) if path is None else path,
            method_of(scope) if method is None else method,
            tiers,
            key if isinstance(key, str) else None,
            like_werkzeug=self._identities.framework.routes_like_werkzeug,
        )
        found: list[tuple[ActiveRule, str | bytes]] = []
        for rule in rules:
            active = active_rules[rule.name]
            if key is None or active.key is not self._key:
                found.append((active, await self._key_of(active, scope)))
            else:
                found.append((active, key))
        return found

    async def _key_of(self, active: ActiveRule, scope: Any) -> str | bytes:
        key = active.key(scope)
        if hasattr(key, "__await__"):
            key = await key
        counted: str | bytes = self._identities.client(scope) if key is None else key
        return counted

    async def decide(self, scope: Any) -> Verdict | None:
        """Decide about a request. Return None if it is not limited.

        Several rules are all or nothing: if one denies, the others get their tokens back.

        Raises:
            TypeError, ValueError: a user's function returned an invalid key or cost.
            StoreError: the store is unavailable and on_store_error is ``"raise"``.
        """
        verdicts: list[Verdict] = []
        for active, key in await self.find(scope):
            try:
                verdict = await self._decide_by(active, key, scope)
            except Exception:
                await self.give_back(*verdicts)
                raise
            if verdict.is_denial:
                await self.give_back(*verdicts)
                return verdict
            verdicts.append(verdict)
        if len(verdicts) < 2:
            return verdicts[0] if verdicts else None
        # A shadow rule that would have denied comes last: it must not set the headers.
        first, *also = sorted(
            verdicts, key=lambda one: (not one.decision.allowed, one.decision.remaining)
        )
        return replace(first, also=tuple(also))

    async def _decide_by(self, active: ActiveRule, key: str | bytes, scope: Any) -> Verdict:
        cost = await self._cost_of(active, scope)
        decided: Any = active.awaitable_limiter.hit_each(key, cost)
        if hasattr(decided, "__await__"):
            decided = await decided
        decision, *each = decided
        if not decision.allowed and active.rule.shadow:
            self.shadow_denied += 1
            logger.debug("the shadow rule %r would have denied a request", active.rule.name)
        return Verdict(active, key, cost, decision, tuple(each))

    async def _cost_of(self, active: ActiveRule, scope: Any) -> float:
        cost: Any = self._cost if active.rule.cost is None else active.rule.cost
        taken: float = await now(cost(scope)) if callable(cost) else cost
        return taken

    # --- After the response ---

    def settles(self, verdict: Verdict) -> bool:
        """Return whether the cost of a request can change after the response."""
        return any(
            one.decision.allowed and bool(self._cost_after or one.active.rule.refund)
            for one in (verdict, *verdict.also)
        )

    async def settle(self, verdict: Verdict, finished: Finished) -> None:
        """Refund or charge the difference between the final cost and the tokens taken."""
        status = 500 if finished.error is not None else finished.status
        taken = [one for one in (verdict, *verdict.also) if one.decision.allowed]
        free = [one for one in taken if status is not None and one.active.rule.refunds(status)]
        for one in free:
            await self._change_cost(one, 0)
        if self._cost_after is None or len(free) == len(taken):
            return
        known = replace(finished, cost=verdict.cost, key=verdict.key)
        cost: float | None = await now(self._cost_after(known))
        for one in taken:
            if one not in free and cost is not None:
                await self._change_cost(one, cost)

    async def give_back(self, *verdicts: Verdict) -> None:
        """Refund the tokens of a request that another limit denied."""
        for verdict in verdicts:
            for one in (verdict, *verdict.also):
                if one.decision.allowed:
                    with errors_logged():
                        await self._change_cost(one, 0)

    async def _change_cost(self, verdict: Verdict, cost: float) -> None:
        # The rules, and so the limiter, may have changed since the decision.
        limiter = self._state[1].get(verdict.active.rule.name, verdict.active).awaitable_limiter
        await correct(limiter, verdict.key, verdict.cost, cost)

    # --- The caller's own state ---

    async def status(self, scope: Any) -> dict[str, Any]:
        """Return what the caller has left, without taking tokens.

        ``?path=`` and ``?method=`` choose the request to look up; ``GET /`` by default.
        """
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        path = query.get("path", ["/"])[0]
        method = query.get("method", ["GET"])[0].upper()
        found = await self.find(scope, path, method)
        if not found:
            return {"limited": False, "rule": None, "limits": []}
        active, key = found[0]
        decision, *each = await now(active.awaitable_limiter.peek_each(key, 0))
        return {
            "limited": True,
            "rule": active.rule.name,
            "key": key if isinstance(key, str) else key.decode("utf-8", "replace"),
            "allowed": active.rule.shadow
            or decision.remaining >= await self._cost_of(active, scope),
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


async def now(value: Any) -> Any:
    """Return a value; await it first if it is awaitable."""
    return await value if hasattr(value, "__await__") else value


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


async def correct(limiter: Any, key: str | bytes, taken: float, cost: float) -> None:
    """Refund or charge the difference between the tokens taken and the final cost."""
    if cost < taken:
        await now(limiter.refund(key, taken - cost))
    elif cost > taken:
        await now(limiter.charge(key, cost - taken))


@contextlib.contextmanager
def errors_logged() -> Iterator[None]:
    """Log what a settlement raises instead of raising it: the response has been sent."""
    try:
        yield
    except Exception:
        logger.exception(_NOT_SETTLED)


_unfinished: set[asyncio.Future[None]] = set()


async def run_to_the_end(steps: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, even if the calling task is cancelled.

    What it raises is logged: the response has been sent by then.
    """
    task = asyncio.ensure_future(steps)
    _unfinished.add(task)
    task.add_done_callback(_finished)
    await asyncio.wait([task])


def _finished(task: asyncio.Future[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled() and task.exception() is not None:
        logger.error(_NOT_SETTLED, exc_info=task.exception())
