"""Events on the current span of OpenTelemetry, one for each denied request.

An allowed request costs nothing, and a denied one outside a recorded span a look at the context.
The event contains no key, only a keyed hash, with which the denials of one client can be found.
"""

from __future__ import annotations

import math
import secrets
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any

from rate_limiter._core import Decision, Verdict
from rate_limiter.checks.arguments import trace_secret
from rate_limiter.checks.extras import extra_named

with extra_named():
    from opentelemetry.trace import get_current_span

DENIED = "rate_limiter.denied"
"""The name of the event."""


def trace_verdict(verdict: Verdict) -> None:
    """Add the event of a verdict that denies to the current span, if it is recorded."""
    span = get_current_span()
    if span.is_recording():
        active = verdict.active
        _add(span, active.rule.name, verdict.key, verdict.decision, active.store_name)


def trace_denial(rule: str, key: str | bytes, decision: Decision, store: str) -> None:
    """Do the same for a denial without a verdict.

    Args:
        rule: the name of the rule or limit.
        key: who the request counted for.
        decision: the denial.
        store: where the buckets are, see store_name(); empty where that is not known.
    """
    span = get_current_span()
    if span.is_recording():
        _add(span, rule, key, decision, store)


def _add(span: Any, rule: str, key: str | bytes, decision: Decision, store: str) -> None:
    attributes: dict[str, str | float | bool] = {
        "rate_limiter.rule": rule,
        "rate_limiter.limit": decision.limit,
        "rate_limiter.remaining": decision.remaining,
        "rate_limiter.key_hash": key_hash(key),
    }
    wait_s = decision.retry_after
    if wait_s != math.inf:  # else it never passes
        attributes["rate_limiter.retry_after"] = wait_s
    if store:
        attributes["rate_limiter.store"] = store
    if decision.store_unavailable:
        attributes["rate_limiter.store_unavailable"] = True
    span.add_event(DENIED, attributes)


@lru_cache(maxsize=256)  # those who are denied once are denied often
def key_hash(key: str | bytes) -> str:
    """Return a hash of a key, which only one with the secret can compare with a guessed key."""
    text = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    made = _keyed().copy()
    made.update(text)
    return str(made.hexdigest())


@cache
def _keyed() -> Any:
    """Return a hash of nothing, with the secret."""
    given = trace_secret()
    secret = blake2b(given.encode()).digest() if given else secrets.token_bytes(32)
    return blake2b(digest_size=8, key=secret)
