"""Settings from the environment and ``.env`` (``pip install 'rate-limiter-c[rules]'``).

from rate_limiter.settings import Settings

app.add_middleware(RateLimitMiddleware, **Settings().middleware())
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.redaction import Hidden, dumped, hidden_address
from rate_limiter.checks.words import ProxyHeader
from rate_limiter.limit import Limit
from rate_limiter.observe.registry import limits_are_off
from rate_limiter.stores.address import MEMORY

with extra_named():
    from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, PlainSerializer
    from pydantic_settings import (
        BaseSettings,
        EnvSettingsSource,
        NoDecode,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

logger = logging.getLogger("rate_limiter")


def _in_lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _words(value: object) -> object:
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


def _hidden_bypass(text: str) -> str:
    return text if text.startswith(("ip:", "jwt:")) else Hidden(text)


# Plain text to a program; hidden in reprs and dumps.
Secret = Annotated[str, AfterValidator(Hidden), PlainSerializer(dumped)]
Address = Annotated[str, AfterValidator(hidden_address), PlainSerializer(dumped)]
Bypass = Annotated[str, AfterValidator(_hidden_bypass), PlainSerializer(dumped)]

Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]
Addresses = Annotated[list[Address], NoDecode, BeforeValidator(_words)]
Bypasses = Annotated[list[Bypass], NoDecode, BeforeValidator(_words)]


def _either(*names: str) -> Any:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """Settings of limits from the environment of an application.

    Variables are named ``RATE_LIMITER_...``; those of the five public demos, such as
    ``REDIS_HOST`` and ``RL_BURST``, work too. Lists are separated by commas. ``.env`` in the
    working directory supplies variables that are not set.

    Attributes are plain text. The repr and the dumps hide passwords, keys, the logins and passwords
    in addresses, and the values of a bypass by header.

    Raises:
        pydantic.ValidationError: a value is wrong; the message names the variable.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    store: Address | None = Field(
        default=None,
        validation_alias=_either("RATE_LIMITER_STORE", "REDIS_URL"),
        description="Address of the store; memory:// if no Redis is set.",
    )
    limits: str | None = Field(
        default=None, validation_alias="RATE_LIMITER_LIMITS", description='Such as "100/minute".'
    )
    rules: Address | None = Field(
        default=None,
        validation_alias=_either("RATE_LIMITER_RULES", "RATE_LIMIT_RULES_PATH"),
        description="Rules file, or address of a Redis with rules.",
    )
    rules_fallback: Address | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_RULES_FALLBACK",
        description="Rules file used if the Redis with the rules is down or has no rules.",
    )
    key: Words = Field(
        default=["ip"],
        validation_alias="RATE_LIMITER_KEY",
        description="Identity of a client.",
    )
    tier: str | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_TIER",
        description="Source of a client's tier.",
    )
    bypass: Bypasses = Field(
        default=[],
        validation_alias="RATE_LIMITER_BYPASS",
        description="Clients without a limit.",
    )
    trusted_proxies: Words = Field(
        default=[],
        validation_alias="RATE_LIMITER_TRUSTED_PROXIES",
        description="Networks of trusted proxies.",
    )
    proxy_header: Annotated[ProxyHeader, BeforeValidator(_in_lower_case)] = Field(
        default="x-forwarded-for",
        validation_alias="RATE_LIMITER_PROXY_HEADER",
        description="Header set by the proxies: x-forwarded-for or forwarded.",
    )
    ipv6_prefix: int = Field(
        default=64,
        validation_alias="RATE_LIMITER_IPV6_PREFIX",
        description="Bits of an IPv6 address that identify a client.",
    )
    headers: str = Field(
        default="x-ratelimit",
        validation_alias="RATE_LIMITER_HEADERS",
        description="Header style: x-ratelimit, ietf, both or off.",
    )
    reset: str = Field(
        default="seconds",
        validation_alias="RATE_LIMITER_RESET",
        description="Format of the reset time: seconds or epoch.",
    )
    retry_jitter_s: float = Field(
        default=0,
        validation_alias="RATE_LIMITER_RETRY_JITTER_S",
        description="Maximum random addition to Retry-After, in seconds.",
    )
    denied: str = Field(
        default="json",
        validation_alias="RATE_LIMITER_DENIED",
        description="Body of a denial: json, problem, or a text.",
    )
    exempt_paths: Words = Field(
        default=[],
        validation_alias="RATE_LIMITER_EXEMPT_PATHS",
        description="Paths without a limit.",
    )
    enabled: bool = Field(
        default=True,
        validation_alias="RATE_LIMITER_ENABLED",
        description="false disables all limits, for example in tests.",
    )
    status_path: str | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_STATUS_PATH",
        description="Path where callers see their own state.",
    )
    metrics: str | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_METRICS",
        description="Dimension of the metrics.",
    )
    tracing: bool = Field(
        default=False,
        validation_alias="RATE_LIMITER_TRACING",
        description="true traces denials and the store with OpenTelemetry.",
    )
    top: int | None = Field(
        default=None,
        ge=1,
        le=100,
        validation_alias="RATE_LIMITER_TOP",
        description="Clients with the most decisions to find for each rule, with metrics.",
    )
    top_keys: Literal["plain", "masked", "hashed"] = Field(
        default="masked",
        validation_alias="RATE_LIMITER_TOP_KEYS",
        description="What is kept of their keys: plain, masked or hashed.",
    )
    on_store_error: Literal["memory", "allow", "deny", "raise"] = Field(
        default="memory",
        validation_alias="RATE_LIMITER_ON_STORE_ERROR",
        description="Decisions while Redis is unavailable: memory, allow, deny or raise.",
    )
    max_keys: int = Field(
        default=1_000_000,
        ge=1,
        validation_alias="RATE_LIMITER_MAX_KEYS",
        description="Approximate number of active clients.",
    )
    jwt_secret: Secret | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_JWT_SECRET",
        description="Secret of HMAC-signed tokens.",
    )
    # A private key given by mistake is refused later, and must not be shown before.
    jwt_public_key: Secret | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_JWT_PUBLIC_KEY",
        description="Public key in PEM form.",
    )
    jwt_jwks: Address | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_JWT_JWKS",
        description="JSON Web Key Set: file or URL.",
    )
    jwt_algorithms: Words = Field(
        default=[],
        validation_alias="RATE_LIMITER_JWT_ALGORITHMS",
        description="Accepted signature algorithms.",
    )
    jwt_audience: str | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_JWT_AUDIENCE",
        description="Required aud claim.",
    )
    jwt_issuer: str | None = Field(
        default=None,
        validation_alias="RATE_LIMITER_JWT_ISSUER",
        description="Required iss claim.",
    )

    redis_host: Address | None = Field(
        default=None,
        validation_alias="REDIS_HOST",
        description="Host of the Redis.",
    )
    redis_port: int = Field(
        default=6379,
        ge=1,
        le=65535,
        validation_alias="REDIS_PORT",
        description="Port of the Redis.",
    )
    redis_db: int = Field(
        default=0,
        ge=0,
        validation_alias="REDIS_DB",
        description="Database of the Redis.",
    )
    redis_password: Secret | None = Field(
        default=None,
        validation_alias="REDIS_PASSWORD",
        description="Password of the Redis.",
    )
    redis_sentinel_hosts: Addresses = Field(
        default=[],
        validation_alias="REDIS_SENTINEL_HOSTS",
        description="host:port of the sentinels; REDIS_HOST is then ignored.",
    )
    redis_master_name: str = Field(
        default="mymaster",
        validation_alias="REDIS_MASTER_NAME",
        description="Name of the master that the sentinels watch.",
    )
    rate_per_sec: float | None = Field(
        default=None,
        gt=0,
        validation_alias="RL_RATE_PER_SEC",
        description="Tokens per second of a gateway's policy.",
    )
    burst: int | None = Field(
        default=None,
        ge=1,
        validation_alias="RL_BURST",
        description="Capacity of a gateway's policy.",
    )
    log_level: str = Field(
        default="INFO",
        validation_alias="LOG_LEVEL",
        description="Log level.",
    )
    environment: str = Field(
        default="production",
        validation_alias="ENVIRONMENT",
        description="Environment name.",
    )
    api_host: str = Field(
        default="127.0.0.1",
        validation_alias="API_HOST",
        description="Host to listen on.",
    )
    api_port: int = Field(
        default=8000,
        ge=1,
        le=65535,
        validation_alias=_either("API_PORT", "PORT"),
        description="Port to listen on.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of pydantic_settings, and log unknown variables."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                _log_unknown(source.env_vars, _variables(settings_cls))
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @property
    def address(self) -> str:
        """The address of the store."""
        if self.redis_sentinel_hosts and self.store is None:
            hosts = ",".join(self.redis_sentinel_hosts)
            return hidden_address(
                f"redis+sentinel://{self._login}{hosts}/{quote(self.redis_master_name, safe='')}"
                f"/{self.redis_db}"
            )
        return self.store or (MEMORY if self.redis_host is None else self.redis_address)

    @property
    def redis_address(self) -> str:
        """The address of the Redis at REDIS_HOST, by default localhost."""
        host = self.redis_host or "localhost"
        host = f"[{host}]" if ":" in host else host
        return hidden_address(f"redis://{self._login}{host}:{self.redis_port}/{self.redis_db}")

    @property
    def _login(self) -> str:
        return f":{quote(self.redis_password, safe='')}@" if self.redis_password else ""

    def limit(self) -> Limit | None:
        """Return the limit of RL_RATE_PER_SEC and RL_BURST, None where neither is set."""
        if self.rate_per_sec is None and self.burst is None:
            return None
        rate_per_sec = 5.0 if self.rate_per_sec is None else self.rate_per_sec
        return Limit(10 if self.burst is None else self.burst, rate_per_sec)

    def middleware(self) -> dict[str, Any]:
        """Return the arguments of RateLimitMiddleware.

        Raises:
            ValueError: neither rules nor limits are set, or a setting has no effect.
        """
        rules = self.rules
        if rules is not None and self.limits is not None:
            raise ValueError("set RATE_LIMITER_RULES or RATE_LIMITER_LIMITS, not both")
        if (rules or self.limits) and self.limit() is not None:
            other = "RATE_LIMITER_RULES" if rules else "RATE_LIMITER_LIMITS"
            raise ValueError(f"RL_RATE_PER_SEC and RL_BURST have no effect beside {other}")
        if self.rules_fallback is not None and (rules is None or "://" not in rules):
            raise ValueError(
                "RATE_LIMITER_RULES_FALLBACK has no effect unless RATE_LIMITER_RULES is the "
                "address of a Redis"
            )
        limits = self.limits or self.limit()
        if rules is None and limits is None:
            raise ValueError(
                "set RATE_LIMITER_LIMITS, such as '100/minute', or RATE_LIMITER_RULES, a file"
            )
        if not self.enabled:
            _log_once("RATE_LIMITER_ENABLED is false: requests are not limited")
            limits_are_off()
        return {
            "rules": self._rules(),
            "limits": None if rules is not None else limits,
            "key": self.key[0] if len(self.key) == 1 else self.key,
            "tier": self.tier,
            "bypass": tuple(self.bypass),
            "trusted_proxies": tuple(self.trusted_proxies),
            "proxy_header": self.proxy_header,
            "ipv6_prefix": self.ipv6_prefix,
            "headers": self.headers,
            "reset": self.reset,
            "retry_jitter_s": self.retry_jitter_s,
            "denied": self.denied,
            "exempt_paths": tuple(self.exempt_paths),
            "status_path": self.status_path,
            "metrics": self.metrics,
            "tracing": self.tracing,
            "top": self.top,
            "top_keys": self.top_keys,
            "enabled": self.enabled,
            "store": self.address,
            "on_store_error": self.on_store_error,
            "max_keys": self.max_keys,
            "jwt": self.jwt(),
        }

    def _rules(self) -> Any:
        if self.rules is None or self.rules_fallback is None or not self.enabled:
            return self.rules
        from rate_limiter.policy.rule_sources import RedisRules

        return RedisRules(self.rules, fallback=self.rules_fallback)

    def jwt(self) -> Jwt | None:
        """Return what verifies tokens, None if no key is set.

        Raises:
            ValueError: a setting of tokens is wrong, or has no effect.
        """
        if not (self.jwt_secret or self.jwt_public_key or self.jwt_jwks):
            for name in ("jwt_algorithms", "jwt_audience", "jwt_issuer"):
                if getattr(self, name):
                    raise ValueError(
                        f"RATE_LIMITER_{name.upper()} has no effect without "
                        "RATE_LIMITER_JWT_SECRET, RATE_LIMITER_JWT_PUBLIC_KEY or "
                        "RATE_LIMITER_JWT_JWKS"
                    )
            return None
        from rate_limiter.jwt import Jwt

        return Jwt(
            secret=self.jwt_secret,
            public_key=self.jwt_public_key,
            jwks=self.jwt_jwks,
            algorithms=self.jwt_algorithms,
            audience=self.jwt_audience,
            issuer=self.jwt_issuer,
        )


# --- Variables without effect --------------------------------------------------------------------

_PREFIX = "RATE_LIMITER_"
_OF_OTHERS = {
    f"{_PREFIX}{name}"
    for name in ("LOG", "NO_REDIS", "SANITIZE", "TEST_SERVER", "TRACE_SECRET", "WERROR")
}
"""Variables that tracing, the demos, the build and the tests read."""

_logged: set[str] = set()


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.warning("%s", message)


def _variables(settings: type[BaseSettings]) -> set[str]:
    """Return the names of the variables of settings, in capital letters."""
    found: set[str] = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        found.update(one.upper() for one in names if isinstance(one, str))
    return found


def _log_unknown(variables: Iterable[str], known: set[str]) -> None:
    """Log variables that look like settings and have no effect. Values may be secrets."""
    for name in map(str.upper, variables):
        if name.startswith(_PREFIX) and name not in known | _OF_OTHERS:
            ours = [one.removeprefix(_PREFIX) for one in sorted(known) if one.startswith(_PREFIX)]
            nearest = get_close_matches(name.removeprefix(_PREFIX), ours, 1)
            hint = (
                f"did you mean {_PREFIX}{nearest[0]}?" if nearest else "no setting has such a name"
            )
            _log_once(f"the variable {name} has no effect: {hint}")
