"""RateLimitPolicy: the limit of an API gateway for each client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit, checked_number

if TYPE_CHECKING:
    from rate_limiter.seeds.gateway.app import GatewayApp
    from rate_limiter.web.asgi_messages import ASGIApp, Scope


EXEMPT_PATHS = frozenset({"/health", "/metrics"})


@dataclass
class RateLimitPolicy:
    """The limit of a gateway for each client, and how its state is stored.

    Numbers may be given as text. The methods named ``model_...`` are those of a pydantic model.

    Args:
        rate_per_sec: tokens per second, above 0.
        burst: tokens a bucket holds, at least 1.
        ttl_seconds: lifetime of an idle bucket in Redis, at least 10 s; longer if the bucket takes
            longer to fill.
        cost: tokens a request takes, at least 1 and at most `burst`.
        prefix: prefix of the keys.

    Raises:
        ValueError: an argument is out of range.
    """

    rate_per_sec: float
    burst: int
    ttl_seconds: int = 3600
    cost: int = 1
    prefix: str = "rl:tb"

    def __post_init__(self) -> None:
        for name, least in (("burst", 1), ("ttl_seconds", 10), ("cost", 1)):
            setattr(self, name, _whole(name, getattr(self, name), least))
        try:
            limit = Limit(self.burst, _number(self.rate_per_sec))
        except TypeError as error:
            raise ValueError(str(error)) from None
        if limit.refill_rate <= 0:
            raise ValueError(f"rate_per_sec must be above 0, got {self.rate_per_sec!r}")
        self.rate_per_sec = limit.refill_rate
        if self.cost > self.burst:
            raise ValueError(
                f"cost must be at most burst, or no request would pass: got cost={self.cost} and "
                f"burst={self.burst}"
            )
        if not isinstance(self.prefix, str) or not self.prefix:
            raise ValueError(f"prefix must be a text that is not empty, got {self.prefix!r}")

    @classmethod
    def model_validate(cls, values: Mapping[str, Any] | RateLimitPolicy) -> RateLimitPolicy:
        """Return the policy with these values by field.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is out of range.
        """
        return values if isinstance(values, RateLimitPolicy) else cls(**values)

    def model_dump(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)

    def model_dump_json(self) -> str:
        """Return the fields as JSON."""
        return json.dumps(asdict(self))

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> RateLimitPolicy:
        """Return a copy with other values for the fields in `update`."""
        return replace(self, **(update or {}))

    @property
    def exempt_paths(self) -> frozenset[str]:
        """Paths that a gateway does not limit by default."""
        return EXEMPT_PATHS

    def gateway(
        self,
        app: ASGIApp,
        limiter: Any,
        *,
        api_key_header: str,
        user_id_header: str,
        dimension_label: str,
        tracing: bool,
        client: Callable[[Scope], str],
        conclude: Callable[..., Any],
    ) -> GatewayApp:
        """Return the application that RateLimitMiddleware(app, limiter, policy) calls."""
        from rate_limiter.seeds.gateway.app import GatewayApp

        return GatewayApp(
            app,
            limiter,
            self,
            api_key_header=api_key_header,
            user_id_header=user_id_header,
            dimension_label=dimension_label,
            tracing=tracing,
            client=client,
            conclude=conclude,
        )


def _whole(name: str, value: object, least: int) -> int:
    try:
        number = checked_number(name, _number(value))
    except TypeError:
        number = -1.0
    if not number.is_integer() or number < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {shown(value)}")
    return int(number)


def _number(value: Any) -> Any:
    """Return the number in a text; anything else unchanged, so that its check refuses it."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
