"""Check the arguments of constructors: their values, and which have no effect beside others.

Every constructor passes its arguments to `check_arguments`, so all of them refuse the same
mistakes. Two tables define the checks:

    _CHECKS     name of an argument -> check of its value, independent of the others
    _REASONS    (name, all arguments) -> why it has no effect beside them, None if it has one

An argument that equals its default counts as not given. The error, a TypeError or ValueError, names
the argument and, if there is a conflict, the other argument.

The store is a choice of the deployment, so `name` and `on_store_error` are accepted with
every given store, including ``"memory://"``. Without a store they are refused.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias, cast

from rate_limiter._core import ManualClock
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import TopKeys
from rate_limiter.limit import check_cost, checked_number

Values: TypeAlias = Mapping[str, Any]
"""Arguments by name. A front adds ``source``: the RuleSource made of them, or None."""


class _Default(str):
    """A default that equals the same text from a caller but is a different object."""

    __slots__ = ()


DEFAULT_STORE = _Default("memory://")
"""The store of a limiter made without `store`."""

POLICIES = ("memory", "allow", "deny", "raise")
"""The values of `on_store_error`."""
TOP_MAX = 100
"""Clients that a sketch of 64 KB can find: RL_TOP_CLIENTS_MAX in csrc/engine/top.h."""


TRACE_SECRET = "RATE_LIMITER_TRACE_SECRET"
"""Variable of the environment: processes with the same one write the same hash of a key."""


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
        if name not in inherited and values[name] not in _EMPTY:
            _check_effect(name, values)


def _check_effect(name: str, values: Values) -> None:
    for reason in _REASONS:
        why = reason(name, values)
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
    text = checked_text(name, value)
    if not text.isascii() or not text.isprintable() or " " in text:
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


# --- Why an argument has no effect ---------------------------------------------------------------

_OF_STYLE = ("reset", "retry_jitter_s", "cors")
_STORAGE = ("store", "name", "on_store_error", "max_keys", "clock")
_OF_ADDRESS = ("trusted_proxies", "proxy_header", "ipv6_prefix")
_OF_GATEWAY = ("api_key_header", "user_id_header", "dimension_label")
_OF_ANY = ("app", "limiter", "policy", "exempt_paths", "enabled", "client", "tracing")
_WITH_POLICY = {*_OF_ANY, *_OF_ADDRESS, *_OF_GATEWAY}


def _gateway(name: str, given: Values) -> str | None:
    """With a policy the gateway decides. It reads few arguments, some of which others ignore."""
    if given.get("policy") is None:
        return "without policy" if name in _OF_GATEWAY else None
    if name == "metrics":
        return "with policy, where dimension_label names the dimension"
    if name not in _WITH_POLICY:
        return "with policy"
    if name == "ipv6_prefix" and not given.get("trusted_proxies"):
        return "with policy and without trusted_proxies"
    return None


def _storage(name: str, given: Values) -> str | None:
    """A limiter already has a store. Memory has no names and does not fail."""
    if name not in _STORAGE:
        return None
    if given.get("limiter") is not None:
        of_limits = "on_store_error, store, name, max_keys and clock belong to limits"
        return f"beside limiter: {of_limits}; a limiter has its own"
    if name in ("name", "on_store_error") and given.get("store") is DEFAULT_STORE:
        return "without store: limits in the memory of this process have no name and cannot fail"
    if name == "name" and given.get("exact_prefix") is not None:
        return "beside exact_prefix"
    return None


def _tracing(name: str, given: Values) -> str | None:
    """A limiter traces its Redis, and a front also what it denies."""
    if name != "tracing" or "waiters_first" not in given:  # not of a limiter
        return None
    store = given.get("store")
    if hasattr(store, "tracing"):
        return "beside store, a RedisStore that has its own"
    in_memory = store is DEFAULT_STORE or str(store).startswith(("memory://", "shared://"))
    return "without a Redis store: limits in memory have no round trips" if in_memory else None


def _values(name: str, given: Values) -> str | None:
    """A value object has these arguments itself."""
    if name in _OF_ADDRESS and given.get("client") is not None:
        return "beside client: give it to ClientAddress"
    if name in _OF_STYLE and not isinstance(given.get("headers", ""), str):
        return "beside a HeaderStyle: give it to that"
    if name in _STORAGE[1:] and hasattr(given.get("store"), "new_limiter"):
        return "beside a Store: give it to that"
    return None


def _headers(name: str, given: Values) -> str | None:
    """Jitter changes Retry-After, which is in the headers or in the body of the answer."""
    if name != "retry_jitter_s" or given.get("headers") != "off":
        return None
    denied = given.get("denied")
    has_retry_after = denied == "problem" or (
        not callable(denied) and "{retry_after}" in str(denied)
    )
    return None if has_retry_after else "with headers='off'"


def _address(name: str, given: Values) -> str | None:
    """Keys fall back to the client's address, unless all clients share one key."""
    if name not in _OF_ADDRESS or "key" not in given or uses_address(given["key"]):
        return None
    by_address = any(one.startswith("ip:") for one in _words(given.get("bypass")))
    if by_address or _may_change(given) or any(map(uses_address, _keys_of_rules(given))):
        return None
    return f"with key={shown(given['key'])}, which uses no address"


