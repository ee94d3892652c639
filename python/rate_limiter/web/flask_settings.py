"""The settings of a Flask application: ``RATE_LIMITER_`` in its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rate_limiter.checks.arguments import checked_clock, checked_policy
from rate_limiter.limiting.clocks import named_clock
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.rules import rules_of_limits
from rate_limiter.stores.address import check_store

if TYPE_CHECKING:
    from flask import Flask


def _check_enabled(enabled: object) -> None:
    if not isinstance(enabled, bool):
        raise ValueError(f"must be True or False, got {enabled!r}")


def _check_max_keys(max_keys: object) -> None:
    if not isinstance(max_keys, int) or max_keys < 1:
        raise ValueError(f"must be a whole number from 1 on, got {max_keys!r}")


def _check_headers(headers: object) -> None:
    if not isinstance(headers, HeaderStyle):
        HeaderStyle(headers)  # type: ignore[arg-type]


def _check_limits(limits: object) -> None:
    if limits is not None:
        rules_of_limits(limits)  # type: ignore[arg-type]


DECIDING = ("DEFAULT_LIMITS", "RULES", "STORE", "HEADERS")
"""Settings that can leave an argument without effect."""

OF_LIMITS = ("STORE", "ON_STORE_ERROR", "MAX_KEYS", "CLOCK", "HEADERS")
"""Settings that a decorator's limit depends on."""

CHECKS: dict[str, Callable[[Any], object]] = {
    "DEFAULT_LIMITS": _check_limits,
    "RULES": lambda rules: None,  # checked when they are loaded
    "STORE": check_store,
    "ON_STORE_ERROR": checked_policy,
    "MAX_KEYS": _check_max_keys,
    "CLOCK": lambda clock: checked_clock("the value", clock),
    "HEADERS": _check_headers,
    "ENABLED": _check_enabled,
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the settings that the arguments of a limiter stand for.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    for name, check in CHECKS.items():
        try:
            check(settings[name])
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name.lower()}: {error}") from None


def read_settings(app: Flask) -> dict[str, Any]:
    """Return the settings of an application, without their prefix.

    Raises:
        ValueError: a setting is invalid or unknown; the message names it.
    """
    prefix = "RATE_LIMITER_"
    settings = {
        name.removeprefix(prefix): value
        for name, value in app.config.items()
        if name.startswith(prefix)
    }
    for name, value in settings.items():
        if name not in CHECKS:
            known = ", ".join(prefix + one for one in CHECKS)
            nearest = get_close_matches(name, CHECKS, 1)
            hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else ""
            raise ValueError(f"unknown setting {prefix}{name}; known are {known}{hint}")
        try:
            if name == "CLOCK":
                value = settings[name] = named_clock(value)
            CHECKS[name](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{prefix}{name}: {error}") from error
    return settings
