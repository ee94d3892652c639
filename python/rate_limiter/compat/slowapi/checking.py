"""The steps of checking one request against several limits, blocking or awaited."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeAlias, cast

from starlette.requests import Request

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.compat.limits import RateLimitItem, WindowStats
from rate_limiter.compat.limits.strategies import Hit, RateLimiter
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.wrappers import Limit

logger = logging.getLogger("slowapi")
logger.addHandler(logging.NullHandler())

SHOWN = "view_rate_limit"
"""The attribute of `request.state` that names the limit for the headers."""
_TAKEN = "_rate_limits_taken"


Steps: TypeAlias = Generator["Sequence[Hit] | Hit", Any, None]
"""Hits that are decided in one step, which get their decisions; or one that is given back."""


class ShownLimit(tuple[RateLimitItem, list[str]]):
    """A RateLimitItem and its identifiers, with the state of the window at the decision."""

    stats: WindowStats

    @classmethod
    def of(cls, item: RateLimitItem, names: Sequence[str], stats: WindowStats) -> ShownLimit:
        made = cls((item, list(names)))
        made.stats = stats
        return made


def state_of(request: Request) -> dict[str, Any]:
    """Return the mapping behind `request.state`."""
    return cast("dict[str, Any]", request.scope.setdefault("state", {}))


def steps(
    limiter: RateLimiter,
    request: Request,
    limits: Iterable[Limit],
    endpoint: str,
    view: str,
    prefix: str,
) -> Steps:
    """Take from all limits in one step, or from none if one of them denies.

    Args:
        endpoint: what limits without a scope count together.
        view: the name of the view.
        prefix: the first identifier; empty for none.

    Raises:
        RateLimitExceeded: a limit denies the request.
    """
    state = state_of(request)
    counting: list[tuple[Limit, tuple[str, ...]]] = []
    hits: list[Hit] = []
    for limit in limits:
        counts = limit.counts_for(request, endpoint, view)
        if counts is None:
            continue
        if not all(counts):
            logger.error("Skipping limit: %s. Empty value found in parameters.", limit.limit)
            continue
        names: tuple[str, ...] = (prefix, *counts) if prefix else counts
        counting.append((limit, names))
        hits.append(limiter.hit_of(limit.limit, names, limit.cost_for(request)))
    if not hits:
        return
    decisions: list[Decision] = yield hits
    taken: list[Hit] = state.setdefault(_TAKEN, [])  # by a middleware too
    header: ShownLimit | None = None
    for (limit, names), decision in zip(counting, decisions, strict=False):
        stats = limiter.stats_of(limit.limit, decision)
        if not decision.allowed:
            state[SHOWN] = ShownLimit.of(limit.limit, names, stats)
            while taken:
                yield taken.pop()
            logger.warning(
                "ratelimit %s (%s) exceeded at endpoint: %s",
                limit.limit,
                shown(names[-2])[1:-1],
                shown(names[-1])[1:-1],
            )
            raise RateLimitExceeded(limit)
        if header is None or limit.limit < header[0]:
            header = ShownLimit.of(limit.limit, names, stats)
    taken += hits
    state[SHOWN] = header


def run(limiter: RateLimiter, making: Steps) -> None:
    """Make the calls of all steps."""
    answer: Any = None
    try:
        while True:
            step = making.send(answer)
            if isinstance(step, Hit):
                step.give_back()
            else:
                answer = limiter.decide_all(step)
    except StopIteration:
        return


async def run_async(limiter: RateLimiter, making: Steps) -> None:
    """Make the calls of all steps without blocking the event loop."""
    answer: Any = None
    try:
        while True:
            step = making.send(answer)
            if isinstance(step, Hit):
                await step.give_back_async()
            else:
                answer = await limiter.decide_all_async(step)
    except StopIteration:
        return
