"""RuleTable: which rule a request falls under, found without a look at the others.

A rule may ask for a client's key, a path, a method and a tier. The most specific one wins:

    1. one for this key, before one for any
    2. one for this path, segment by segment from the left: a word, before {one segment}, before
       ** (any number of them), before one for any path
    3. one for this method, before one for any
    4. one for this tier, before one for any

So rules are kept in a tree of path segments for each key they name, and one for all others; where
a path ends stands a dict by method and tier. Looking one up takes as many steps as the path has
segments, however many rules there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rate_limiter.limit import Limit

_ONE = re.compile(r"\*|\{[A-Za-z_]\w*\}", re.ASCII)
_REST = re.compile(r"\*\*|\{[A-Za-z_]\w*:path\}", re.ASCII)
_ONE_SEGMENT = "{}"
_METHOD = re.compile(r"[A-Z][A-Z-]*", re.ASCII)
_STATUS = re.compile(r"[1-5](?:\d\d|xx)", re.ASCII)

WEBSOCKET = "WEBSOCKET"
"""The method of a websocket, which has none of its own."""


@dataclass(frozen=True)
class Rule:
    """Say what is allowed to the requests that it asks for.

    Args:
        name: what it is called, in headers, logs and Redis.
        limits: none for a rule that exempts.
        paths: patterns such as ``/items/{id}`` or ``/static/**``; none for every path.
        methods: such as ``POST``; none for every method. ``GET`` holds for ``HEAD`` too, unless
            there is one for that.
        tiers: none for every client.
        keys: keys of clients; none for every client.
        cost: tokens a request takes; None for what the middleware says.
        key: who a request counts for, as for the middleware; None for what that says.
        exempt: requests are not limited.
        shadow: requests are counted and never denied.
        on_store_error: as for RateLimiter; None for what the middleware says.
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
    on_store_error: str | None = None
    refund: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.limits) == self.exempt:
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

    def refunds(self, status: int) -> bool:
        """Tell whether an answer with this status costs nothing."""
        return str(status) in self.refund or f"{status // 100}xx" in self.refund


def segments_of_pattern(pattern: str) -> tuple[str, ...]:
    """Return the segments of a pattern: words, ``{}`` for any one, and last ``**`` for any number.

    Raises:
        ValueError: it is malformed.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"path: expected a pattern that begins with '/', got {pattern!r}")
    found: list[str] = []
    for segment in split_path(pattern):
        if found and found[-1] == "**":
            raise ValueError(f"path: nothing may follow '**' or '{{x:path}}', got {pattern!r}")
        if _ONE.fullmatch(segment):
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
    """Return the segments of a path. Extra slashes count for nothing, so they lift no limit."""
    return [segment for segment in path.split("/") if segment]


_Terminal: TypeAlias = "dict[tuple[str | None, str | None], Rule]"


@dataclass
class _Node:
    words: dict[str, _Node] = field(default_factory=dict)
    one: _Node | None = None
    end: _Terminal = field(default_factory=dict)  # the path ends here
    rest: _Terminal = field(default_factory=dict)  # and here, or goes on

    def child(self, segment: str) -> _Node:
        if segment != _ONE_SEGMENT:
            return self.words.setdefault(segment, _Node())
        if self.one is None:
            self.one = _Node()
        return self.one


class RuleTable:
    """Find the rule of a request.

    Args:
        rules: in any order; that of their tiers, from the lowest to the highest, counts for a
            client that has several.

    Attributes:
        rules: by name.
        tiers: all that are named, from the lowest to the highest.
        uses_keys: whether any rule names keys.

    Raises:
        ValueError: two rules have the same name, or ask for the same.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: dict[str, Rule] = {}
        self._any_key = _Node()
        self._by_key: dict[str, _Node] = {}
        for rule in rules:
            if rule.name in self.rules:
                raise ValueError(f"two rules have the name {rule.name!r}")
            self.rules[rule.name] = rule
            self._add(rule)
        named = [tier for rule in self.rules.values() for tier in rule.tiers]
        self.tiers = tuple(dict.fromkeys(named))
        self._rank = {tier: i for i, tier in enumerate(self.tiers)}
        self.uses_keys = bool(self._by_key)

    def _add(self, rule: Rule) -> None:
        roots = [self._by_key.setdefault(key, _Node()) for key in rule.keys] or [self._any_key]
        for root in roots:
            for pattern in rule.paths or ("/**",):
                self._add_path(root, rule, segments_of_pattern(pattern))

    def _add_path(self, node: _Node, rule: Rule, segments: Sequence[str]) -> None:
        goes_on = bool(segments) and segments[-1] == "**"
        for segment in segments[:-1] if goes_on else segments:
            node = node.child(segment)
        terminal = node.rest if goes_on else node.end
        for method in rule.methods or (None,):
            for tier in rule.tiers or (None,):
                other = terminal.setdefault((method, tier), rule)
                if other is not rule:
                    raise ValueError(
                        f"the rules {other.name!r} and {rule.name!r} ask for the same requests; "
                        f"let them differ in path, method, tier or key"
                    )

    def match(
        self, path: str, method: str, tiers: Sequence[str] | None = None, key: str | None = None
    ) -> Rule | None:
        """Return the rule of a request, None where there is none.

        Args:
            path: as the application gets it.
            method: in capital letters.
            tiers: those the client has; unknown ones count for nothing.
            key: the client's.
        """
        found: list[Rule] = []
        self._visit(path, method, tiers, key, found, first_only=True)
        return found[0] if found else None

    def matches(
        self, path: str, method: str, tiers: Sequence[str] | None = None, key: str | None = None
    ) -> list[Rule]:
        """Return all rules that ask for such a request, the most specific first."""
        found: list[Rule] = []
        self._visit(path, method, tiers, key, found, first_only=False)
        return list(dict.fromkeys(found))

    def _visit(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None,
        key: str | None,
        found: list[Rule],
        *,
        first_only: bool,
    ) -> None:
        methods: tuple[str | None, ...] = (method, None)
        if method == "HEAD":
            methods = ("HEAD", "GET", None)
        known: list[str | None] = [None]
        if tiers and self._rank:
            ranked = sorted((t for t in tiers if t in self._rank), key=self._rank.__getitem__)
            known = [*reversed(ranked), None]
        probes = [(one, tier) for one in methods for tier in known]
        segments = split_path(path)
        if key is not None and self._by_key:
            node = self._by_key.get(key)
            if node is not None and _descend(node, segments, 0, probes, found, first_only):
                return
        _descend(self._any_key, segments, 0, probes, found, first_only)


def _descend(
    node: _Node,
    segments: Sequence[str],
    at: int,
    probes: Sequence[tuple[str | None, str | None]],
    found: list[Rule],
    first_only: bool,
) -> bool:
    """Collect rules from here on; tell whether that is all that was wanted."""
    if at == len(segments):
        if node.end and _pick(node.end, probes, found, first_only):
            return True
    else:
        word = node.words.get(segments[at])
        if word is not None and _descend(word, segments, at + 1, probes, found, first_only):
            return True
        one = node.one
        if one is not None and _descend(one, segments, at + 1, probes, found, first_only):
            return True
    return bool(node.rest) and _pick(node.rest, probes, found, first_only)


def _pick(
    terminal: _Terminal,
    probes: Sequence[tuple[str | None, str | None]],
    found: list[Rule],
    first_only: bool,
) -> bool:
    for probe in probes:
        rule = terminal.get(probe)
        if rule is not None:
            found.append(rule)
            if first_only:
                return True
    return False
