"""The default bodies of denied responses."""

from __future__ import annotations

import json

from rate_limiter.policy.denials import Answer
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL

DENIED = Answer(429, "application/json", json.dumps({"detail": DENIED_DETAIL}).encode())
NO_STORE = Answer(503, "application/json", json.dumps({"detail": NO_STORE_DETAIL}).encode())
NO_METHOD = Answer(405, "application/json", b'{"detail": "Method Not Allowed"}')


def state_answer(state: object) -> Answer:
    """Return the response with the state of a caller."""
    return Answer(200, "application/json", json.dumps(state).encode())
