"""The live page without a server: a request in, an answer out.

    GET  /          the page, or the login form
    POST /login     token=...: set the cookie of a session
    POST /logout
    GET  /data      the document of live.py; ?since=TIME leaves out older samples
    GET  /events    the same as server-sent events, see dashboard.py
    POST /client    {"rule": ..., "key": ...}: the state of a client
    POST /reset     the same body: make the client's buckets full

Keys of clients are personal data, so they are in bodies and never in a URL, which servers log.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from rate_limiter._core import StoreError
from rate_limiter.checks.arguments import checked_switch
from rate_limiter.limit import Limit
from rate_limiter.observe import live, live_history
from rate_limiter.observe.live_access import (
    COOKIE,
    SESSION_S,
    Access,
    Client,
    Denied,
    PageRequest,
    check_origin,
)
from rate_limiter.observe.registry import followed, limits_of_calls

logger = logging.getLogger("rate_limiter")

PATHS = ("", "/", "/login", "/logout", "/data", "/events", "/client", "/reset")
BODY_MAX = 64 * 1024
KEPT_S = 1.0
"""Time for which all viewers of a process get the same document."""

_FORM = "application/x-www-form-urlencoded"
_HEADERS = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    # With "no-referrer" browsers would send "Origin: null" with the forms of the page itself.
    ("referrer-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("x-robots-tag", "noindex"),
]


@dataclass(frozen=True)
class PageAnswer:
    """A response; `headers` are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class LivePage:
    """Answer requests for the live page. Safe to share between threads.

    Args:
        token, client: see Access.
        allow_reset: viewers may reset clients.
        secure_cookie: browsers send the cookie over TLS alone, even if requests come without it.
        streams: the server can send events.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    def __init__(
        self,
        token: str,
        *,
        allow_reset: bool,
        client: Client | None,
        secure_cookie: bool,
        streams: bool,
    ) -> None:
        self.access = Access(token, client)
        self._allow_reset = checked_switch("allow_reset", allow_reset)
        self._secure_cookie = checked_switch("secure_cookie", secure_cookie)
        self._page = _page("live.html", streams=streams, reset=allow_reset)
        self._document: dict[str, Any] = {}
        self._read_at_s = -math.inf
        self._lock = threading.Lock()  # guards the two above
        live_history.SAMPLER.start()

    def answer(self, request: PageRequest) -> PageAnswer:
        """Return the response to a request. It may wait for a store."""
        route = self._routes().get(request.path)
        if route is None:
            return _problem(404, "there is nothing at this path")
        methods, answer = route
        if request.method not in methods:
            return _problem(405, "this path needs another method", ("allow", ", ".join(methods)))
        if len(request.body) > BODY_MAX:
            return _problem(413, f"a body may have at most {BODY_MAX} bytes")
        try:
            return answer(request)
        except Denied as denied:
            return refusal(denied)

    def _routes(self) -> dict[str, tuple[tuple[str, ...], Callable[[PageRequest], PageAnswer]]]:
        reading = ("GET", "HEAD")
        return {
            "": (reading, _to_slash),
            "/": (reading, self._index),
            "/login": (("POST",), self._login),
            "/logout": (("POST",), self._logout),
            "/data": (reading, self._data),
            "/events": (reading, self._no_events),
            "/client": (("POST",), self._client),
            "/reset": (("POST",), self._reset),
        }

    def _text(self, since_s: float) -> tuple[str, float]:
        """Return the document as JSON with samples later than `since_s`, and the last one's time.

        It reads files.
        """
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._read_at_s > KEPT_S:
                self._document, self._read_at_s = live.snapshot(), now_s
            document = self._document
        history = document["history"]
        later = [one for one in history["samples"] if one["time"] > since_s]
        text = json.dumps(
            document | {"history": history | {"samples": later}}, separators=(",", ":")
        )
        return text, max([since_s, *(one["time"] for one in later)])

    def event(self, since_s: float) -> tuple[str, float]:
        """Return an event with the document, and the time of its last sample."""
        text, last_s = self._text(since_s)
        return f"retry: 1000\nid: {last_s}\ndata: {text}\n\n", last_s

    # --- Routes ---

    def _index(self, request: PageRequest) -> PageAnswer:
        if "authorization" in request.headers:
            self.access.check(request)
        elif not self.access.has_session(request):
            return _login_page(401)
        return _html(200, self._page)

    def _login(self, request: PageRequest) -> PageAnswer:
        check_origin(request)
        if _media_type(request) != _FORM:
            return _problem(415, f"expected a form: {_FORM}")
        try:
            form = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:
            form = {}
        tokens = form.get("token", [])
        try:
            self.access.check_token(request, tokens[0] if len(tokens) == 1 else "")
        except Denied as denied:
            return _failed_login(denied)
        cookie = self._cookie(request, self.access.new_session(), SESSION_S)
        return PageAnswer(303, [*_HEADERS, ("location", "./"), ("set-cookie", cookie)], b"")

    def _logout(self, request: PageRequest) -> PageAnswer:
        self.access.check(request)
        cookie = self._cookie(request, "", 0)
        return PageAnswer(303, [*_HEADERS, ("location", "./"), ("set-cookie", cookie)], b"")

    def _cookie(self, request: PageRequest, value: str, age_s: int) -> str:
        parts = [f"{COOKIE}={value}", f"Path={quote(request.root) or '/'}", f"Max-Age={age_s}"]
        parts += ["HttpOnly", "SameSite=Strict"]
        if self._secure_cookie or request.is_secure:
            parts.append("Secure")
        return "; ".join(parts)

    def _data(self, request: PageRequest) -> PageAnswer:
        self.access.check(request)
        text = request.query.removeprefix("since=")
        return _json_text(200, self._text(seconds_of(text))[0])

    def _no_events(self, request: PageRequest) -> PageAnswer:
        self.access.check(request)
        return _problem(501, "events need GET and an ASGI server with asyncio; get /data instead")

    def _client(self, request: PageRequest) -> PageAnswer:
        return self._of_client(request, _state)

    def _reset(self, request: PageRequest) -> PageAnswer:
        if not self._allow_reset:
            self.access.check(request)
            return _problem(403, "resets are off: they need dashboard(..., allow_reset=True)")
        return self._of_client(request, _state_after_reset)

    def _of_client(
        self, request: PageRequest, answer: Callable[[str, str], dict[str, Any]]
    ) -> PageAnswer:
        self.access.check(request)
        if _media_type(request) != "application/json":
            return _problem(415, "expected application/json")
        try:
            data = json.loads(request.body)
        except (ValueError, RecursionError):
            data = None
        rule, key = (data.get("rule"), data.get("key")) if isinstance(data, dict) else (None, None)
        if not isinstance(rule, str) or not isinstance(key, str) or not key:
            return _problem(400, 'expected {"rule": TEXT, "key": TEXT}')
        try:
            return _json_text(200, json.dumps(answer(rule, key)))
        except LookupError as error:
            return _problem(404, str(error.args[0]))
        except (TypeError, ValueError) as error:
            return _problem(400, f"the key cannot be used: {error}")
        except StoreError as error:
            return _problem(503, f"the store does not answer: {error}")


# --- One client ---

_UNKNOWN: Any = object()  # limits that come with each request, and are not kept


class _Left(NamedTuple):
    limit: Limit
    remaining: float
    reset_after: float


def _limiters(rule: str) -> list[Any]:
    """Return the limiters of a rule in this process.

    Raises:
        LookupError: there is none.
    """
    found = [limiter for limiter, dimension in followed() if dimension == rule]
    if not found:
        raise LookupError(f"the process that answered, {os.getpid()}, has no limiter of this rule")
    return found


def _state(rule: str, key: str) -> dict[str, Any]:
    """Return what a client has left.

    Raises:
        LookupError: this process has no limiter of the rule.
        TypeError, ValueError: the key cannot be used.
        StoreError: the store does not answer.
    """
    limiters = _limiters(rule)
    known = [(limiter, _limits_of(limiter, key)) for limiter in limiters]
    return {
        "rule": rule,
        "key": key,
        "pid": os.getpid(),
        "is_local": all(limiter.is_in_memory for limiter in limiters),
        "limits": [
            {
                "limit": str(one.limit),
                "capacity": one.limit.capacity,
                "remaining": one.remaining,
                "full_after_s": one.reset_after if math.isfinite(one.reset_after) else None,
            }
            for limiter, limits in known
            if limits is not _UNKNOWN
            for one in _left(limiter, key, limits)
        ],
        "unknown": sum(limits is _UNKNOWN for _, limits in known),
    }


def _limits_of(limiter: Any, key: str) -> Any:
    """Return the limits of a client's calls: None for the limiter's, or _UNKNOWN."""
    of_calls = limits_of_calls(limiter)
    if of_calls is None:
        return None
    given = of_calls.known(key)
    return _UNKNOWN if given is None else given


def _left(limiter: Any, key: str, limits: Any) -> Iterator[_Left]:
    under = limiter.limits if limits is None else limits.limits
    each = limiter.peek_each(key, 0, limits)[1:]
    for limit, one in zip(under, each, strict=True):
        yield _Left(limit, one.remaining, one.reset_after)


def _state_after_reset(rule: str, key: str) -> dict[str, Any]:
    for limiter in _limiters(rule):
        limiter.reset(key)
    logger.warning("a client of %r was reset on the live page", rule)
    return _state(rule, key)


# --- Answers ---


def seconds_of(text: str) -> float:
    """Return a time that a client has sent; 0 if it is none."""
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text, re.ASCII) else 0.0


def stream_headers() -> list[tuple[str, str]]:
    """Return the headers of a stream of events."""
    # nginx must pass on each event at once.
    return [*_HEADERS, ("content-type", "text/event-stream"), ("x-accel-buffering", "no")]


def _media_type(request: PageRequest) -> str:
    return (request.header("content-type") or "").partition(";")[0].strip().lower()


def _to_slash(request: PageRequest) -> PageAnswer:
    """Redirect to the path with a slash: the addresses in the page are relative to it."""
    last = quote(request.root.rpartition("/")[2])
    return PageAnswer(308, [*_HEADERS, ("location", f"./{last}/")], b"")


def _json_text(status: int, text: str) -> PageAnswer:
    headers = [*_HEADERS, ("content-security-policy", "default-src 'none'")]
    return PageAnswer(status, [*headers, ("content-type", "application/json")], text.encode())


def _problem(status: int, detail: str, *more: tuple[str, str]) -> PageAnswer:
    made = _json_text(status, json.dumps({"detail": detail}))
    return PageAnswer(status, [*made.headers, *more], made.body)


def refusal(denied: Denied) -> PageAnswer:
    """Return the response to a request that is denied."""
    more = _retry_after(denied)
    if denied.status == 401:
        more.append(("www-authenticate", "Bearer"))
    return _problem(denied.status, str(denied), *more)


def _retry_after(denied: Denied) -> list[tuple[str, str]]:
    return [("retry-after", str(math.ceil(denied.retry_after_s)))] if denied.retry_after_s else []


def _html(status: int, page: _Page, *more: tuple[str, str]) -> PageAnswer:
    kind = ("content-type", "text/html; charset=utf-8")
    headers = [*_HEADERS, kind, ("content-security-policy", page.policy), *more]
    return PageAnswer(status, headers, page.body)


def _login_page(status: int, error: str = "", *more: tuple[str, str]) -> PageAnswer:
    return _html(status, _page("login.html", error=error), *more)


def _failed_login(denied: Denied) -> PageAnswer:
    if denied.status == 429:
        wait_s = math.ceil(denied.retry_after_s)
        return _login_page(
            429, f"Too many wrong tokens. Try again in {wait_s} seconds.", *_retry_after(denied)
        )
    return _login_page(401, "This token is wrong.")


@dataclass(frozen=True)
class _Page:
    body: bytes
    policy: str  # Content-Security-Policy


def _page(name: str, *, error: str = "", streams: bool = False, reset: bool = False) -> _Page:
    """Return a page with its style and scripts inside; the policy permits them alone."""
    text = _file(name)
    sources: dict[str, list[str]] = {"style": [], "script": []}
    for tag, kind, file in re.findall(r"(<(style|script) src=\"([\w.]+)\"></\w+>)", text):
        content = _file(file)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        sources[kind].append(f"'sha256-{digest}'")
        text = text.replace(tag, f"<{kind}>{content}</{kind}>")
    text = text.replace("{{error}}", html.escape(error))
    text = text.replace("{{alert}}", "" if error else "hidden")
    text = text.replace("{{streams}}", str(streams).lower())
    text = text.replace("{{reset}}", "" if reset else "hidden")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(sources["script"]) or "'none'",
        "style-src": " ".join(sources["style"]) or "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return _Page(text.encode(), "; ".join(f"{name} {value}" for name, value in policy.items()))


@cache
def _file(name: str) -> str:
    return (files("rate_limiter") / "observe/page" / name).read_text("utf-8")
