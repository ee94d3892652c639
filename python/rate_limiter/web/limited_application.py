"""LimitedApplication: what the middlewares for ASGI and WSGI make of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rate_limiter._core import Verdict
from rate_limiter.checks.arguments import check_arguments, checked_plain
from rate_limiter.checks.effects import uses_address
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit, check_cost
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.metrics_option import dimension_of
from rate_limiter.observe.registry import measure
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denials import Answer, DenialRenderer, denial_of, denial_renderer
from rate_limiter.policy.dynamic_limits import (
    AnyLimits,
    DynamicLimits,
    dynamic_of,
    fixed_limits,
)
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import ANY_FRAMEWORK, Identities
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.request_fields import Framework
from rate_limiter.policy.rule_sources import RuleSource, as_source
from rate_limiter.policy.rules import Rule, RuleTable, rules_of_limits
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.policy.storage import SharedLimiter, Storage
from rate_limiter.stores.address import MEMORY
from rate_limiter.web.answers import DENIED


@dataclass(frozen=True)
class LimitedApplication:
    """The policy of an application, and how it answers denied requests.

    Attributes:
        limiter: the limiter of plain limits; None with rules or tiers.
        checks: check the first requests; None: they are not checked.
        denied: the user's function that answers; None: `renderer` or the default does.
        shows_policy: the policy does more than plain limits.
    """

    policy: Policy
    limiter: RateLimiter | None
    checks: SetupChecks | None
    denied: Callable[..., Any] | None
    renderer: DenialRenderer | None
    shows_policy: bool

    def answer(self, request: Any, verdict: Verdict) -> Answer:
        """Return the response to a denied request."""
        return DENIED if self.renderer is None else self.renderer(denial_of(request, verdict))


def limit_application(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    framework: Framework = ANY_FRAMEWORK,
    blocking: bool = False,
) -> LimitedApplication:
    """Return what the arguments of a middleware stand for.

    Args:
        function: the function that got them.
        given: the arguments by name.
        framework: reads requests as the application does.
        blocking: there is no event loop.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    address = ClientAddress.of(given)
    identities = Identities(address, given["jwt"], blocking=blocking, framework=framework)
    dimension = dimension_of(given)
    style = HeaderStyle.of(given)
    storage = Storage.of(given)
    dynamic = dynamic_of(given["limits"])
    if blocking and dynamic is not None:
        checked_plain("limits", dynamic.function)
    limiter, source = _limiter_or_rules(given["limits"], given["rules"], given["limiter"], storage)
    check_arguments(function, {**given, "source": source})
    denied = given["denied"]
    is_default = denied is None or denied == "json"
    renderer = None if is_default or callable(denied) else denial_renderer(denied)
    if limiter is not None:
        checked_cost(given["cost"], limiter.limits if dynamic is None else ())
        if dimension is not None:
            measure(limiter, dimension)
    policy = Policy(
        _source_of(limiter, dynamic) if source is None else source,
        storage if limiter is None else SharedLimiter(limiter),
        identities,
        key=given["key"],
        tier=given["tier"],
        bypass=given["bypass"] or (),
        cost=given["cost"],
        cost_after=given["cost_after"],
        style=style,
        blocking=blocking,
        dimension=None if limiter is not None else of_rules(dimension),
        on_denied=given["on_denied"],
        tracing=given["tracing"],
    )
    more = ("tier", "cost_after", "status_path", "bypass")
    return LimitedApplication(
        policy,
        limiter,
        _checks(given, limiter, storage, address) if given["setup_checks"] else None,
        denied if callable(denied) else None,
        renderer,
        shows_policy=source is not None
        or renderer is not None
        or style.style in ("ietf", "both")
        or style.reset != "seconds"
        or style.cors
        or style.retry_jitter_s > 0
        or any(given[name] for name in more),
    )


def of_rules(dimension: Dimension | None) -> Callable[[Rule], Dimension] | None:
    """Return the function that returns the dimension of a rule; None without metrics."""
    return None if dimension is None else lambda rule: dimension.of_rule(rule.name)


def _source_of(limiter: RateLimiter | None, dynamic: DynamicLimits | None) -> RuleSource:
    assert limiter is not None
    return RuleSource(RuleTable([Rule("default", limiter.limits, dynamic=dynamic)]))


def _checks(
    given: Mapping[str, Any], limiter: RateLimiter | None, storage: Storage, address: ClientAddress
) -> SetupChecks:
    key = given["key"]
    is_remote = limiter is not None and limiter.is_remote
    return SetupChecks(
        in_memory=storage.store == MEMORY and not is_remote,
        uses_address=not callable(key) and uses_address(key),
        trusts_proxies=address.reads_header,
        shares_key=key == "all",
    )


def _limiter_or_rules(
    limits: Any, rules: object, limiter: Any, storage: Storage
) -> tuple[RateLimiter | None, RuleSource | None]:
    """Return the limiter (a new one for `limits`) or the source of the rules.

    Raises:
        TypeError: not exactly one of the three is given, or `limiter` is not a RateLimiter.
    """
    if sum(one is not None for one in (limits, rules, limiter)) != 1:
        raise TypeError("give one of limits, rules and limiter")
    if rules is not None:
        return None, as_source(rules)
    if isinstance(limits, Mapping):
        return None, RuleSource(rules_of_limits(limits))
    return one_limiter(limits, limiter, storage), None


def one_limiter(
    limits: AnyLimits | None, limiter: RateLimiter | None, storage: Storage
) -> RateLimiter:
    """Return `limiter`, or a new one for `limits`; for those of a function it has its default.

    Raises:
        TypeError: both or neither are given, or `limiter` is not a RateLimiter.
    """
    checked_limiter(limits, limiter)
    return storage.new_limiter(fixed_limits(limits)) if limiter is None else limiter


def checked_limiter(limits: object, limiter: object) -> None:
    """Check that one of the two is given.

    Raises:
        TypeError: both or neither are, or `limiter` is not a RateLimiter.
    """
    if (limits is None) == (limiter is None):
        raise TypeError("give either limits or limiter")
    if limiter is not None and not isinstance(limiter, RateLimiter):
        with_policy = ", which goes with policy" if hasattr(limiter, "check") else ""
        raise TypeError(f"limiter must be a RateLimiter, got {shown(limiter)}{with_policy}")


def checked_cost(cost: Any, limits: tuple[Limit, ...]) -> Any:
    """Return the cost; check a constant one against the limits.

    Raises:
        TypeError, ValueError: it is not a valid cost, or could never pass.
    """
    return cost if callable(cost) else check_cost(cost, limits)
