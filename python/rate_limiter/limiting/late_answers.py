"""Give back what an answer of a store has taken that arrives after its caller was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rate_limiter._core import Decision, StoreError

T = TypeVar("T")

GRACE_S = 0.1
"""Longest time that a cancelled caller waits for the answer, which may also come later."""


async def wait_until_given_back(
    taking: asyncio.Future[Decision], refund: Callable[[], asyncio.Future[None]]
) -> None:
    """Give back what an answer takes, and wait for that for a moment.

    It is given back if the event loop runs when the answer arrives. There is no task for that, so
    that `asyncio.run` can end, which cancels all tasks: so a task that is cancelled waits here.

    Args:
        taking: the answer.
        refund: called if the answer has taken tokens; gives them back.
    """
    given_back = give_back_late(taking, refund)
    loop = taking.get_loop()
    ends_s = loop.time() + GRACE_S
    while not given_back.done() and loop.time() < ends_s:
        # `asyncio.run` cancels a second time. The caller raises the error of the first.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([given_back], timeout=ends_s - loop.time())


async def kept(sent: Awaitable[T]) -> T:
    """Wait for a call of a store to the end, for a moment also after the caller was cancelled.

    Args:
        sent: a future of the call. Cancelling the caller does not withdraw it.

    Raises:
        CancelledError: the caller was cancelled.
    """
    calling = asyncio.ensure_future(sent)
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        loop = calling.get_loop()
        calling.add_done_callback(_retrieve)
        ends_s = loop.time() + GRACE_S
        while not calling.done() and loop.time() < ends_s:
            with contextlib.suppress(asyncio.CancelledError):  # asyncio.run cancels again
                await asyncio.wait([calling], timeout=ends_s - loop.time())
        raise


def _retrieve(calling: asyncio.Future[T]) -> None:
    if not calling.cancelled():
        calling.exception()  # or asyncio logs that it was never retrieved


def give_back_late(
    taking: asyncio.Future[Decision], refund: Callable[[], asyncio.Future[None]]
) -> asyncio.Future[None]:
    """Give back what an answer takes. The future ends when that is done, or not needed.

    Args:
        taking: the answer.
        refund: called if the answer has taken tokens; gives them back.
    """
    over: asyncio.Future[None] = taking.get_loop().create_future()

    def end(refunding: asyncio.Future[None]) -> None:
        if not refunding.cancelled():
            refunding.exception()  # which may be a StoreError: nothing else can be done
        if not over.done():
            over.set_result(None)

    def answered(taking: asyncio.Future[Decision]) -> None:
        has_taken = not taking.cancelled() and taking.exception() is None and taking.result()
        refunding = None
        if has_taken:
            with contextlib.suppress(StoreError, RuntimeError):  # such as a closed connection
                refunding = refund()
        if refunding is not None:
            refunding.add_done_callback(end)
        elif not over.done():
            over.set_result(None)

    taking.add_done_callback(answered)
    return over
