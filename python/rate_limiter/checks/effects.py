"""Why an argument of a constructor has no effect beside the others.

Each function takes the name of an argument and all arguments, and returns why the one has no
effect, None if it has one.

The store is a choice of the deployment, so `name` and `on_store_error` are accepted with
every given store, including ``"memory://"``. Without a store they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from rate_limiter.checks.redaction import shown

Values: TypeAlias = Mapping[str, Any]
"""Arguments by name. A front adds ``source``: the RuleSource made of them, or None."""


class _Default(str):
    """A default that equals the same text from a caller but is a different object."""

    __slots__ = ()


DEFAULT_STORE = _Default("memory://")
"""The store of a limiter made without `store`."""

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


_REASONS = (
    *(_gateway, _values, _storage, _tracing, _headers, _address, _jwt, _key_set, _tier, _top),
    _cost,
)


def why_without_effect(name: str, given: Values) -> str | None:
    """Return why an argument has no effect beside the others, None if it has one."""
    return next(filter(None, (reason(name, given) for reason in _REASONS)), None)
