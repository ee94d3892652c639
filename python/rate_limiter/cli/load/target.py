"""Allowed targets of a load test: this machine, or a target that the caller declares as their own.

The test connects to the checked address. The name is looked up once, all its addresses must be
loopback, and the client uses the checked address, so a different answer of the name server later
(DNS rebinding) has no effect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp.abc import AbstractResolver
from yarl import URL

from rate_limiter.checks.redaction import shown

CONNECT_TIMEOUT_S = 5.0


class LoadError(RuntimeError):
    """Raised when a load test cannot start."""


@dataclass(frozen=True)
class Target:
    """A server that accepts connections.

    Attributes:
        url: the URL of requests.
        address: the IP address of the server.
    """

    url: URL
    address: str


def parse_url(text: str) -> URL:
    """Return an http or https address, read by the parser that the HTTP client uses.

    Raises:
        ValueError: the text is no such address, or contains a password, which reports would show.
    """
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise ValueError(f"the URL {shown(text)} is wrong: {error}") from None
    if url.scheme not in ("http", "https") or not url.raw_host or not port:
        raise ValueError(
            f"the URL must be http://HOST[:PORT]/PATH or https://..., got {shown(text)}"
        )
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("the URL must have no user or password: give an Authorization header")
    return url


def is_loopback(address: str) -> bool:
    """Return True for a loopback address: 127.0.0.0/8 or ::1."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


async def find_target(url: URL, *, is_mine: bool) -> Target:
    """Look a host up, check its addresses, and return the first that accepts a connection.

    Args:
        url: from parse_url.
        is_mine: the caller declares the target as their own, so any address is allowed.

    Raises:
        LoadError: the host is unknown, is not loopback, or refuses connections.
    """
    host, port = str(url.raw_host), int(url.port or 0)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LoadError(f"cannot find {host!r}: {_reason(error)}") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    elsewhere = [address for address in addresses if not is_loopback(address)]
    if elsewhere and not is_mine:
        address = "" if host == elsewhere[0] else f" ({elsewhere[0]})"
        raise LoadError(
            f"{host}{address} is not this machine: refused; "
            "if the target is your own, say so with --target-is-mine"
        )
    reason = "it has no address"
    for address in addresses:
        try:
            connecting = asyncio.open_connection(address, port)
            _, writer = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError) as error:
            reason = _reason(error)
            continue
        writer.close()
        # aiohttp treats such a host as an address and skips the resolver: 127.1 and 2130706433
        # are other spellings of an address, 1.2.3.4.5 may be a name.
        is_literal = ":" in host or host.replace(".", "").isdigit()
        return Target(url.with_host(address) if is_literal else url, address)
    raise LoadError(f"cannot connect to {host}:{port}: {reason}")


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


class PinnedResolver(AbstractResolver):
    """Answer every look-up of the target's host with the address that was checked."""

    def __init__(self, target: Target) -> None:
        self._host = str(target.url.raw_host)
        self._address = target.address

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        """Return the address.

        Raises:
            OSError: the host is another one, which was not checked.
        """
        if host.rstrip(".") != self._host.rstrip("."):
            raise OSError(f"{host!r} is not the host that was checked")
        kind = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        return [
            {
                "hostname": host,
                "host": self._address,
                "port": port,
                "family": kind,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST,
            }
        ]

    async def close(self) -> None:
        """Do nothing: the resolver has no resources."""
