"""Tokens: what is verified becomes an identity, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from rate_limiter.jwt import Jwt, claim_texts
from rate_limiter.policy.settling import run_now
from support.sources import Reading as Identities
from support.tokens import (
    EC,
    HS,
    OTHER,
    PRIVATE,
    PUBLIC,
    RSA,
    RSA_OTHER,
    SECRET,
    jwks_of,
    later,
    token,
)


def scope_of(*values: str, header: bytes = b"authorization") -> dict[str, Any]:
    return {
        "type": "http",
        "path": "/",
        "client": ("192.0.2.1", 1),
        "headers": [(header, value.encode("latin-1")) for value in values],
    }


def key_of(verifier: Jwt, *values: str) -> str:
    source = Identities(jwt=verifier).key(["jwt:sub", "ip"])

    async def found() -> Any:
        value = source(scope_of(*values))
        return await value if hasattr(value, "__await__") else value

    return str(asyncio.run(found()))


def test_a_valid_token() -> None:
    assert key_of(HS, f"Bearer {token({'sub': 'bob'})}") == "jwt:sub:bob"
    assert key_of(HS, f"bearer   {token({'sub': 'bob'})}") == "jwt:sub:bob"


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {token({'sub': 'bob'}, OTHER)}",  # another key
        f"Bearer {token({'sub': 'bob', 'exp': later(-1)})}",  # expired
        f"Bearer {token({'sub': 'bob', 'nbf': later()})}",  # not yet
        f"Bearer {pyjwt.encode({'sub': 'bob'}, SECRET, 'HS256')}",  # does not expire
        f"Bearer {token({'sub': 'bob'}, None, 'none')}",  # not signed
        f"Bearer {token({'sub': 'bob'}, SECRET * 2, 'HS512')}",  # another algorithm
        f"Bearer {token({'sub': 'bob'})[:-4]}",
        f"Bearer {token({'sub': 'bob'}).rpartition('.')[0]}.",
        f"Bearer {'.'.join(token({'sub': 'eve'}).split('.')[:2])}.{token({'sub': 'b'})[-43:]}",
        f"Basic {token({'sub': 'bob'})}",
        token({"sub": "bob"}),
        "Bearer",
        "Bearer ",
        "Bearer a.b.c",
        "Bearer " + pyjwt.utils.base64url_encode(b"[" * 5000).decode() + ".e30.x",
        "Bearer " + "é" * 40,
        "Bearer " + "a" * 10_000,
        "",
        f"Bearer {token({})}",  # no subject
        f"Bearer {token({'sub': ''})}",
    ],
    ids=lambda _: "value",  # tokens have the time in them
)
def test_what_is_not_valid_is_no_identity(value: str) -> None:
    assert key_of(HS, value) == "ip:192.0.2.1"


def test_two_tokens_are_none() -> None:
    one, two = (f"Bearer {token({'sub': name})}" for name in ("bob", "eve"))
    assert key_of(HS, one, two) == "ip:192.0.2.1"


def test_a_public_key_is_no_secret() -> None:
    """The key confusion of old libraries: HS256 with the text of the public key."""
    verifier = Jwt(public_key=PUBLIC, algorithms=["RS256"])
    assert key_of(verifier, f"Bearer {token({'sub': 'bob'}, RSA, 'RS256')}") == "jwt:sub:bob"
    head, body = (
        pyjwt.utils.base64url_encode(json.dumps(part).encode()).decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "eve", "exp": later()})
    )
    import hashlib
    import hmac

    mac = hmac.new(PUBLIC.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}.{pyjwt.utils.base64url_encode(mac).decode()}"
    assert key_of(verifier, f"Bearer {forged}") == "ip:192.0.2.1"
    assert key_of(verifier, f"Bearer {token({'sub': 'eve'}, RSA_OTHER, 'RS256')}") == (
        "ip:192.0.2.1"
    )


def test_audience_issuer_leeway_and_header() -> None:
    verifier = Jwt(
        secret=SECRET, algorithms=["HS256"], audience="api", issuer="us", header="X-Token"
    )

    def subject(**claims: Any) -> Any:
        scope = scope_of(f"Bearer {token({'sub': 'bob'} | claims)}", header=b"x-token")
        claims_found = verifier.claims_of(scope)
        assert "rate_limiter.claims" in scope
        return claims_found and claims_found["sub"]  # type: ignore[index]

    assert subject(aud="api", iss="us") == "bob"
    assert subject(aud=["x", "api"], iss="us") == "bob"
    assert subject(aud="web", iss="us") is None
    assert subject(aud="api", iss="them") is None
    assert subject(iss="us") is None
    late = Jwt(secret=SECRET, algorithms=["HS256"], leeway_s=30)
    assert key_of(late, f"Bearer {token({'sub': 'bob', 'exp': later(-5)})}") == "jwt:sub:bob"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithms": ["HS256"]}, TypeError, "give one of secret, public_key and jwks"),
        ({"secret": SECRET, "jwks": "x", "algorithms": ["HS256"]}, TypeError, "give one of"),
        ({"secret": SECRET, "algorithms": []}, ValueError, "must name at least one"),
        ({"secret": SECRET, "algorithms": "HS256"}, TypeError, r"such as \['HS256'\]"),
        ({"secret": SECRET, "algorithms": ["none"]}, ValueError, "'none' is none for a secret"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, ValueError, "'RS256' is none for a secret"),
        (
            {"public_key": PUBLIC, "algorithms": ["HS256"]},
            ValueError,
            "none for a public key",
        ),
        ({"secret": "short", "algorithms": ["HS256"]}, ValueError, "at least 32 bytes, got 5"),
        ({"secret": SECRET, "algorithms": ["HS512"]}, ValueError, "at least 64 bytes"),
        ({"public_key": "x", "algorithms": ["RS256"]}, ValueError, "public_key does not fit RS256"),
        ({"public_key": PUBLIC, "algorithms": ["ES256"]}, ValueError, "does not fit ES256"),
        ({"public_key": PRIVATE, "algorithms": ["RS256"]}, ValueError, "is a private key"),
        ({"jwks": "http://example.com/keys", "algorithms": ["RS256"]}, ValueError, "URL of https"),
        ({"jwks": "/no/such/file", "algorithms": ["RS256"]}, OSError, "/no/such/file"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Jwt(**arguments)


def test_claims() -> None:
    claims = {"sub": "bob", "scope": "read write", "roles": ["a", 5, None, True], "n": 7, "b": True}
    assert claim_texts(claims, "scope") == ["read", "write"]
    assert claim_texts(claims, "roles") == ["a", "5"]
    assert claim_texts(claims, "n") == ["7"]
    assert claim_texts(claims, "b") == claim_texts(claims, "none") == claim_texts(None, "sub") == []
    nested = {"realm_access": {"roles": ["gold"]}, "https://x.y/plan": "pro", "a": "b"}
    assert claim_texts(nested, "realm_access.roles") == ["gold"]
    assert claim_texts(nested, "https://x.y/plan") == ["pro"]
    assert claim_texts(nested, "a.b.c") == []


# --- Key sets ---


def test_a_key_set_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(jwks_of(one=RSA, two=EC)))
    verifier = Jwt(jwks=path, algorithms=["RS256", "ES256"], retry_s=0)
    assert key_of(verifier, f"Bearer {token({'sub': 'r'}, RSA, 'RS256', kid='one')}") == "jwt:sub:r"
    assert key_of(verifier, f"Bearer {token({'sub': 'e'}, EC, 'ES256', kid='two')}") == "jwt:sub:e"
    for wrong in (
        token({"sub": "x"}, RSA, "RS256", kid="two"),
        token({"sub": "x"}, RSA_OTHER, "RS256", kid="one"),
        token({"sub": "x"}, RSA, "RS256", kid="three"),
        token({"sub": "x"}, RSA, "RS256"),
    ):
        assert key_of(verifier, f"Bearer {wrong}") == "ip:192.0.2.1"
    path.write_text(json.dumps(jwks_of(three=RSA)))  # rotated: an unknown name reads it again
    rotated = f"Bearer {token({'sub': 'r'}, RSA, 'RS256', kid='three')}"
    assert key_of(verifier, rotated) == "jwt:sub:r"


@pytest.mark.parametrize("text", ["{", "[]", '{"keys": []}', '{"keys": [{"kty": "x"}]}'])
def test_a_file_that_is_no_key_set(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"jwks: {path}: "):
        Jwt(jwks=path, algorithms=["RS256"])


def test_a_symmetric_key_in_a_key_set_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    secret = pyjwt.utils.base64url_encode(SECRET.encode()).decode()
    path.write_text(json.dumps({"keys": [{"kty": "oct", "k": secret, "kid": "s"}]}))
    verifier = Jwt(jwks=path, algorithms=["RS256"])
    assert key_of(verifier, f"Bearer {token({'sub': 'x'}, kid='s')}") == "ip:192.0.2.1"


class Keys(BaseHTTPRequestHandler):
    answers: list[tuple[int, bytes]] = []  # noqa: RUF012
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        status, body = self.answers[-1]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/other")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Keys.asked = 0
    with HTTPServer(("127.0.0.1", 0), Keys) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/keys"
        http.shutdown()
        thread.join()


def test_a_key_set_url(server: str) -> None:
    Keys.answers = [(200, json.dumps(jwks_of(one=RSA)).encode())]
    verifier = Jwt(jwks=server, algorithms=["RS256"])
    bearer = f"Bearer {token({'sub': 'r'}, RSA, 'RS256', kid='one')}"
    assert Keys.asked == 0  # not before it is needed
    assert [key_of(verifier, bearer) for _ in range(3)] == ["jwt:sub:r"] * 3
    assert Keys.asked == 1
    # Names that are made up do not make us ask each time.
    for i in range(20):
        key_of(verifier, f"Bearer {token({'sub': 'x'}, RSA, 'RS256', kid=str(i))}")
    assert Keys.asked <= 2


@pytest.mark.parametrize(
    "answer", [(500, b""), (200, b"{"), (200, b"[]"), (200, b" " * 2_000_000), (302, b"")]
)
def test_a_key_set_that_cannot_be_had(
    server: str, answer: tuple[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    Keys.answers = [answer]
    verifier = Jwt(jwks=server, algorithms=["RS256"], retry_s=0)
    bearer = f"Bearer {token({'sub': 'r'}, RSA, 'RS256', kid='one')}"
    with caplog.at_level(logging.ERROR, "rate_limiter"):
        assert [key_of(verifier, bearer) for _ in range(3)] == ["ip:192.0.2.1"] * 3
    assert [record.message.startswith("the key set") for record in caplog.records] == [True]
    Keys.answers = [(200, json.dumps(jwks_of(one=RSA)).encode())]
    assert key_of(verifier, bearer) == "jwt:sub:r"


class SlowKeys(Keys):
    """It answers when a test lets it."""

    asked = 0
    go_on = threading.Event()

    def do_GET(self) -> None:
        if type(self).asked:
            assert self.go_on.wait(60)
        super().do_GET()


def bearer_of(kid: str, key: Any = RSA) -> dict[str, Any]:
    return scope_of(f"Bearer {token({'sub': 'r'}, key, 'RS256', kid=kid)}")


@pytest.fixture
def slow_server() -> Iterator[str]:
    SlowKeys.asked = 0
    SlowKeys.go_on.clear()
    SlowKeys.answers = [(200, json.dumps(jwks_of(one=RSA)).encode())]
    with HTTPServer(("127.0.0.1", 0), SlowKeys) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/keys"
        SlowKeys.go_on.set()
        http.shutdown()
        thread.join()


def test_known_keys_are_used_while_the_set_is_read_again(slow_server: str) -> None:
    """Nothing waits on the event loop, nor in a thread that verifies."""
    verifier = Jwt(jwks=slow_server, algorithms=["RS256"], refresh_s=1e-9, retry_s=0, timeout_s=50)
    assert verifier.verify(token({"sub": "r"}, RSA, "RS256", kid="one")) is not None
    for _ in range(5):
        assert verifier.claims_of(bearer_of("one")) is not None  # and not awaitable
        assert verifier.claims_of(bearer_of("one"), blocking=True) is not None
    until(lambda: not verifier._keys or verifier._keys._readings)
    SlowKeys.answers = [(200, json.dumps(jwks_of(two=RSA)).encode())]
    SlowKeys.go_on.set()
    until(lambda: verifier.claims_of(bearer_of("one"), blocking=True) is None)  # it was revoked


def until(done: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_tasks_wait_together_for_an_unknown_key(slow_server: str) -> None:
    """One thread reads the set for all of them; a cancelled task does not end it."""
    verifier = Jwt(jwks=slow_server, algorithms=["RS256"], retry_s=0, timeout_s=50)
    assert verifier.verify(token({"sub": "r"}, RSA, "RS256", kid="one")) is not None
    SlowKeys.answers = [(200, json.dumps(jwks_of(one=RSA, two=RSA_OTHER)).encode())]

    async def claims() -> Any:
        found = verifier.claims_of(bearer_of("two", RSA_OTHER))
        return await found if hasattr(found, "__await__") else found

    async def all_claims() -> list[Any]:
        cancelled, *tasks = (asyncio.ensure_future(claims()) for _ in range(100))
        await asyncio.sleep(0.05)
        threads = [one.name for one in threading.enumerate()]
        assert threads.count("rate_limiter keys") == 1
        assert not any(name.startswith("asyncio") for name in threads)
        cancelled.cancel()
        assert verifier.claims_of(bearer_of("one")) is not None
        SlowKeys.go_on.set()
        return await asyncio.gather(*tasks)

    assert [one and one["sub"] for one in asyncio.run(all_claims())] == ["r"] * 99
    assert SlowKeys.asked == 2


def test_a_set_that_is_never_sent(slow_server: str) -> None:
    verifier = Jwt(jwks=slow_server, algorithms=["RS256"], retry_s=0, timeout_s=0.1)
    assert verifier.verify(token({"sub": "r"}, RSA, "RS256", kid="one")) is not None
    assert key_of(verifier, f"Bearer {token({'sub': 'r'}, RSA, 'RS256', kid='two')}") == (
        "ip:192.0.2.1"
    )
    assert verifier._keys is not None
    assert verifier._keys.wait_s() == 0  # those that come later do not wait for it


def test_fetching_needs_an_event_loop_or_a_thread(server: str) -> None:
    Keys.answers = [(200, json.dumps(jwks_of(one=RSA)).encode())]
    verifier = Jwt(jwks=server, algorithms=["RS256"])
    claims = verifier.verify(token({"sub": "r"}, RSA, "RS256", kid="one"))
    assert claims is not None
    assert claims["sub"] == "r"
    assert run_now(_value(7)) == 7


async def _value(value: int) -> int:
    return value
