"""Every option has one outcome, whatever the front."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter import ManualClock
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.calling import Answer, asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.odd_requests import PEER, environ_of, scope_of
from support.tokens import HS, token

Ask: TypeAlias = Callable[["Asked"], Answer]


class Asked(NamedTuple):
    """A request."""

    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    peer: str = PEER

    def scope(self) -> dict[str, Any]:
        return scope_of(self.headers, path=self.path, method=self.method, client=(self.peer, 5))

    def environ(self) -> dict[str, Any]:
        return environ_of(
            self.headers, PATH_INFO=self.path, REQUEST_METHOD=self.method, REMOTE_ADDR=self.peer
        )


def with_header(name: str, value: str, **more: Any) -> Asked:
    return Asked(headers=((name, value),), **more)


# --- Fronts ---


def of_asgi(**options: Any) -> Ask:
    app = RateLimitMiddleware(asgi_app, **options)
    return lambda asked: ask_asgi(app, asked.scope())


def of_wsgi(**options: Any) -> Ask:
    app = WsgiMiddleware(wsgi_app, **options)
    return lambda asked: ask_wsgi(app, asked.environ())


def of_fastapi(**options: Any) -> Ask:
    app = FastAPI()
    limit = Depends(RateLimit(**options))
    app.get("/{path:path}", dependencies=[limit])(lambda: "ok")
    return lambda asked: ask_asgi(app, asked.scope())


def of_flask(**options: Any) -> Ask:
    options = {{"limits": "default_limits"}.get(name, name): one for name, one in options.items()}
    if callable(options.get("cost")):
        given = options["cost"]
        options["cost"] = lambda: given(None)
    if callable(options.get("key")):
        key = options["key"]
        options["key"] = lambda: key(None)
    app = Flask("matrix")
    FlaskRateLimiter(app, **options)
    methods = ["GET", "POST", "OPTIONS"]
    app.add_url_rule("/", "view", lambda path="": "ok", methods=methods)
    app.add_url_rule("/<path:path>", "view", methods=methods)
    return lambda asked: ask_wsgi(app, asked.environ())


FRONTS = {
    of_asgi: RateLimitMiddleware,
    of_wsgi: WsgiMiddleware,
    of_fastapi: RateLimit,
    of_flask: FlaskRateLimiter,
}
SAME_NAME = {"limits": "default_limits"}


def has_options(kind: Any, options: dict[str, Any]) -> bool:
    """Return whether a front has all of some options."""
    known = inspect.signature(kind.__init__).parameters
    names = {SAME_NAME.get(one, one) if kind is FlaskRateLimiter else one for one in options}
    return names <= set(known)


# --- Options, and the statuses of requests in a row ---

PLAIN = Asked()
PREFLIGHT = Asked(
    method="OPTIONS",
    headers=(("origin", "https://a.example"), ("access-control-request-method", "GET")),
)
OTHER = Asked(peer="198.51.100.7")
LOGGED_IN = with_header("authorization", f"Bearer {token({'sub': 'ann', 'plan': 'pro'})}")
LIMIT = {"limits": "2/hour"}
TIERS = {"limits": {"free": "1/hour", "pro": "2/hour"}}
RULES = {"rules": {"default": {"limits": "2/hour"}, "/login": {"limits": "1/hour"}}}

CASES: dict[str, tuple[dict[str, Any], list[tuple[Asked, int]]]] = {
    "limits": (LIMIT, [(PLAIN, 200), (PLAIN, 200), (PLAIN, 429), (OTHER, 200)]),
    "key": (
        LIMIT | {"key": "header:X-User"},
        [(with_header("x-user", "a"), 200)] * 2
        + [(with_header("x-user", "a"), 429), (with_header("x-user", "b"), 200), (PLAIN, 200)],
    ),
    "key of a cookie": (
        LIMIT | {"key": ["cookie:sid", "ip"]},
        [(with_header("cookie", "sid=a"), 200)] * 2
        + [(with_header("cookie", 'sid="a"'), 429), (with_header("cookie", "sid=b"), 200)],
    ),
    "key all": (LIMIT | {"key": "all"}, [(PLAIN, 200), (OTHER, 200), (PLAIN, 429), (OTHER, 429)]),
    "key function": (
        LIMIT | {"key": lambda request: "one"},
        [(PLAIN, 200), (OTHER, 200), (PLAIN, 429), (OTHER, 429)],
    ),
    "jwt": (
        LIMIT | {"key": "jwt:sub", "jwt": HS},
        [(LOGGED_IN, 200), (LOGGED_IN._replace(peer=OTHER.peer), 200), (LOGGED_IN, 429)],
    ),
    "cost": (LIMIT | {"cost": 2}, [(PLAIN, 200), (PLAIN, 429), (OTHER, 200)]),
    "cost function": (LIMIT | {"cost": lambda request: 2}, [(PLAIN, 200), (PLAIN, 429)]),
    "cost above the capacity": (LIMIT | {"cost": lambda request: 3}, [(PLAIN, 429)]),
    "cost_after": (
        LIMIT | {"cost_after": lambda finished: 0 if finished.status == 200 else 1},
        [(PLAIN, 200)] * 5,
    ),
    "cost_after charges": (
        {"limits": "9/hour", "cost_after": lambda finished: 8},
        [(PLAIN, 200), (PLAIN, 200), (PLAIN, 429)],
    ),
    "tier": (
        TIERS | {"tier": "header:X-Plan"},
        [(PLAIN, 200), (PLAIN, 429)]
        + [(with_header("x-plan", "pro"), one) for one in (200, 200, 429)],
    ),
    "tier of a token": (
        TIERS | {"tier": "jwt:plan", "jwt": HS},
        [(PLAIN, 200), (PLAIN, 429), (LOGGED_IN, 200), (LOGGED_IN, 200), (LOGGED_IN, 429)],
    ),
    "bypass": (
        LIMIT | {"bypass": ["ip:198.51.100.0/24", "header:X-Secret=open"]},
        [(OTHER, 200)] * 4
        + [(with_header("x-secret", "open"), 200)] * 4
        + [(with_header("x-secret", "shut"), one) for one in (200, 200, 429)],
    ),
    "trusted_proxies": (
        LIMIT | {"trusted_proxies": ["192.0.2.0/24"]},
        [(with_header("x-forwarded-for", "203.0.113.1, 192.0.2.8"), one) for one in (200, 200, 429)]
        + [(with_header("x-forwarded-for", "203.0.113.2, 192.0.2.8"), 200)],
    ),
    "proxy_header": (
        LIMIT | {"trusted_proxies": ["192.0.2.0/24"], "proxy_header": "forwarded"},
        [(with_header("forwarded", "for=203.0.113.1"), one) for one in (200, 200, 429)]
        + [(with_header("forwarded", "for=203.0.113.2"), 200)],
    ),
    "ipv6_prefix": (
        LIMIT | {"ipv6_prefix": 48},
        [(Asked(peer=f"2001:db8:0:{n}::1"), one) for n, one in enumerate((200, 200, 429))],
    ),
    "rules": (
        RULES,
        [(PLAIN, 200), (PLAIN, 200), (PLAIN, 429), (Asked("/login"), 200), (Asked("/login"), 429)],
    ),
    "exempt_paths": (LIMIT | {"exempt_paths": ["/health"]}, [(Asked("/health"), 200)] * 4),
    "status_path": (LIMIT | {"status_path": "/me"}, [(Asked("/me"), 200)] * 4 + [(PLAIN, 200)] * 2),
    "metrics": (LIMIT | {"metrics": "matrix"}, [(PLAIN, 200), (PLAIN, 200), (PLAIN, 429)]),
    "enabled": (LIMIT | {"enabled": False}, [(PLAIN, 200)] * 4),
}


@pytest.mark.parametrize(
    ("front", "name"),
    [
        pytest.param(front, name, id=f"{front.__name__}-{name}")
        for front, kind in FRONTS.items()
        for name, (options, _) in CASES.items()
        if has_options(kind, options)
    ],
)
def test_statuses(front: Any, name: str) -> None:
    options, requests = CASES[name]
    ask = front(clock=ManualClock(), **options)
    assert [ask(asked).status for asked, _ in requests] == [status for _, status in requests]


every_front = pytest.mark.parametrize("front", FRONTS)
whole_fronts = pytest.mark.parametrize("front", [of_asgi, of_wsgi, of_flask])


@whole_fronts
def test_cors_exempts_preflights_and_exposes_headers(front: Any) -> None:
    ask = front(limits="1/hour", cors=True, clock=ManualClock())
    answers = [ask(one) for one in (PREFLIGHT, PREFLIGHT, PLAIN, PLAIN)]
    assert [one.status for one in answers] == [200, 200, 200, 429]
    passed, denied = answers[2:]
    assert not answers[0].values("X-RateLimit-Limit")
    for answer, names in ((passed, 3), (denied, 4)):
        (exposed,) = answer.values("Access-Control-Expose-Headers")
        assert {name.strip().lower() for name in exposed.split(",")} >= {
            name for name, _ in answer.headers if "ratelimit" in name or name == "retry-after"
        }
        assert len(exposed.split(",")) >= names


@every_front
def test_headers(front: Any) -> None:
    styles = {
        "x-ratelimit": {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"},
        "ietf": {"ratelimit-policy", "ratelimit"},
        "off": set(),
    }
    styles["both"] = styles["x-ratelimit"] | styles["ietf"]
    for style, names in styles.items():
        ask = front(limits="1/hour", headers=style, clock=ManualClock())
        passed, denied = ask(PLAIN), ask(PLAIN)
        assert {name for name, _ in passed.headers if "ratelimit" in name} == names
        assert {name for name, _ in denied.headers if "ratelimit" in name} == names
        assert len(denied.headers) == len({name for name, _ in denied.headers})  # each once


@whole_fronts
@pytest.mark.parametrize(
    ("denied", "body"),
    [
        (None, {"detail": "Rate limit exceeded. Please try again later."}),
        ({"wait": "{retry_after}", "of": "{limit}"}, {"wait": 3600, "of": 1}),
    ],
)
def test_denied(front: Any, denied: Any, body: Any) -> None:
    ask = front(limits="1/hour", denied=denied, clock=ManualClock())
    ask(PLAIN)
    answer = ask(PLAIN)
    assert (answer.status, json.loads(answer.body)) == (429, body)
    assert answer.values("Retry-After") == ["3600"]
    assert answer.values("Content-Type") == ["application/json"]
    head = ask(Asked(method="HEAD"))
    assert (head.status, head.body) == (429, b"")


@whole_fronts
def test_denied_as_a_problem(front: Any) -> None:
    ask = front(limits="1/hour", denied="problem", clock=ManualClock())
    ask(PLAIN)
    answer = ask(PLAIN)
    assert json.loads(answer.body)["retry_after"] == 3600
    assert answer.values("Content-Type") == ["application/problem+json"]


@whole_fronts
def test_a_wait_without_end(front: Any) -> None:
    ask = front(limits="1/hour", cost=lambda request: 2, denied={"wait": "{retry_after}"})
    answer = ask(PLAIN)
    assert (answer.status, json.loads(answer.body)) == (429, {"wait": None})
    assert not answer.values("Retry-After")


@every_front
def test_without_a_store(front: Any) -> None:
    ask = front(
        limits="1/hour",
        store="redis://127.0.0.1:1",
        on_store_error="deny",
        **({"name": "matrix"} if front is of_fastapi else {}),
    )
    answer = ask(PLAIN)
    assert answer.status == 503
    assert answer.values("Content-Type") == ["application/json"]
    assert json.loads(answer.body).keys() == {"detail"}
    assert answer.values("Retry-After") == ["1"]


@whole_fronts
def test_status_path(front: Any) -> None:
    ask = front(limits="2/hour", status_path="/me", clock=ManualClock())
    ask(PLAIN)
    answer = ask(Asked("/me"))
    assert json.loads(answer.body)["limits"][0]["remaining"] == 1
    assert answer.values("Cache-Control") == ["no-store"]
    assert not answer.values("X-RateLimit-Limit")


@whole_fronts
def test_setup_checks(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    for is_on in (True, False):
        ask = front(limits="2/hour", setup_checks=is_on, clock=ManualClock())
        caplog.clear()
        ask(with_header("x-forwarded-for", "203.0.113.1"))
        assert ("no proxy is trusted" in caplog.text) == is_on


@every_front
def test_a_key_that_finds_no_user_is_logged_once(
    front: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask = front(limits="9/hour", key=lambda request: None, clock=ManualClock())
    for asked in (PLAIN, LOGGED_IN, LOGGED_IN):
        ask(asked)
    assert caplog.text.count("let authentication run first") == 1
