"""An extension's settings in one application, and its hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.flask_limiter.constants import SETTINGS, ConfigVars, HeaderNames
from rate_limiter.compat.flask_limiter.definitions import (
    ApplicationLimit,
    Extension,
    Limit,
    MetaLimit,
)
from rate_limiter.compat.limits.errors import ConfigurationError
from rate_limiter.compat.limits.storage import Storage, storage_from_string
from rate_limiter.compat.limits.strategies import STRATEGIES
from rate_limiter.compat.limits.strategies import RateLimiter as Strategy

with extra_named():
    from flask import Flask

if TYPE_CHECKING:
    from rate_limiter.compat.flask_limiter.routes import Plan

AnyLimit = TypeVar("AnyLimit", bound=Limit)


class HeaderTexts(NamedTuple):
    """The names of the response headers."""

    limit: str
    remaining: str
    reset: str
    retry_after: str

    def lower(self) -> HeaderTexts:
        """Return the names in lower case."""
        return HeaderTexts(*(name.lower() for name in self))


class Application:
    """What an extension's arguments and an application's configuration come to.

    An argument that was given counts before the configuration.

    Raises:
        ConfigurationError: the strategy, the storage or one of its options is not supported.
        ValueError: a default, application, meta or fallback limit is malformed.
    """

    def __init__(self, limiter: Extension, app: Flask, arguments: Mapping[str, Any]) -> None:
        self._arguments, self._config = arguments, app.config
        self.limiter, self.logger = limiter, limiter.logger
        for name in sorted(app.config):
            if isinstance(name, str) and name.startswith("RATELIMIT_") and name not in SETTINGS:
                self.logger.warning("%s has no effect: there is no such setting", name)
        take = self._setting
        self.swallow_errors = bool(take("swallow_errors", ConfigVars.SWALLOW_ERRORS, False))
        self.fail_on_first_breach = bool(
            take("fail_on_first_breach", ConfigVars.FAIL_ON_FIRST_BREACH, True)
        )
        self.on_breach = take("on_breach", ConfigVars.ON_BREACH)
        self.on_meta_breach = take("on_meta_breach", ConfigVars.ON_META_BREACH)
        self.key_prefix: str = arguments["key_prefix"] or app.config.get(ConfigVars.KEY_PREFIX, "")
        self.identify: Callable[[], str] | None = take(
            "request_identifier", ConfigVars.REQUEST_IDENTIFIER
        )
        self.plans: dict[tuple[str | None, str], Plan] = {}
        self._read_headers()
        self.default_limits = self._limits(
            "default_limits", ConfigVars.DEFAULT_LIMITS, Limit, self._common("DEFAULT_LIMITS")
        )
        self.application_limits = self._limits(
            "application_limits",
            ConfigVars.APPLICATION_LIMITS,
            ApplicationLimit,
            self._common("APPLICATION_LIMITS"),
        )
        self.meta_limits = self._limits("meta_limits", ConfigVars.META_LIMITS, MetaLimit, {})
        self.fallback_limits = self._limits(
            "in_memory_fallback", ConfigVars.IN_MEMORY_FALLBACK, Limit, {}
        )
        self._open_storage()
        self.store_is_up = True

    def note_store(self, *, is_up: bool) -> None:
        """Log when the storage goes down, and when it is back."""
        if is_up == self.store_is_up:
            return
        self.store_is_up = is_up
        if is_up:
            self.logger.info("Rate limit storage recovered")
        else:
            self.logger.warning("Rate limit storage unreachable - falling back to in-memory limits")

    def _setting(self, argument: str, name: str, default: Any = None) -> Any:
        given = self._arguments[argument]
        return self._config.get(name, default) if given is None else given

    def _common(self, group: str) -> dict[str, Any]:
        """Return the options of default or application limits that are given as texts."""
        return {
            option: self._setting(
                f"{group.lower()}_{option}", getattr(ConfigVars, f"{group}_{option.upper()}")
            )
            for option in ("per_method", "exempt_when", "deduct_when", "cost")
        }

    def _limits(
        self, argument: str, name: str, kind: type[AnyLimit], options: Mapping[str, Any]
    ) -> list[AnyLimit]:
        given = self._arguments[argument] or self._config.get(name) or ()
        if isinstance(given, str | Limit) or callable(given):
            given = [given]
        return list(self._bound(given, kind, options))

    def _bound(
        self, given: Iterable[Any], kind: type[AnyLimit], options: Mapping[str, Any]
    ) -> Iterator[AnyLimit]:
        for one in given:
            limit: AnyLimit = one if isinstance(one, Limit) else kind(one, **options)  # type: ignore[assignment]
            bound = limit.bound(self.limiter)
            if not callable(bound.limit_provider):
                bound.resolve()  # raise for a mistake now, not for each request
            yield bound

    def _read_headers(self) -> None:
        self.headers_enabled = bool(
            self._setting("headers_enabled", ConfigVars.HEADERS_ENABLED, False)
        )
        given = self._arguments["header_name_mapping"] or {}
        texts = {
            header: given.get(header)
            or self._config.get(getattr(ConfigVars, f"HEADER_{header.name}"), header.value)
            for header in HeaderNames
        }
        self.header_names = HeaderTexts(
            texts[HeaderNames.LIMIT],
            texts[HeaderNames.REMAINING],
            texts[HeaderNames.RESET],
            texts[HeaderNames.RETRY_AFTER],
        )
        self.lower_header_names = self.header_names.lower()
        self.retry_after = self._setting("retry_after", ConfigVars.HEADER_RETRY_AFTER_VALUE)
        if self.retry_after not in (None, "http-date", "delta-seconds"):
            raise ConfigurationError(
                f"retry_after must be 'http-date' or 'delta-seconds', got {self.retry_after!r}"
            )

    def _open_storage(self) -> None:
        uri = self._arguments["storage_uri"] or self._config.get(ConfigVars.STORAGE_URI)
        if not uri and self.limiter.enabled:
            self.logger.warning(
                "storage_uri is not set: requests are counted in this process, so each worker "
                "counts separately. Use 'shared:///dev/shm/limits' or a Redis to share counts"
            )
        options = {
            **(self._arguments["storage_options"] or {}),
            **self._config.get(ConfigVars.STORAGE_OPTIONS, {}),
        }
        falls_back = self._setting(
            "in_memory_fallback_enabled", ConfigVars.IN_MEMORY_FALLBACK_ENABLED, False
        )
        if self.fallback_limits or (self.swallow_errors and not falls_back):
            options.setdefault("on_store_error", "raise")
        word = self._setting("strategy", ConfigVars.STRATEGY, "fixed-window")
        if word not in STRATEGIES:
            raise ConfigurationError(
                f"Invalid rate limiting strategy {word}: expected one of {', '.join(STRATEGIES)}"
            )
        self.storage: Storage = storage_from_string(uri or "memory://", **options)
        self.strategy: Strategy = STRATEGIES[word](self.storage)
        self.fallback: Strategy = STRATEGIES[word](storage_from_string("memory://"))
