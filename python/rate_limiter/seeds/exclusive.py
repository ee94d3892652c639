"""A lock for the tasks of any number of event loops. (An asyncio.Lock serves one loop only.)"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rate_limiter.limiting.waiting import Lines, TaskWaiter


class Exclusive:
    """Let one task at a time into a block, in the order of their arrival."""

    def __init__(self) -> None:
        self._lines = Lines()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait until no other task is in the block."""
        waiter = TaskWaiter()
        self._lines.join(b"", waiter)
        try:
            while not self._lines.is_first(b"", waiter):
                await waiter.sleep(math.inf)
            yield
        finally:
            self._lines.leave(b"", waiter)
