"""The routes of FastAPI applications, whichever way a version of FastAPI keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fastapi import routing
from starlette.applications import Starlette

from rate_limiter.policy.request_fields import route_path
from rate_limiter.web.asgi_messages import Scope
from rate_limiter.web.fastapi_dependency import RateLimit


class Place(NamedTuple):
    """A route, and where it is.

    Attributes:
        app: the application whose scope it is called in.
        prefix: the path at which that application is mounted, as written.
        route: the route, with its full path below the prefix.
    """

    app: Any
    prefix: str
    route: Any

    @property
    def route_id(self) -> int:
        """The id of the route that a router finds for a request."""
        return id(getattr(self.route, "original_route", self.route))

    @property
    def name(self) -> str:
        """The methods and the path, such as ``"GET /items/<id>"``.

        Braces mark the part of a key in Redis that decides about its node, so names have none.
        """
        methods = ",".join(sorted(getattr(self.route, "methods", None) or ["WEBSOCKET"]))
        path = self.prefix + (getattr(self.route, "path", None) or "")
        return f"{methods} {path.replace('{', '<').replace('}', '>')}"

    @property
    def limits(self) -> list[RateLimit]:
        """Return the RateLimits that the route depends on, in the order of their calls."""
        return list(dict.fromkeys(_limits_below(getattr(self.route, "dependant", None))))

    @property
    def calls(self) -> list[Any]:
        """Return everything that the route depends on."""
        return list(calls_below(getattr(self.route, "dependant", None)))

    def matches(self, scope: Scope) -> bool:
        """Return whether the path of a request is that of this route."""
        regex = getattr(self.route, "path_regex", None)
        return regex is not None and regex.match(route_path(scope)) is not None


class Frontends(NamedTuple):
    """The frontends of an application or an included router, which FastAPI keeps as no routes.

    Attributes:
        owner: has their dependencies.
        path: the prefix of the router.
    """

    owner: Any
    path: str
    methods: tuple[str, ...] = ("FRONTEND",)

    @property
    def dependant(self) -> Any:
        return self.owner.dependant


def frontends_of(scope: Scope) -> Frontends | None:
    """Return the frontends that a request without a route is for; None: unknown."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    router = getattr(scope.get("app"), "router", None)  # scope["router"] may be of an outer one
    own = getattr(router, "_frontend_routes", None)
    if hasattr(getattr(context, "original_route", None), "add_frontend_route"):
        return Frontends(context, context.frontend_prefix or "/")
    return None if own is None else Frontends(own, "/")


def places_of(app: Any, prefix: str = "") -> Iterator[Place]:
    """Return all routes with dependencies of an application and of those mounted in it."""
    return _places(app, getattr(app, "routes", ()), prefix)


def _places(app: Any, routes: Iterable[Any], prefix: str) -> Iterator[Place]:
    for route in contexts_of(routes):
        if getattr(route, "dependant", None) is not None:
            yield Place(app, prefix, route)
            continue
        mounted = getattr(route, "_base_app", None)
        owner = mounted if isinstance(mounted, Starlette) else app
        below = prefix + (getattr(route, "path", None) or "")
        yield from _places(owner, getattr(mounted, "routes", None) or (), below)


def contexts_of(routes: Iterable[Any]) -> Iterable[Any]:
    """Return all routes, including those that newer versions keep in included routers."""
    iterate = getattr(routing, "iter_route_contexts", None)
    contexts: Iterable[Any] = routes if iterate is None else iterate(routes)
    return contexts


def is_limited(route: Any) -> bool:
    """Return whether a RateLimit limits a route."""
    place = Place(None, "", route)
    return any(limit.limits_route(place) for limit in place.limits)


def _limits_below(dependant: Any) -> Iterator[RateLimit]:
    return (one for one in calls_below(dependant) if isinstance(one, RateLimit))


def calls_below(dependant: Any) -> Iterator[Any]:
    """Return what FastAPI calls for a route or a dependency: itself, and all that it depends on."""
    if dependant is None:
        return
    yield dependant.call
    for one in dependant.dependencies:
        yield from calls_below(one)
