"""DistributedTokenBucketMiddleware of the distributed demo."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from rate_limiter._core import Decision, Verdict
from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.policy.request_fields import method_of, route_path
from rate_limiter.policy.rule_sources import RuleSource, as_source
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.web.asgi_messages import ASGIApp, Receive, Scope, Send, first_forwarded
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

logger = logging.getLogger("rate_limiter")

DEFAULT_RULE = "default"
RULES_PATH = "RATE_LIMIT_RULES_PATH"
"""The variable that names the file of rules."""
DEFAULT_RULES_PATH = "rate_limits.json"


class DistributedTokenBucketMiddleware:
    """Limit an application by buckets in the Redis of ``app.state.redis``, per client.

    The redis-py client is read at each request. If there is none, the request passes and an error
    is logged. Clients are identified as by RateLimiterMiddleware.

    Args:
        app: the ASGI application.
        capacity: tokens a bucket holds; 0 denies every request.
        refill_rate: tokens per second.
        rules: rules for some paths, instead of the two numbers: see docs/rules.md. By default
            the rules in the file that ``RATE_LIMIT_RULES_PATH`` names in the environment or in
            ``.env`` (which needs pydantic-settings), else in ``rate_limits.json`` if it exists.
            A file with mistakes is logged and ignored. The two numbers replace the rule
            ``default``. The fields ``tier``, ``keys``, ``key``, ``refund`` and
            ``on_store_error`` have no effect here, which is logged.

    Attributes:
        capacity, refill_rate: as given.

    Raises:
        TypeError, ValueError: a number is out of range.
    """

    def __init__(
        self, app: ASGIApp, capacity: float, refill_rate: float, *, rules: object = None
    ) -> None:
        self.app = app
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._default = Rule(DEFAULT_RULE, (Limit(capacity, refill_rate),))
        self._source = _rules_of_environment() if rules is None else as_source(rules)
        # By id of a redis-py client, which is kept alive, and rules.
        self._wrapped: dict[tuple[int, tuple[Rule, ...]], tuple[object, ASGIApp]] = {}
        rules = {} if self._source is None else self._source.current().rules
        for rule in rules.values():
            _warn_of(rule, "tiers", "keys")  # no request matches it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = getattr(scope.get("app"), "state", None)
        redis = getattr(state, "redis", None)
        if redis is None:
            logger.error("app.state.redis is missing: the request is not limited")
            await self.app(scope, receive, send)
            return
        wrapped = self._wrapped_app(redis, self._rules(scope))
        await wrapped(scope, receive, send)

    def _rules(self, scope: Scope) -> tuple[Rule, ...]:
        """Return the rules that limit a request: several if a path can be read in several ways."""
        if self._source is None:
            return (self._default,)
        found = self._source.current().both(route_path(scope), method_of(scope))
        rules = dict.fromkeys(
            self._default if rule is None or rule.name == DEFAULT_RULE else rule for rule in found
        )
        return tuple(rule for rule in rules if not rule.exempt)

    def _wrapped_app(self, redis: object, rules: tuple[Rule, ...]) -> ASGIApp:
        """Return the application wrapped in one middleware per rule."""
        which = (id(redis), rules)
        if which not in self._wrapped:
            wrapped: ASGIApp = self.app
            for rule in reversed(rules):
                if rule.deny:
                    table = RuleTable([replace(rule, paths=(), methods=(), keys=())])
                    wrapped = RateLimitMiddleware(wrapped, rules=table)
                else:
                    wrapped = _LoggingMiddleware(wrapped, redis, rule)
            self._wrapped.setdefault(which, (redis, wrapped))
        return self._wrapped[which][1]


class _LoggingMiddleware(RateLimitMiddleware):
    def __init__(self, app: ASGIApp, redis: object, rule: Rule) -> None:
        def key(scope: Scope) -> str:
            client = first_forwarded(scope)
            return client if rule.name == DEFAULT_RULE else f"{client}:{rule.name}"

        self._rule = rule
        _warn_of(rule, "key", "refund", "on_store_error")
        # An exact key is one key, so a rule with several limits uses the other form of keys.
        exact = "rate-limit:" if len(rule.limits) == 1 else None
        store = RedisStore(redis, "rate-limit")
        limiter = RedisRateLimiter(rule.limits, store=store, exact_prefix=exact)
        super().__init__(
            app,
            limiter=limiter,
            key=key,
            cost=1 if rule.cost is None else rule.cost,
            denied=_plain_denial,
        )

    def _decided(self, verdict: Verdict) -> None:
        # The client sets the header: it must not end a line or control a terminal.
        client = str(verdict.key).encode("unicode_escape").decode("ascii")
        logger.info(
            "Client '%s': Allowed=%s, Tokens Left=%.2f",
            client,
            verdict.allowed,
            verdict.remaining,
        )

    async def _deny(self, scope: Scope, receive: Receive, send: Send, verdict: Verdict) -> None:
        if self._rule.shadow:
            await self.app(scope, receive, send)
        else:
            await super()._deny(scope, receive, send, verdict)


def _warn_of(rule: Rule, *fields: str) -> None:
    ignored = [name for name in fields if getattr(rule, name)]
    if ignored:
        logger.warning(
            "rule %r: %s has no effect in DistributedTokenBucketMiddleware",
            rule.name,
            ", ".join(ignored),
        )


def _rules_of_environment() -> RuleSource | None:
    named = os.environ.get(RULES_PATH) or _value_in_env_file(RULES_PATH)
    path = Path(named or DEFAULT_RULES_PATH)
    if not named and not path.exists():
        return None
    try:
        return as_source(path)
    except (ValueError, ImportError) as error:
        logger.error("rules for paths have no effect: %s", error)
        return None


def _value_in_env_file(name: str) -> str | None:
    try:
        from dotenv import dotenv_values
    except ImportError:
        return None
    return dotenv_values(".env").get(name)


def _plain_denial(scope: Scope, decision: Decision) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"17")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": b"Too Many Requests"})

    return answer
