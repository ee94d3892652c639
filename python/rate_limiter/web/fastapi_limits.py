"""RateLimits: all limits of a FastAPI application, in one object."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from fastapi import APIRouter, Depends, FastAPI, params
from starlette.requests import HTTPConnection

from rate_limiter._core import Decision
from rate_limiter.checks.arguments import check_arguments, checked_text, defaults_of
from rate_limiter.checks.effects import DEFAULT_STORE
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import HeaderWord, OnStoreError, ProxyHeader, ResetWord, TopKeys
from rate_limiter.limit import Cost as Tokens
from rate_limiter.limit import Limit, as_limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.observe.metrics_option import dimension_of
from rate_limiter.observe.registry import limits_are_off
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import OnDenied
from rate_limiter.policy.dynamic_limits import fixed_limits
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.settling import CostAfter
from rate_limiter.policy.storage import Storage
from rate_limiter.stores.address import check_store, is_shared
from rate_limiter.web.asgi_messages import Scope
from rate_limiter.web.fastapi_dependency import Cost, LimitsArgument, RateLimit, untouched
from rate_limiter.web.fastapi_routes import Place, frontends_of, places_of
from rate_limiter.web.limited_application import checked_limiter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rate_limiter.jwt import Jwt

_EXEMPT = "_rate_limiter_exempt"
_ROUTES = "_rate_limiter_routes"  # in an application: by RateLimits and the id of a route
Target = TypeVar("Target")


class RateLimitOptions(TypedDict, total=False):
    """Options of RateLimits, and of each of its limits: see RateLimit."""

    key: Any
    cost: Tokens | Cost
    cost_after: CostAfter | None
    headers: HeaderWord | HeaderStyle
    reset: ResetWord
    retry_jitter_s: float
    cors: bool
    client: ClientAddress | None
    trusted_proxies: Iterable[str]
    proxy_header: ProxyHeader
    ipv6_prefix: int
    jwt: Jwt | None
    tracing: bool
    on_denied: OnDenied | None
    metrics: str | None
    top: int | None
    top_keys: TopKeys
    store: object
    on_store_error: OnStoreError
    max_keys: int
    clock: Clock
    enabled: bool


class RateLimits:
    """Limit the routes of a FastAPI application, each by its own limits or the default ones.

        limits = RateLimits(app, store="redis://localhost:6379/0", default="100/minute")

        @app.post("/upload", dependencies=[limits("5/minute", cost=3)])

    A limit is named after the route that depends on it, so the same limit on two routes counts
    separately. Limits with the same `name` share their buckets, and so do all frontends of a
    router.

    Args:
        app: an application to limit now; else call `init_app`. Do either before routes are added.
        default: limits of every route of the application, its included routers too, that has no
            limits of this object, as for RateLimit. All these routes share the buckets.
        name: separates this application from others in a shared store. It needs `store`.
        options: options of all limits, unless a limit has its own; see RateLimit. `key` may be a
            dependency as it is, ``key=current_user``; a function with a single parameter that has
            no annotation, such as a lambda, gets the HTTPConnection. `metrics` is the beginning of
            the names in metrics; the name of the limit is added, as in ``"web.GET /search"``.

    Attributes:
        enabled: False allows every request, for example in tests; may be set later.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: the application has routes already, which would not have the default limits.
    """

    def __init__(
        self,
        app: FastAPI | None = None,
        *,
        default: LimitsArgument | None = None,
        name: str = "",
        **options: Unpack[RateLimitOptions],
    ) -> None:
        _check_names(options)
        given: dict[str, Any] = {**options, "name": checked_text("name", name)}
        # A limit can have its own key, which may use options that this key does not.
        checked = {one: value for one, value in given.items() if one != "key"}
        defaults = {"store": DEFAULT_STORE, "metrics": None, "top": None}
        check_arguments(RateLimit.__init__, defaults | checked)
        self.enabled: bool = given.pop("enabled", True)
        if not self.enabled:
            limits_are_off()
        self._options = given
        self._metrics = dimension_of({"metrics": None} | given)
        given.pop("metrics", None)
        # As sets in the order of their additions.
        self._apps: weakref.WeakKeyDictionary[FastAPI, None] = weakref.WeakKeyDictionary()
        self._named_limits: weakref.WeakKeyDictionary[RouteLimit, None]
        self._named_limits = weakref.WeakKeyDictionary()
        self._exemption = _Exemption()
        self._lock = threading.Lock()
        self._limiters: dict[tuple[str, tuple[Limit, ...]], RateLimiter] = {}
        self._routes_of_no_app: dict[int, list[_Known]] = {}
        self._default = None if default is None else self._limit(default, None, "default", {})
        if self._default is None:
            self._limit("1/second", None, "default", {"cost": 1})  # raise for mistakes
        if app is not None:
            self.init_app(app)

    def init_app(self, app: FastAPI) -> None:
        """Limit an application, before its routes are added.

        An application that is mounted in another one has its own routes: call this for each.

        Raises:
            RuntimeError: it has routes already, or this object limits it already.
        """
        if not isinstance(app, FastAPI):
            raise TypeError(f"expected a FastAPI application, got {shown(app)}")
        if app in self._apps:
            raise RuntimeError("this RateLimits limits the application already")
        if self._default is not None:
            if any(True for _ in places_of(app)):
                raise RuntimeError(
                    "the application has routes already, which would not have the default limits: "
                    "make the RateLimits, or call init_app, before routes are added"
                )
            app.router.dependencies.insert(0, Depends(self._default))
        self._apps[app] = None

    def __call__(
        self,
        limits: LimitsArgument | None = None,
        *,
        limiter: RateLimiter | None = None,
        name: str = "",
        **options: Unpack[RateLimitOptions],
    ) -> Any:
        """Return a dependency for ``dependencies=[...]`` of routes and routers.

        A route can take the Decision as a parameter:
        ``decision: Annotated[Decision, limits("5/minute")]``.

        Args:
            limits: as for RateLimit.
            limiter: a RateLimiter instead of `limits`, to share its buckets.
            name: shares the buckets with all limits of this name; the name of each route by
                default.
            options: as for RateLimits, for this limit.

        Raises:
            TypeError, ValueError: an argument is invalid; the message names it.
        """
        _check_names(options)
        return Depends(self._limit(limits, limiter, checked_text("name", name), dict(options)))

    def exempt(self, target: Target) -> Target:
        """Exempt an endpoint, or all routes of a router, from the limits of this object.

        Use it as a decorator below the one of the route. Exempt a router before you add routes:
        ``router = limits.exempt(APIRouter(prefix="/internal"))``.

        Raises:
            TypeError: it is neither.
            RuntimeError: the router has routes already.
        """
        if isinstance(target, APIRouter):
            if target.routes:
                raise RuntimeError("exempt a router before you add routes to it")
            target.dependencies.insert(0, Depends(self._exemption))
        elif isinstance(target, FastAPI) or not callable(target):
            raise TypeError(f"expected an endpoint or an APIRouter, got {shown(target)}")
        else:
            setattr(target, _EXEMPT, (*getattr(target, _EXEMPT, ()), self))
        return target

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets of all limits full: see RateLimiter.reset.

        With a Redis this blocks: call it in a ``def`` route or by ``asyncio.to_thread``.
        """
        for limiter in self.limiters():
            limiter.reset(key, prefix=prefix)

    def limiters(self) -> list[RateLimiter]:
        """Return the limiters of all routes of the applications, each once."""
        with self._lock:
            self._learn(self._apps)
            made = [one for limit in self._named_limits for one in limit.made.values()]
        return list({id(one.limiter): one.limiter for one in made}.values())

    # --- Limits of routes ---

    def _limit(
        self,
        limits: LimitsArgument | None,
        limiter: RateLimiter | None,
        name: str,
        options: dict[str, Any],
    ) -> RouteLimit:
        """Return a limit that was not yet named after a route."""
        given = defaults_of(RateLimit.__init__) | self._options | options
        given |= {"limits": limits, "limiter": limiter, "denied": None}
        del given["name"]
        inherited = self._options.keys() - options.keys()
        measured = {"metrics": self._metrics} if given["metrics"] is None else {}
        check_arguments(RateLimit.__init__, given | measured, inherited=inherited)
        checked_limiter(limits, limiter)
        if limiter is None:
            check_store(Storage.of(given).store)
        given["key"] = _as_source(given["key"])
        return RouteLimit(self, given, name)

    def limit_of(self, limit: RouteLimit, scope: Scope) -> RateLimit | None:
        """Return what a limit is for the route of a request; None: nothing."""
        if not self.enabled:
            return None
        app, route = scope.get("app"), scope.get("route")
        routes = self._routes_of(app)
        frontends = frontends_of(scope) if route is None else None
        route_id = id(route if frontends is None else frontends.owner)
        known = routes.get(route_id)
        if known is None:
            with self._lock:
                self._learn([*self._apps, app])
                # A route that no application lists has no other name.
                place = Place(app, "", route if frontends is None else frontends)
                known = routes.setdefault(route_id, [self._added(place)])
        if len(known) > 1:  # a router that is included under several prefixes
            known = [one for one in known if one.place.matches(scope)] or known
        return known[0].limits.get(limit)

    def _learn(self, apps: Iterable[Any]) -> None:
        """Read the routes of applications."""
        found: dict[Any, dict[int, list[_Known]]] = {}
        for app in dict.fromkeys(apps):
            for place in places_of(app):
                known = found.setdefault(place.app, {}).setdefault(place.route_id, [])
                if all(one.place.name != place.name for one in known):
                    known.append(self._added(place))
        for app, routes in found.items():
            self._routes_of(app).update(routes)

    def _routes_of(self, app: Any) -> dict[int, list[_Known]]:
        """Return what is known of the routes of an application, by their ids.

        The application keeps it, so that this object keeps no application alive.
        """
        if app is None:
            return self._routes_of_no_app
        routes: dict[int, list[_Known]] = vars(app).setdefault(_ROUTES, {}).setdefault(self, {})
        return routes

    def _added(self, place: Place) -> _Known:
        if self.exempts(place):
            return _Known(place, {})
        own = [one for one in place.limits if isinstance(one, RouteLimit) and one.owner is self]
        of_route = [one for one in own if one is not self._default]
        unnamed = [one for one in of_route if not one.name]
        limits: dict[RateLimit, RateLimit] = {}
        for limit in of_route or own:
            at = unnamed.index(limit) if limit in unnamed else 0
            limits[limit] = self._named(
                limit, limit.name or place.name + (f":{at + 1}" if at else "")
            )
        return _Known(place, limits)

    def _named(self, limit: RouteLimit, name: str) -> RateLimit:
        """Return a limit under a name, the same each time."""
        made = limit.made.get(name)
        if made is None:
            given = limit.given
            if given["metrics"] is None and self._metrics is not None:
                top, top_keys = given["top"], given["top_keys"]
                metrics = self._metrics._replace(rule=name, top=top, top_keys=top_keys)
                given = given | {"metrics": metrics}
            made = limit.made[name] = RateLimit.of(self._limiter(limit, name), given, name)
            self._named_limits[limit] = None
        return made

    def _limiter(self, limit: RouteLimit, name: str) -> RateLimiter:
        limiter: RateLimiter | None = limit.given["limiter"]
        if limiter is not None:
            return limiter
        several = as_limits(fixed_limits(limit.given["limits"]))
        known = self._limiters.get((name, several))
        if known is None:
            storage = Storage.of({**limit.given, "name": self._options["name"]})
            chosen = bool(limit.name) and limit is not self._default
            known = storage.named_limiter(several, name, by_application=not chosen)
            self._limiters[name, several] = known
        return known

    def exempts(self, place: Place) -> bool:
        """Return whether a route is exempt from the limits of this object."""
        owners = getattr(getattr(place.route, "endpoint", None), _EXEMPT, ())
        return self in owners or self._exemption in place.calls

    def limits_route(self, limit: RouteLimit, place: Place) -> bool:
        """Return whether a limit counts for a route that depends on it."""
        return not self.exempts(place)


