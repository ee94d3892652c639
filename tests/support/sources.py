"""Read keys, tiers and bypasses of a request as the engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rate_limiter.limit import as_limits
from rate_limiter.policy.client_address import parse_address
from rate_limiter.policy.keys import Identities, Source
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.rule_sources import RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.policy.settling import now
from rate_limiter.policy.storage import Storage

LIMITS = as_limits("1/second")


class Reading:
    """Identities whose sources are functions of a scope that return an awaitable."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.identities = Identities(*args, **options)

    def _policy(self, **options: Any) -> Policy:
        source = RuleSource(RuleTable([Rule("default", LIMITS)]))
        return Policy(source, Storage(max_keys=1), self.identities, **options)

    def key(self, spec: Any) -> Callable[[Any], Any]:
        policy = self._policy(key=spec)

        async def key(scope: Any) -> Any:
            return (await policy.find(scope, "/", "GET"))[0][1]

        return key

    def tier(self, spec: Any) -> Callable[[Any], Any]:
        (source,) = self.identities.tier(spec)
        return lambda scope: _texts(source, scope)

    def bypass(self, spec: Any) -> Callable[[Any], Any] | None:
        policy = self._policy(bypass=spec)

        async def is_free(scope: Any) -> bool:
            return not await policy.find(scope, "/", "GET")

        return is_free if spec else None

    def client_address(self, scope: Any) -> Any:
        return parse_address(self.identities.address.key_of_scope(scope))


async def _texts(source: Source, scope: Any) -> Any:
    assert source.call is not None
    found = await now(source.call(scope))
    if found is None:
        return None
    return [str(one) for one in found] if isinstance(found, (list, tuple, set)) else [str(found)]
