"""Whose address a request comes from: trusted proxies, hostile headers, IPv6."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter._core import client_key
from rate_limiter.policy.client_address import ClientAddress, parse_address
from support.reference_client_address import forwarded_for, x_forwarded_for

TRUSTED = ("10.0.0.0/8", "fd00::/8", "192.0.2.7")


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        # no proxy in between
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "6.6.6.6", "203.0.113.9"),  # spoofed: the peer is not trusted
        ("203.0.113.9", "10.0.0.1", "203.0.113.9"),
        # one trusted proxy
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.7", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.8", "203.0.113.9", "192.0.2.8"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # spoofed: further left
        ("10.0.0.1", "10.9.9.9, 203.0.113.9", "203.0.113.9"),
        # several
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2 ,10.0.0.3", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.4, 10.0.0.2", "10.0.0.4"),  # all trusted: the first of them
        # v4-mapped, ports, brackets, zones
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "[::ffff:203.0.113.9]:80", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2:1234", "203.0.113.9"),
        ("10.0.0.1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:443", "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::/64"),
        ("fe80::1%eth0", "6.6.6.6", "fe80::/64"),
        ("fd00::5", "2001:db8::1", "2001:db8::/64"),
        # malformed anywhere that was looked at: the peer
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9,", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, , 10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, evil, 10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "evil, 203.0.113.9", "203.0.113.9"),  # further left than the client
        ("10.0.0.1", "203.0.113.999", "10.0.0.1"),
        ("10.0.0.1", "0203.0.113.9", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:port", "10.0.0.1"),
        ("10.0.0.1", "[203.0.113.9]", "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::1", "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::1]x", "10.0.0.1"),
        ("10.0.0.1", "fe80::1%", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4%eth0", "10.0.0.1"),
        ("10.0.0.1", "1" * 100, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9\x00", "10.0.0.1"),
        ("10.0.0.1", "٢٠٣.0.113.9", "10.0.0.1"),
        ("10.0.0.1", "0x7f.1", "10.0.0.1"),
        ("10.0.0.1", "2130706433", "10.0.0.1"),
        # peers that are no addresses
        (None, "203.0.113.9", "unknown"),
        ("testclient", "203.0.113.9", "testclient"),
    ],
)
def test_x_forwarded_for(peer: str | None, header: str | None, client: str) -> None:
    addresses = ClientAddress(TRUSTED)
    assert addresses.key(peer, [] if header is None else [header]) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;proto=http;by=10.0.0.1", "203.0.113.9"),
        ("proto=http; FOR=203.0.113.9", "203.0.113.9"),
        ('for="203.0.113.9:4711"', "203.0.113.9"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::/64"),
        ('for="[2001:db8:cafe::17]", for=10.0.0.2', "2001:db8:cafe::/64"),
        ("for=6.6.6.6, for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
        ('for="203.0.113\\.9"', "203.0.113.9"),  # a quoted pair
        ('for=203.0.113.9;host="a,b;c=\\"d"', "203.0.113.9"),  # separators in quotes
        ('for="6.6.6.6, for=1.1.1.1";host=x, for=203.0.113.9', "203.0.113.9"),
        ("for=203.0.113.9;ext", "10.0.0.1"),
        ("for=unknown", "10.0.0.1"),
        ("for=_hidden", "10.0.0.1"),
        ('for="_gazonk"', "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("203.0.113.9", "10.0.0.1"),
        ("for=2001:db8::1", "10.0.0.1"),  # must be quoted, and in brackets
        ("for", "10.0.0.1"),
        ("for=", "10.0.0.1"),
        ('for=""', "10.0.0.1"),
        ('for="203.0.113.9', "10.0.0.1"),
        ("for=203.0.113.9;for=6.6.6.6", "10.0.0.1"),
        ("for=203.0.113.9,,for=10.0.0.2", "10.0.0.1"),
        ("for =203.0.113.9", "10.0.0.1"),
        ("for=203.0.113.9 for=6.6.6.6", "10.0.0.1"),
    ],
)
def test_forwarded(header: str, client: str) -> None:
    addresses = ClientAddress(TRUSTED, header="Forwarded")
    assert addresses.key("10.0.0.1", [header]) == client
    assert addresses.key("203.0.113.1", [header]) == "203.0.113.1"


def test_several_lines_count_as_one() -> None:
    assert ClientAddress(TRUSTED).key("10.0.0.1", ["6.6.6.6", "203.0.113.9, 10.0.0.2"]) == (
        "203.0.113.9"
    )
    forwarded = ClientAddress(TRUSTED, header="forwarded")
    assert forwarded.key("10.0.0.1", ["for=6.6.6.6", "for=203.0.113.9,for=10.0.0.2"]) == (
        "203.0.113.9"
    )


def test_unix_socket() -> None:
    assert ClientAddress(["unix"]).key(None, ["203.0.113.9"]) == "203.0.113.9"
    assert ClientAddress(["unix"]).key(None, ["nothing"]) == "unknown"
    assert ClientAddress(["unix"]).key("203.0.113.1", ["6.6.6.6"]) == "203.0.113.1"


@pytest.mark.parametrize(
    ("prefix", "client"),
    [(64, "2001:db8:1:2::/64"), (56, "2001:db8:1::/56"), (128, "2001:db8:1:2:3::4")],
)
def test_ipv6_prefix(prefix: int, client: str) -> None:
    assert ClientAddress(ipv6_prefix=prefix).key("2001:db8:1:2:3::4") == client


@given(st.ip_addresses())
def test_without_proxies_it_is_what_the_engine_says(address: Any) -> None:
    assert ClientAddress().key(str(address)) == client_key(str(address))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trusted_proxies": "10.0.0.0/8"}, TypeError, "must be several networks, such as"),
        ({"trusted_proxies": ["10.0.0.300"]}, ValueError, "trusted_proxies: expected an address"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, ValueError, "has host bits set"),
        ({"trusted_proxies": [5]}, TypeError, "trusted_proxies: a network must be a str"),
        ({"header": "x-real-ip"}, ValueError, "proxy_header must be 'x-forwarded-for' or"),
        ({"ipv6_prefix": 0}, ValueError, "ipv6_prefix must be from 16 to 128, got 0"),
        ({"ipv6_prefix": 6.5}, TypeError, "ipv6_prefix must be a whole number, got 6.5"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ClientAddress(**arguments)


# --- Fuzzing: no crash, no slow input, no address that was not there ---

PIECES = 'for= for " \\ ; , = [ ] : % 1.2.3.4 10.0.0.1 ::1 2001:db8::1 x \x00 é .'
pieces = st.sampled_from([*PIECES.split(" "), " ", "\t"])
texts = st.lists(pieces, max_size=30).map("".join) | st.text(max_size=200)


@given(values=st.lists(texts, max_size=4), peer=texts | st.none())
def test_any_header_gives_a_key(values: list[str], peer: str | None) -> None:
    for header in ("x-forwarded-for", "forwarded"):
        key = ClientAddress(["10.0.0.0/8", "unix"], header=header).key(peer, values)
        assert isinstance(key, str)
        assert key


@given(st.lists(st.ip_addresses(), min_size=1, max_size=8), st.ip_addresses())
def test_the_first_from_the_right_that_is_not_trusted(
    chain: list[IPv4Address | IPv6Address], peer: IPv4Address | IPv6Address
) -> None:
    def is_trusted(address: IPv4Address | IPv6Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).version == 4

    addresses = ClientAddress(["0.0.0.0/0"])
    quoted = ClientAddress(["0.0.0.0/0"], header="forwarded")
    steps = [peer, *reversed(chain)]
    expected = next((one for one in steps if not is_trusted(one)), steps[-1])
    line = ", ".join(map(str, chain))
    forwarded = ", ".join(f'for="[{one}]"' if one.version == 6 else f"for={one}" for one in chain)
    assert addresses.key(str(peer), [line]) == client_key(str(expected))
    assert quoted.key(str(peer), [forwarded]) == client_key(str(expected))


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.1," * 20_000,
        "," * 200_000,
        " " * 200_000,
        "for=" * 50_000,
        'for="' * 40_000,
        'for="' + "\\" * 200_000,
        "for=10.0.0.1;" * 15_000,
        "for=10.0.0.1," * 15_000,
        '"' * 200_000,
        "for=" + "a" * 200_000 + '"',
        "\t" * 100_000 + "for=1",
    ],
)
def test_no_input_is_slow(value: str) -> None:
    """Linear time, and not much of it: a quadratic one would take minutes here."""
    began_s = time.perf_counter()
    for header in ("x-forwarded-for", "forwarded"):
        ClientAddress(["10.0.0.0/8"], header=header).key("10.0.0.1", [value])
    assert time.perf_counter() - began_s < 20


def test_parts() -> None:
    assert list(x_forwarded_for(["a, b", "c"])) == ["c", "b", "a"]
    assert list(forwarded_for(['for=a;by=x,for="b"', "for=c"])) == ["c", "b", "a"]
    assert parse_address("::ffff:1.2.3.4") == ip_address("1.2.3.4")
