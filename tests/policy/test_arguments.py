"""Arguments that have no effect, or are not what they should be, are refused by every constructor.

The message names the argument and, where that is the cause, the other argument.
"""

from __future__ import annotations

import gc
import inspect
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from flask import Flask
from rate_limiter import (
    AsyncRateLimiter,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitPolicy,
    TokenBucket,
    TokenBucketLimiter,
)
from rate_limiter.cli.main import main
from rate_limiter.fastapi import RateLimit, Store
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.jwt import Jwt
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.middleware import DistributedTokenBucketMiddleware, RateLimitMiddleware
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.rule_sources import FileRules, RedisRules
from rate_limiter.policy.rules import Rule
from rate_limiter.redis_store_async import AsyncRedisStore
from rate_limiter.settings import Settings
from rate_limiter.stores.redis_store import RedisStore

REDIS = "redis://127.0.0.1:1"  # nothing listens there, and nothing connects
SECRET = "a secret of thirty-two bytes or more"
POLICY = RateLimitPolicy(rate_per_sec=1, burst=2)
BUCKETS = TokenBucketLimiter(REDIS, POLICY)
LIMITER = RateLimiter("5/minute")
TOKENS = Jwt(secret=SECRET, algorithms=["HS256"])
RULES = {"default": {"limits": "5/minute"}}
TIERS = {"free": "5/minute", "paid": "9/minute"}
STORE = RedisStore(REDIS, on_store_error="deny")

Make = Callable[..., object]


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def plain(**given: Any) -> object:
    """Return a middleware; it has limits where no other source of them is given."""
    has_source = given.keys() & {"limits", "rules", "limiter"}
    return RateLimitMiddleware(app, **given if has_source else {"limits": "5/minute", **given})


def gateway(**given: Any) -> object:
    return RateLimitMiddleware(app, BUCKETS, POLICY, **given)


def dependency(**given: Any) -> object:
    return RateLimit(**given if "limiter" in given else {"limits": "5/minute", **given})


def extension(config: dict[str, Any] | None = None, **given: Any) -> object:
    application = Flask("x")
    application.config.update(config or {})
    return FlaskRateLimiter(application, **given)


def decorator(**given: Any) -> object:
    return FlaskRateLimiter().limit(**{"limits": "5/minute", **given})


def limiter(**given: Any) -> object:
    return RateLimiter("5/minute", **given)


def waiting(**given: Any) -> object:
    return AsyncRateLimiter("5/minute", **given)


def jwt(**given: Any) -> object:
    return Jwt(**{"secret": SECRET, "algorithms": ["HS256"], **given})


