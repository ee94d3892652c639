"""Reset the limits of a program between its tests.

In the top `conftest.py`, ``pytest_plugins = ["rate_limiter.testing"]`` adds the fixture
`reset_rate_limits`. Other test frameworks call `reset_all`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from rate_limiter._core import Limiter, StoreError
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.made_limiters import limiters_in_use

try:
    import pytest
except ImportError:  # reset_all() does not need it
    pytest = None  # type: ignore[assignment]

__all__ = ["reset_all"]

logger = logging.getLogger("rate_limiter")


def reset_all() -> None:
    """Make the buckets of all limiters of this process full, and wake those who wait for them.

    These are all that are in use, also those of middlewares, dependencies, decorators and rules. In
    shared memory and in Redis other processes find the buckets full too: a limiter resets the keys
    under its name and limits, and no others. Where Redis does not answer, or holds the keys of a
    limiter without any prefix, this is logged, and the limiter is reset in the memory of this
    process.
    """
    for limiter in limiters_in_use():
        try:
            RateLimiter.reset(limiter)  # a subclass may have another signature
        except (StoreError, ValueError) as error:
            Limiter._reset_all(limiter)
            logger.warning("%r was reset in memory alone: %s", limiter, error)


if pytest is not None:

    @pytest.fixture
    def reset_rate_limits() -> Iterator[Callable[[], None]]:
        """Reset all limits before and after a test; the value is `reset_all`."""
        reset_all()
        yield reset_all
        reset_all()
