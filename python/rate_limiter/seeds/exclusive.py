"""A lock for the tasks of any number of event loops. (An asyncio.Lock serves one loop only.)"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rate_limiter.limit import Limit
from rate_limiter.limiting.waiting import LONGEST_SLEEP_BEHIND_S, Lines, TaskWaiter


class Exclusive:
    """Let one task at a time into a block, in the order of their arrival."""

    limits: tuple[Limit, ...] = ()  # a waiter here has no limits
    _clock = "monotonic"

    def __init__(self) -> None:
        self._lines = Lines()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait until no other task is in the block."""
        waiter = TaskWaiter(self)
        try:
            waiter.join()
            while not waiter.is_first():
                await waiter.sleep(LONGEST_SLEEP_BEHIND_S)
            yield
        finally:
            waiter.leave()
