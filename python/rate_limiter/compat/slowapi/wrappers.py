"""Limits with their options, as the decorators of slowapi are given them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from starlette.requests import Request

from rate_limiter.compat.limits import RateLimitItem
from rate_limiter.compat.limits.util import known_items

StrOrCallableStr: TypeAlias = str | Callable[..., str]


class MalformedText(ValueError):
    """The text of a limit cannot be read."""


class LimitGroup:
    """The limits of one text, or of a callable that returns one, and their options.

    Args:
        limit_provider: a text, or a callable that returns one and may take the `key` of a request.
        key_function: returns the key of a request.
        scope: what the limits count together instead of an endpoint: a text, or a callable that
            gets the name of the endpoint.
        per_method: whether each HTTP method is a separate count.
        methods: the HTTP methods that are limited; None for all.
        error_message: the detail of the exception, a text or a callable.
        exempt_when: returns True for requests that are not limited; may take the request.
        cost: what a request takes, a number or a callable that gets the request.
        override_defaults: whether these limits replace the default limits.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        limit_provider: StrOrCallableStr,
        key_function: Callable[..., str],
        scope: StrOrCallableStr | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: StrOrCallableStr | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = False,
    ) -> None:
        if isinstance(methods, str):
            raise TypeError(f"methods must be a list of str, got {methods!r}")
        self.limit_provider = limit_provider
        self.key_function = key_function
        self.scope = scope
        self.per_method = per_method
        self.methods: Sequence[str] | None = (
            [method.lower() for method in methods] if methods else methods
        )
        self.error_message = error_message
        self.exempt_when = exempt_when
        self.cost = _checked_cost(cost)
        self.override_defaults = override_defaults
        self.key_of = _taking_request("key_func", key_function)
        self._is_exempt = exempt_when and _taking_request("exempt_when", exempt_when)
        self._takes_key = callable(limit_provider) and _provider_takes_key(limit_provider)
        self._limits = None if callable(limit_provider) else self._read(limit_provider)

    def __iter__(self) -> Iterator[Limit]:
        """Return the limits of the text; a callable that takes a key needs a request."""
        return iter(self.for_request(None))

    def for_request(self, request: Request | None) -> list[Limit]:
        """Return the limits that apply to a request.

        Raises:
            MalformedText: the callable returned one.
        """
        if self._limits is not None:
            return self._limits
        provider: Any = self.limit_provider
        if not self._takes_key:
            return self._read(provider())
        if request is None:
            raise ValueError("a limit that takes the key of a request needs one")
        return self._read(provider(key=self.key_of(request)))

    def is_exempt(self, request: Request) -> bool:
        """Return True if `exempt_when` exempts a request."""
        return bool(self._is_exempt and self._is_exempt(request))

    def _read(self, text: str) -> list[Limit]:
        try:
            items = known_items(text)
        except ValueError as error:
            raise MalformedText(str(error)) from None
        return [Limit(item, self) for item in items]


class Limit:
    """One limit with the options of its group.

    Attributes:
        limit: the RateLimitItem. The others are those of LimitGroup.
    """

    def __init__(self, limit: RateLimitItem, group: LimitGroup) -> None:
        self.limit = limit
        self.key_func = group.key_function
        self.scope: StrOrCallableStr | None = group.scope
        self.per_method: bool = group.per_method
        self.methods: Sequence[str] | None = group.methods
        self.error_message: StrOrCallableStr | None = group.error_message
        self.exempt_when = group.exempt_when
        self.cost = group.cost
        self.override_defaults: bool = group.override_defaults
        self._group = group

    def is_exempt(self, request: Request) -> bool:
        """Return True if `exempt_when` exempts a request."""
        return self._group.is_exempt(request)

    def counts_for(self, request: Request, endpoint: str, view: str) -> tuple[str, str] | None:
        """Return the key and the scope of a request, or None if it is not limited."""
        method: str = request.scope["method"]
        if self.methods is not None and method.lower() not in self.methods:
            return None
        if self._group.is_exempt(request):
            return None
        scope = (self.scope(view) if callable(self.scope) else self.scope) or endpoint
        return self._group.key_of(request), f"{scope}:{method}" if self.per_method else scope

    def cost_for(self, request: Request) -> int:
        """Return what a request takes."""
        return self.cost(request) if callable(self.cost) else self.cost


def _checked_cost(cost: int | Callable[..., int]) -> int | Callable[..., int]:
    if callable(cost):
        return _blocking("cost", cost)
    if isinstance(cost, bool) or not isinstance(cost, int) or cost < 0:
        raise ValueError(f"cost must be a whole number from 0 or a callable, got {cost!r}")
    return cost


def _blocking(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable; its result would be ignored if it had to be awaited."""
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {function!r}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} must not be a coroutine function: its result is not awaited")
    return function


def _taking_request(name: str, function: Callable[..., Any]) -> Callable[[Request], Any]:
    """Return a callable that takes a request, for one that may take none."""
    _blocking(name, function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return function
    if any(each.name == "request" for each in parameters) or any(map(_is_required, parameters)):
        return function
    if name == "exempt_when" and len(parameters) == 1:
        return function
    return lambda request: function()


def _provider_takes_key(provider: Callable[..., str]) -> bool:
    _blocking("a limit", provider)
    try:
        parameters = inspect.signature(provider).parameters
    except (TypeError, ValueError):
        return False
    others = [name for name, each in parameters.items() if name != "key" and _is_required(each)]
    if others:
        raise TypeError(
            f"a callable limit takes no argument or `key`; {provider!r} requires {others[0]!r}"
        )
    return "key" in parameters


def _is_required(parameter: inspect.Parameter) -> bool:
    is_one = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return is_one and parameter.default is parameter.empty
