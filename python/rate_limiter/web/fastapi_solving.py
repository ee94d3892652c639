"""Decide by the RateLimits that a route depends on first, without what FastAPI does for each.

    route ──> RateLimits without options ──> FastAPI's solve_dependencies: all other dependencies

FastAPI solves a dependency in the same steps as a route, which takes several times as long as a
decision. Limits that come before all other dependencies, and need only the request, can be called
without these steps: they run at the same time and in the same order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from rate_limiter.web.fastapi_dependency import RateLimit
from rate_limiter.web.fastapi_routes import calls_below


def deciding_first(solve: Callable[..., Any]) -> Callable[..., Any]:
    """Return FastAPI's `solve_dependencies`, with the first limits of a route called directly."""

    @functools.wraps(solve)
    def solve_dependencies(*, dependant: Any, **given: Any) -> Any:
        found = dependant.dependencies
        if found and isinstance(found[0].call, RateLimit):
            if type(found) is not _Dependencies or not found.are_of(dependant):
                found = dependant.dependencies = _Dependencies(dependant)
            provider = given.get("dependency_overrides_provider")
            has_overrides = provider and provider.dependency_overrides
            # A caller with a cache of its own may have the decision already, or wants it.
            if found.first and not has_overrides and "dependency_cache" not in given:
                return _decide_and_solve(found, solve, given)
        return solve(dependant=dependant, **given)

    return solve_dependencies


async def _decide_and_solve(
    dependencies: _Dependencies, solve: Callable[..., Any], given: dict[str, Any]
) -> Any:
    for limit in dependencies.first:
        await limit(given["request"])
    return await solve(dependant=dependencies.rest, **given)


class _Dependencies(list[Any]):
    """The dependencies of a route.

    Attributes:
        first: the limits to call first.
        rest: the route, with all other dependencies.
    """

    def __init__(self, dependant: Any) -> None:
        super().__init__(dependant.dependencies)
        self._dependant = dependant
        self._at_first = list(self)
        self._calls = [one.call for one in self]
        self.first: list[RateLimit] = []
        for i, one in enumerate(self):
            # FastAPI calls a limit once per request, even if it is used several times.
            others = itertools.chain.from_iterable(map(calls_below, self[i + 1 :]))
            if not _is_plain(one) or one.call in others:
                break
            self.first.append(one.call)
        self.rest = replace(dependant, dependencies=self[len(self.first) :])

    def are_of(self, dependant: Any) -> bool:
        """Return whether they are of a route, and have not changed."""
        is_same = self._dependant is dependant and self == self._at_first
        return is_same and [one.call for one in self] == self._calls


async def _plain(connection: HTTPConnection) -> None: ...


_PLAIN = APIRoute("/", _plain, dependencies=[Depends(_plain)]).dependant.dependencies[0]


def _is_plain(dependant: Any) -> bool:
    """Return whether it is a RateLimit without options, which needs only the request."""
    limit = dependant.call
    if not isinstance(limit, RateLimit) or not iscoroutinefunction(limit.__call__):
        return False
    # Compared as a whole, so that options of newer versions count too.
    is_plain: bool = replace(dependant, call=_plain, path=_PLAIN.path) == _PLAIN
    return is_plain
