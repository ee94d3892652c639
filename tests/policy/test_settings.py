"""Settings from the environment and .env, by this package's names and by those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import rate_limiter.settings
from pydantic import ValidationError
from rate_limiter import Limit
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.registry import readings
from rate_limiter.settings import Settings
from support.rules_app import APP


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rate_limiter.settings, "_logged", set())
    for name in ("REDIS_URL", "REDIS_HOST", "PORT", "ENVIRONMENT", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "memory://"),
        ({"RATE_LIMITER_STORE": "redis://a:1/2"}, "redis://a:1/2"),
        ({"REDIS_URL": "redis://b:1/2"}, "redis://b:1/2"),
        ({"RATE_LIMITER_STORE": "redis://a", "REDIS_URL": "redis://b"}, "redis://a"),
        ({"REDIS_HOST": "redis"}, "redis://redis:6379/0"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "7", "REDIS_DB": "3"}, "redis://[::1]:7/3"),
        ({"REDIS_HOST": "r", "REDIS_PASSWORD": "p@/ss"}, "redis://:p%40%2Fss@r:6379/0"),
        (
            {"REDIS_SENTINEL_HOSTS": "s1:26379, s2:26380", "REDIS_HOST": "ignored"},
            "redis+sentinel://s1:26379,s2:26380/mymaster/0",
        ),
        (
            {"REDIS_SENTINEL_HOSTS": "s1:1", "REDIS_MASTER_NAME": "m", "REDIS_PASSWORD": "x"},
            "redis+sentinel://:x@s1:1/m/0",
        ),
    ],
)
def test_addresses(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], address: str
) -> None:
    assert settings(monkeypatch, **environment).address == address


def test_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "REDIS_HOST=redis        # Use 'redis' for Docker Compose\n"
        "REDIS_PORT=6379\nREDIS_DB=1\nRATE_LIMIT_RULES_PATH=rate_limits.json\nOTHER=x\n"
    )
    found = Settings()
    assert found.address == "redis://redis:6379/1"
    assert found.rules == "rate_limits.json"
    assert settings(monkeypatch, REDIS_HOST="localhost").redis_host == "localhost"


def test_a_gateways_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().limit() is None
    assert settings(monkeypatch, RL_RATE_PER_SEC="2.5").limit() == Limit(10, 2.5)
    assert settings(monkeypatch, RL_BURST="4").limit() == Limit(4, 2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "x"),
        ("REDIS_PORT", "70000"),
        ("REDIS_DB", "-1"),
        ("RL_RATE_PER_SEC", "0"),
        ("RL_BURST", "1.5"),
        ("RATE_LIMITER_MAX_KEYS", "0"),
        ("RATE_LIMITER_ON_STORE_ERROR", "panic"),
    ],
)
def test_wrong_values_name_their_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(monkeypatch, **{name: value})


def test_nothing_to_limit_by(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="set RATE_LIMITER_LIMITS, such as '100/minute'"):
        Settings().middleware()
    both = settings(monkeypatch, RATE_LIMITER_LIMITS="1/s", RATE_LIMITER_RULES="r.json")
    with pytest.raises(ValueError, match="not both"):
        both.middleware()


async def test_a_middleware_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rates.toml").write_text('[default]\nlimits = "2/minute"\n')
    found = settings(
        monkeypatch,
        RATE_LIMITER_RULES="rates.toml",
        RATE_LIMITER_KEY="header:X-API-Key, ip",
        RATE_LIMITER_HEADERS="both",
        RATE_LIMITER_DENIED="problem",
        RATE_LIMITER_STATUS_PATH="/me",
        RATE_LIMITER_EXEMPT_PATHS="/health,/metrics",
        RATE_LIMITER_BYPASS="header:X-Admin=s",
        RATE_LIMITER_TRUSTED_PROXIES="10.0.0.0/8",
        RATE_LIMITER_JWT_SECRET="a secret of at least thirty-two bytes",
        RATE_LIMITER_JWT_ALGORITHMS="HS256",
    )
    gate = RateLimitMiddleware(APP, **found.middleware())
    transport = httpx.ASGITransport(gate)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = [await client.get("/", headers={"X-API-Key": "k"}) for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 429]
        assert "RateLimit" in answers[0].headers
        assert answers[2].headers["Content-Type"] == "application/problem+json"
        assert (await client.get("/", headers={"X-Admin": "s"})).status_code == 200
        assert "RateLimit" not in (await client.get("/health")).headers
        assert (await client.get("/me", headers={"X-API-Key": "k"})).json()["rule"] == "default"


def test_an_empty_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, RATE_LIMITER_LIMITS="1/s", RATE_LIMITER_KEY=",")
    with pytest.raises(TypeError, match=r"key must be .*, got \[\]"):
        RateLimitMiddleware(APP, **found.middleware())


def test_rules_may_be_in_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, RATE_LIMITER_RULES="redis://h/0")
    assert found.middleware()["rules"] == "redis://h/0"


def test_rules_in_a_redis_that_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text('{"default": {"limits": "7/minute"}}')
    found = settings(
        monkeypatch,
        RATE_LIMITER_RULES="redis://127.0.0.1:1",
        RATE_LIMITER_RULES_FALLBACK="rules.json",
    )
    source = found.middleware()["rules"]
    assert source.current().rules["default"].limits == (Limit(7, 7 / 60),)
    assert RateLimitMiddleware(APP, **found.middleware()).governor is not None
    for rules in ({"RATE_LIMITER_RULES": "rules.json"}, {"RATE_LIMITER_LIMITS": "1/s"}):
        monkeypatch.delenv("RATE_LIMITER_RULES", raising=False)
        with pytest.raises(ValueError, match="RATE_LIMITER_RULES_FALLBACK has no effect"):
            settings(monkeypatch, **rules).middleware()


@pytest.mark.parametrize("is_in_file", [True, False])
def test_variables_that_are_mistyped(
    is_in_file: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = {
        "RATE_LIMITER_TRUSTED_PROXY": "10.0.0.0/8",
        "RATE_LIMITER_STROE": "redis://:secret@h",
        "RATE_LIMITER_LIMITS": "1/s",
        "RATE_LIMITER_LOG": "x",
        "RATE_LIMITED": "x",
    }
    if is_in_file:
        (tmp_path / ".env").write_text("".join(f"{name}={one}\n" for name, one in values.items()))
    else:
        for name, one in values.items():
            monkeypatch.setenv(name, one)
    for _ in range(3):
        Settings()
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the variable RATE_LIMITER_STROE has no effect: did you mean RATE_LIMITER_STORE?",
        "the variable RATE_LIMITER_TRUSTED_PROXY has no effect: "
        "did you mean RATE_LIMITER_TRUSTED_PROXIES?",
    ]


def test_a_subclass_has_separate_variables(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class More(Settings):
        rate_limiter_more: int = 1

    monkeypatch.setenv("RATE_LIMITER_MORE", "2")
    monkeypatch.setenv("RATE_LIMITER_XQZ", "2")
    assert More().rate_limiter_more == 2
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the variable RATE_LIMITER_XQZ has no effect: no setting has such a name"]


def test_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = settings(monkeypatch, RATE_LIMITER_LIMITS="5/minute").middleware()
    assert (arguments["limits"], arguments["key"], arguments["store"]) == (
        "5/minute",
        "ip",
        "memory://",
    )
    assert RateLimitMiddleware(APP, **arguments).governor is None


def readings_of(name: str) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in readings() if one.name == name}


def test_it_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rate_limiter.observe.registry._limits_off", False)
    assert settings(monkeypatch, RATE_LIMITER_LIMITS="1/hour").middleware()["enabled"] is True
    found = settings(monkeypatch, RATE_LIMITER_LIMITS="1/hour", RATE_LIMITER_ENABLED="false")
    assert readings_of("disabled") == {(): 0}
    for _ in range(3):
        assert found.middleware()["enabled"] is False
    assert readings_of("disabled") == {(): 1}
    assert caplog.text.count("RATE_LIMITER_ENABLED is false: requests are not limited") == 1
