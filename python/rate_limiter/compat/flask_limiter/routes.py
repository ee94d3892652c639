"""Which limits and exemptions views, functions and blueprints have.

They are kept on the functions as tuples that decorators with functools.wraps pass on. Names are
not compared, so two views that one function has made have separate limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.flask_limiter.constants import ORDINARY, ExemptionScope
from rate_limiter.compat.flask_limiter.definitions import Limit, RouteLimit, RuntimeLimit

with extra_named():
    from flask import Blueprint, Flask

_LIMITS = "__rate_limits__"
_EXEMPTIONS = "__rate_limit_exemptions__"


@dataclass(eq=False)
class LimitedFunction:
    """A decorated function and its limits of one extension."""

    limiter: object
    function: Callable[..., Any]
    limits: tuple[RouteLimit, ...]
    wrapper: Callable[..., Any] | None = None


class Collected(NamedTuple):
    """The limits of a request, the shortest first.

    Attributes:
        read: limits that counted unless the request was counted against them before.
        new: those of them that count now.
    """

    limits: Sequence[RuntimeLimit]
    read: frozenset[Limit]
    new: frozenset[Limit]


class Plan:
    """What is limited for an endpoint and a method.

    Attributes:
        is_fixed: whether the limits are the same for each request: no callable returns them.
        before: those that count before the view is called, kept if they are fixed.
        called: likewise those that count when a limited function of the view is called.
    """

    __slots__ = (
        *("before", "blueprint", "called", "is_fixed", "is_static", "limited"),
        *("skips_application", "skips_defaults", "skips_meta", "version", "view"),
    )

    def __init__(
        self,
        view: object,
        version: int,
        limited: tuple[LimitedFunction, ...],
        blueprint: tuple[RouteLimit, ...],
        exemption: ExemptionScope,
        is_static: bool,
    ) -> None:
        self.view, self.version = view, version
        self.limited, self.blueprint = limited, blueprint
        self.is_static = is_static
        self.is_fixed = False
        self.before: Collected | None = None
        self.called: dict[LimitedFunction, Collected] = {}
        self.skips_application = ExemptionScope.APPLICATION in exemption
        self.skips_defaults = ExemptionScope.DEFAULT in exemption
        self.skips_meta = ExemptionScope.META in exemption


def attach(wrapper: Callable[..., Any], limited: LimitedFunction) -> None:
    """Note on a decorated function what limits it."""
    limited.wrapper = wrapper
    inherited = getattr(limited.function, _LIMITS, ())
    setattr(wrapper, _LIMITS, (limited, *inherited))


def limited_by(function: Any, limiter: object) -> list[LimitedFunction]:
    """Return what an extension limits in a function and in those that it wraps."""
    return [one for one in getattr(function, _LIMITS, ()) if one.limiter is limiter]


def limited_view(view: Any, method: str, limiter: object) -> list[LimitedFunction]:
    """Return what an extension limits in a view, also in the method of a class-based one."""
    found = limited_by(view, limiter)
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return found
    handler = getattr(view_class, method.lower(), None)
    if handler is None and method == "HEAD":
        handler = getattr(view_class, "get", None)
    dispatch = getattr(view_class, "dispatch_request", None)
    return [*found, *limited_by(dispatch, limiter), *limited_by(handler, limiter)]


def exempt_function(function: Any, limiter: object, flags: ExemptionScope) -> None:
    target = getattr(function, "__func__", function)  # a bound method takes no attributes
    setattr(target, _EXEMPTIONS, ((limiter, flags), *getattr(target, _EXEMPTIONS, ())))


def function_exemption(function: Any, limiter: object) -> ExemptionScope:
    for owner, flags in getattr(function, _EXEMPTIONS, ()):
        if owner is limiter:
            return flags  # type: ignore[no-any-return]
    return ExemptionScope.NONE


class Blueprints:
    """Limits and exemptions of blueprints, for one extension."""

    def __init__(self) -> None:
        self._limits: WeakKeyDictionary[Blueprint, tuple[RouteLimit, ...]] = WeakKeyDictionary()
        self._exemptions: WeakKeyDictionary[Blueprint, ExemptionScope] = WeakKeyDictionary()

    def limit(self, blueprint: Blueprint, limit: RouteLimit) -> None:
        self._limits[blueprint] = (*self._limits.get(blueprint, ()), limit)

    def exempt(self, blueprint: Blueprint, flags: ExemptionScope) -> None:
        self._exemptions[blueprint] = flags

    def exemption(self, app: Flask, name: str | None) -> ExemptionScope:
        """Return what the views of a blueprint are exempt from."""
        path = self._path(app, name)
        if not path:
            return ExemptionScope.NONE
        exemption = self._exemption_of(path[-1]) & ~ExemptionScope.ANCESTORS
        for blueprint in path:
            if ExemptionScope.DESCENDENTS in self._exemption_of(blueprint):
                exemption |= self._exemption_of(blueprint)
        return exemption

    def limits(self, app: Flask, name: str | None) -> list[RouteLimit]:
        """Return the limits of a blueprint, with those of the blueprints that it is nested in."""
        path = self._path(app, name)
        if not path or not self._limits:
            return []
        innermost = path[-1]
        exemption = self._exemption_of(innermost)
        if exemption & (ExemptionScope.META | ExemptionScope.DESCENDENTS):
            return []
        own = self._limits.get(innermost, ())
        overrides = bool(own) and all(limit.override_defaults for limit in own)
        if overrides or ExemptionScope.ANCESTORS in exemption:
            return list(own)
        return [
            limit
            for blueprint in path
            if ExemptionScope.DESCENDENTS not in self._exemption_of(blueprint)
            for limit in self._limits.get(blueprint, ())
        ]

    def _exemption_of(self, blueprint: Blueprint) -> ExemptionScope:
        return self._exemptions.get(blueprint, ExemptionScope.NONE)

    def _path(self, app: Flask, name: str | None) -> list[Any]:
        """Return the blueprints of a dotted name, the outermost first."""
        if name is None or (not self._limits and not self._exemptions):
            return []
        parts = name.split(".")
        names = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return [app.blueprints[each] for each in names if each in app.blueprints]


def drops_own_limits(exemption: ExemptionScope) -> bool:
    """Return whether an exempt function also loses the limits of its decorators."""
    return ORDINARY in exemption
