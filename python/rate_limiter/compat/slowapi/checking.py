"""The steps of checking one request against several limits, blocking or awaited."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeAlias, cast

from starlette.requests import Request

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.compat.limits import RateLimitItem, WindowStats
from rate_limiter.compat.limits.strategies import RateLimiter
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.wrappers import Limit

logger = logging.getLogger("slowapi")
logger.addHandler(logging.NullHandler())

SHOWN = "view_rate_limit"
"""The attribute of `request.state` that names the limit for the headers."""
_TAKEN = "_rate_limits_taken"


class Step(NamedTuple):
    """A call of a strategy: `decide` or `give_back`."""

    method: str
    item: RateLimitItem
    args: tuple[str, ...]
    cost: int


Steps: TypeAlias = Generator[Step, Any, None]


class ShownLimit(tuple[RateLimitItem, list[str]]):
    """A RateLimitItem and its identifiers, with the state of the window at the decision."""

    stats: WindowStats

    @classmethod
    def of(cls, step: Step, stats: WindowStats) -> ShownLimit:
        made = cls((step.item, list(step.args)))
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
    """Take from each limit in turn; the one that denies gives back what the others took.

    Args:
        endpoint: what limits without a scope count together.
        view: the name of the view.
        prefix: the first identifier; empty for none.

    Raises:
        RateLimitExceeded: a limit denies the request.
    """
    state = state_of(request)
    taken: list[Step] = state.setdefault(_TAKEN, [])  # by a middleware too
    header: ShownLimit | None = None
    for limit in limits:
        counts = limit.counts_for(request, endpoint, view)
        if counts is None:
            continue
        if not all(counts):
            logger.error("Skipping limit: %s. Empty value found in parameters.", limit.limit)
            continue
        args = (prefix, *counts) if prefix else counts
        step = Step("decide", limit.limit, args, limit.cost_for(request))
        decision: Decision = yield step
        stats = limiter.stats_of(limit.limit, decision)
        if not decision.allowed:
            state[SHOWN] = ShownLimit.of(step, stats)
            while taken:
                yield taken.pop()._replace(method="give_back")
            logger.warning(
                "ratelimit %s (%s) exceeded at endpoint: %s",
                limit.limit,
                shown(counts[0])[1:-1],
                shown(counts[1])[1:-1],
            )
            raise RateLimitExceeded(limit)
        taken.append(step)
        if header is None or limit.limit < header[0]:
            header = ShownLimit.of(step, stats)
    if header is not None:
        state[SHOWN] = header


def run(limiter: RateLimiter, making: Steps) -> None:
    """Make the calls of all steps."""
    answer = None
    try:
        while True:
            step = making.send(answer)
            answer = getattr(limiter, step.method)(step.item, *step.args, cost=step.cost)
    except StopIteration:
        return


async def run_async(limiter: RateLimiter, making: Steps) -> None:
    """Make the calls of all steps without blocking the event loop."""
    answer = None
    try:
        while True:
            step = making.send(answer)
            call = getattr(limiter, f"{step.method}_async")
            answer = await call(step.item, *step.args, cost=step.cost)
    except StopIteration:
        return
