"""Ways round a limit: keys in spellings that the framework reads as the same value.

A test first shows that the framework reads the spellings alike, then that they are one client, on
every front on which they can come.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from http import cookies
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)
from flask import Flask, session
from hypothesis import example, given
from hypothesis import strategies as st
from rate_limiter import ManualClock
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.request_fields import signed_value, unquoted
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.fronts import (
    PEER,
    Headers,
    ask_asgi,
    ask_flask,
    every_front,
    on_asgi,
    on_fastapi,
    on_flask,
    on_rules,
)
from support.redis_servers import RedisServer
from support.tokens import token


def is_one_client(ask: Any, read: str, requests: Iterable[Headers]) -> bool:
    """Ask from a new address each time; return whether all but the first were denied."""
    answers = [ask(*headers, peer=f"198.51.100.{i}") for i, headers in enumerate(requests)]
    assert answers[0] == (200, read)
    return [status for status, _ in answers[1:]] == [429] * (len(answers) - 1)


def read_alike(front: Any, read: Callable[[Any], str], requests: Iterable[Headers]) -> set[str]:
    """Return what the application of a front reads in each of some requests."""
    ask = front("1000/hour", read)
    return {ask(*headers)[1] for headers in requests}


# --- Cookies ---

QUOTED = [
    "sid=abc",
    'sid="abc"',
    'sid="\\141bc"',
    'sid="\\141\\142\\143"',
    'sid="a\\bc"',
    '  sid = "\\a\\b\\c"  ',
    'other=";"; sid="abc"',
    "a=b; sid=abc; c=d",
]


def sid(request: Any) -> str:
    return str(request.cookies.get("sid"))


@every_front
def test_a_cookie_in_many_spellings_is_one_client(front: Any) -> None:
    requests = [[("Cookie", line)] for line in QUOTED]
    assert read_alike(front, sid, requests) == {"abc"}
    assert is_one_client(front("1/hour", sid, key="cookie:sid"), "abc", requests)


@every_front
def test_other_cookies_are_other_clients(front: Any) -> None:
    ask = front("1/hour", sid, key="cookie:sid")
    lines = ["sid=abc", "sid=abd", 'sid="a;bc"', 'sid="ab', "sid=eyJh.eyJi.x"]
    assert [ask(("Cookie", line))[0] for line in lines] == [200, 200, 200, 200, 200]
    assert [ask(("Cookie", line))[0] for line in lines] == [429] * 5


@every_front
def test_a_cookie_with_an_empty_value_is_none(front: Any) -> None:
    ask = front("1/hour", sid, key="cookie:sid")
    lines = ["sid=", 'sid=""', "sid", "xsid=abc"]
    assert [ask(("Cookie", line))[0] for line in lines] == [200, 429, 429, 429]  # the address


@pytest.mark.parametrize(
    ("front", "read"), [(on_fastapi, "last"), (on_flask, "first")], ids=["fastapi", "flask"]
)
def test_of_two_cookies_the_one_that_the_framework_reads_counts(front: Any, read: str) -> None:
    order = (1, -1) if read == "last" else (-1, 1)
    requests = [
        [("Cookie", "; ".join([f"sid=made-up-{i}", "sid=abc"][:: order[0]]))] for i in range(4)
    ]
    assert read_alike(front, sid, requests) == {"abc"}
    assert is_one_client(front("1/hour", sid, key="cookie:sid"), "abc", requests)


@pytest.mark.parametrize("front", [on_asgi, on_rules])
def test_of_two_cookies_none_counts_where_the_framework_is_not_known(front: Any) -> None:
    ask = front("1/hour", sid, key="cookie:sid")
    lines = [f"sid=made-up-{i}; sid=abc" for i in range(3)]
    assert [ask(("Cookie", line))[0] for line in lines] == [200, 429, 429]  # the address
    assert [ask(("Cookie", line))[0] for line in ("sid=abc; sid=abc", "sid=abc")] == [200, 429]
    assert ask(("Cookie", "sid=abc"), ("Cookie", 'sid="abc"'))[0] == 429


@given(st.text(alphabet='abc\\"01237;é\t ', max_size=12))
@example('"\\377\\400\\\\1"')
def test_unquoting_is_that_of_the_standard_library(value: str) -> None:
    assert unquoted(value) == cookies._unquote(value)  # type: ignore[attr-defined]


# --- Signed values ---


def spellings(value: str) -> list[str]:
    """Return a signed value and others that decoders of base64 read as the same."""
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    loose = value[:-1] + last[last.index(value[-1]) ^ 1]
    junk = value[:-3] + "!*" + value[-3:]
    return [value, value + "==", junk, loose]


def flask_session(app: Flask, user: str) -> str:
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    value: str = serializer.dumps({"user": user})
    return value


@pytest.mark.parametrize("user", ["ann", "ann" * 40], ids=["plain", "compressed"])
def test_a_session_of_flask_in_many_spellings_is_one_client(user: str) -> None:
    app = Flask("bypasses")
    app.secret_key = "secret"
    app.get("/")(lambda: session.get("user", ""))
    FlaskRateLimiter(app, default_limits="4/hour", key="cookie:session", clock=ManualClock())
    values = spellings(flask_session(app, user))
    answers = [ask_flask(app, [("Cookie", f"session={value}")]) for value in values]
    assert answers == [(200, user)] * 4
    assert [ask_flask(app, [("Cookie", f"session={value}")])[0] for value in values] == [429] * 4


def test_a_session_of_starlette_in_many_spellings_is_one_client() -> None:
    def login(request: Any) -> PlainTextResponse:
        request.session["user"] = "ann"
        return PlainTextResponse("")

    def user(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.session.get("user", ""))

    app: Any = SessionMiddleware(
        Starlette(routes=[Route("/", user), Route("/login", login)]), secret_key="secret"
    )
    with_cookie: list[Any] = []

    async def send(message: Any) -> None:
        with_cookie.extend(message.get("headers", ()))

    scope = {"type": "http", "method": "GET", "path": "/login", "headers": []}
    asyncio.run(app(scope, None, send))
    value = dict(with_cookie)[b"set-cookie"].decode().partition("=")[2].partition(";")[0]
    app = RateLimitMiddleware(app, limits="4/hour", key="cookie:session", clock=ManualClock())
    requests = [[("Cookie", f"session={one}")] for one in spellings(value)]
    assert [ask_asgi(app, headers) for headers in requests] == [(200, "ann")] * 4
    assert [ask_asgi(app, headers)[0] for headers in requests] == [429] * 4


@every_front
def test_a_token_in_many_spellings_is_one_client(front: Any) -> None:
    """Decoders of base64 read them alike, and with them older versions of PyJWT."""
    values = spellings(token({"sub": "ann"}))
    signatures = {value.rpartition(".")[2].rstrip("=") + "==" for value in values}
    assert len({base64.urlsafe_b64decode(one) for one in signatures}) == 1
    for name, scheme in (("Authorization", "Bearer "), ("Authorization", ""), ("X-Token", "")):
        ask = front("4/hour", lambda request: "", key=f"header:{name}")
        assert [ask((name, scheme + value))[0] for value in values] == [200] * 4
        assert [ask((name, scheme + value))[0] for value in values] == [429] * 4


@given(st.text(alphabet="eyJ.abc=!-_é\n", max_size=20).map("eyJ.".__add__))
def test_one_spelling_has_itself_as_its_only_spelling(value: str) -> None:
    assert signed_value(signed_value(value)) == signed_value(value)


# --- Authorization ---

BEARER = ["Bearer abc", "bearer abc", "BEARER abc", "Bearer   abc", "Bearer \t abc", "bEARER abc "]
BASIC = base64.b64encode(b"ann:pw").decode()  # YW5uOnB3
BASICS = [
    f"Basic {BASIC}",
    f"basic {BASIC}",
    f"Basic  {BASIC[:4]}!!{BASIC[4:]}",
    f"BASIC {BASIC}==",
]


def test_fastapi_reads_these_alike() -> None:
    app = FastAPI()
    bearer_token, basic_credentials = Depends(HTTPBearer()), Depends(HTTPBasic())

    @app.get("/bearer")
    def bearer(found: HTTPAuthorizationCredentials = bearer_token) -> str:
        return str(found.credentials)

    @app.get("/basic")
    def basic(found: HTTPBasicCredentials = basic_credentials) -> str:
        return str(found.username)

    for path, values, read in (("/bearer", BEARER, '"abc"'), ("/basic", BASICS, '"ann"')):
        answers = {ask_asgi(app, [("Authorization", value)], path=path) for value in values}
        assert answers == {(200, read)}


def test_flask_reads_these_alike() -> None:
    def read(request: Any) -> str:
        found = request.authorization
        return "nothing" if found is None else found.token or found.username

    assert read_alike(on_flask, read, [[("Authorization", value)] for value in BEARER]) == {"abc"}
    strict = [value for value in BASICS if "!" not in value]
    basics = read_alike(on_flask, read, [[("Authorization", value)] for value in strict])
    assert basics - {"nothing"} == {"ann"}  # newer Pythons decode fewer spellings


@every_front
@pytest.mark.parametrize("values", [BEARER, BASICS], ids=["bearer", "basic"])
def test_credentials_in_many_spellings_are_one_client(front: Any, values: list[str]) -> None:
    ask = front("1/hour", lambda request: "", key="header:Authorization")
    assert is_one_client(ask, "", [[("Authorization", value)] for value in values])


@every_front
def test_other_credentials_are_other_clients(front: Any) -> None:
    ask = front("1/hour", lambda request: "", key="header:Authorization")
    values = ["Bearer abc", "Bearer Abc", "Basic abc", "Token abc", "abc", "Abc", "Basic YW5uOnB4"]
    for expected in (200, 429):
        assert [ask(("Authorization", value))[0] for value in values] == [expected] * len(values)


@pytest.mark.parametrize("named", ["Bearer abc", "bearer  abc"])
def test_a_rule_names_credentials_in_any_spelling(named: str) -> None:
    rules = {
        "default": {"limits": "1000/hour"},
        "partner": {"keys": [f"header:authorization:{named}"], "limits": "6/hour"},
    }
    arguments: dict[str, Any] = {"key": "header:Authorization", "clock": ManualClock()}
    app = RateLimitMiddleware(PlainTextResponse(""), rules=rules, **arguments)
    for status in (200, 429):
        answers = [ask_asgi(app, [("Authorization", value)])[0] for value in BEARER]
        assert answers == [status] * 6


def test_a_secret_that_lifts_limits_has_one_spelling() -> None:
    bypass = "header:Authorization=Bearer s3cret"
    ask = on_asgi("1/hour", lambda request: "", bypass=bypass)
    assert [ask(("Authorization", "Bearer s3cret"))[0] for _ in range(3)] == [200] * 3
    assert [ask(("Authorization", "bearer s3cret"))[0] for _ in range(2)] == [200, 429]
    twice = [("Authorization", "Bearer s3cret")] * 2
    assert ask(*twice)[0] == 429


# --- Repeated headers ---


def test_of_two_headers_fastapi_reads_the_first() -> None:
    def read(request: Any) -> str:
        return str(request.headers["X-API-Key"])

    requests = [[("X-API-Key", "abc"), ("X-API-Key", f"made-up-{i}")] for i in range(4)]
    assert read_alike(on_fastapi, read, requests) == {"abc"}
    ask = on_fastapi("1/hour", read, key="header:X-API-Key")
    assert is_one_client(ask, "abc", requests)


def test_of_two_headers_flask_reads_both() -> None:
    """So a valid key repeated with another one is a key that the application rejects."""

    def read(request: Any) -> str:
        return str(request.headers["X-API-Key"])

    requests = [[("X-API-Key", "abc"), ("X-API-Key", f"made-up-{i}")] for i in range(2)]
    assert read_alike(on_flask, read, requests) == {"abc, made-up-0", "abc, made-up-1"}


@pytest.mark.parametrize("front", [on_asgi, on_rules])
def test_of_two_headers_none_counts_where_the_framework_is_not_known(front: Any) -> None:
    """Some applications read the first, others the last, as `dict(scope["headers"])` does."""
    ask = front("1/hour", lambda request: "", key="header:X-API-Key")
    for order in (1, -1):
        for i in range(3):
            headers = [("X-API-Key", "abc"), ("X-API-Key", f"made-up-{i}")][::order]
            assert ask(*headers)[0] == (200 if (i, order) == (0, 1) else 429)  # the address
    assert ask(("X-API-Key", "abc"), ("X-API-Key", " abc "))[0] == 200
    assert ask(("X-API-Key", "abc"))[0] == 429


# --- A key callable that returns None ---


def nothing(*_: Any) -> None:
    return None


async def nothing_later(*_: Any) -> None:
    await asyncio.sleep(0)


@every_front
@pytest.mark.parametrize("key", [nothing, nothing_later, [nothing], [nothing_later, "cookie:x"]])
def test_without_a_key_the_client_behind_a_proxy_counts(front: Any, key: Any) -> None:
    if front is on_flask and nothing_later in (key if isinstance(key, list) else [key]):
        key = nothing  # Flask has no awaited keys
    if front is on_flask:
        key = [lambda: None] if isinstance(key, list) else lambda: None
    ask = front("1/hour", lambda request: "", key=key, trusted_proxies=["192.0.2.1"])
    clients = [("X-Forwarded-For", f"203.0.113.{i}") for i in range(3)]
    assert [ask(client)[0] for client in clients] == [200] * 3
    assert [ask(client)[0] for client in clients] == [429] * 3
    outsider = [ask(client, peer="198.51.100.7")[0] for client in clients]
    assert outsider == [200, 429, 429]


@every_front
def test_without_a_key_an_ipv6_network_of_any_size_counts(front: Any) -> None:
    key = (lambda: None) if front is on_flask else nothing
    ask = front("1/hour", lambda request: "", key=key, ipv6_prefix=48)
    assert ask(peer="2001:db8:0:1::1")[0] == 200
    assert ask(peer="2001:db8:0:2::1")[0] == 429
    assert ask(peer="2001:db8:1::1")[0] == 200


@pytest.mark.parametrize("key", [nothing, nothing_later])
def test_without_a_key_in_redis(key: Any, server: RedisServer) -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(""))])
    arguments: dict[str, Any] = {"store": server.url, "on_store_error": "raise"}

    async def statuses() -> list[int]:
        found = []

        async def send(message: Any) -> None:
            found.extend([message["status"]] if "status" in message else [])

        gate = RateLimitMiddleware(
            app, limits="1/hour", key=key, trusted_proxies=[PEER], **arguments
        )
        for i in (1, 2, 1):
            headers = [(b"x-forwarded-for", b"203.0.113.%d" % i)]
            scope = {"type": "http", "method": "GET", "path": "/", "client": (PEER, 1)}
            await gate(scope | {"headers": headers}, None, send)
        return found

    assert asyncio.run(statuses()) == [200, 200, 429]
