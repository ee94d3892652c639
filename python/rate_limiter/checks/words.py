"""Types of options that take one of several fixed words."""

from __future__ import annotations

from typing import Literal, TypeAlias

OnStoreError: TypeAlias = Literal["memory", "allow", "deny", "raise"]
HeaderWord: TypeAlias = Literal["x-ratelimit", "ietf", "both", "off"]
ResetWord: TypeAlias = Literal["seconds", "epoch"]
ProxyHeader: TypeAlias = Literal["x-forwarded-for", "X-Forwarded-For", "forwarded", "Forwarded"]
TopKeys: TypeAlias = Literal["plain", "masked", "hashed"]
