"""Who may use the live page: its token, its sessions, and where requests may come from.

A program sends the token in each request: ``Authorization: Bearer TOKEN``. A browser sends it once,
in the form of the login page, and gets a cookie with a session: the time at which it ends, signed
with a key made from the token. All processes accept it, and another token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rate_limiter._core import client_key
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit
from rate_limiter.limiting.limiter import RateLimiter

TOKEN_MIN = 16
SESSION_S = 12 * 3600
COOKIE = "rate_limiter_live"
FAILURES = Limit.parse("10/minute")
"""Wrong tokens that a client may send: ten at once, then one every six seconds."""

_FAILING_CLIENTS = 10_000
_COOKIES_MAX = 5  # of this name, which other paths may set


class Client(Protocol):
    """What finds the client of a request: a ClientAddress."""

    header: str

    def key(self, peer: str | None, values: Iterable[str | bytes] = ()) -> str: ...


@dataclass(frozen=True)
class PageRequest:
    """A request for the live page.

    Attributes:
        path: below the path of the page; it begins with a slash, or is empty.
        root: the path of the page, without a slash at the end.
        headers: all values of each header, by its name in lower case.
        peer: the address at the other end of the connection, None where it has none.
        is_secure: it came over TLS.
    """

    method: str
    path: str
    query: str = ""
    root: str = ""
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    peer: str | None = None
    is_secure: bool = False

    def header(self, name: str) -> str | None:
        """Return the value of a header; None if it is missing or sent several times."""
        values = self.headers.get(name, [])
        return values[0] if len(values) == 1 else None


class Denied(Exception):
    """A request is refused.

    Attributes:
        status: 401, 403, 429 or 503.
        retry_after_s: seconds to wait, with 429 and 503.
    """

    def __init__(self, status: int, detail: str, retry_after_s: float = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s


class Access:
    """Check requests for the live page.

    Args:
        token: at least 16 printable ASCII characters without spaces.
        client: finds the clients whose wrong tokens are counted; the peer by default.

    Raises:
        TypeError, ValueError: an argument is invalid. The message does not contain the token.
    """

    def __init__(self, token: str, client: Client | None = None) -> None:
        self._digest = _digest(checked_token(token))
        self._key = hmac.digest(token.encode(), b"session of the live page", "sha256")
        if client is not None and not callable(getattr(client, "key", None)):
            raise TypeError(f"client must be a ClientAddress, got {shown(client)}")
        self._client = client
        self._failures = RateLimiter.in_memory(FAILURES, _FAILING_CLIENTS, "monotonic")

    def check(self, request: PageRequest) -> None:
        """Return if a request has the token or a session.

        Raises:
            Denied: it has neither, or comes from another site.
        """
        check_origin(request)
        if "authorization" in request.headers:
            scheme, _, token = (request.header("authorization") or "").partition(" ")
            self.check_token(request, token.strip() if scheme.lower() == "bearer" else "")
        elif not self.has_session(request):
            raise Denied(401, "a token is needed")
        elif request.method == "POST" and not _has_origin(request):
            raise Denied(403, "the browser does not say which site the request comes from")

    def check_token(self, request: PageRequest, token: str) -> None:
        """Return if a token is right. Wrong ones are counted, and limited.

        Raises:
            Denied: it is wrong, or the client has sent too many wrong ones.
        """
        who = self._client_of(request)
        decision = self._failures.peek(who)
        if not decision.allowed:
            raise Denied(429, "too many wrong tokens", decision.retry_after)
        if not hmac.compare_digest(_digest(token), self._digest):
            self._failures.hit(who)
            raise Denied(401, "the token is wrong")

    def new_session(self) -> str:
        """Return the value of a cookie for a client that has sent the token."""
        ends = f"{int(time.time()) + SESSION_S}-{secrets.token_hex(8)}"
        return f"{ends}.{self._signature(ends)}"

    def has_session(self, request: PageRequest) -> bool:
        """Return True if a request has the cookie of a session that has not ended."""
        return any(self._is_valid(value) for value in _cookies(request)[:_COOKIES_MAX])

    def _is_valid(self, session: str) -> bool:
        ends, _, signature = session.partition(".")
        if not hmac.compare_digest(_digest(signature), _digest(self._signature(ends))):
            return False
        return time.time() < int(ends.partition("-")[0])

    def _signature(self, ends: str) -> str:
        return hmac.new(self._key, ends.encode("utf-8", "replace"), "sha256").hexdigest()

    def _client_of(self, request: PageRequest) -> str:
        if self._client is None:
            return client_key(request.peer)
        return self._client.key(request.peer, request.headers.get(self._client.header, ()))


def checked_token(token: object) -> str:
    """Return the token after checking it.

    Raises:
        TypeError, ValueError: it is no str, too short, or cannot be sent in a header.
    """
    if not isinstance(token, str):
        raise TypeError(
            f"token must be a str, got {type(token).__name__}: the page is only served with a token"
        )
    if len(token) < TOKEN_MIN:
        raise ValueError(
            f"token must have at least {TOKEN_MIN} characters, got {len(token)}; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if not all("!" <= char <= "~" for char in token):
        raise ValueError("token must consist of printable ASCII characters without spaces")
    return token


def check_origin(request: PageRequest) -> None:
    """Return unless a browser says that a page of another site has made the request.

    Browsers send Sec-Fetch-Site to https and to localhost, and Origin with each POST.

    Raises:
        Denied: it comes from another site.
    """
    site = request.headers.get("sec-fetch-site", [])
    origin = request.headers.get("origin", [])
    is_ours = all(one == "same-origin" for one in site) if site else True
    if request.method in ("GET", "HEAD") and site == ["none"]:  # typed by the user
        is_ours = True
    if origin and not site:
        host = (request.header("host") or "").lower()
        is_ours = bool(host) and all(
            one.lower() in (f"http://{host}", f"https://{host}") for one in origin
        )
    if not is_ours:
        raise Denied(403, "requests from other sites are refused")


def _has_origin(request: PageRequest) -> bool:
    return "sec-fetch-site" in request.headers or "origin" in request.headers


def _cookies(request: PageRequest) -> list[str]:
    pairs = ";".join(request.headers.get("cookie", [])).split(";")
    found = (pair.strip().partition("=") for pair in pairs)
    return [value for name, _, value in found if name == COOKIE]


def _digest(text: str) -> bytes:
    """Return a digest to compare, whose length shows nothing of the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
