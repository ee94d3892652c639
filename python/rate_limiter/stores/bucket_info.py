"""BucketInfo: what is known of one bucket."""

from __future__ import annotations

from dataclasses import dataclass

from rate_limiter.limit import Limit


@dataclass(frozen=True)
class BucketInfo:
    """What is known of one bucket.

    Attributes:
        key: its key in the store; in memory the client's own.
        limit: the Limit, None where it is not known.
        tokens: how many it has now, None where its limit is not known.
        full_after_s: seconds until it is full, inf for never.
        expires_after_s: seconds until the store forgets it, None for never or not at all.
    """

    key: str
    limit: Limit | None
    tokens: float | None
    full_after_s: float
    expires_after_s: float | None