def refusal(make: Make, given: dict[str, Any]) -> str:
    """Return the message with which arguments are refused."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**given)
    return str(caught.value)


# --- No effect -----------------------------------------------------------------------------------

BESIDE_POLICY: dict[str, Any] = {
    "limits": "garbage",
    "rules": RULES,
    "key": "all",
    "cost": 2,
    "cost_after": lambda finished: 0,
    "tier": "header:X-Plan",
    "bypass": "ip:10.0.0.0/8",
    "jwt": TOKENS,
    "headers": "bogus",
    "reset": "epoch",
    "retry_jitter_s": 5,
    "cors": True,
    "denied": "problem",
    "on_denied": print,
    "status_path": "/me",
    "metrics": "api",
    "top": 5,
    "top_keys": "hashed",
    "store": REDIS,
    "name": "api",
    "on_store_error": "deny",
    "max_keys": 5,
    "clock": ManualClock(),
    "setup_checks": False,
}
OF_GATEWAY = {"api_key_header", "user_id_header", "dimension_label"}
OF_ANY = {"app", "limiter", "policy", "exempt_paths", "enabled", "client", "tracing"}
OF_ADDRESS = {"trusted_proxies", "proxy_header", "ipv6_prefix"}


def test_every_argument_beside_policy_is_known_here() -> None:
    known = BESIDE_POLICY.keys() | OF_GATEWAY | OF_ANY | OF_ADDRESS
    assert inspect.signature(RateLimitMiddleware).parameters.keys() == known


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", BESIDE_POLICY)
def test_beside_policy(name: str, enabled: bool) -> None:
    message = refusal(gateway, {name: BESIDE_POLICY[name], "enabled": enabled})
    assert message.startswith(f"{name} has no effect with policy")


STORAGE = {
    "store": REDIS,
    "name": "api",
    "on_store_error": "deny",
    "max_keys": 5,
    "clock": ManualClock(),
}

NO_EFFECT: list[tuple[Make, dict[str, Any], str, str]] = [
    *((plain, {name: "x"}, name, "policy") for name in sorted(OF_GATEWAY)),
    *(
        (make, {"limiter": LIMITER, name: value}, name, "limiter")
        for make in (plain, dependency)
        for name, value in STORAGE.items()
    ),
    *(
        (make, {"on_store_error": "deny"}, "on_store_error", "store")
        for make in (plain, dependency, limiter, waiting)
    ),
    *((make, {"name": "login"}, "name", "store") for make in (plain, limiter, waiting)),
    (plain, {"rules": RULES, "name": "login"}, "name", "store"),
    *(
        (make, {"store": Store(REDIS, name="shop"), name: STORAGE[name]}, name, "Store")
        for make in (plain, dependency, extension)
        for name in ("on_store_error", "max_keys", "clock")
    ),
    (extension, {"default_limits": "1/s", "on_store_error": "deny"}, "on_store_error", "store"),
    *(
        (make, {"store": STORE, "on_store_error": "allow", "name": "x"}, "on_store_error", "store")
        for make in (plain, dependency, limiter, waiting)
    ),
    (extension, {"store": STORE, "on_store_error": "allow"}, "on_store_error", "store"),
    (limiter, {"store": AsyncRedisStore(REDIS), "on_store_error": "x"}, "on_store_error", "one of"),
    (
        lambda **given: RedisRateLimiter("1/s", store=REDIS, **given),
        {"name": "x", "exact_prefix": "rate:"},
        "name",
        "exact_prefix",
    ),
    *(
        (make, {"proxy_header": "forwarded"}, "proxy_header", "trusted_proxies")
        for make in (plain, gateway, dependency, extension)
    ),
    (ClientAddress, {"header": "forwarded"}, "proxy_header", "trusted_proxies"),
    (gateway, {"ipv6_prefix": 48}, "ipv6_prefix", "trusted_proxies"),
    *(
        (make, {"key": key, name: value}, name, "key='all'" if key == "all" else "key=")
        for make in (plain, dependency)
        for key in ("all", ["header:X-Key", "all"])
        for name, value in (("trusted_proxies", ["10.0.0.0/8"]), ("ipv6_prefix", 48))
    ),
    *((make, {"jwt": TOKENS}, "jwt", "key") for make in (plain, dependency)),
    (plain, {"rules": RULES, "jwt": TOKENS}, "jwt", "key"),
    (plain, {"tier": "header:X-Plan"}, "tier", "limits"),
    (plain, {"limiter": LIMITER, "tier": "header:X-Plan"}, "tier", "limits"),
    (plain, {"rules": RULES, "tier": "header:X-Plan"}, "tier", "rules"),
    (plain, {"limits": TIERS}, "limits", "tier"),
    (extension, {"default_limits": TIERS}, "default_limits", "tier"),
    (extension, {"default_limits": "5/minute", "tier": "header:X-Plan"}, "tier", "limits"),
    (extension, {"tier": "header:X-Plan"}, "tier", "limits"),
    (extension, {"cost": 2}, "cost", "default_limits"),
    *(
        (make, {"headers": headers, "reset": "epoch"}, "reset", f"headers='{headers}'")
        for make in (plain, dependency, extension)
        for headers in ("off", "ietf")
    ),
    (HeaderStyle, {"style": "off", "reset": "epoch"}, "reset", "headers='off'"),
    (extension, {"config": {"RATE_LIMITER_HEADERS": "off"}, "reset": "epoch"}, "reset", "headers"),
    *(
        (make, {"headers": "off", "retry_jitter_s": 5}, "retry_jitter_s", "headers='off'")
        for make in (plain, dependency, extension)
    ),
    *((jwt, {name: 60}, name, "jwks") for name in ("refresh_s", "retry_s", "timeout_s")),
]


@pytest.mark.parametrize(("make", "given", "name", "other"), NO_EFFECT)
def test_no_effect(make: Make, given: dict[str, Any], name: str, other: str) -> None:
    message = refusal(make, given)
    assert message.startswith(name)
    assert other in message.removeprefix(name)


ACCEPTED: list[tuple[Make, dict[str, Any]]] = [
    # A program that takes its store from the environment.
    *(
        (make, {"store": "memory://", "name": "login", "on_store_error": "deny", "max_keys": 9})
        for make in (plain, dependency, limiter, waiting)
    ),
    *((make, {"store": REDIS, "name": "x", "max_keys": 9}) for make in (plain, limiter)),
    (plain, {"store": STORE, "on_store_error": "deny"}),
    (dependency, {"name": "upload", "headers": "both"}),
    (decorator, {"name": "upload"}),
    (extension, {"config": {"RATE_LIMITER_STORE": "memory://"}, "on_store_error": "deny"}),
    (extension, {"config": {"RATE_LIMITER_ON_STORE_ERROR": "deny"}}),
    (extension, {"config": {"RATE_LIMITER_DEFAULT_LIMITS": TIERS}, "tier": "header:X-Plan"}),
    (FlaskRateLimiter, {"tier": "header:X-Plan", "cost": 2, "on_store_error": "deny"}),
    # A decorator can have its own key.
    (extension, {"key": "all", "jwt": TOKENS, "trusted_proxies": ["10.0.0.0/8"]}),
    (plain, {"key": "all", "trusted_proxies": ["10.0.0.0/8"], "bypass": "ip:10.0.0.0/8"}),
    (plain, {"key": ["ip", "all"], "ipv6_prefix": 48}),
    (plain, {"key": lambda scope: None, "trusted_proxies": ["10.0.0.0/8"]}),
    (plain, {"key": "header:X-Key", "trusted_proxies": ["10.0.0.0/8"], "ipv6_prefix": 48}),
    (plain, {"rules": {"a": {"limits": "5/s", "key": "jwt:sub"}}, "jwt": TOKENS}),
    (plain, {"rules": {"a": {"limits": "5/s", "tier": "pro"}}, "tier": "header:X-Plan"}),
    (plain, {"bypass": "jwt:role=admin", "jwt": TOKENS}),
    (plain, {"limits": TIERS, "tier": "jwt:plan", "jwt": TOKENS}),
    (plain, {"headers": "off", "retry_jitter_s": 5, "denied": "problem"}),
    (plain, {"headers": "off", "retry_jitter_s": 5, "denied": {"wait": "{retry_after}"}}),
    (plain, {"headers": "off", "cors": True}),  # preflight requests are not limited
    (gateway, {"trusted_proxies": ["10.0.0.0/8"], "proxy_header": "forwarded", "ipv6_prefix": 48}),
    (gateway, {"exempt_paths": set(), "api_key_header": "x", "dimension_label": "other"}),
    (gateway, {"bypass": None, "limits": None, "cost": 1}),  # as by default
]


@pytest.mark.parametrize(("make", "given"), ACCEPTED)
def test_accepted(make: Make, given: dict[str, Any]) -> None:
    make(**given)


def test_rules_that_may_change_may_use_more_tomorrow(tmp_path: Any) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "5/minute"}}')
    plain(rules=str(file), tier="header:X-Plan", jwt=TOKENS)


# --- Bad values ----------------------------------------------------------------------------------

NUMBERS = [math.nan, math.inf, -1, True, "3"]
SWITCHES = ["no", 0, 1, None]

BAD: list[tuple[Make, str, Any]] = [
    *(
        (make, name, value)
        for make in (plain, dependency, extension)
        for name, values in {
            "on_store_error": ["denny", "", None, 5],
            "max_keys": [True, "5", 2.5, None, 0, -1],
            "clock": ["quartz", None],
            "trusted_proxies": ["10.0.0.0/8", "*", b"x", None, 5, ["*"], [5]],
            "proxy_header": [5, None, "x-real-ip"],
            "ipv6_prefix": [True, "64", 6.5, math.nan, -1, 129],
            "jwt": ["secret"],
            "key": [5, None, [], "colour"],
            "cost": [*NUMBERS, None],
            "headers": ["bogus", None, 5],
            "reset": ["date", None],
            "retry_jitter_s": [*NUMBERS, None],
            "enabled": SWITCHES,
        }.items()
        for value in values
    ),
    *(
        (make, name, value)
        for make in (plain, extension)
        for name, values in {
            "setup_checks": SWITCHES,
            "cost_after": [5, "3"],
            "status_path": ["me", "", 5],
            "metrics": [5],
            "bypass": [5, [5], "admin"],
            "tier": [5],
        }.items()
        for value in values
    ),
    *((plain, "cors", value) for value in SWITCHES),
    *((plain, "exempt_paths", value) for value in ("/health", "health", b"/x", 5, ["x"], [5])),
    *((plain, "name", value) for value in (5, None)),
    *((decorator, "name", value) for value in (5, b"x")),
    *((decorator, "cost", value) for value in NUMBERS),
    *((gateway, "trusted_proxies", value) for value in (["nonsense"], "10.0.0.0/8")),
    *((gateway, "api_key_header", value) for value in (5, "a b")),
    *((gateway, "user_id_header", value) for value in (5, "a b")),
    (gateway, "dimension_label", 5),
    *((make, "store", value) for make in (plain, limiter, waiting) for value in (None, 5, "redis")),
    *((make, "on_store_error", "denny") for make in (limiter, waiting)),
    *((make, "name", 5) for make in (limiter, waiting)),
    *((make, "max_keys", value) for make in (limiter, waiting) for value in (True, "5", 0)),
    *((RedisStore, "on_store_error", value) for value in ("denny", None)),
    *((AsyncRedisStore, "on_store_error", value) for value in ("denny", None)),
    (RedisStore, "prefix", 5),
    (ClientAddress, "trusted_proxies", "10.0.0.0/8"),
    *((HeaderStyle, "retry_jitter_s", value) for value in NUMBERS),
    (HeaderStyle, "cors", 1),
    *((jwt, "leeway_s", value) for value in NUMBERS),
    *((jwt, "algorithms", value) for value in ("HS256", 5, [], ["none"])),
    *((jwt, "header", value) for value in (5, "a b")),
    (jwt, "audience", 5),
    (jwt, "issuer", 5),
    (jwt, "secret", 5),
    *(
        (lambda make=make, **given: make(**{"capacity": 5, "refill_rate": 1, **given}), name, value)
        for make in (
            Limit,
            lambda **given: TokenBucket(REDIS, **given),
            lambda **given: DistributedTokenBucketMiddleware(app, **given),
        )
        for name in ("capacity", "refill_rate")
        for value in (*NUMBERS, None)
    ),
    *(
        (lambda make=make, **given: make(**{"count": 5, "window_s": 60, **given}), name, value)
        for make in (Limit.fixed_window, Limit.sliding_window)
        for name in ("count", "window_s")
        for value in (*NUMBERS, None, -1, 1.5)
    ),
    *(
        (lambda **given: Rule(**{"name": "r", "limits": (Limit(5, 1),), **given}), name, value)
        for name, value in (("methods", "POST"), ("paths", "/x"), ("tiers", "pro"), ("keys", "k"))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "value"), BAD)
def test_bad_values(make: Make, name: str, value: Any) -> None:
    assert name in refusal(make, {name: value})


@pytest.mark.parametrize("value", [*NUMBERS, None])
def test_how_often_rules_are_looked_at(tmp_path: Any, value: Any) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "5/minute"}}')
    given = {"check_every_s": value}
    assert "check_every_s" in refusal(lambda **more: FileRules(file, **more), given)
    assert "check_every_s" in refusal(
        lambda **more: RedisRules(REDIS, fallback=file, **more), given
    )


def test_an_extension_holds_no_application() -> None:
    application = Flask("x")
    gone = weakref.ref(application)
    kept = FlaskRateLimiter(application, default_limits="5/minute")
    del application
    gc.collect()
    assert gone() is None
    assert kept.limit("5/minute")


def test_a_tier_without_a_source_of_it() -> None:
    assert "tier must be" in refusal(plain, {"limits": TIERS, "tier": 5})


def test_secrets_stay_out_of_messages() -> None:
    for make, given in (
        (plain, {"jwt": "hush"}),
        (jwt, {"secret": 5, "header": "x"}),
        (plain, {"bypass": b"header:X-Admin=hush"}),
    ):
        assert "hush" not in refusal(make, given)


# --- Settings and commands -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "name", "other"),
    [
        ({"RATE_LIMITER_PROXY_HEADER": "forwarded"}, "proxy_header", "trusted_proxies"),
        ({"RATE_LIMITER_TIER": "header:X-Plan"}, "tier", "limits"),
        ({"RL_BURST": "5"}, "RL_BURST", "RATE_LIMITER_LIMITS"),
        ({"RL_RATE_PER_SEC": "5"}, "RL_RATE_PER_SEC", "RATE_LIMITER_LIMITS"),
        *(
            ({f"RATE_LIMITER_JWT_{name}": "x"}, f"RATE_LIMITER_JWT_{name}", "JWT_SECRET")
            for name in ("ALGORITHMS", "AUDIENCE", "ISSUER")
        ),
    ],
)
def test_settings_without_effect(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    environment: dict[str, str],
    name: str,
    other: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in ({"RATE_LIMITER_LIMITS": "5/minute"} | environment).items():
        monkeypatch.setenv(variable, value)
    message = refusal(lambda: plain(**Settings().middleware()), {})
    assert name in message
    assert "has no effect" in message or "have no effect" in message
    assert other in message


def test_settings_of_a_deployment_go_with_any_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RATE_LIMITER_STORE", "REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "5/minute")
    monkeypatch.setenv("RATE_LIMITER_ON_STORE_ERROR", "deny")
    plain(**Settings().middleware())


def test_options_without_effect(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "5/minute"}}')
    explain = ["rules", "explain", str(file), "--path", "/", "--tier", "pro"]
    inspect_raw = ["inspect", "k", "--raw", "--prefix", "other", "--store", REDIS]
    for words, named in ((explain, ["--tier"]), (inspect_raw, ["--prefix", "--raw"])):
        assert main(words) == 2
        message = capsys.readouterr().err
        assert "has no effect" in message
        assert all(name in message for name in named)


# --- Texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxies", ["*", "10.0.0.0/8", "10.0.0.1", "::1", "unix", "a.example", ""])
def test_a_proposal_for_proxies_is_accepted(proxies: str) -> None:
    message = refusal(ClientAddress, {"trusted_proxies": proxies})
    proposed = message.partition("['")[2].partition("']")[0]
    assert ClientAddress([proposed]).reads_header


@pytest.mark.parametrize("algorithms", ["RS256", "HS257"])
def test_a_proposal_for_algorithms_is_accepted(algorithms: str) -> None:
    message = refusal(jwt, {"algorithms": algorithms})
    jwt(algorithms=[message.partition("['")[2].partition("']")[0]])


@pytest.mark.parametrize("make", [dependency, RateLimiter, AsyncRateLimiter, decorator])
def test_tiers_where_there_are_none(make: Make) -> None:
    message = refusal(make, {"limits": TIERS})
    assert "mapping" in message
    assert "tiers are for the limits of RateLimitMiddleware" in message


def test_a_dependency_without_depends() -> None:
    limit: Any = RateLimit("5/minute")
    application = FastAPI()
    for make in (
        lambda: application.get("/", dependencies=[limit])(lambda: None),
        lambda: FastAPI(dependencies=[limit]).get("/")(lambda: None),
        lambda: APIRouter(dependencies=[limit]).get("/")(lambda: None),
    ):
        with pytest.raises(TypeError, match=r"dependencies=\[Depends\(RateLimit\(\.\.\.\)\)\]"):
            make()


def test_a_gateways_limiter_without_its_policy() -> None:
    assert "policy" in refusal(plain, {"limiter": BUCKETS})
