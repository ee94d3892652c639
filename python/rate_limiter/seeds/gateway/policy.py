"""RateLimitPolicy: the limit of an API gateway for each client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rate_limiter.limit import Limit

if TYPE_CHECKING:
    from rate_limiter.seeds.gateway.app import GatewayApp
    from rate_limiter.web.asgi_messages import ASGIApp, Scope


EXEMPT_PATHS = frozenset({"/health", "/metrics"})


@dataclass(frozen=True)
class RateLimitPolicy:
    """The limit of a gateway for each client, and how its state is stored.

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
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        try:
            Limit(self.burst, self.rate_per_sec)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if self.rate_per_sec <= 0:
            raise ValueError(f"rate_per_sec must be above 0, got {self.rate_per_sec!r}")
        if self.cost > self.burst:
            raise ValueError(
                f"cost must be at most burst, or no request would pass: got cost={self.cost} and "
                f"burst={self.burst}"
            )
        if not isinstance(self.prefix, str) or not self.prefix:
            raise ValueError(f"prefix must be a text that is not empty, got {self.prefix!r}")

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
        client: Callable[[Scope], str],
        conclude: Callable[..., Any],
    ) -> GatewayApp:
        """Return the application that RateLimitMiddleware(app, limiter, policy) calls."""
        from rate_limiter.seeds.gateway.app import GatewayApp

        return GatewayApp(
            app,
            limiter,
            prefix=self.prefix,
            api_key_header=api_key_header,
            user_id_header=user_id_header,
            dimension_label=dimension_label,
            client=client,
            conclude=conclude,
        )
