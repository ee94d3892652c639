"""BucketState: the tokens of a key and when they were counted, as a plain dict."""

from __future__ import annotations

import math
from typing import TypedDict


class BucketState(TypedDict):
    """The state that a store keeps for a key."""

    tokens: float | None
    """Tokens at the time `last_refill`; None for a key that is not in the store."""
    last_refill: float
    """Seconds since the epoch, as `time.time` returns them."""


def checked_state(state: BucketState) -> tuple[float, float] | None:
    """Return (tokens, last_refill) of a state; None for a key that is not in the store.

    Raises:
        TypeError: the state has no such numbers.
        ValueError: one of them is not finite.
    """
    try:
        if state["tokens"] is None:
            return None
        tokens, last_refill = float(state["tokens"]), float(state["last_refill"])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise TypeError(
            "a bucket's state must be {'tokens': float or None, 'last_refill': float}, "
            f"got {state!r}"
        ) from None
    if not math.isfinite(tokens) or not math.isfinite(last_refill):
        raise ValueError(f"a bucket's state must have finite numbers, got {state!r}")
    return tokens, last_refill
