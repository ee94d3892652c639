"""Check the arguments of constructors: their values, and which have no effect beside others.

Every constructor passes its arguments to `check_arguments`, so all of them refuse the same
mistakes. _CHECKS has a check of each value, independent of the others; effects.py finds arguments
that conflict.

An argument that equals its default counts as not given. The error, a TypeError or ValueError,
names the argument and, if there is a conflict, the other argument.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
from collections.abc import Callable, Container, Iterable
from functools import lru_cache
from typing import Any, cast

from rate_limiter._core import ManualClock
from rate_limiter.checks.effects import Values, why_without_effect
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import TopKeys
from rate_limiter.limit import check_cost, checked_number

POLICIES = ("memory", "allow", "deny", "raise")
"""The values of `on_store_error`."""
TOP_MAX = 100
"""Clients that a sketch of 64 KB can find: RL_TOP_CLIENTS_MAX in csrc/engine/top.h."""
TRACE_SECRET = "RATE_LIMITER_TRACE_SECRET"
"""Variable of the environment: processes with the same one write the same hash of a key."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class NoEffectError(TypeError):
    """Raised for an argument that has no effect beside the other arguments.

    Attributes:
        argument: the name of the argument.
    """

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(f"{argument} has no effect {why}")
        self.argument = argument


def check_arguments(
    function: Callable[..., Any], values: Values, *, inherited: Container[str] = ()
) -> None:
    """Check the arguments that `function` was called with.

    Args:
        function: the function, whose signature has the names and the defaults.
        values: the arguments, such as ``dict(locals())`` at the start of the function. Missing
            arguments are not checked.
        inherited: names of arguments that were given for several functions, so that they need not
            have an effect here.

    Raises:
        TypeError, ValueError: an argument is wrong or has no effect.
    """
    for name, default in defaults_of(function).items():
        if name not in values or _is_same(values[name], default):
            continue
        if name in _CHECKS:
            _CHECKS[name](name, values[name])
        if name in inherited or values[name] in _EMPTY:
            continue
        why = why_without_effect(name, values)
        if why is not None:
            raise NoEffectError(name, why)


@lru_cache(maxsize=64)
def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function's parameters by their names."""
    return {
        one.name: one.default
        for one in inspect.signature(function).parameters.values()
        if one.name != "self"
    }


_EMPTY: tuple[object, ...] = (None, (), [], "")


def _is_same(value: Any, default: Any) -> bool:
    # True equals 1, but is not a number here.
    return value is default or (
        isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
    )


# --- Values of arguments -------------------------------------------------------------------------


def checked_switch(name: str, value: object) -> bool:
    """Return an argument after checking that it is True or False.

    Raises:
        TypeError: the value is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def checked_tracing(name: str, value: object) -> bool:
    """Return an argument that switches tracing, after checking it.

    Raises:
        TypeError: the value is not True or False.
        ImportError: OpenTelemetry's API is not installed.
        ValueError: the secret of the hashes of keys in the environment is too short.
    """
    if not checked_switch(name, value):
        return False
    try:
        importlib.import_module("opentelemetry.trace")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name}=True needs OpenTelemetry's API: pip install 'rate-limiter-c[otel]'",
            name=error.name,
        ) from None
    trace_secret()
    return True


def trace_secret() -> str:
    """Return the secret of the hashes of keys in traces; empty where none is set.

    Raises:
        ValueError: it is too short.
    """
    secret = os.environ.get(TRACE_SECRET, "")
    if 0 < len(secret) < 16:
        raise ValueError(f"{TRACE_SECRET} must have at least 16 characters, got {len(secret)}")
    return secret


def checked_policy(on_store_error: str) -> str:
    """Return the policy.

    Raises:
        ValueError: there is no such policy.
    """
    if on_store_error not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"on_store_error must be one of {known}, got {shown(on_store_error)}")
    return on_store_error


def checked_whole(name: str, value: object) -> int:
    """Return an argument after checking that it is a whole number of any range.

    Raises:
        TypeError: the value is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    return value


def checked_seconds(name: str, value: float) -> float:
    """Return an argument after checking that it is a finite number of seconds >= 0.

    Raises:
        TypeError, ValueError: the value is something else.
    """
    if not 0 <= checked_number(name, value) < math.inf:
        raise ValueError(f"{name} must be a number of seconds >= 0, got {shown(value)}")
    return value


