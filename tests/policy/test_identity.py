"""Keys, tiers and bypasses, from the words in which they are configured."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from rate_limiter.jwt import Jwt
from rate_limiter.keys import pick_identity_key
from rate_limiter.policy.client_address import ClientAddress
from support.sources import Reading as Identities
from support.tokens import HS, token


def scope_of(client: Any = ("192.0.2.1", 1), **headers: Any) -> dict[str, Any]:
    pairs = [
        (name.lower().replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in headers.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return {"type": "http", "method": "GET", "path": "/", "client": client, "headers": pairs}


def value_of(source: Any, scope: Any) -> Any:
    async def value() -> Any:
        found = source(scope)
        return await found if inspect.isawaitable(found) else found

    return asyncio.run(value())


BOB = f"Bearer {token({'sub': 'bob', 'plan': 'pro', 'role': ['admin'], 'scope': 'a gold'})}"


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        ("ip", {}, "192.0.2.1"),
        (["ip"], {}, "ip:192.0.2.1"),
        ("all", {}, "all"),
        ("header:X-API-Key", {"X_API_Key": "abc"}, "header:x-api-key:abc"),
        ("header:X-API-Key", {"X_API_Key": " abc "}, "header:x-api-key:abc"),
        ("header:x-api-key", {"X_API_Key": ""}, "ip:192.0.2.1"),
        ("header:x-api-key", {"X_API_Key": "  "}, "ip:192.0.2.1"),
        ("header:x-api-key", {}, "ip:192.0.2.1"),
        ("header:x-api-key", {"X_API_Key": ["abc", "def"]}, "ip:192.0.2.1"),  # which is it?
        ("header:x-api-key", {"X_API_Key": "caf\xe9"}, "header:x-api-key:café"),
        ("cookie:sid", {"Cookie": "a=b; sid=x=1; c=d"}, "cookie:sid:x=1"),
        ("cookie:sid", {"Cookie": "sid=x; sid=y"}, "ip:192.0.2.1"),
        ("cookie:sid", {"Cookie": "xsid=x; sid="}, "ip:192.0.2.1"),
        ("jwt:sub", {"Authorization": BOB}, "jwt:sub:bob"),
        ("jwt:sub", {"Authorization": BOB + "x"}, "ip:192.0.2.1"),
        ("jwt:scope", {"Authorization": BOB}, "ip:192.0.2.1"),  # two values are no identity
        # the first one present
        (["header:X-API-Key", "jwt:sub", "ip"], {"X_API_Key": "k", "Authorization": BOB}, None),
        (["header:X-API-Key", "jwt:sub", "ip"], {"Authorization": BOB}, "jwt:sub:bob"),
        (["header:X-API-Key", "jwt:sub", "ip"], {}, "ip:192.0.2.1"),
        (["header:X-API-Key", "jwt:sub"], {}, "ip:192.0.2.1"),
        ([lambda scope: None, lambda scope: "mine", "ip"], {}, "mine"),
    ],
)
def test_keys(key: Any, headers: dict[str, Any], expected: str | None) -> None:
    source = Identities(jwt=HS).key(key)
    assert value_of(source, scope_of(**headers)) == (expected or "header:x-api-key:k")


def test_awaited_parts_of_a_chain() -> None:
    async def absent(scope: Any) -> None:
        return None

    async def user(scope: Any) -> str:
        return "user:1"

    identities = Identities()
    assert value_of(identities.key([absent, user]), scope_of()) == "user:1"
    assert value_of(identities.key([absent, absent, "ip"]), scope_of()) == "ip:192.0.2.1"
    assert value_of(identities.key([absent, "header:x"]), scope_of(x="1")) == "header:x:1"


def test_long_values_are_digested() -> None:
    key = value_of(Identities().key("header:x"), scope_of(x="k" * 129))
    assert key.startswith("header:x:sha256:")
    assert len(key) < 100
    assert value_of(Identities().key("header:x"), scope_of(x="k" * 128)) == "header:x:" + "k" * 128


def test_values_of_different_sources_do_not_meet() -> None:
    identities = Identities(jwt=HS)
    forged = value_of(identities.key(["header:x-name", "jwt:sub"]), scope_of(x_name="jwt:sub:bob"))
    assert forged == "header:x-name:jwt:sub:bob"


def test_users_of_starlette() -> None:
    from starlette.authentication import SimpleUser, UnauthenticatedUser

    source = Identities().key("user")
    for user, expected in (
        (SimpleUser("eve"), "user:eve"),
        (UnauthenticatedUser(), "ip:192.0.2.1"),
    ):
        assert value_of(source, scope_of() | {"user": user}) == expected

    class User(SimpleUser):
        @property
        def identity(self) -> str:
            return "7"

    assert value_of(source, scope_of() | {"user": User("eve")}) == "user:7"


def test_addresses_behind_proxies() -> None:
    identities = Identities(ClientAddress(["192.0.2.0/24"]))
    scope = scope_of(X_Forwarded_For=["6.6.6.6", "203.0.113.9, 192.0.2.4"])
    assert value_of(identities.key("ip"), scope) == "203.0.113.9"
    assert value_of(identities.key(["header:x", "ip"]), scope) == "ip:203.0.113.9"
    assert str(identities.client_address(scope)) == "203.0.113.9"


@pytest.mark.parametrize("client", [None, (), ("", 0), (None, 0)])
def test_without_an_address(client: Any) -> None:
    assert value_of(Identities().key("ip"), scope_of(client)) == "unknown"
    assert Identities().client_address(scope_of(client)) is None


@pytest.mark.parametrize(
    ("tier", "headers", "expected"),
    [
        ("header:X-Plan", {"X_Plan": "pro"}, ["pro"]),
        ("header:X-Plan", {}, None),
        ("jwt:plan", {"Authorization": BOB}, ["pro"]),
        ("jwt:scope", {"Authorization": BOB}, ["a", "gold"]),
        ("jwt:role", {"Authorization": BOB}, ["admin"]),
        ("jwt:none", {"Authorization": BOB}, None),
        ("jwt:plan", {"Authorization": "Bearer x"}, None),
        (lambda scope: "pro", {}, ["pro"]),
        (lambda scope: ("a", 5), {}, ["a", "5"]),
        (lambda scope: None, {}, None),
    ],
)
def test_tiers(tier: Any, headers: dict[str, Any], expected: Any) -> None:
    assert value_of(Identities(jwt=HS).tier(tier), scope_of(**headers)) == expected


async def admin_later(scope: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("bypass", "headers", "expected"),
    [
        ("ip:192.0.2.0/24", {}, True),
        ("ip:192.0.2.1", {}, True),
        (["ip:10.0.0.0/8", "ip:2001:db8::/32"], {}, False),
        ("header:X-Admin=s3cret", {"X_Admin": "s3cret"}, True),
        ("header:X-Admin=s3cret", {"X_Admin": "s3cre"}, False),
        ("header:X-Admin=a=b", {"X_Admin": "a=b"}, True),
        ("header:X-Admin=s3cret", {}, False),
        ("header:X-Admin=s3cret", {"X_Admin": ["s3cret", "s3cret"]}, False),
        ("jwt:role=admin", {"Authorization": BOB}, True),
        ("jwt:role=admin", {"Authorization": BOB + "x"}, False),
        ("jwt:sub=eve", {"Authorization": BOB}, False),
        (lambda scope: scope["path"] == "/", {}, True),
        ([lambda scope: "", lambda scope: 0], {}, False),
        ([lambda scope: False, admin_later], {}, True),
        ([admin_later, lambda scope: 1 / 0], {}, True),
    ],
)
def test_bypasses(bypass: Any, headers: dict[str, Any], expected: bool) -> None:
    assert value_of(Identities(jwt=HS).bypass(bypass), scope_of(**headers)) is expected


def test_no_bypass_by_the_address_of_a_proxy_whose_header_is_malformed() -> None:
    """The client breaks the line that the proxy appends to."""
    proxies = ClientAddress(["10.0.0.0/8"], header="forwarded")
    source = Identities(proxies).bypass("ip:10.0.0.0/8")
    peer = ("10.0.0.1", 1)
    assert value_of(source, scope_of(peer, Forwarded='for="x, for=203.0.113.7')) is False
    assert value_of(source, scope_of(peer, Forwarded="for=203.0.113.7")) is False
    assert value_of(source, scope_of(peer, Forwarded="for=10.0.0.7")) is True
    assert value_of(source, scope_of(peer)) is True  # the proxy itself


def test_a_secret_in_a_header_may_have_any_letters() -> None:
    source = Identities().bypass("header:X-Admin=geheimnis-ü")
    raw = {"type": "http", "path": "/", "headers": [(b"x-admin", "geheimnis-ü".encode())]}
    assert value_of(source, raw) is True


def test_bypass_by_address_is_not_fooled() -> None:
    source = Identities().bypass("ip:127.0.0.0/8")
    assert value_of(source, scope_of(X_Forwarded_For="127.0.0.1")) is False
    trusting = Identities(ClientAddress(["192.0.2.1"])).bypass("ip:127.0.0.0/8")
    assert value_of(trusting, scope_of(X_Forwarded_For="127.0.0.1, 203.0.113.5")) is False
    assert value_of(trusting, scope_of(X_Forwarded_For="127.0.0.1")) is True
    assert Identities().bypass(()) is None


@pytest.mark.parametrize(
    ("method", "spec", "error", "message"),
    [
        ("key", "name", ValueError, "key must be 'ip', 'all', 'user', 'header:NAME'"),
        ("key", "header:", ValueError, "got 'header:'"),
        ("key", "ip:1", ValueError, "got 'ip:1'"),
        ("key", "header:X Key", ValueError, "key: no header can have the name 'X Key'"),
        ("key", ["ip", "header:Schlüssel"], ValueError, "no header can have the name"),
        ("key", [], TypeError, r"or several of them, got \[\]"),
        ("key", 5, TypeError, "got 5"),
        ("key", ["ip", 5], TypeError, "got 5"),
        ("key", "jwt:sub", ValueError, r"'jwt:sub' needs jwt=Jwt\(\.\.\.\)"),
        ("tier", "plan", ValueError, "tier must be"),
        ("bypass", "admin", ValueError, "bypass must be 'ip:NETWORK'"),
        ("bypass", "ip:10.0.0.0/99", ValueError, "bypass: expected an address or a network"),
        ("bypass", "header:X-Admin", ValueError, "bypass must be"),
        ("bypass", "header:X-Admin=", ValueError, "bypass must be"),
        ("bypass", "header:X Admin=secret", ValueError, "bypass must be"),
        ("tier", "header:X:Plan", ValueError, "tier: no header can have the name 'X:Plan'"),
        ("bypass", [5], TypeError, "got 5"),
    ],
)
def test_bad_words(method: str, spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(Identities(), method)(spec)


def test_the_builders_of_a_gateway() -> None:
    assert pick_identity_key("p", "k", "u", "1.2.3.4") == "p:apikey:k"
    assert pick_identity_key("p", "", "u", "1.2.3.4") == "p:user:u"
    assert pick_identity_key("p", None, "", "::1") == "p:ip:__1"


def test_verifiers_do_not_believe_each_other() -> None:
    scope = scope_of(Authorization=BOB)
    other = Jwt(secret="another secret of at least 32 bytes!", algorithms=["HS256"])
    assert value_of(Identities(jwt=HS).bypass("jwt:role=admin"), scope) is True
    assert value_of(Identities(jwt=other).bypass("jwt:role=admin"), scope) is False
    assert value_of(Identities(jwt=other).key("jwt:sub"), scope) == "ip:192.0.2.1"


def test_one_verification_a_request() -> None:
    calls = 0

    class Counting(Jwt):
        def verify(self, token: str) -> Any:
            nonlocal calls
            calls += 1
            return super().verify(token)

    verifier = Counting(secret="s" * 32, algorithms=["HS256"])
    identities = Identities(jwt=verifier)
    scope = scope_of(Authorization=f"Bearer {token({'sub': 'bob'}, 's' * 32)}")
    value_of(identities.tier("jwt:plan"), scope)
    assert value_of(identities.key("jwt:sub"), scope) == "jwt:sub:bob"
    assert calls == 1
