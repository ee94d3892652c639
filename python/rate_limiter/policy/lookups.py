"""Look up the status, key and tiers of a request, without a decision about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from rate_limiter._core import Decision
from rate_limiter.limit import Cost, as_limits
from rate_limiter.policy.active_rules import DenyingRule
from rate_limiter.policy.keys import Identities, KeySpec, TierSpec
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.rule_sources import RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.policy.settling import now, run_now
from rate_limiter.policy.storage import Storage


async def status_of(policy: Policy, request: Any) -> dict[str, Any]:
    """Return what the caller has left, without taking tokens.

    ``?path=`` and ``?method=`` choose the request to look up; ``GET /`` by default.
    """
    scope = policy.identities.framework.scope(request)
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    path = query.get("path", ["/"])[0]
    method = query.get("method", ["GET"])[0].upper()
    found = await policy.find(request, path, method)
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
    given = None
    if active.limits_of is not None:
        given = await now(active.limits_of(request, key))
        if given is None:
            unknown = {"limited": True, "rule": active.rule.name, "key": shown_key}
            return {**unknown, "allowed": False, "limits": []}
    peeking = (key, 0) if given is None else (key, 0, given)
    decision, *each = await now(active.awaitable_limiter.peek_each(*peeking))
    cost: Any = policy.cost if active.rule.cost is None else active.rule.cost
    if callable(cost):
        cost = await now(cost(request))
    return {
        "limited": True,
        "rule": active.rule.name,
        "key": shown_key,
        "allowed": active.rule.shadow or _has(decision, each, cost),
        "limits": [
            {
                "name": name,
                "limit": str(limit),
                "algorithm": limit.algorithm,
                "capacity": limit.capacity,
                "remaining": one.remaining,
                "reset_after": None if one.reset_after == float("inf") else one.reset_after,
            }
            for (name, limit), one in zip(active.named(given), each, strict=True)
        ],
    }


def _has(decision: Decision, each: Sequence[Decision], cost: Cost) -> bool:
    """Return True if there are tokens for a cost, by the decision of all limits and of each."""
    if not isinstance(cost, tuple):
        return decision.remaining >= cost
    return all(one.remaining >= tokens for one, tokens in zip(each, cost, strict=True))


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
