"""What must hold between what a framework saw of a request and what the limiter counted.

- A route that ran was counted by the rule that is meant for it, or by one with a smaller capacity.
- A request was counted for whom the framework saw: the same session, key, token or address has
  the same bucket, however it is spelled, and another one has another.
- A denied request found too little in that bucket.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from support.differential_cases import Case, source_of
from support.differential_client import Answer
from support.differential_routes import (
    ADDRESS_SOURCES,
    BYPASSED,
    DEFAULT,
    EXEMPT,
    TRUSTED,
    capacity_of,
)

Identity = tuple[str, ...]
_TRUSTED = [ip_network(one) for one in TRUSTED]


# --- Whom a request is from, by what the framework saw -------------------------------------------


def acceptable_identities(seen: dict[str, Any], source: str) -> list[Identity] | None:
    """Return who a request may count for; None for anyone.

    Where a part is missing, the address counts. Where it is there more than once, it may count
    as missing. Starlette 0.48 reads only the first ``Cookie`` line, newer versions all of them; a
    cookie in another line may count.
    """
    if source in ADDRESS_SOURCES:
        return [forwarded_identity(seen, source)]
    peer = address_identity(parsed_address(seen["peer"]), seen["peer"])
    if source == "authorization":
        found = _authorized(seen)
        if not found and seen["credentials"]:
            return None  # an invalid credential has no bucket
    else:
        found = _with_and_without_blanks(source, seen[source] or "")
        if source == "cookie" and not found:
            found = [("cookie", value) for value in seen.get("cookies of other lines", ())]
            return [*found, peer]
    return found + [peer] * (not found or seen["repeated"].get(source, False))


def _with_and_without_blanks(kind: str, text: str) -> list[Identity]:
    """Return a value without what Python takes for blanks beside it, and with these."""
    values = dict.fromkeys([text.strip(), text.strip(" \t")])
    return [(kind, value) for value in values if value]


def _authorized(seen: dict[str, Any]) -> list[Identity]:
    if "basic" in seen:
        return [("basic", *seen["basic"])]
    words = re.split("[ \t]+", (seen["authorization"] or "").strip(" \t"), maxsplit=1)
    if len(words) != 2:
        return []
    scheme, token = words[0].lower(), words[1]
    if scheme == "bearer":
        return _with_and_without_blanks(scheme, token)
    if scheme != "basic":
        return []
    try:  # as in Starlette's documentation
        user, colon, password = base64.b64decode(token).decode("ascii").partition(":")
    except (binascii.Error, UnicodeError, ValueError):
        return []
    return [("basic", user, password)] if colon else []


def forwarded_identity(seen: dict[str, Any], source: str) -> Identity:
    """Return the client behind trusted proxies, walked from the right."""
    peer = parsed_address(seen["peer"])
    if peer is None or not is_trusted(peer):
        return address_identity(peer, seen["peer"])
    found = peer
    elements = (_for_elements if source == "forwarded" else _commas)(seen[source])
    for element in reversed(elements):
        address = parsed_address(element)
        if address is None:
            return address_identity(peer, seen["peer"])
        found = address
        if not is_trusted(found):
            break
    return address_identity(found, "")


def _commas(values: list[str]) -> list[str]:
    return [element.strip(" \t") for value in values for element in value.split(",")]


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
_NO_ADDRESS = "?"


def _split(text: str, separator: str) -> list[str]:
    """Return what stands between separators outside quotes."""
    part = re.compile(rf'((?:{_QUOTED}|[^"{separator}])*)({separator}|$)')
    parts: list[str] = []
    at = 0
    while found := part.match(text, at):
        parts.append(found[1].strip(" \t"))
        if not found[2]:
            return parts
        at = found.end()
    return ['"']  # a quote without its end: no pair


def _for_elements(values: list[str]) -> list[str]:
    """Return ``for`` of each element (RFC 7239); of a malformed value, a text without address."""
    found = []
    for value in values:
        parameters = [_for_of(element) for element in _split(value, ",")]
        found += [_NO_ADDRESS] if None in parameters else [one or "" for one in parameters]
    return found


def _for_of(element: str) -> str | None:
    pairs = [_PAIR.fullmatch(pair) for pair in _split(element, ";") if pair]
    found = [pair[2] for pair in pairs if pair is not None and pair[1].lower() == "for"]
    if None in pairs or len(found) > 1:
        return None
    text = found[0] if found else _NO_ADDRESS
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text


def is_trusted(address: Any) -> bool:
    return any(address in network for network in _TRUSTED if network.version == address.version)


def parsed_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """Return an address that may have brackets, a zone and a port."""
    text = (text or "").strip(" \t")
    matched = re.fullmatch(r"\[([^\]]*:[^\]]*)\](:\d{1,5})?|([^:]*)(:\d{1,5})?|(.*:.*:.*)", text)
    if matched is None or len(text) > 64:
        return None
    inside = matched[1] or matched[3] or matched[5] or ""
    try:
        address = ip_address(inside)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def address_identity(address: Any, otherwise: str) -> Identity:
    if isinstance(address, IPv6Address):
        return ("ip", str(IPv6Network((int(address), 64), strict=False)))
    return ("ip", otherwise if address is None else str(address))


# --- Which rule is meant for a route -------------------------------------------------------------


def capacity_meant(app: str, seen: dict[str, Any]) -> float:
    """Return the capacity of the rule that is meant for a route that ran."""
    framework, limiter, source = app.split()
    route, method = seen["route"], seen["method"]
    if limiter == "bypass" and forwarded_identity(seen, source) == ("ip", BYPASSED):
        return EXEMPT
    if limiter == "decorated" and route == "account":  # the class has one limit
        return capacity_of(route, "POST")
    if limiter not in ("plain", "nothing"):
        return EXEMPT if route == "health" else capacity_of(route, method)
    # One limit for all, and in ASGI a path that is exempt.
    return EXEMPT if framework != "flask" and seen["path"] == "/health" else DEFAULT


# --- All requests to one server ------------------------------------------------------------------


@dataclass
class Checker:
    """Compare responses with what must hold, and count them.

    Attributes:
        faults: what does not hold, by kind and application.
        counts: requests by what became of them.
    """

    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    _taken: dict[tuple[str, int], dict[Identity, int]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def check(self, case: Case, answer: Answer | None) -> None:
        """Check one response."""
        seen = None if answer is None else answer.seen
        if answer is None or seen is None:
            self.counts["refused by the server"] += 1
            return
        self.counts[f"status {answer.status}"] += 1
        if answer.status == 500:
            self._fault(case, seen, "error", "status 500")
        limits = answer.limits
        self.counts["counted"] += bool(limits)
        self.counts["denied"] += answer.status == 429
        if seen["route"] is not None:
            self.counts["ran"] += 1
            self.counts["ran, mutated"] += case.number is not None
            self._check_rule(case, seen, min(limits, default=EXEMPT))
        for capacity, left in limits.items():
            self._check_bucket(case, seen, capacity, left, answer.status == 429)

    def report(self) -> str:
        """Return a line for each kind of fault in each application, with an example."""
        lines = [str(dict(self.counts))]
        for (kind, app), found in sorted(self.faults.items()):
            lines.append(f"{len(found)} x {kind}, {app}, for example {found[0]}")
        return "\n".join(lines)

    def _fault(self, case: Case, seen: dict[str, Any], kind: str, what: str) -> None:
        number = "plain" if case.number is None else f"case {case.number}"
        text = f"{what}\n    {number}: {case.bytes()!r}\n    seen: {seen}"
        self.faults[kind, case.app].append(text)

    def _check_rule(self, case: Case, seen: dict[str, Any], counted: float) -> None:
        meant = capacity_meant(case.app, seen)
        self.counts["by the very rule"] += counted == meant
        if counted > meant or (case.number is None and counted != meant):
            self._fault(case, seen, "rule", f"capacity {counted}, not {meant}")

    def _check_bucket(
        self, case: Case, seen: dict[str, Any], capacity: int, left: int, is_denied: bool
    ) -> None:
        after = capacity - left
        cost = 0 if is_denied else case.cost
        buckets = self._taken[case.app, capacity]
        accepted = acceptable_identities(seen, source_of(case.app))
        fitting = [who for who, taken in buckets.items() if taken + cost == after]
        if is_denied and case.cost <= left:
            self._fault(case, seen, "denial", f"{left} left, cost {case.cost}")
        if accepted is None:
            buckets[fitting[0] if fitting else ("unknown", str(case.number))] = after
            return
        for who in accepted:
            if buckets.get(who, 0) + cost == after:
                self.counts["mutated, known bucket"] += who in buckets and case.number is not None
                buckets[who] = after
                return
        # What the framework took for no credentials may have had this bucket before.
        if fitting and fitting[0][0] == "unknown" and not buckets.keys() & set(accepted):
            buckets[accepted[0]] = buckets.pop(fitting[0]) + cost
            return
        if fitting:
            buckets[fitting[0]] = after
        whose = f"that of {fitting}" if fitting else "a fresh or unknown one"
        self._fault(case, seen, "bucket", f"{whose} ({after} taken), not that of {accepted}")
