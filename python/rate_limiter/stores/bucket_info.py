"""BucketInfo: the state of one bucket."""

from __future__ import annotations

from dataclasses import dataclass

from rate_limiter.limit import Limit


@dataclass(frozen=True)
class BucketInfo:
    """The state of one bucket.

    Attributes:
        key: the key in the store; in memory the client's key.
        limit: the Limit, None if it is not known.
        tokens: tokens in the bucket now, None if the limit is not known.
        full_after_s: seconds until the bucket is full, inf for never.
        expires_after_s: seconds until the key expires in the store, None if it does not.
    """

    key: str
    limit: Limit | None
    tokens: float | None
    full_after_s: float
    expires_after_s: float | None