def checked_text(name: str, value: object) -> str:
    """Return an argument after checking that it is a str.

    Raises:
        TypeError: the value is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")
    return value


def is_token(text: str) -> bool:
    """Return whether a text can be the name of a header or a method (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def checked_several(name: str, values: object, what: str, example: str) -> list[Any]:
    """Return an argument of several values as a list. A str is refused: it iterates by character.

    Args:
        name: name of the argument.
        values: value of the argument.
        what: plural noun for the values, for the message.
        example: one value, for the message.

    Raises:
        TypeError: the value is a str, bytes or not iterable.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        given = type(values).__name__  # the value may be a secret
        raise TypeError(f"{name} must be several {what}, such as [{example!r}], not one {given}")
    return list(values)


def checked_plain(name: str, value: Any) -> Any:
    """Return an argument for callers without an event loop.

    Raises:
        TypeError: it is an async function, or one of several is.
    """
    for one in value if isinstance(value, (list, tuple, set, frozenset)) else (value,):
        called = vars(type(one)).get("__call__")  # of an object that is called
        if inspect.iscoroutinefunction(one) or inspect.iscoroutinefunction(called):
            raise TypeError(f"{name} must be a plain function, not an async one, got {one!r}")
    return value


def checked_path(name: str, value: object) -> str:
    """Return an argument after checking that it is a path.

    Raises:
        ValueError: the value is something else.
    """
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{name} must be a str that begins with '/', got {shown(value)}")
    return value


def checked_paths(name: str, values: object) -> frozenset[str]:
    """Return an argument of several paths.

    Raises:
        TypeError, ValueError: the value is something else.
    """
    paths = checked_several(name, values, "paths", "/health")
    return frozenset(checked_path(f"a path in {name}", one) for one in paths)


def _check_cost(name: str, cost: Any) -> None:
    if not callable(cost):
        check_cost(cost, ())


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a callable, got {shown(value)}")


def _check_header(name: str, value: object) -> None:
    if not is_token(checked_text(name, value)):
        raise ValueError(f"{name} must be the name of a header, got {shown(value)}")


def _check_jwt(name: str, value: object) -> None:
    if not hasattr(value, "claims_of"):
        raise TypeError(f"{name} must be a Jwt, not {type(value).__name__}")


def _check_secret(name: str, value: object) -> None:
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be str or bytes, not {type(value).__name__}")


def checked_clock(name: str, value: object) -> None:
    """Check an argument that is a clock. The engine calls a callable later, and checks the result.

    Raises:
        TypeError, ValueError: the value is something else.
    """
    checked_plain(name, value)
    if isinstance(value, ManualClock) or callable(value):
        return
    if not isinstance(value, str) or value not in ("monotonic", "coarse"):
        raise ValueError(
            f"{name} must be 'monotonic', 'coarse' (where the system has one), a ManualClock or a "
            f"callable that returns seconds, got {shown(value)}"
        )


def checked_top(name: str, value: object) -> int:
    """Return an argument after checking that it is a number of top clients.

    Raises:
        TypeError, ValueError: the value is something else.
    """
    if not 1 <= checked_whole(name, value) <= TOP_MAX:
        raise ValueError(f"{name} must be a number of clients from 1 to {TOP_MAX}, got {value}")
    return cast(int, value)


def checked_top_keys(name: str, value: object) -> TopKeys:
    """Return an argument after checking that it says how keys are shown.

    Raises:
        ValueError: the value is something else.
    """
    if not isinstance(value, str) or value not in ("plain", "masked", "hashed"):
        raise ValueError(f"{name} must be 'plain', 'masked' or 'hashed', got {shown(value)}")
    return cast(TopKeys, value)


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "api_key_header": _check_header,
    "clock": checked_clock,
    "cors": checked_switch,
    "cost": _check_cost,
    "cost_after": _check_callable,
    "dimension_label": checked_text,
    "enabled": checked_switch,
    "header": _check_header,
    "issuer": checked_text,
    "jwt": _check_jwt,
    "leeway_s": checked_seconds,
    "max_keys": checked_whole,
    "name": checked_text,
    "on_store_error": lambda name, value: checked_policy(value),
    "on_denied": _check_callable,
    "prefix": checked_text,
    "proxy_header": checked_text,
    "public_key": _check_secret,
    "refresh_s": checked_seconds,
    "retry_jitter_s": checked_seconds,
    "retry_s": checked_seconds,
    "secret": _check_secret,
    "setup_checks": checked_switch,
    "status_path": checked_path,
    "timeout_s": checked_seconds,
    "tracing": checked_tracing,
    "top": checked_top,
    "top_keys": checked_top_keys,
    "user_id_header": _check_header,
    "waiters_first": checked_switch,
}
