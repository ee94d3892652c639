"""ClientAddress: whose address a request comes from, when proxies stand in between.

A proxy adds the address it got a request from at the right end of ``X-Forwarded-For``, or of
``Forwarded`` (RFC 7239). Whatever stands further left, the client may have written itself. So the
header counts only when the peer is a proxy that is trusted, and is read from the right: over the
addresses that are trusted, to the first that is not.

    client 203.0.113.7 ──> proxy 10.0.0.2 ──> proxy 10.0.0.1 ──> this program
                           X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2
                                            invented  the client   trusted      (10.0.0.1: the peer)
"""

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
from rate_limiter.checks.arguments import (
    NoEffectError,
    checked_several,
    checked_text,
    checked_whole,
)

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

FORWARDING_HEADERS = ("x-forwarded-for", "forwarded")
UNKNOWN = "unknown"
"""The key of a request whose peer has no address, as behind a unix socket."""

_LONGEST = 64  # characters of an address with brackets, zone and port
_PORT = re.compile(r":\d{1,5}\Z", re.ASCII)


class ClientAddress:
    """Tell the address of a client as a key.

    Args:
        trusted_proxies: addresses and networks of proxies, such as ``"10.0.0.0/8"``; ``"unix"``
            stands for a peer without an address, as behind a unix socket. With none, the peer
            is the client.
        header: the header that the proxies set: ``"x-forwarded-for"`` or ``"forwarded"``. Only
            this one is read: the other may be the client's own. It needs `trusted_proxies`.
        ipv6_prefix: leading bits of an IPv6 address that tell clients apart. 64 is what a
            household gets; 128 is each address by itself.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
    """

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        networks = checked_several(
            "trusted_proxies", trusted_proxies, "networks", example_of(trusted_proxies)
        )
        if checked_text("proxy_header", header).lower() not in FORWARDING_HEADERS:
            known = " or ".join(map(repr, FORWARDING_HEADERS))
            raise ValueError(f"proxy_header must be {known}, got {header!r}")
        if not 16 <= checked_whole("ipv6_prefix", ipv6_prefix) <= 128:
            raise ValueError(f"ipv6_prefix must be from 16 to 128, got {ipv6_prefix!r}")
        if not networks and header.lower() != "x-forwarded-for":
            raise NoEffectError("proxy_header", "without trusted_proxies")
        self.header = header.lower()
        self.trusts_unix = "unix" in networks
        try:
            self.trusted = tuple(parse_network(one) for one in networks if one != "unix")
        except (TypeError, ValueError) as error:
            raise type(error)(f"trusted_proxies: {error}") from None
        self.ipv6_prefix = ipv6_prefix
        self._parse = forwarded_for if self.header == "forwarded" else x_forwarded_for
        # Then the engine knows the answer, and faster.
        self._is_plain = not self.reads_header and ipv6_prefix == 64
        self._is_trusted = lru_cache(maxsize=4096)(self._look_up)

    @property
    def reads_header(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self.trusted) or self.trusts_unix

    def key(self, peer: str | None, values: Iterable[str] = ()) -> str:
        """Return the key of the client.

        Args:
            peer: the address at the other end of the connection, None where it has none.
            values: those of the proxies' header, in order.

        Returns:
            An IPv4 address, an IPv6 network, or ``unknown``. Where the header is malformed, the
            peer's: nothing in it is believed then.
        """
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
            if not self._is_trusted(address):
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
        """Return the client's address; None where it has none. Arguments are those of key().

        With `strict` it is also None where the header is malformed: an address that somebody is
        trusted for must not be that of the proxy instead.
        """
        address = parse_address(peer) if peer else None
        if address is None and (peer or not self.trusts_unix):
            return None
        if address is not None and not self._is_trusted(address):
            return address
        return self._behind(address, values, strict=strict)

    def _look_up(self, address: Address) -> bool:
        return is_in(address, self.trusted)


def example_of(proxies: object) -> str:
    """Return a network for a message: what was given, where that is one."""
    is_network = isinstance(proxies, str) and parse_address(proxies.partition("/")[0])
    return str(proxies) if is_network or proxies == "unix" else "10.0.0.0/8"


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Tell whether an address is in one of some networks."""
    return any(address.version == one.version and address in one for one in networks)


def parse_network(text: object) -> Network:
    """Return the network that a text stands for; an address is a network of one.

    Raises:
        TypeError, ValueError: it stands for none.
    """
    if not isinstance(text, str):
        raise TypeError(f"a network must be a str such as '10.0.0.0/8', got {text!r}")
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"expected an address or a network such as '10.0.0.0/8', got {text!r}: {error}"
        ) from None


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
    """Yield what ``for=`` says in each element of ``Forwarded`` headers, the last one first.

    An element without ``for``, or with an obfuscated or unknown one, yields what is no address. So
    does a header that is malformed anywhere: where an element ends cannot be told then.
    """
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
