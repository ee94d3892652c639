"""Types of options that take one of several fixed words."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rate_limiter._core import ManualClock

OnStoreError: TypeAlias = Literal["memory", "allow", "deny", "raise"]
Clock: TypeAlias = Literal["monotonic", "coarse"] | ManualClock
HeaderWord: TypeAlias = Literal["x-ratelimit", "ietf", "both", "off"]
ResetWord: TypeAlias = Literal["seconds", "epoch"]
ProxyHeader: TypeAlias = Literal["x-forwarded-for", "X-Forwarded-For", "forwarded", "Forwarded"]
