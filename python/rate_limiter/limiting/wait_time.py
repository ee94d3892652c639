"""How long a request has to wait behind others, computed from the state of the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rate_limiter._core import Decision
from rate_limiter.limit import FIXED_WINDOW, Limit

_SHORTEST_S = 1e-9
"""The shortest wait: a denied request never has a `retry_after` of 0."""


def cost_to_peek(limits: Sequence[Limit], costs: Sequence[float]) -> float:
    """Return the cost for which decisions_behind() needs the decisions.

    It is the sum of all, but at most one capacity, beyond which a limit always denies.

    Args:
        limits: the limits.
        costs: the costs of the requests in order, the last one being that of the caller.
    """
    return max(costs[-1], min(math.fsum(costs), *(limit.capacity for limit in limits)))


def decisions_behind(
    limits: Sequence[Limit], each: Sequence[Decision], costs: Sequence[float]
) -> tuple[Decision, ...]:
    """Return the decision for a request behind others, followed by one for each limit.

    A request is allowed if there are tokens for all of them now. `retry_after` assumes that those
    ahead take their tokens as soon as they can. It is exact for buckets, and for windows at most
    what it turns out to be.

    Args:
        limits: the limits.
        each: the decision of each limit for the cost that cost_to_peek() returned.
        costs: as for cost_to_peek().
    """
    peeked = cost_to_peek(limits, costs)
    waits = [_wait_s(limit, one, costs, peeked) for limit, one in zip(limits, each, strict=True)]
    decisions = [_delayed(*pair) for pair in zip(each, waits, strict=True)]
    return (decisions[waits.index(max(waits))], *decisions)


def _wait_s(limit: Limit, state: Decision, costs: Sequence[float], peeked: float) -> float:
    """Return the seconds until the limit allows all costs, one after another."""
    if not limit.is_window:
        return max(state.retry_after, _bucket_s(limit, state, math.fsum(costs)))
    if math.isinf(state.retry_after):
        return math.inf
    # A window counts whole requests.
    tokens = float(sum(map(math.ceil, costs)))
    if limit.algorithm == FIXED_WINDOW:
        return max(state.retry_after, _fixed_s(limit, state, tokens))
    more = max(0.0, tokens - peeked) // limit.capacity
    return state.retry_after + more * limit.window_s


def _bucket_s(limit: Limit, state: Decision, tokens: float) -> float:
    if state.store_unavailable:  # it does not describe the bucket
        return 0.0
    if not limit.refill_rate:
        return 0.0 if tokens <= state.remaining else math.inf
    return max(0.0, state.reset_after + (tokens - limit.capacity) / limit.refill_rate)


def _fixed_s(limit: Limit, state: Decision, tokens: float) -> float:
    missing = tokens - state.remaining
    if missing <= 0 or state.store_unavailable:
        return 0.0
    # The clock may be put forward by up to two hours in a calendar window.
    length_s = limit.window_s - 7200 if limit.unit else limit.window_s
    left_s = state.reset_after or length_s  # a window that starts first has not begun
    return left_s + (math.ceil(missing / limit.capacity) - 1) * length_s


def _delayed(decision: Decision, wait_s: float) -> Decision:
    if wait_s == 0:
        return decision
    return Decision(
        False,
        decision.remaining,
        limit=decision.limit,
        retry_after=max(wait_s, _SHORTEST_S),
        reset_after=decision.reset_after,
        store_unavailable=decision.store_unavailable,
    )