def _jwt(name: str, given: Values) -> str | None:
    """A token is verified only for an argument that names one of its claims."""
    if name != "jwt" or "key" not in given or _may_change(given):
        return None
    specs = [given["key"], given.get("tier"), given.get("bypass"), *_keys_of_rules(given)]
    if any(word.strip().lower().startswith("jwt:") for spec in specs for word in _words(spec)):
        return None
    return "without 'jwt:CLAIM' in key, tier or bypass"


def _key_set(name: str, given: Values) -> str | None:
    """A secret and a public key are read only once."""
    is_of_set = name in ("refresh_s", "retry_s", "timeout_s") and "jwks" in given
    return "without jwks" if is_of_set and given["jwks"] is None else None


def _tier(name: str, given: Values) -> str | None:
    """Tiers need a source of the client's tier, and the source needs tiers."""
    if "tier" not in given:
        return None
    if name in ("limits", "default_limits") and isinstance(given[name], Mapping):
        is_alone = given["tier"] is None and given[name].keys() != {"default"}
        return "as a mapping of tiers without tier" if is_alone else None
    if name != "tier" or "source" not in given or _may_change(given):
        return None
    source = given["source"]
    if source is not None and source.current().tiers:
        return None
    return "without tiers: give limits as a mapping of tiers, or rules that name tiers"


def _top(name: str, given: Values) -> str | None:
    """Top clients are counted where decisions are, and only then have keys."""
    if name in ("top", "top_keys") and given.get("metrics", "") is None:
        return "without metrics"
    return "without top" if name == "top_keys" and given.get("top", 1) is None else None


def _cost(name: str, given: Values) -> str | None:
    """In Flask, each decorator has its own cost."""
    if name != "cost" or "default_limits" not in given or "source" not in given:
        return None
    return "without default_limits or rules" if given["source"] is None else None


_REASONS = (
    *(_gateway, _values, _storage, _tracing, _headers, _address, _jwt, _key_set, _tier, _top),
    _cost,
)


def uses_address(key: Any) -> bool:
    """Return True if a key may be the client's address: not if all clients share one key."""
    words = _words(key)
    return "all" not in words or "ip" in words[: words.index("all")]


def _may_change(given: Values) -> bool:
    """Return True if there are rules that may change, and so may use any argument later."""
    source = given.get("source")
    return source is not None and not source.is_fixed


def _keys_of_rules(given: Values) -> list[Any]:
    source = given.get("source")
    rules = [] if source is None else source.current().rules.values()
    return [rule.key for rule in rules if rule.key is not None]


def _words(spec: Any) -> list[str]:
    """Return the texts of one source, or of several."""
    several = spec if isinstance(spec, (list, tuple, set, frozenset)) else [spec]
    return [one for one in several if isinstance(one, str)]
