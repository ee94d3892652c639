"""Settling: give tokens back, or correct the cost of a request after its response.

Each Verdict of a request is settled with the policy that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rate_limiter._core import RateLimitRecord, Verdict
from rate_limiter.limit import Cost

logger = logging.getLogger("rate_limiter")
_NOT_SETTLED = "the cost of a request could not be settled"

Value = TypeVar("Value")

RECORD = "rate_limiter"
"""The key of the RateLimitRecord in a request's scope or environ."""


@dataclass
class Finished:
    """A request after its response: the argument of `cost_after`.

    Attributes:
        scope: the request's ASGI scope; in Flask a dict with the same type, method, path,
            query_string, headers and client.
        status: of the response; None if the application sent none.
        headers: of the response.
        body_bytes: size of the body that was passed to the server; 0 for responses without a
            body (to HEAD, and with status 204 or 304).
        disconnected: the client left before the end.
        error: what the application raised.
        cost: tokens taken before the response: a number, or a tuple with one for each limit.
        key: the key they were taken for.
    """

    scope: Any
    cost: Cost
    key: str | bytes
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body_bytes: int = 0
    disconnected: bool = False
    error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the application raised, or sent a status of 400 or more."""
        return self.error is not None or (self.status is not None and self.status >= 400)

    @property
    def is_bodyless(self) -> bool:
        """Whether HTTP allows the response no body, even if the application sends one."""
        status = self.status or 0
        is_head = self.scope.get("method") == "HEAD"
        return is_head or 100 <= status < 200 or status in (204, 304)

    @property
    def content_length(self) -> int | None:
        """The response's Content-Length; None if it has none."""
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        return int(lengths[0]) if lengths and lengths[0].isdigit() else None


CostAfter = Callable[[Finished], "Cost | Awaitable[Cost | None] | None"]


async def now(value: Any) -> Any:
    """Return a value; await it first if it is awaitable."""
    return await value if hasattr(value, "__await__") else value


def run_now(steps: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine that never suspends, without an event loop.

    Raises:
        TypeError: it suspends.
    """
    try:
        steps.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    steps.close()
    raise TypeError("an async function cannot be used here, where there is no event loop")


def record_of(request: Any) -> RateLimitRecord | None:
    """Return the record of a request; None if no limit applied to it so far."""
    record = request.get(RECORD)
    return record if isinstance(record, RateLimitRecord) else None


async def give_back(request: Any, denial: Verdict | None = None) -> None:
    """Refund what the limits of a request took, since it does not pass.

    What the rule that denies took before stays taken: it let earlier work of the request run, such
    as other items of a batch.

    Args:
        request: the ASGI scope or the WSGI environ.
        denial: the verdict that stays in the record.
    """
    record = record_of(request)
    if record is None:
        return
    for verdict in record._give_back(denial):
        with errors_logged():
            await change_cost(verdict, 0)


async def settle(verdicts: Iterable[Verdict], finished: Finished) -> None:
    """Refund or charge the difference between the final cost and the tokens taken.

    Args:
        verdicts: those of one policy.
        finished: the request and its response.
    """
    status = 500 if finished.error is not None else finished.status
    taken = [one for one in verdicts if one.settles]
    free = [one for one in taken if status is not None and one.active.rule.refunds(status)]
    for one in free:
        await change_cost(one, 0)
    counted = [one for one in taken if one not in free]
    cost_after = counted[0].policy.cost_after if counted else None
    if cost_after is None:
        return
    known = replace(finished, cost=counted[0].cost, key=counted[0].key)
    cost: Cost | None = await now(cost_after(known))
    for one in counted:
        if cost is not None:
            await change_cost(one, cost)


async def change_cost(verdict: Verdict, cost: Cost) -> None:
    """Refund or charge the difference between the tokens taken and another cost."""
    if isinstance(cost, tuple) or isinstance(verdict.cost, tuple):
        await _change_costs(verdict, cost)
        return
    if verdict.policy is None:
        return
    # The rules, and so the limiter, may have changed since the decision.
    limiter = verdict.policy.active(verdict.active).awaitable_limiter
    if cost < verdict.cost:
        await now(_change(limiter.refund, verdict, verdict.cost - cost))
    elif cost > verdict.cost:
        await now(_change(limiter.charge, verdict, cost - verdict.cost))


async def _change_costs(verdict: Verdict, cost: Cost) -> None:
    """Do the same for each limit.

    Raises:
        ValueError: the cost is a tuple of the wrong length.
    """
    n = len(verdict.decisions)
    before, after = (one if isinstance(one, tuple) else (one,) * n for one in (verdict.cost, cost))
    if len(after) != n:
        raise ValueError(f"cost must have one number for each limit, {n} in all, got {cost!r}")
    if verdict.policy is None:
        return
    limiter = verdict.policy.active(verdict.active).awaitable_limiter
    more = [new - old for old, new in zip(before, after, strict=True)]
    if any(one < 0 for one in more):
        await now(_change(limiter.refund, verdict, tuple(max(0.0, -one) for one in more)))
    if any(one > 0 for one in more):
        await now(_change(limiter.charge, verdict, tuple(max(0.0, one) for one in more)))


def _change(method: Callable[..., Any], verdict: Verdict, cost: Cost) -> Any:
    """Call refund() or charge() of a limiter under the limits of a verdict."""
    if verdict.given is None:
        return method(verdict.key, cost)
    return method(verdict.key, cost, verdict.given)


@contextlib.contextmanager
def errors_logged() -> Iterator[None]:
    """Log what a settlement raises instead of raising it: the response has been sent."""
    try:
        yield
    except Exception:
        logger.exception(_NOT_SETTLED)


_unfinished: set[asyncio.Future[None]] = set()


async def run_to_the_end(steps: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, even if the calling task is cancelled.

    What it raises is logged: the response has been sent by then.
    """
    task = asyncio.ensure_future(steps)
    _unfinished.add(task)
    task.add_done_callback(_finished)
    await asyncio.wait([task])


def _finished(task: asyncio.Future[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled() and task.exception() is not None:
        logger.error(_NOT_SETTLED, exc_info=task.exception())
