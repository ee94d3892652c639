"""Routes and rules of the applications that the differential test sends requests to.

Every rule has a distinct capacity, so a response's ``X-RateLimit-Limit`` names the rule that
counted. The larger the capacity, the more generous the rule. Nothing refills, and every request
costs what its ``X-Cost`` header says, so ``X-RateLimit-Remaining`` names the bucket.
"""

from __future__ import annotations

import math
from typing import Any

GENEROUS, DEFAULT, FILES, ITEM, MOUNTED, ACCOUNT, WEBSOCKET, LOGIN, TIGHT = (
    4_000_000_000,
    3_000_000_000,
    2_000_000_000,
    1_900_000_000,
    1_800_000_000,
    1_700_000_000,
    1_600_000_000,
    1_500_000_000,
    1_200_000,
)
EXEMPT = math.inf

_PATTERNS: dict[int, dict[str, Any]] = {
    GENEROUS: {"path": "/bulk", "methods": ["GET"]},
    FILES: {"path": "/files/**"},
    ITEM: {"path": "/items/{id}"},
    MOUNTED: {"path": "/sub/data"},
    ACCOUNT: {"path": "/account", "methods": ["POST"]},
    WEBSOCKET: {"path": "/ws", "methods": ["WEBSOCKET"]},
    LOGIN: {"path": "/login", "methods": ["POST"]},
    TIGHT: {"path": "/tight"},
}

RULES: dict[str, dict[str, Any]] = {
    "default": {"capacity": DEFAULT, "refill_rate": 0},
    "free": {"path": "/health", "methods": ["GET"], "exempt": True},
}
for _capacity, _pattern in _PATTERNS.items():
    RULES[f"rule-{_capacity}"] = {"capacity": _capacity, "refill_rate": 0, **_pattern}

CAPACITIES: dict[tuple[str, str], float] = {
    ("health", "GET"): EXEMPT,
    ("bulk", "GET"): GENEROUS,
    ("files", "GET"): FILES,
    ("item", "GET"): ITEM,
    ("mounted", "GET"): MOUNTED,
    ("account", "POST"): ACCOUNT,
    ("websocket", "WEBSOCKET"): WEBSOCKET,
    ("login", "POST"): LOGIN,
    ("tight", "GET"): TIGHT,
}
"""The capacity of a route's rule by route and method; of all others, that of ``default``."""


def capacity_of(route: str, method: str) -> float:
    """Return the capacity of the rule that is meant for a route."""
    method = method.upper()
    return CAPACITIES.get((route, "GET" if method == "HEAD" else method), DEFAULT)


TARGETS: list[tuple[str, str]] = [
    ("GET", "/health"),
    ("GET", "/bulk"),
    ("GET", "/files/a/b.txt"),
    ("GET", "/items/7"),
    ("GET", "/sub/data"),
    ("GET", "/sub/other"),
    ("GET", "/account"),
    ("POST", "/account"),
    ("GET", "/login"),
    ("POST", "/login"),
    *[("GET", "/tight")] * 3,
    ("GET", "/static-view"),
    ("GET", "/blueprint/static-view"),
]
"""A request for each route, as a client is meant to send it; three for the one that denies."""

COOKIE = "sid"
API_KEY = "X-API-Key"
TRUSTED = ["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"]

BYPASSED = "198.51.100.23"

ADDRESS_SOURCES = ("forwarded-for", "forwarded")
SOURCES = ("cookie", "api-key", "authorization", *ADDRESS_SOURCES)
"""What a limiter counts by: a part of a request."""


def key_options(source: str) -> dict[str, Any]:
    """Return the arguments by which every front counts by a source."""
    if source in ADDRESS_SOURCES:
        header = "forwarded" if source == "forwarded" else "x-forwarded-for"
        return {"trusted_proxies": TRUSTED, "proxy_header": header}
    keys = {
        "cookie": f"cookie:{COOKIE}",
        "api-key": f"header:{API_KEY}",
        "authorization": "header:Authorization",
    }
    return {"key": keys[source]}
