"""The default bodies of denied responses."""

from __future__ import annotations

import json

from rate_limiter.policy.denials import Answer
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL

DENIED = Answer(429, "application/json", json.dumps({"detail": DENIED_DETAIL}).encode())
NO_STORE = Answer(503, "application/json", json.dumps({"detail": NO_STORE_DETAIL}).encode())
