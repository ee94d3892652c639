"""Find the view of a request before the router does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rate_limiter.policy.request_fields import route_path
from rate_limiter.web.asgi_messages import Scope


@dataclass(frozen=True)
class _Entry:
    """A route: its pattern, and its view or the routes below it."""

    regex: re.Pattern[str]
    path: str
    methods: frozenset[str] | None
    endpoint: Any
    below: tuple[_Entry, ...] | None = None


class RouteIndex:
    """The routes of an application, in the order in which it tries them.

    Args:
        app: a Starlette or FastAPI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._read()

    def endpoint_of(self, scope: Scope) -> Any:
        """Return the view of a request, or None if the application has none for it."""
        if len(self.app.routes) != self._length:
            self._read()
        path, method = route_path(scope), scope["method"]
        endpoint = self._of_path.get((path, method))
        if endpoint is not None:
            return endpoint
        entry = _found(self._entries, path, method)
        if entry is None and _size(self.app.routes) != self._size:  # a router has grown
            self._read()
            entry = _found(self._entries, path, method)
        if entry is None:
            return None
        if entry.path == path and method in (entry.methods or ()):  # so there are few of these
            self._of_path[path, method] = entry.endpoint
        return entry.endpoint

    def _read(self) -> None:
        routes = self.app.routes
        self._length, self._size = len(routes), _size(routes)
        self._entries = tuple(_entries(routes))
        self._of_path: dict[tuple[str, str], Any] = {}


def _entries(routes: Iterable[Any]) -> Iterable[_Entry]:
    if "fastapi" in sys.modules:
        from rate_limiter.web.fastapi_routes import contexts_of

        routes = contexts_of(routes)
    for route in routes:
        regex, path = getattr(route, "path_regex", None), getattr(route, "path", "")
        if regex is None:  # a Host, for example
            continue
        inner = getattr(getattr(route, "_base_app", None), "routes", None)
        if inner is not None:
            yield _Entry(regex, path, None, None, tuple(_entries(inner)))
        elif hasattr(route, "endpoint") and not _is_websocket(route):
            methods = getattr(route, "methods", None)
            yield _Entry(regex, path, methods and frozenset(methods), route.endpoint)
        else:
            yield _Entry(regex, path, None, None)


def _is_websocket(route: Any) -> bool:
    return "WebSocket" in type(getattr(route, "original_route", route)).__name__


def _found(entries: Iterable[_Entry], path: str, method: str) -> _Entry | None:
    for entry in entries:
        match = entry.regex.match(path)
        if match is None or (entry.methods is not None and method not in entry.methods):
            continue
        if entry.below is None:
            return entry if entry.endpoint is not None else None
        return _found(entry.below, "/" + match["path"], method)
    return None


def _size(routes: Iterable[Any]) -> int:
    """Return the number of routes, with those of routers that are included or mounted."""
    size = 0
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "_base_app", None)
        size += 1 + _size(getattr(inner, "routes", None) or ())
    return size
