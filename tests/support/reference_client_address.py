"""Model of the client address behind proxies: the Python that the C code replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

from rate_limiter._core import client_key

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

UNKNOWN = "unknown"

_LONGEST = 64  # characters of an address with brackets, zone and port
_PORT = re.compile(r":\d{1,5}\Z", re.ASCII)


class ClientAddress:
    """Read addresses as rate_limiter.policy.client_address.ClientAddress does."""

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        networks = tuple(trusted_proxies)
        self.header = header
        self.trusts_unix = "unix" in networks
        self.trusted = tuple(ip_network(one) for one in networks if one != "unix")
        self.ipv6_prefix = ipv6_prefix
        self._parse = forwarded_for if self.header == "forwarded" else x_forwarded_for
        self._is_plain = not self.reads_header and ipv6_prefix == 64

    @property
    def reads_header(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self.trusted) or self.trusts_unix

    def key(self, peer: str | None, values: Iterable[str] = ()) -> str:
        """Return the key of the client."""
        if self._is_plain:
            return client_key(peer)
        address = self.address(peer, values)
        if address is not None:
            return self.name(address)
        return peer or UNKNOWN  # a name that a test server made up stands for itself

    def _behind(
        self, peer: Address | None, values: Iterable[str], *, strict: bool
    ) -> Address | None:
        found = peer
        for text in self._parse(values):
            address = parse_address(text)
            if address is None:
                return None if strict else peer
            found = address
            if not is_in(address, self.trusted):
                break
        return found

    def name(self, address: Address) -> str:
        """Return the key of an address."""
        if isinstance(address, IPv4Address):
            return str(address)
        if self.ipv6_prefix == 128:
            return str(address)
        return str(IPv6Network((int(address), self.ipv6_prefix), strict=False))

    def address(
        self, peer: str | None, values: Iterable[str] = (), *, strict: bool = False
    ) -> Address | None:
        """Return the client's address; None where it has none."""
        address = parse_address(peer) if peer else None
        if address is None and (peer or not self.trusts_unix):
            return None
        if address is not None and not is_in(address, self.trusted):
            return address
        return self._behind(address, values, strict=strict)


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Return True if an address is in one of some networks."""
    return any(address.version == one.version and address in one for one in networks)


def parse_address(text: str) -> Address | None:
    """Return the address that a text stands for, with or without a port; None for none.

    A zone (``fe80::1%eth0``) is left out, and an IPv4 address in an IPv6 one
    (``::ffff:192.0.2.1``) is that IPv4 address.
    """
    return _parsed(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    text = text.strip(" \t")
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not _PORT.match(rest)):
            return None
        text = inside
        if ":" not in text:
            return None
    elif text.count(":") == 1:
        text = _PORT.sub("", text)
    address_text, zone, name = text.partition("%")
    if zone and (not name or ":" not in address_text):
        return None
    try:
        address = ip_address(address_text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def x_forwarded_for(values: Iterable[str]) -> Iterator[str]:
    """Yield the elements of ``X-Forwarded-For`` headers from the last to the first."""
    for value in reversed(list(values)):
        end = len(value)
        while end >= 0:
            comma = value.rfind(",", 0, end)
            yield value[comma + 1 : end].strip(" \t")
            end = comma if comma >= 0 else -1


# A parameter of a forwarded-element, RFC 7239, section 4. The value is a token or a quoted string.
_PAIR = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*(?P<next>[;,]|\Z)',
    re.ASCII,
)
_GAP = re.compile(r"[ \t]*([;,]|\Z)")
_ESCAPED = re.compile(r"\\(.)")
_MALFORMED = ""


def forwarded_for(values: Iterable[str]) -> Iterator[str]:
    """Yield the ``for`` of each element of ``Forwarded`` headers, the last one first."""
    for value in reversed(list(values)):
        yield from reversed(_elements(value))


def _elements(value: str) -> list[str]:
    """Return the ``for`` of each element, `_MALFORMED` for one without."""
    found = [_MALFORMED]
    at = 0
    while at < len(value):
        pair = _PAIR.match(value, at)
        if pair is None:
            gap = _GAP.match(value, at)
            if gap is None:
                return [_MALFORMED]
            after, at = gap[1], gap.end()
        else:
            after, at = pair["next"], pair.end()
            if pair["name"].lower() == "for":
                if found[-1] is not _MALFORMED:
                    return [_MALFORMED]  # each parameter may be there once
                quoted = pair["quoted"]
                text = pair["token"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
                found[-1] = text or "?"
        if after == ",":
            found.append(_MALFORMED)
    return found
