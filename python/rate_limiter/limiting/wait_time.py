"""How long a request has to wait behind others, computed from the state of the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rate_limiter._core import Decision
from rate_limiter.limit import FIXED_WINDOW, Cost, Limit

_SHORTEST_S = 1e-9
"""The shortest wait: a denied request never has a `retry_after` of 0."""


def costs_of(limits: Sequence[Limit], cost: Cost) -> tuple[float, ...]:
    """Return the cost of each limit."""
    return cost if isinstance(cost, tuple) else (cost,) * len(limits)


def cost_to_peek(limits: Sequence[Limit], costs: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the cost for which decisions_behind() needs the decisions.

    For each limit it is the sum of all, but at most one capacity, beyond which a limit always
    denies.

    Args:
        limits: the limits.
        costs: the costs of the requests in order, one number for each limit; the last one is that
            of the caller.
    """
    each = zip(limits, zip(*costs, strict=True), strict=True)
    return tuple(max(one[-1], min(math.fsum(one), limit.capacity)) for limit, one in each)


def decisions_behind(
    limits: Sequence[Limit], each: Sequence[Decision], costs: Sequence[tuple[float, ...]]
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
    of_limits = zip(limits, each, zip(*costs, strict=True), peeked, strict=True)
    waits = [_wait_s(*of_limit) for of_limit in of_limits]
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
