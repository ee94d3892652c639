"""Views with limits: what a limiter keeps about a function, and the wrapper it puts around it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from rate_limiter.compat.slowapi.wrappers import LimitGroup

_MARK = "__rate_limiter_views__"
_REQUEST = "_rate_limiter_request"
_RESPONSE = "_rate_limiter_response"


class Checker(Protocol):
    """What the wrapper of a view asks of a Limiter."""

    enabled: bool
    _headers_enabled: bool

    def _should_check(self, request: Request) -> bool: ...

    def _check_request_limit(
        self, request: Request, endpoint_func: Callable[..., Any] | None, in_middleware: bool
    ) -> None: ...

    async def _check_async(
        self, request: Request, endpoint_func: Callable[..., Any], in_middleware: bool
    ) -> None: ...

    def _show(
        self, request: Request, result: Any, response: Any, arguments: Iterable[Any]
    ) -> None: ...


@dataclass
class ViewLimits:
    """What one limiter keeps about a view.

    Attributes:
        name: the module and the name of the function.
        groups: its limits.
        is_exempt: whether no limit applies to it.
        is_limited: whether it has limits, even if their texts are malformed.
        wrapper: the function that checks them.
    """

    name: str
    groups: list[LimitGroup] = field(default_factory=list)
    is_exempt: bool = False
    is_limited: bool = False
    wrapper: Callable[..., Any] | None = None


def name_of(view: Any) -> str:
    """Return the module and the name of a view."""
    return f"{view.__module__}.{getattr(view, '__name__', type(view).__name__)}"


def view_limits(limiter: object, view: Any) -> ViewLimits | None:
    """Return what a limiter keeps about a view, or None.

    The attribute that holds it is copied by functools.wraps, so decorators may stand in between.
    """
    marks: dict[object, ViewLimits] | None = getattr(view, _MARK, None)
    return None if marks is None else marks.get(limiter)


def marked(limiter: object, view: Any) -> ViewLimits:
    """Return what a limiter keeps about a view, after making it if necessary."""
    target = getattr(view, "__func__", view)  # methods have no attributes
    if _MARK not in vars(target):
        setattr(target, _MARK, {})
    marks: dict[object, ViewLimits] = getattr(target, _MARK)
    return marks.setdefault(limiter, ViewLimits(name_of(view)))


def limited(limiter: Checker, view: Callable[..., Any], limits: ViewLimits) -> Callable[..., Any]:
    """Return a function that checks the limits of a view before it calls it."""
    added = _added_parameters(view, limiter._headers_enabled)

    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            given, response = kwargs.pop(_REQUEST, None), kwargs.pop(_RESPONSE, None)
            if not limiter.enabled:
                return await view(*args, **kwargs)
            request = _request_of(given, args, kwargs)
            if limiter._should_check(request):
                await limiter._check_async(request, wrapper, in_middleware=False)
            result = await view(*args, **kwargs)
            limiter._show(request, result, response, kwargs.values())
            return result

    else:

        @functools.wraps(view)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            given, response = kwargs.pop(_REQUEST, None), kwargs.pop(_RESPONSE, None)
            if not limiter.enabled:
                return view(*args, **kwargs)
            request = _request_of(given, args, kwargs)
            if limiter._should_check(request):
                limiter._check_request_limit(request, wrapper, in_middleware=False)
            result = view(*args, **kwargs)
            limiter._show(request, result, response, kwargs.values())
            return result

    if added is not None:
        wrapper.__signature__ = added  # type: ignore[attr-defined]
    # A mark on the view itself has been copied by functools.wraps.
    vars(wrapper).setdefault(_MARK, {}).setdefault(limiter, limits)
    limits.wrapper = wrapper
    return wrapper


def _request_of(given: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    for one in (given, kwargs.get("request"), *args, *kwargs.values()):
        if isinstance(one, Request):
            return one
    raise TypeError("parameter `request` must be an instance of starlette.requests.Request")


def _added_parameters(view: Callable[..., Any], with_response: bool) -> inspect.Signature | None:
    """Return the signature of a view with the parameters that FastAPI is to fill in besides.

    Raises:
        TypeError: the view is one of a websocket.
    """
    signature = inspect.signature(view)
    parameters = list(signature.parameters.values())
    has_request = _has(parameters, "request", Request)
    if not has_request and "websocket" in signature.parameters:
        raise TypeError(
            f'"websocket" argument on function "{view}": websockets are not supported here. Use '
            "rate_limiter.fastapi.RateLimit or rate_limiter.middleware.RateLimitMiddleware"
        )
    added: list[tuple[str, type]] = [] if has_request else [(_REQUEST, Request)]
    if with_response and not _has(parameters, "response", Response):
        added.append((_RESPONSE, Response))
    if not added:
        return None
    last = parameters.pop() if parameters and parameters[-1].kind is _ANY_KEYWORD else None
    parameters += [inspect.Parameter(n, _BY_KEYWORD, annotation=kind) for n, kind in added]
    return signature.replace(parameters=[*parameters, *([last] if last else [])])


_ANY_KEYWORD = inspect.Parameter.VAR_KEYWORD
_BY_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _has(parameters: Iterable[inspect.Parameter], name: str, kind: type) -> bool:
    """Return whether FastAPI gives one of the parameters a Request or a Response."""
    return any(
        each.name == name if each.annotation is each.empty else _is_a(each.annotation, kind)
        for each in parameters
    )


def _is_a(annotation: Any, kind: type) -> bool:
    if isinstance(annotation, str):
        return re.search(rf"\b{kind.__name__}\b", annotation) is not None
    if hasattr(annotation, "__metadata__"):  # Annotated
        annotation = annotation.__origin__
    return isinstance(annotation, type) and issubclass(annotation, kind)
