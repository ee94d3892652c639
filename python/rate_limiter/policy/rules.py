"""RuleTable: which rule a request falls under, without a look at the others.

A rule may ask for a client's key, a path, a method and a tier. The most specific one wins:

    1. one for this key, before one for a network of the client's address (the longest first),
       before one for any
    2. one for this path, segment by segment from the left: a word, before {one segment}, before
       ** (any number of them), before one for any path
    3. one for this method, before one for any
    4. one for this tier, before one for any

The look-up is C: see csrc/http/route.h for the trees that rules are kept in, and for the three ways
in which a path is read. They differ only for odd paths, such as ``//health/`` or ``/a/../health``.
The rules of all readings count, so that an odd spelling can tighten a limit and never lift one: a
rule that exempts frees a request only when no other reading is limited, and a rule that denies
decides alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import product
from typing import Any, TypeAlias

from rate_limiter._core import RuleRoutes
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Limit, as_limits
from rate_limiter.policy.client_address import network_of, parse_address
from rate_limiter.policy.dynamic_limits import AnyLimits, dynamic_of, fixed_limits
from rate_limiter.policy.request_fields import credentials_key

_ONE = re.compile(r"\*|\{[A-Za-z_]\w*\}", re.ASCII)
_REST = re.compile(r"\*\*|\{[A-Za-z_]\w*:path\}", re.ASCII)
_ONE_SEGMENT = "{}"
_METHOD = re.compile(r"[A-Z][A-Z-]*", re.ASCII)
_STATUS = re.compile(r"[1-5](?:\d\d|xx)", re.ASCII)

ANY_PATH = ("/**",)
"""The paths of a rule that names none."""

_Route: TypeAlias = tuple[str, str | None, int, str | None, int, str | None]
"""A pattern, a method, the rank of a tier (-1: any), a key, the number of the rule, a network."""

_NOT_OF_DENIALS = ("limits", "exempt", "tiers", "cost", "key", "on_store_error", "refund")


@dataclass(frozen=True)
class Rule:
    """What is allowed to the requests that it asks for.

    Args:
        name: in headers, logs and Redis.
        limits: none for a rule that exempts or denies.
        paths: patterns such as ``/items/{id}`` or ``/static/**``; none for every path.
        methods: such as ``POST``; none for every method. ``GET`` holds for ``HEAD`` too, unless
            there is one for that.
        tiers: none for every client.
        keys: keys of clients, or networks such as ``203.0.113.0/24``, which are compared with the
            client's address whatever its key is; none for every client.
        cost: tokens a request takes; None for the middleware's.
        key: who a request counts for, as for the middleware; None for the middleware's.
        exempt: requests are not limited.
        deny: requests are denied, without a limiter.
        dynamic: DynamicLimits that count instead of `limits`, which are then its default. Rules of
            files have none.
        shadow: requests are counted and never denied.
        on_store_error: as for RateLimiter; None for the middleware's.
        refund: statuses of an answer (``"5xx"``, ``"404"``) for which the cost is given back.

    Raises:
        ValueError: something is not what it should be; the message names it.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    paths: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    cost: float | None = None
    key: Any = None
    exempt: bool = False
    shadow: bool = False
    on_store_error: OnStoreError | None = None
    refund: tuple[str, ...] = ()
    deny: bool = False
    dynamic: Any = None

    def __post_init__(self) -> None:
        if self.deny:
            for field_name in _NOT_OF_DENIALS:
                given = getattr(self, field_name)
                if given is not None and given is not False and given != ():
                    raise ValueError(f"deny: give either deny or {field_name}, not both")
        elif bool(self.limits) == self.exempt:
            raise ValueError(
                "expected either limits or exempt, got both" if self.exempt else "expected limits"
            )
        for field_name in ("limits", "paths", "methods", "tiers", "keys", "refund"):
            given = getattr(self, field_name)
            if isinstance(given, (str, bytes, Limit)):  # a str iterates by character
                raise ValueError(f"{field_name}: expected several, such as ({given!r},)")
        for method in self.methods:
            if not _METHOD.fullmatch(method):
                raise ValueError(f"methods: expected names such as 'POST', got {method!r}")
        for status in self.refund:
            if not _STATUS.fullmatch(status):
                raise ValueError(f"refund: expected statuses like '404' or '5xx', got {status!r}")
        for path in self.paths:
            segments_of_pattern(path)
        for key in self.keys:
            network_of(key)

    @property
    def has_conditions(self) -> bool:
        """Whether the rule is for some requests only."""
        return bool(self.paths or self.methods or self.tiers or self.keys)

    def refunds(self, status: int) -> bool:
        """Return True if an answer with this status costs nothing."""
        return str(status) in self.refund or f"{status // 100}xx" in self.refund


def segments_of_pattern(pattern: str) -> tuple[str, ...]:
    """Return the segments of a pattern: words, ``{}`` for any one, and last ``**`` for any number.

    Raises:
        ValueError: it is malformed.
    """
    return tuple(segment for segment in _exact_segments_of_pattern(pattern) if segment)


def _exact_segments_of_pattern(pattern: str) -> tuple[str, ...]:
    """Return the segments of a pattern, with empty ones between and after slashes."""
    if not pattern.startswith("/"):
        raise ValueError(f"path: expected a pattern that begins with '/', got {pattern!r}")
    found: list[str] = []
    for segment in pattern[1:].split("/"):
        if found and found[-1] == "**":
            if segment:
                raise ValueError(f"path: nothing may follow '**' or '{{x:path}}', got {pattern!r}")
        elif _ONE.fullmatch(segment):
            found.append(_ONE_SEGMENT)
        elif _REST.fullmatch(segment):
            found.append("**")
        elif "*" in segment or "{" in segment or "}" in segment:
            raise ValueError(
                f"path: expected a word, '*', '**', '{{name}}' or '{{name:path}}' between "
                f"slashes, got {segment!r} in {pattern!r}"
            )
        else:
            found.append(segment)
    return tuple(found)


def split_path(path: str) -> list[str]:
    """Return the segments of a path, without empty ones and without a newline at the end."""
    return [segment for segment in path.removesuffix("\n").split("/") if segment]


class RuleTable:
    """Find the rule of a request.

    The look-up is C: see csrc/http/route.h.

    Args:
        rules: in any order; that of their tiers, from the lowest to the highest, counts for a
            client that has several.

    Attributes:
        rules: by name.
        tiers: all that are named, from the lowest to the highest.
        ranks: the tiers with their places, from 0 for the lowest.
        uses_keys: whether any rule names keys that are no networks.
        routes: finds the numbers of the rules.

    Raises:
        ValueError: two rules have the same name, or the same conditions; or a path has more than 64
            segments.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: dict[str, Rule] = {}
        for rule in rules:
            if rule.name in self.rules:
                raise ValueError(f"two rules have the name {rule.name!r}")
            self.rules[rule.name] = rule
        self._all = tuple(self.rules.values())
        self.tiers: tuple[str, ...] = tuple(
            dict.fromkeys(tier for rule in self._all for tier in rule.tiers)
        )
        keys = [key for rule in self._all for key in rule.keys]
        self.uses_keys: bool = any(network_of(key) is None for key in keys)
        self.ranks: dict[str, int] = {tier: i for i, tier in enumerate(self.tiers)}
        self.routes: RuleRoutes = self._built()

    def _built(self) -> RuleRoutes:
        routes = (route for i, rule in enumerate(self._all) for route in self._routes_of(i, rule))
        try:
            return RuleRoutes(routes)
        except ValueError as error:
            if len(error.args) == 1:
                raise
            one, other = (self._all[i].name for i in error.args[1:])
        raise ValueError(
            f"the rules {one!r} and {other!r} have the same conditions; "
            f"they must differ in path, method, tier or key"
        )

    def _routes_of(self, number: int, rule: Rule) -> Iterator[_Route]:
        """Yield all combinations of what a rule asks for."""
        keys = [(key, network_of(key)) for key in rule.keys]
        clients = [
            (credentials_key(key), None) if network is None else (None, network)
            for key, network in keys
        ]
        ranks = [self.ranks[tier] for tier in rule.tiers]
        for (key, network), path, method, rank in product(
            clients or ((None, None),),
            rule.paths or ANY_PATH,
            rule.methods or (None,),
            ranks or (-1,),
        ):
            yield path, method, rank, key, number, network

    def limiting(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None = None,
        key: str | None = None,
        *,
        like_werkzeug: bool = False,
        address: str | None = None,
    ) -> tuple[Rule, ...]:
        """Return the rules that limit a request: one, but for odd paths.

        A rule that denies is the only one. Arguments are those of both().
        """
        found = self.both(path, method, tiers, key, like_werkzeug=like_werkzeug, address=address)
        denying = [rule for rule in found if rule is not None and rule.deny and not rule.shadow]
        if denying:
            return (denying[0],)
        return tuple([rule for rule in found if rule is not None and not rule.exempt])

    def both(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None = None,
        key: str | None = None,
        *,
        like_werkzeug: bool = False,
        address: str | None = None,
    ) -> tuple[Rule | None, ...]:
        """Return the different rules of all readings of a path, None for a reading without.

        Args:
            path: as the application gets it.
            method: in capital letters.
            tiers: those the client has; unknown ones count for nothing.
            key: the client's.
            like_werkzeug: the application routes as Werkzeug does, not as Starlette.
            address: the client's, for rules that name networks.
        """
        found = self.routes.find(path, method, self._ranks(tiers), key, like_werkzeug, address)
        return tuple([None if i is None else self._all[i] for i in found])

    def match(
        self, path: str, method: str, tiers: Sequence[str] | None = None, key: str | None = None
    ) -> Rule | None:
        """Return the most specific rule for a path without extra slashes."""
        return self.both(path, method, tiers, key)[0]

    def matches(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None = None,
        key: str | None = None,
        *,
        address: str | None = None,
    ) -> list[Rule]:
        """Return all rules that ask for a path without extra slashes, the most specific first.

        Arguments are those of both().
        """
        segments = split_path(path)
        methods = (method, "GET", None) if method == "HEAD" else (method, None)
        ranks = (*self._ranks(tiers), -1)
        found: list[tuple[Any, Rule]] = []
        for number, rule in enumerate(self._all):
            for pattern, one, rank, its_key, _, network in self._routes_of(number, rule):
                order = _order(segments_of_pattern(pattern), segments)
                asks = one in methods and rank in ranks and its_key in (key, None)
                distance = _distance(its_key, network, address)
                if order is not None and distance is not None and asks:
                    place = (distance, order, methods.index(one), ranks.index(rank))
                    found.append((place, rule))
        found.sort(key=lambda one: one[0])
        return list(dict.fromkeys(rule for _, rule in found))

    def _ranks(self, tiers: Sequence[str] | None) -> Sequence[int]:
        """Return the numbers of tiers, the highest first."""
        if not tiers or not self.ranks:
            return ()
        return sorted((self.ranks[tier] for tier in tiers if tier in self.ranks), reverse=True)


def rules_of_limits(limits: AnyLimits | Mapping[str, AnyLimits]) -> RuleTable:
    """Return limits as rules: one for all clients, or one for each tier.

    Tiers are in order from the lowest to the highest. A client without a tier gets the limits of
    ``default``, else those of the lowest tier.

    Raises:
        TypeError, ValueError: `limits` is invalid.
    """
    if not isinstance(limits, Mapping):
        return RuleTable([_rule_of("default", limits)])
    if not limits:
        raise ValueError("limits: expected at least one tier")
    rules = [
        _rule_of(tier, of_tier, tiers=(tier,))
        for tier, of_tier in limits.items()
        if tier != "default"
    ]
    lowest = limits.get("default", next(iter(limits.values())))
    return RuleTable([_rule_of("default", lowest), *rules])


def _rule_of(name: str, limits: AnyLimits, tiers: tuple[str, ...] = ()) -> Rule:
    fixed = as_limits(fixed_limits(limits))
    return Rule(name, fixed, tiers=tiers, dynamic=dynamic_of(limits))


def _distance(key: str | None, network: str | None, address: str | None) -> int | None:
    """Return how far a client is from being named: 0 by its key, more by a network of its address.

    None: the address is not in the network.
    """
    if key is not None:
        return 0
    if network is None:
        return 1000
    client = None if address is None else parse_address(address)
    wanted = ip_network(network)
    if client is None or client not in wanted:
        return None
    return 1 + wanted.max_prefixlen - wanted.prefixlen


def _order(pattern: Sequence[str], segments: Sequence[str]) -> tuple[int, ...] | None:
    """Return what sorts the patterns of a path, the most specific first; None for another path.

    A word comes before any one segment, and that before ``**``.
    """
    goes_on = pattern[-1:] == ("**",)
    fixed = pattern[:-1] if goes_on else pattern
    if len(fixed) > len(segments) or (len(fixed) < len(segments) and not goes_on):
        return None
    if any(
        one not in (_ONE_SEGMENT, segment) for one, segment in zip(fixed, segments, strict=False)
    ):
        return None
    return (*(int(one == _ONE_SEGMENT) for one in fixed), 2 if goes_on else 0)
