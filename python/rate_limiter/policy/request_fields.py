"""Header fields and cookies of a request, normalised for keys: one value, one key.

Spellings that an application reads as the same value must give the same key. Otherwise a client
gets a new bucket for each spelling:

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

from rate_limiter.checks.members import header_pairs

AUTHORIZATION = b"authorization"
_SCOPE = "rate_limiter.scope"
"""The key of a request's ASGI scope in its WSGI environ."""

WEBSOCKET = "WEBSOCKET"
"""The method of websockets in rules; a websocket has no HTTP method."""

_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")
# A JSON object in base64, another part, a signature: a JSON Web Token (RFC 7515), or a session
# cookie of Flask (which may be compressed) or Starlette.
_SIGNED = re.compile(r"(\.?[\w+/=-]*\.[\w-]*\.)(.+)", re.ASCII)


def route_path(scope: Any) -> str:
    """Return the path that an application routes by: without the path it is mounted at."""
    path = _text(scope.get("path"))
    root = _text(scope.get("root_path"))
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if rest.startswith("/") else path if rest else "/"


def method_of(scope: Any) -> str:
    """Return the method of a request as rules name it.

    In upper case, since some frameworks route ``post`` like ``POST``. An HTTP request with the
    method ``WEBSOCKET`` does not count as a websocket.
    """
    if scope.get("type") == "websocket":
        return WEBSOCKET
    method = _text(scope.get("method")).upper()
    return "" if method == WEBSOCKET else method


class Framework:
    """Read requests in a way that is safe for any framework behind ASGI.

    Frameworks differ in which value they use if a field is repeated. Here repeated values that
    differ count as missing. If the first one counted, a client of an application that reads the
    last one would get a new bucket for each invented first value.

    The engine reads plain values itself. It calls these methods for unusual ones.

    Attributes:
        is_wsgi: requests are WSGI environs, not ASGI scopes.
        routes_like_werkzeug: how routes are found, see RuleTable.both.
    """

    is_wsgi = False
    routes_like_werkzeug = False

    def scope(self, request: Any) -> Any:
        """Return the ASGI scope of a request."""
        return request

    def answers(self, error: Exception) -> bool:
        """Return whether the framework turns an error of a user's function into a response."""
        return False

    def headers(self, request: Any, name: bytes) -> list[str]:
        """Return the unchanged values of all lines of a header."""
        return header_values(request, name)

    def header(self, request: Any, name: bytes) -> str | None:
        """Return the value of a header, None if it is empty, missing or ambiguous."""
        return _only([header_value(name, value) for value in self.headers(request, name)])

    def cookie(self, request: Any, name: str) -> str | None:
        """Return the value of a cookie, None if it is empty, missing or ambiguous."""
        lines = self.headers(request, b"cookie")
        return _only([value for line in lines for value in cookie_values(line, name)])


class WsgiFramework(Framework):
    """The same behind WSGI, where a server joins repeated headers with commas."""

    is_wsgi = True

    def scope(self, request: Any) -> Any:
        scope = request.get(_SCOPE)  # kept, since verified tokens are kept in it
        if scope is None:
            scope = request[_SCOPE] = scope_of_environ(request)
        return scope

    def headers(self, request: Any, name: bytes) -> list[str]:
        variable = name.decode("latin-1").upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = "HTTP_" + variable
        value = request.get(variable)
        return [value] if isinstance(value, str) else []


def environ_path(environ: Any) -> str:
    """Return the path of a WSGI environ, decoded (PEP 3333)."""
    path = _text(environ.get("PATH_INFO"))
    if path.isascii():
        return path
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def scope_of_environ(environ: Any) -> dict[str, Any]:
    """Return a WSGI environ as an ASGI scope with the members that describe the request."""
    address = environ.get("REMOTE_ADDR")
    fields = [
        (variable.removeprefix("HTTP_"), value)
        for variable, value in environ.items()
        if (variable.startswith("HTTP_") or variable in ("CONTENT_TYPE", "CONTENT_LENGTH"))
        and isinstance(value, str)
    ]
    return {
        "type": "http",
        "method": _text(environ.get("REQUEST_METHOD")),
        "path": environ_path(environ),
        "query_string": _text(environ.get("QUERY_STRING")).encode("latin-1", "replace"),
        "headers": [
            (
                name.lower().replace("_", "-").encode("latin-1", "replace"),
                value.encode("latin-1", "replace"),
            )
            for name, value in fields
        ],
        "client": (address, 0) if address and isinstance(address, str) else None,
    }


def _text(member: object) -> str:
    """Return a member of a request; one that is no text counts as missing."""
    return member if isinstance(member, str) else ""


def header_values(scope: Any, name: bytes) -> list[str]:
    """Return the unchanged values of all lines of a header."""
    return [value.decode("latin-1") for header, value in header_pairs(scope) if header == name]


def header_value(name: bytes, value: str) -> str:
    """Return the normalised value of a header; `name` is in lower case."""
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
    """Return a cookie value without quotes and escapes; other values unchanged.

    Like ``http.cookies``, which frameworks use, but in linear time on every Python.
    """
    if value[:1] != '"' or value[-1] != '"' or len(value) < 2:
        return value
    return _ESCAPED.sub(lambda found: found[2] or chr(int(found[1], 8)), value[1:-1])


def credentials(value: str) -> str:
    """Return the normalised value of ``Authorization``.

    The scheme is capitalised, as its case does not matter (RFC 9110, section 11.1), and followed by
    one space.
    """
    parts = value.split(None, 1)
    if len(parts) < 2:
        return signed_value(value)
    scheme, rest = parts[0].capitalize(), parts[1]
    return f"{scheme} {_basic(rest) if scheme == 'Basic' else signed_value(rest)}"


def credentials_key(key: str) -> str:
    """Return the key of a rule, normalised like the keys of requests."""
    label, colon, value = key.partition("header:authorization:")
    return key if label or not colon else colon + credentials(value)


def signed_value(value: str) -> str:
    """Return a signed token or session cookie with a normalised signature, else the value.

    The signed part has only one valid spelling. The signature has many: base64 decoders ignore
    unknown characters and the last bits.
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
    """Return user and password in canonical base64; an invalid value unchanged."""
    try:
        return b64encode(b64decode(value)).decode()
    except ValueError:
        return value


def _only(values: list[str]) -> str | None:
    """Return the value that all items share; None if they differ or are empty."""
    if not values or values.count(values[0]) != len(values):
        return None
    return values[0] or None
