"""ClientAddress: which client a request comes from, over trusted proxies.

A proxy adds the address that it got a request from at the right end of ``X-Forwarded-For``, or of
``Forwarded`` (RFC 7239). Everything further left may be the client's invention. So the header
counts only when the peer is a trusted proxy, and is read from the right, over the trusted
addresses, to the first that is not.

    client 203.0.113.7 ──> proxy 10.0.0.2 ──> proxy 10.0.0.1 ──> this program
                           X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2
                                            invented  the client   trusted      (10.0.0.1: the peer)

The reading itself is C: see csrc/http/client_address.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, TypeAlias

from rate_limiter._core import ProxyWalk
from rate_limiter.checks.arguments import (
    NoEffectError,
    checked_several,
    checked_text,
    checked_whole,
)
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import ProxyHeader

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

FORWARDING_HEADERS = ("x-forwarded-for", "forwarded")

_LIKE_NETWORK = re.compile(
    r"\s*(?:[\d.]+|[\da-f.]*:[\da-f.:]*)(?:%\w*)?\s*/[\s\d.]*", re.ASCII | re.IGNORECASE
)

_WITHOUT_PROXIES = ProxyWalk()
_as_address = lru_cache(maxsize=4096)(ip_address)


class ClientAddress:
    """Return the address of a client as a key.

    Args:
        trusted_proxies: addresses and networks of proxies, such as ``"10.0.0.0/8"``; ``"unix"``
            stands for a peer without an address, as behind a unix socket. With none, the peer
            is the client.
        header: the header that the proxies set: ``"x-forwarded-for"`` or ``"forwarded"``. Only
            this one is read: the other may be the client's own. It needs `trusted_proxies`.
        ipv6_prefix: leading bits of an IPv6 address that identify a client. 64 is what a
            household gets; with 128 each address is a client.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
    """

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        header: ProxyHeader = "x-forwarded-for",
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
        self.trusts_unix: bool = "unix" in networks
        try:
            self.trusted: tuple[Network, ...] = tuple(
                parse_network(one) for one in networks if one != "unix"
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"trusted_proxies: {error}") from None
        self.ipv6_prefix = ipv6_prefix
        self.walk: ProxyWalk = ProxyWalk(
            map(without_zone, self.trusted),
            trust_unix=self.trusts_unix,
            header=self.header,
            ipv6_prefix=ipv6_prefix,
        )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ClientAddress:
        """Return the `client` of some arguments, else what the flat ones stand for."""
        client = given.get("client")
        if client is None:
            return cls(
                given["trusted_proxies"],
                header=given["proxy_header"],
                ipv6_prefix=given["ipv6_prefix"],
            )
        if not isinstance(client, ClientAddress):
            raise TypeError(f"client must be a ClientAddress, got {shown(client)}")
        return client

    @property
    def reads_header(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self.trusted) or self.trusts_unix

    def key(self, peer: str | None, values: Iterable[str | bytes] = ()) -> str:
        """Return the key of the client.

        Args:
            peer: the address at the other end of the connection, None where it has none.
            values: those of the proxies' header, in order.

        Returns:
            An IPv4 address, an IPv6 network, or ``unknown``. With a malformed header, the peer's
            key: nothing in it is believed then. A peer with another name, such as that of a test
            server, is its own key.
        """
        return self.walk.key(peer, values)

    def key_of_scope(self, scope: dict[str, Any]) -> str:
        """Return the key of the client of an ASGI scope."""
        return self.walk.key_of_scope(scope)

    def name(self, address: Address) -> str:
        """Return the key of an address."""
        return self.walk.key(str(address))

    def address(
        self, peer: str | None, values: Iterable[str | bytes] = (), *, strict: bool = False
    ) -> Address | None:
        """Return the client's address; None where it has none. Arguments are those of key().

        With `strict` it is also None if the header is malformed: a rule that trusts an address must
        not match the proxy's address instead.
        """
        found = self.walk.address(peer, values, strict)
        return None if found is None else _as_address(found)


def without_zone(network: Network) -> str:
    """Return a network as text, without the zone that ``fe80::%eth0/64`` has."""
    address = type(network.network_address)(int(network.network_address))
    return f"{address}/{network.prefixlen}"


def network_of(key: str) -> str | None:
    """Return the network that a key of a rule names; None for another key.

    What looks like a network has a slash behind an address: digits and dots, or hexadecimal digits
    and colons. ``ip:`` may stand before it, as in `bypass`. Other keys may contain slashes.

    Raises:
        ValueError: it looks like a network and is none.
    """
    text = key.removeprefix("ip:")
    if not _LIKE_NETWORK.fullmatch(text):
        return None
    try:
        network = parse_network(text)
    except ValueError as error:
        raise ValueError(
            f"keys: {error}. A key of your own that looks like a network needs other text before it"
        ) from None
    base = network.network_address
    mapped = base.ipv4_mapped if isinstance(base, IPv6Address) else None
    if mapped is not None and network.prefixlen >= 96:
        return f"{mapped}/{network.prefixlen - 96}"
    return without_zone(network)


def example_of(proxies: object) -> str:
    """Return a network for a message: what was given, where that is one."""
    is_network = isinstance(proxies, str) and parse_address(proxies.partition("/")[0])
    return str(proxies) if is_network or proxies == "unix" else "10.0.0.0/8"


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
    found = _WITHOUT_PROXIES.address(text)
    return None if found is None else _as_address(found)
