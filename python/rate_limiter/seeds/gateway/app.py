"""GatewayApp: the implementation of RateLimitMiddleware(app, limiter, policy)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.observe.registry import checked_dimension, follow
from rate_limiter.policy.denials import Answer
from rate_limiter.policy.headers import DEFAULT_STYLE
from rate_limiter.policy.keys import header_source, shortened
from rate_limiter.seeds.exclusive import Exclusive
from rate_limiter.seeds.gateway.decisions import decision_for
from rate_limiter.seeds.gateway.keys import pick_identity_key
from rate_limiter.seeds.gateway.limiter import BucketPolicy, TokenBucketLimiter
from rate_limiter.stores.address import store_name
from rate_limiter.web.answers import NO_STORE
from rate_limiter.web.asgi_messages import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    first_forwarded,
    send_answer,
    turned_away,
)

_CHECK = TokenBucketLimiter.check


class GatewayApp:
    """Limit requests by API key, else by user, else by address. The headers are trusted.

    Websockets pass without a limit, as in the API-gateway demo.

    The limiter is a TokenBucketLimiter, or any object with ``check(key)`` that returns
    ``allowed``, ``remaining`` and ``retry_after_ms``. `check` may block: unless it is that of
    TokenBucketLimiter, it runs in a thread, one call at a time, as such a limiter need not be
    thread-safe.

    Args:
        app: the ASGI application.
        limiter: see above.
        policy: its `burst` is the limit in the headers; its `prefix` begins the keys.
        api_key_header, user_id_header: names of headers.
        dimension_label: dimension of the metrics.
        tracing: add an event to the current span of OpenTelemetry for each denied request; its rule
            is the dimension.
        client: returns the address of a request's client.
        conclude: passes or denies a request according to its Decision.

    Raises:
        TypeError: `limiter` or `dimension_label` is something else.
        ValueError: `dimension_label` is not valid.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: Any,
        policy: BucketPolicy,
        *,
        api_key_header: str = "x-api-key",
        user_id_header: str = "x-user-id",
        dimension_label: str = "default",
        tracing: bool = False,
        client: Callable[[Scope], str] = first_forwarded,
        conclude: Callable[..., Any],
    ) -> None:
        if not callable(getattr(limiter, "check", None)):
            raise TypeError(f"limiter must be a TokenBucketLimiter, got {shown(limiter)}")
        checked_dimension(dimension_label)
        from rate_limiter.observe import prometheus as metrics

        self.app = app
        self.limiter = limiter
        self.policy = policy
        self._exclusive = Exclusive()
        self._api_key = header_source(api_key_header)
        self._user_id = header_source(user_id_header)
        self._record = metrics.recorder(dimension_label)
        self._dimension = dimension_label
        self._tracing = tracing
        self._client = client
        self._conclude = conclude
        buckets = getattr(limiter, "limiter", None)
        if isinstance(buckets, RedisRateLimiter):
            follow(buckets, dimension_label)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s = time.perf_counter()
        key = self._key(scope)
        decision = decision_for(self.policy, await self._check(key))
        self._record(decision.allowed, time.perf_counter() - began_s)
        if self._tracing and not decision.allowed:
            self._trace(key, decision)
        await self._conclude(scope, receive, send, decision)

    def _key(self, scope: Scope) -> str:
        api_key, user_id = self._api_key(scope) or "", self._user_id(scope) or ""
        return pick_identity_key(
            self.policy.prefix, shortened(api_key), shortened(user_id), self._client(scope)
        )

    async def _check(self, key: str) -> Any:
        # Looked up at each request: tests replace it, in the object or in the class.
        check = self.limiter.check
        if getattr(check, "__func__", None) is _CHECK:
            return await self.limiter.check_async(key)
        async with self._exclusive.held():
            decision = await asyncio.to_thread(check, key)
        return await decision if isawaitable(decision) else decision

    def _trace(self, key: str, decision: Decision) -> None:
        from rate_limiter.observe.tracing import trace_denial  # needs OpenTelemetry

        buckets = getattr(self.limiter, "limiter", None)
        store = store_name(buckets.store) if isinstance(buckets, RedisRateLimiter) else ""
        trace_denial(self._dimension, key, decision, store)

    async def deny(self, scope: Scope, receive: Receive, send: Send, decision: Decision) -> None:
        """Answer a denied request."""
        if await turned_away(scope, receive, send):
            return
        if decision.store_unavailable:
            await send_answer(NO_STORE, scope, send)
            return
        seconds = DEFAULT_STYLE.retry_after_s(decision)
        body = {"error": "rate_limited", "retry_after_seconds": seconds}
        await send_answer(Answer(429, "application/json", json.dumps(body).encode()), scope, send)
