"""FlaskPolicies: what a FlaskRateLimiter makes of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rate_limiter.checks.arguments import checked_plain
from rate_limiter.checks.effects import uses_address
from rate_limiter.limit import as_limits
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.metrics_option import dimension_of
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import OnDenied
from rate_limiter.policy.dynamic_limits import (
    AnyLimits,
    DynamicLimits,
    dynamic_of,
    fixed_limits,
)
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import BypassSpec, Identities, KeySpec, TierSpec
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.rule_sources import RuleSource, as_source
from rate_limiter.policy.rules import Rule, RuleTable, rules_of_limits
from rate_limiter.policy.settling import CostAfter
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.policy.storage import NamedStorage, Storage, name_below
from rate_limiter.stores.address import MEMORY
from rate_limiter.web.flask_request import FlaskFramework


class FlaskPolicies:
    """Make the policies of a FlaskRateLimiter, whose arguments it checks.

    Args:
        given: the arguments by name.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        address = ClientAddress.of(given)
        self._identities = Identities(
            address, given["jwt"], blocking=True, framework=FlaskFramework()
        )
        self._shares_key = given["key"] == "all"
        self._key: KeySpec = _without_scope(given["key"], "key")
        self._cost = _without_scope(given["cost"], "cost")
        self._identities.key(self._key)  # raise for mistakes
        self._cost_after: CostAfter | None = checked_plain("cost_after", given["cost_after"])
        self._on_denied: OnDenied | None = checked_plain("on_denied", given["on_denied"])
        self._tier: TierSpec | None = _without_scope(given["tier"], "tier")
        if self._tier is not None:
            self._identities.tier(self._tier)
        self._bypass: BypassSpec = _without_scope(given["bypass"], "bypass")
        self._identities.bypass(self._bypass)
        self._style = HeaderStyle.of(given)
        self._tracing: bool = given["tracing"]
        storage = Storage.of(given)
        self._name = storage.name
        self._traces_store = storage.tracing
        self._metrics = dimension_of(given)

    def of_decorator(
        self,
        settings: Mapping[str, Any],
        name: str | None,
        limits: AnyLimits,
        *,
        key: KeySpec | None,
        cost: Any,
        cost_after: CostAfter | None,
    ) -> Policy:
        """Return the Policy of a decorator; one without a name only checks the arguments."""
        dynamic = _without_environ(dynamic_of(limits))
        several = as_limits(fixed_limits(limits))
        rule = "; ".join(map(str, several)) if dynamic is None else dynamic.name
        return Policy(
            RuleSource(RuleTable([Rule(rule, several, dynamic=dynamic)])),
            self._storage(NamedStorage, settings, name or ""),
            self._identities,
            key=self._key if key is None else _without_scope(key, "key"),
            bypass=self._bypass,
            cost=_without_scope(cost, "cost"),
            cost_after=checked_plain("cost_after", cost_after),
            style=self.style_of(settings),
            blocking=True,
            dimension=None if name is None else self._dimension(lambda _: str(name)),
            on_denied=self._on_denied,
            tracing=self._tracing,
        )

    def of_defaults(
        self, settings: Mapping[str, Any], name: str, *, is_measured: bool = True
    ) -> Policy | None:
        """Return the Policy of views without their own limits; None if they are not limited."""
        limits, rules = settings["DEFAULT_LIMITS"], settings["RULES"]
        if limits is not None and rules is not None:
            raise ValueError("give default_limits or rules, not both")
        if limits is None and rules is None:
            return None
        plain = limits is not None and not isinstance(limits, Mapping)
        source = as_source(rules) if limits is None else RuleSource(_rules(limits))
        dimension = self._dimension(lambda rule: "" if plain else rule.name)
        return Policy(
            source,
            self._storage(NamedStorage if plain else Storage, settings, name),
            self._identities,
            key=self._key,
            tier=self._tier,
            bypass=self._bypass,
            cost=self._cost,
            cost_after=self._cost_after,
            style=self.style_of(settings),
            blocking=True,
            dimension=dimension if is_measured else None,
            on_denied=self._on_denied,
            tracing=self._tracing,
        )

    def style_of(self, settings: Mapping[str, Any]) -> HeaderStyle:
        """Return the style of headers under some settings."""
        headers = settings["HEADERS"]
        return headers if isinstance(headers, HeaderStyle) else replace(self._style, style=headers)

    def setup_checks(self, settings: Mapping[str, Any]) -> SetupChecks:
        """Return the checks of the first requests under some settings."""
        return SetupChecks(
            in_memory=settings["STORE"] == MEMORY,
            uses_address=not callable(self._key) and uses_address(self._key),
            trusts_proxies=self._identities.address.reads_header,
            shares_key=self._shares_key,
        )

    def _storage(self, kind: type[Storage], settings: Mapping[str, Any], name: str) -> Storage:
        return kind(
            store=settings["STORE"],
            name=name_below(self._name, name),
            on_store_error=settings["ON_STORE_ERROR"],
            max_keys=settings["MAX_KEYS"],
            clock=settings["CLOCK"],
            tracing=self._traces_store,
        )

    def _dimension(self, name: Callable[[Rule], str]) -> Callable[[Rule], Dimension] | None:
        """Return the function that returns a rule's dimension by its name; None without metrics."""
        dimension = self._metrics
        return None if dimension is None else lambda rule: dimension.of_rule(name(rule))


def _rules(limits: Any) -> RuleTable:
    return rules_of_limits(_limits_without_environ(limits))


def _without_environ(dynamic: DynamicLimits | None) -> DynamicLimits | None:
    """Return limits of a function whose function, which must not be async, has an argument."""
    if dynamic is None:
        return None
    wrapped: Callable[[Any], Any] = _without_scope(dynamic.function, "limits")
    return dynamic.with_function(wrapped)


def _limits_without_environ(limits: Any) -> Any:
    if isinstance(limits, Mapping):
        return {tier: _limits_without_environ(one) for tier, one in limits.items()}
    return _without_environ(dynamic_of(limits)) or limits


def _without_scope(spec: Any, what: str) -> Any:
    """Return `spec` with callables wrapped: Flask's have no argument and must not be async."""
    if callable(spec):
        plain: Callable[[], Any] = checked_plain(what, spec)
        return lambda scope: plain()
    if isinstance(spec, Iterable) and not isinstance(spec, str) and what != "cost":
        return [_without_scope(one, what) for one in spec]
    return spec
