"""An application, rules for it, and a reader of structured fields."""

from __future__ import annotations

from typing import Any

import http_sf
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def echo(request: Any) -> Any:
    status = int(request.query_params.get("status", 200))
    return JSONResponse({"path": request.url.path}, status)


async def broken(request: Any) -> Any:
    raise RuntimeError("broken")


APP = Starlette(
    routes=[
        Route("/broken", broken),
        Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "OPTIONS"]),
    ]
)

RULES = {
    "default": {"limits": "100/minute"},
    "upload": {"path": "/files/{id}", "methods": "POST", "limits": "10/minute", "cost": 3},
    "by-key": {"path": "/keyed", "limits": "5/minute", "key": ["header:X-API-Key", "ip"]},
    "pro": {"tier": "pro", "limits": "1000/minute"},
    "partner": {"keys": ["203.0.113.50"], "limits": "7/minute"},
    "health": {"path": "/health", "exempt": True},
    "new": {"path": "/new", "limits": "1/minute", "shadow": True},
    "login": {"path": "/login", "limits": "3/minute", "refund": "2xx"},
}


def sf(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parse a list of structured fields by a library of others (RFC 9651)."""
    items: Any = http_sf.parse(text.encode(), tltype="list")
    return [(value, dict(parameters)) for value, parameters in items]
