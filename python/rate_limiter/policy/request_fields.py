"""Header fields and cookies of a request, read for keys: one value, one key.

A key is made of the value that the application gets, so the spellings that an application reads as
the same value have to give the same key. Otherwise a client has a new bucket for each spelling:

    sid="\\163ecret"             a quoted cookie (RFC 2109)     sid=secret
    bearer   secret              scheme and blanks              Bearer secret
    Basic YTpi!!                 characters outside base64      Basic YTpi
    eyJ...payload.signature!!    the same, in a signature       eyJ...payload.signature
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from typing import Any

AUTHORIZATION = b"authorization"

WEBSOCKET = "WEBSOCKET"
"""The method of a websocket, which has none of its own."""

_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")
# A JSON object in base64, something, a signature: a JSON Web Token (RFC 7515), or a session cookie
# of Flask (which may be compressed) or Starlette.
_SIGNED = re.compile(r"(\.?[\w+/=-]*\.[\w-]*\.)(.+)", re.ASCII)


def route_path(scope: Any) -> str:
    """Return the path by which an application finds a route: without what it is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if rest.startswith("/") else path if rest else "/"


def method_of(scope: Any) -> str:
    """Return the method of a request as rules name it.

    In capital letters, since some frameworks route ``post`` like ``POST``. Only a websocket is a
    ``WEBSOCKET``, not an HTTP request with a method of that name.
    """
    if scope.get("type") == "websocket":
        return WEBSOCKET
    method: str = (scope.get("method") or "").upper()
    return "" if method == WEBSOCKET else method


class Framework:
    """Read requests as the framework behind ASGI does, whichever that is.

    Frameworks differ in which value counts if a field is repeated. Here several values that differ
    count as none: counting the first would give a new bucket for each made-up first value to a
    client whose application reads the last.

    Attributes:
        routes_like_werkzeug: how routes are found, see RuleTable.both.
    """

    routes_like_werkzeug = False

    def header(self, scope: Any, name: bytes) -> str | None:
        """Return the value of a header, None if it is empty, missing or ambiguous."""
        return _only([header_value(name, value) for value in header_values(scope, name)])

    def cookie(self, scope: Any, name: str) -> str | None:
        """Return the value of a cookie, None if it is empty, missing or ambiguous."""
        lines = header_values(scope, b"cookie")
        return _only([value for line in lines for value in cookie_values(line, name)])


def header_values(scope: Any, name: bytes) -> list[str]:
    """Return the values of all lines of a header, as they came."""
    return [value.decode("latin-1") for header, value in scope.get("headers", ()) if header == name]


def header_value(name: bytes, value: str) -> str:
    """Return the value of a header in its one spelling; `name` is in lower case."""
    return credentials(value.strip()) if name == AUTHORIZATION else signed_value(value.strip())


def cookie_values(line: str, name: str) -> list[str]:
    """Return the values of a cookie in a ``Cookie`` header, as Starlette and Django read it."""
    if name not in line:
        return []
    pairs = [part.partition("=") for part in line.split(";")]
    return [
        signed_value(unquoted(value.strip()))
        for found, equals, value in pairs
        if equals and found.strip() == name
    ]


def unquoted(value: str) -> str:
    """Return what a quoted cookie value stands for; others stand for themselves.

    As ``http.cookies`` does it, which frameworks use, but in linear time on every Python.
    """
    if value[:1] != '"' or value[-1] != '"' or len(value) < 2:
        return value
    return _ESCAPED.sub(lambda found: found[2] or chr(int(found[1], 8)), value[1:-1])


def credentials(value: str) -> str:
    """Return the value of ``Authorization`` in its one spelling.

    The scheme is capitalised, as its case does not matter (RFC 9110, section 11.1), and followed by
    one blank.
    """
    parts = value.split(None, 1)
    if len(parts) < 2:
        return signed_value(value)
    scheme, rest = parts[0].capitalize(), parts[1]
    return f"{scheme} {_basic(rest) if scheme == 'Basic' else signed_value(rest)}"


def credentials_key(key: str) -> str:
    """Return a key that a rule names in the spelling in which requests have it."""
    label, colon, value = key.partition("header:authorization:")
    return key if label or not colon else colon + credentials(value)


def signed_value(value: str) -> str:
    """Return a signed token or session cookie in its one spelling, other values unchanged.

    What is signed has one spelling. The signature has many: decoders of base64 leave out
    characters that they do not know, and the last bits.
    """
    found = _SIGNED.fullmatch(value) if value.startswith(("eyJ", ".eJ")) else None
    if found is None:
        return value
    signature = found[2].encode("utf-8", "surrogatepass")
    try:
        decoded = urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))
    except binascii.Error:
        return value
    return found[1] + urlsafe_b64encode(decoded).rstrip(b"=").decode()


def _basic(value: str) -> str:
    """Return user and password, in base64; a value that cannot be decoded as it came."""
    try:
        return b64encode(b64decode(value)).decode()
    except ValueError:
        return value


def _only(values: list[str]) -> str | None:
    """Return the value that all of them have, None if there is none."""
    if not values or values.count(values[0]) != len(values):
        return None
    return values[0] or None
