"""Import paths that users' programs contain: each of them names what it named before."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import pytest
from support.servers import ROOT

PATHS = {
    "rate_limiter": (
        *("AsyncRateLimiter", "AsyncTokenBucketRateLimiter", "Decision", "Limit", "ManualClock"),
        *("RateLimitConfig", "RateLimitExceeded", "RateLimitPolicy", "RateLimiter", "StoreError"),
        *("AsyncReservation", "Decisions", "Reservation", "hit_all", "hit_all_async"),
        *("RateLimiterMiddleware", "TokenBucket", "TokenBucketLimiter", "TokenBucketRateLimiter"),
        "RateLimitMiddleware",
    ),
    "rate_limiter.asgi": (
        *("ClientAddress", "DeniedRequest", "HeaderStyle", "RateLimitMiddleware", "Store"),
        *("ASGIApp", "Message", "Receive", "Scope", "Send"),
        *("Clock", "DynamicLimits", "Finished", "OnStoreError"),
    ),
    "rate_limiter.wsgi": (
        *("ClientAddress", "DeniedRequest", "HeaderStyle", "RateLimitMiddleware", "Store"),
        *("Clock", "DynamicLimits", "Environ", "Finished", "OnStoreError", "WsgiApp"),
    ),
    "rate_limiter.bucket_info": ("BucketInfo",),
    "rate_limiter.compat.flask_limiter": ("Limiter",),
    "rate_limiter.compat.flask_limiter.util": ("get_remote_address",),
    "rate_limiter.compat.slowapi": ("Limiter", "_rate_limit_exceeded_handler"),
    "rate_limiter.compat.slowapi.errors": ("RateLimitExceeded",),
    "rate_limiter.compat.slowapi.util": ("get_remote_address",),
    "rate_limiter.config": ("RateLimitConfig", "RateLimitPolicy"),
    "rate_limiter.exceptions": ("RateLimitExceeded",),
    "rate_limiter.fastapi": (
        *("RATE_LIMITED_RESPONSE", "RateLimit", "RateLimitHTTPException", "document_limits"),
        *("DeniedRequest", "RateLimits", "SettlingMiddleware"),
        *("Clock", "DynamicLimits", "Finished", "OnStoreError"),
    ),
    "rate_limiter.flask": (
        *("DeniedRequest", "FlaskRateLimitExceeded", "FlaskRateLimiter"),
        *("Clock", "DynamicLimits", "Finished", "OnStoreError"),
    ),
    "rate_limiter.governor": ("Finished",),
    "rate_limiter.headers": ("HeaderStyle", "header_values"),
    "rate_limiter.httpx": ("AsyncRateLimitTransport", "RateLimitTransport"),
    "rate_limiter.interfaces": (
        *("BucketState", "IAsyncRateLimitStore", "IRateLimitStore", "IRateLimiter"),
    ),
    "rate_limiter.jwt": ("Jwt",),
    "rate_limiter.keys": (*("key_for_api_key", "key_for_ip", "key_for_user", "pick_identity_key"),),
    "rate_limiter.limit": ("Limit",),
    "rate_limiter.memory_store": ("InMemoryStore",),
    "rate_limiter.memory_store_async": ("AsyncInMemoryStore",),
    "rate_limiter.metrics": (
        "registry",
        "rl_allowed",
        "rl_blocked",
        "rl_latency",
        "top_clients",
        "watch",
    ),
    "rate_limiter.middleware": (
        *("DistributedTokenBucketMiddleware", "RateLimitMiddleware", "RateLimiterMiddleware"),
        *("ASGIApp", "Receive", "Scope", "Send", "client_of", "first_forwarded"),
    ),
    "rate_limiter.observe.dashboard": ("dashboard", "page_paths", "wsgi_dashboard"),
    "rate_limiter.proxies": ("ClientAddress",),
    "rate_limiter.redis_client": ("get_redis",),
    "rate_limiter.redis_limiter": ("RedisRateLimiter",),
    "rate_limiter.redis_store": ("RedisStore",),
    "rate_limiter.redis_store_async": ("AsyncRedisStore",),
    "rate_limiter.requests": ("RateLimitAdapter",),
    "rate_limiter.rule_source": ("FileRules", "RedisRules", "RuleSource", "as_source"),
    "rate_limiter.rule_table": ("Rule", "RuleTable"),
    "rate_limiter.rules": (
        *("FileRules", "RedisRules", "Rule", "RuleSource", "RuleTable", "RulesError"),
        *("check_rules", "json_schema", "load_rules", "parse_rules"),
    ),
    "rate_limiter.settings": ("Settings",),
    "rate_limiter.startup": ("exit_on_mistake", "forget_ended_processes"),
    "rate_limiter.telemetry": ("instrument", "watch"),
    "rate_limiter.testing": ("reset_all",),
    "rate_limiter.token_bucket": ("TokenBucketLimiter", "TokenBucketRateLimiter"),
    "rate_limiter.token_bucket_async": ("AsyncTokenBucketRateLimiter",),
}
IMPORT = r"^\s*from (rate_limiter[\w.]*) import \(?([^()\n#]+)"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_path_names_what_it_named(path: str) -> None:
    module = importlib.import_module(path)
    for name in PATHS[path]:
        assert getattr(module, name) is not None, name


DEMO_NAMES = {
    "rate_limiter": {
        *("AsyncTokenBucketRateLimiter", "RateLimitConfig", "RateLimitPolicy", "TokenBucket"),
        *("RateLimiterMiddleware", "TokenBucketLimiter", "TokenBucketRateLimiter"),
    },
    "rate_limiter.middleware": {"DistributedTokenBucketMiddleware", "RateLimiterMiddleware"},
}


@pytest.mark.parametrize("path", DEMO_NAMES)
def test_names_of_demos_are_importable_and_not_offered(path: str) -> None:
    module = importlib.import_module(path)
    for name in DEMO_NAMES[path]:
        assert getattr(module, name).__name__ == name
    assert DEMO_NAMES[path].isdisjoint(dir(module))
    assert DEMO_NAMES[path].isdisjoint(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'Limiter'"):
        module.Limiter  # noqa: B018


def test_names_are_imported_when_they_are_used(run_python: Callable[..., str]) -> None:
    program = """
import sys
import rate_limiter
before = set(sys.modules)
assert not {name for name in before if "seeds" in name or "rate_limiter.web" in name}
assert not before & {"starlette", "fastapi", "flask"}
from rate_limiter import RateLimitMiddleware
from rate_limiter.asgi import RateLimitMiddleware as same
assert RateLimitMiddleware is same
assert not set(sys.modules) & {"starlette", "fastapi", "flask"}
"""
    assert run_python(program) == ""


def test_every_path_of_the_pages_is_listed() -> None:
    found = {
        (match[1], name.split(" as ")[0].strip())
        for page in PAGES
        for match in re.finditer(IMPORT, page.read_text("utf-8"), re.MULTILINE)
        for name in match[2].split(",")
        if name.strip()
    }
    assert len(found) > 30
    assert not {pair for pair in found if pair[1] not in PATHS.get(pair[0], ())}


def test_every_path_of_the_reference_is_listed() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^::: (rate_limiter[\w.]*)$", page, re.MULTILINE)
    assert len(names) > 30
    for name in names:
        module, _, member = name.rpartition(".")
        assert name in PATHS or member in PATHS[module], name
