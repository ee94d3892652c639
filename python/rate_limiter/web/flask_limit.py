"""DecoratorLimit: the limit of one decorator of a FlaskRateLimiter."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any

from flask import Blueprint, Flask, Request, current_app

from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.policy.policy import Policy
from rate_limiter.web.flask_request import (
    EXTENSION,
    LIMITS,
    Attached,
    State,
    current_request,
    decide,
    error_of,
    give_way,
)
from rate_limiter.web.flask_settings import OF_LIMITS

logger = logging.getLogger("rate_limiter")
_current_app: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]


class LimitNames:
    """The names of the limits of one FlaskRateLimiter."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._in_requests: dict[str, int] = {}  # limits that were made while one was handled

    def unique(self, name: str) -> str:
        """Return the name of a decorator's buckets: views made by one function have one name."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}:{count}"

    def is_first_in_request(self, place: str) -> bool:
        """Return whether a limit is the first that is made for a view while requests are handled.

        That is one of a module which a request loads. If another follows, each request makes one,
        with full buckets: warn once.
        """
        count = self._in_requests[place] = self._in_requests.get(place, 0) + 1
        if count == 2:
            logger.warning(
                "limit() was called again while a request is handled, for %s. Each call starts "
                "with full buckets, so it limits nothing there: decorate the function once, where "
                "the module is loaded",
                place,
            )
        return count == 1


class DecoratorLimit:
    """The limit of one decorator.

    Its Policy is made when a request first needs it: the application's configuration may name
    another store.

    Args:
        owner: the FlaskRateLimiter.
        policy_of: makes the Policy of some settings and the name of the limit.
        given_name: None: it is named after the first view.
        names: the names of the owner's limits.
    """

    def __init__(
        self,
        owner: object,
        policy_of: Callable[[Mapping[str, Any], str | None], Policy],
        given_name: str | None,
        names: LimitNames,
    ) -> None:
        self.owner = owner
        self.name: str | None = None
        self.is_kept = True  # by the applications; not if each request makes one
        self._policy_of = policy_of
        self._given_name = given_name
        self._names = names
        self._lock = threading.Lock()
        self._made: list[tuple[list[Any], Policy]] = []

    def take_name_of(self, view: Any) -> None:
        """Name the limit after the first view that it limits, unless it has a name."""
        if self.name is None:
            place = len(getattr(view, LIMITS, ()))
            self.name = self._given_name or self._names.unique(f"{name_of(view)}:{place}")

    def policy(self, state: State) -> Policy:
        """Return the Policy under the settings of an application."""
        with self._lock:
            return self._policy_under(state.settings)

    def _policy_under(self, settings: dict[str, Any]) -> Policy:
        of_limits = [settings[name] for name in OF_LIMITS]
        for known, policy in self._made:
            if known == of_limits:
                return policy
        made = self._policy_of(settings, self.name)
        self._made.append((of_limits, made))
        return made

    def policies(self) -> list[Policy]:
        """Return the policies that were made."""
        return [made for _, made in self._made]

    def limiters(self) -> dict[str, RateLimiter]:
        """Return the limiters by the names of their rules."""
        return {name: one for _, made in self._made for name, one in made.limiters().items()}

    def wrapped(self, view: Any) -> Any:
        """Return a view that is limited when it is called; a class is changed in place."""
        if isinstance(view, type):
            view.dispatch_request = self.wrapped(view.dispatch_request)  # type: ignore[attr-defined]
            return view

        is_async = iscoroutinefunction(view)

        @functools.wraps(view)
        def limited(*args: Any, **kwargs: Any) -> Any:
            try:
                current = current_request()
            except RuntimeError:  # no request is handled
                return view(*args, **kwargs)
            denial = self._denial(current, limited)
            if denial is not None:
                return denial
            if is_async:
                return current_app.ensure_sync(view)(*args, **kwargs)
            return view(*args, **kwargs)

        return limited

    def _denial(self, current: Request, limited: Callable[..., Any]) -> Any:
        """Return the response if Flask itself called the view and it is denied, else None.

        Raises:
            FlaskRateLimitExceeded: denied; the caller may be another decorator.
        """
        app = _current_app()
        limiters: Attached | None = app.extensions.get(EXTENSION)
        if limiters is None:
            return None
        state, policy = limiters.decorators.get(self) or self._look_up(limiters)
        if policy is None:
            return None
        if state.defaults is not None:
            give_way(current.environ, state.defaults)
        denial = decide(state, policy, current)
        if denial is None:
            return None
        if app.view_functions.get(current.endpoint or "") is not limited:
            raise error_of(state, denial, current.environ)
        return limiters.response_to(state, denial, current.environ)

    def _look_up(self, limiters: Attached) -> tuple[State, Policy | None]:
        """Return, and remember if it is kept, what counts in an application."""
        state = limiters.state_of(self.owner)
        found = (state, self.policy(state) if state.enabled else None)
        if self.is_kept:
            limiters.decorators[self] = found
        return found


def name_of(view: Any) -> str:
    """Return the name of a decorated view, class or blueprint, the same in all processes."""
    if isinstance(view, Blueprint):
        return f"{view.import_name}.{view.name}"
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__qualname__)}".replace(
        "<locals>.", ""
    )