class RouteLimit(RateLimit):
    """A limit of a RateLimits: for each route that depends on it a RateLimit of that name.

    Args:
        owner: the RateLimits.
        given: the arguments of RateLimit, which were checked.
        name: of the limit on all routes; empty: that of each route.

    Attributes:
        made: what it is under each name.
    """

    def __init__(self, owner: RateLimits, given: dict[str, Any], name: str) -> None:
        self.owner = owner
        self.given = given
        self.name = name
        self.made: dict[str, RateLimit] = {}
        # A first limit that decides nothing: mistakes raise here, and FastAPI reads what it needs.
        limiter: RateLimiter | None = given["limiter"]
        if limiter is None:
            storage = Storage.of(given)
            if is_shared(storage.store):  # a limiter there would make a file
                storage = Storage(max_keys=storage.max_keys, clock=storage.clock)
            limiter = storage.named_limiter(fixed_limits(given["limits"]), name or "route")
        dimension_of(given)  # raise for mistakes
        self._set_up(limiter, given | {"metrics": None}, name)

    def limits_route(self, place: Any) -> bool:
        return self.owner.limits_route(self, place)

    async def __call__(self, connection: HTTPConnection, key: Any = None) -> Decision:
        limit = self.owner.limit_of(self, connection.scope)
        return untouched(self.limiter) if limit is None else await limit(connection, key)


class _Known:
    """A route, and what each limit is for it."""

    __slots__ = ("limits", "place")

    def __init__(self, place: Place, limits: dict[RateLimit, RateLimit]) -> None:
        self.place = place  # keeps the route, so that no other one gets its id
        self.limits = limits


class _Exemption:
    """A dependency that marks the routes of an exempt router."""

    async def __call__(self) -> None:
        """Do nothing."""


def _as_source(key: Any) -> Any:
    """Return a key of RateLimit: a function with annotated parameters is a dependency."""
    if not callable(key) or isinstance(key, params.Depends):
        return key
    return key if _takes_connection(key) else Depends(key)


def _takes_connection(function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a built-in one without a signature
        return True
    empty = inspect.Parameter.empty
    return len(parameters) == 1 and parameters[0].annotation is parameters[0].default is empty


def _check_names(options: Any) -> None:
    for name in options:
        if name not in RateLimitOptions.__annotations__:
            known = ", ".join(sorted(RateLimitOptions.__annotations__))
            raise TypeError(f"unknown option {name!r}; known are {known}")
