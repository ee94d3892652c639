"""Model of the rules of a request: the Python that the C code replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rate_limiter.policy.request_fields import credentials_key
from rate_limiter.policy.rules import Rule

_ONE = re.compile(r"\*|\{[A-Za-z_]\w*\}", re.ASCII)
_REST = re.compile(r"\*\*|\{[A-Za-z_]\w*:path\}", re.ASCII)
_ONE_SEGMENT = "{}"


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


def _resolved(segments: list[str]) -> list[str]:
    """Return segments without ``.`` and ``..``, as RFC 3986, section 5.2.4 removes them."""
    if "." not in segments and ".." not in segments:
        return segments
    found: list[str] = []
    for segment in segments:
        if segment == "..":
            del found[-1:]
        elif segment != ".":
            found.append(segment)
    return found


def _plain_segments(path: str) -> list[str] | None:
    """Return the segments of a path of which all readings are the same, None for another path."""
    first, *segments = path.split("/")
    if segments == [""]:
        segments = []
    if first or "" in segments or "." in segments or ".." in segments or "\n" in path:
        return None
    return segments


@dataclass(slots=True)
class _Reading:
    """A path as one of the two trees is asked for it.

    ``**`` stands for the segments from an index on: from `first_rest` to `last_rest`. For a path as
    it came that is what ``.*`` of a framework matches: one segment at least, without a newline.
    Starlette lets it be empty and end with a newline; Werkzeug (`like_werkzeug`) does not.
    """

    segments: Sequence[str]
    first_rest: int
    last_rest: int
    may_be_empty: bool = True
    was_nothing: bool = False
    """Whether ``**`` stood for no segment in what was found."""

    @classmethod
    def tidy(cls, segments: Sequence[str]) -> _Reading:
        return cls(segments, 0, len(segments))

    @classmethod
    def exact(cls, path: str, *, like_werkzeug: bool) -> _Reading:
        segments = path[1:].split("/") if path.startswith("/") else ["", *path.split("/")]
        newline = path.rfind("\n", 0, None if like_werkzeug else -1)
        first_rest = path.count("/", 0, newline) if newline >= 0 else 0
        # The code that was replaced left this out, so "**" could contain a newline.
        first_rest += 2 if newline >= 0 and not path.startswith("/") else 0
        return cls(segments, first_rest, len(segments) - 1, not like_werkzeug)

    def is_rest(self, at: int) -> bool:
        """Return whether ``**`` stands for the segments from an index on."""
        if at == 0:
            return True
        if not self.first_rest <= at <= self.last_rest:
            return False
        if at == len(self.segments):
            self.was_nothing = True
            return True
        return self.may_be_empty or bool(self.segments[at])


_Probe: TypeAlias = tuple[str | None, str | None]
"""A method and a tier; None: of any."""
_Terminal: TypeAlias = "dict[_Probe, Rule]"


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


@dataclass
class _Trees:
    tidy: _Node = field(default_factory=_Node)
    exact: _Node = field(default_factory=_Node)


class RuleTable:
    """Find rules as rate_limiter.policy.rules.RuleTable does."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: dict[str, Rule] = {}
        self._any_key = _Trees()
        self._by_key: dict[str, _Trees] = {}
        for rule in rules:
            if rule.name in self.rules:
                raise ValueError(f"two rules have the name {rule.name!r}")
            self.rules[rule.name] = rule
            self._add(rule)
        named = [tier for rule in self.rules.values() for tier in rule.tiers]
        self.tiers = tuple(dict.fromkeys(named))
        self._rank = {tier: i for i, tier in enumerate(self.tiers)}
        self.uses_keys = bool(self._by_key)
        paths = [path for rule in self.rules.values() for path in rule.paths]
        self._has_plain_paths = all(_plain_segments(path) is not None for path in paths)

    def _add(self, rule: Rule) -> None:
        keys = [credentials_key(key) for key in rule.keys]
        several = [self._by_key.setdefault(key, _Trees()) for key in keys] or [self._any_key]
        for trees in several:
            for pattern in rule.paths or ("/**",):
                self._add_path(trees.tidy, rule, segments_of_pattern(pattern))
                self._add_path(trees.exact, rule, _exact_segments_of_pattern(pattern))

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
                        f"the rules {other.name!r} and {rule.name!r} have the same conditions; "
                        f"they must differ in path, method, tier or key"
                    )

    def limiting(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None = None,
        key: str | None = None,
        *,
        like_werkzeug: bool = False,
    ) -> tuple[Rule, ...]:
        """Return the rules that limit a request: one, but for odd paths.

        Arguments are those of both().
        """
        found = self.both(path, method, tiers, key, like_werkzeug=like_werkzeug)
        return tuple(rule for rule in found if rule is not None and not rule.exempt)

    def both(
        self,
        path: str,
        method: str,
        tiers: Sequence[str] | None = None,
        key: str | None = None,
        *,
        like_werkzeug: bool = False,
    ) -> tuple[Rule | None, ...]:
        """Return the different rules of all readings of a path, None for a reading without."""
        probes = self._probes(method, tiers)
        plain = _plain_segments(path) if self._has_plain_paths else None
        segments = split_path(path) if plain is None else plain
        tidy = _Reading.tidy(segments)
        found = [self._find(tidy, probes, key, is_exact=False)]
        if plain is not None and not tidy.was_nothing:
            return tuple(found)
        resolved = _resolved(segments)
        if resolved is not segments:
            found.append(self._find(_Reading.tidy(resolved), probes, key, is_exact=False))
        exact = _Reading.exact(path, like_werkzeug=like_werkzeug)
        found.append(self._find(exact, probes, key, is_exact=True))
        return tuple(dict.fromkeys(found))

    def match(
        self, path: str, method: str, tiers: Sequence[str] | None = None, key: str | None = None
    ) -> Rule | None:
        """Return the most specific rule for a path without extra slashes."""
        reading = _Reading.tidy(split_path(path))
        return self._find(reading, self._probes(method, tiers), key, is_exact=False)

    def matches(
        self, path: str, method: str, tiers: Sequence[str] | None = None, key: str | None = None
    ) -> list[Rule]:
        """Return all rules that ask for a path without extra slashes, the most specific first."""
        reading, probes = _Reading.tidy(split_path(path)), self._probes(method, tiers)
        found: list[Rule] = []
        for trees in self._trees_of(key):
            _descend(trees.tidy, reading, 0, probes, found, first_only=False)
        return list(dict.fromkeys(found))

    def _probes(self, method: str, tiers: Sequence[str] | None) -> list[_Probe]:
        methods: tuple[str | None, ...] = (method, None)
        if method == "HEAD":
            methods = ("HEAD", "GET", None)
        known: list[str | None] = [None]
        if tiers and self._rank:
            ranked = sorted((t for t in tiers if t in self._rank), key=self._rank.__getitem__)
            known = [*reversed(ranked), None]
        return [(one, tier) for one in methods for tier in known]

    def _trees_of(self, key: str | None) -> tuple[_Trees, ...]:
        own = self._by_key.get(key) if key is not None else None
        return (self._any_key,) if own is None else (own, self._any_key)

    def _find(
        self, reading: _Reading, probes: Sequence[_Probe], key: str | None, *, is_exact: bool
    ) -> Rule | None:
        found: list[Rule] = []
        for trees in self._trees_of(key):
            root = trees.exact if is_exact else trees.tidy
            if _descend(root, reading, 0, probes, found, first_only=True):
                return found[0]
        return None


def _descend(
    node: _Node,
    reading: _Reading,
    at: int,
    probes: Sequence[_Probe],
    found: list[Rule],
    first_only: bool,
) -> bool:
    """Collect rules from here on; return whether that is all that was wanted."""
    segments = reading.segments
    if at == len(segments):
        if node.end and _pick(node.end, probes, found, first_only):
            return True
    else:
        word = node.words.get(segments[at])
        if word is not None and _descend(word, reading, at + 1, probes, found, first_only):
            return True
        one = node.one if segments[at] else None
        if one is not None and _descend(one, reading, at + 1, probes, found, first_only):
            return True
    if not node.rest or not reading.is_rest(at):
        return False
    return _pick(node.rest, probes, found, first_only)


def _pick(
    terminal: _Terminal,
    probes: Sequence[_Probe],
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
