"""Members of an ASGI scope. Each may be missing or of a wrong type, which counts as missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def header_pairs(scope: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request; anything else in their place counts as missing."""
    given = scope.get("headers")
    headers = given if isinstance(given, Iterable) else ()
    pairs = [tuple(one) for one in headers if isinstance(one, (tuple, list))]
    return [one for one in pairs if len(one) == 2 and all(isinstance(i, bytes) for i in one)]


def peer_of(scope: Any) -> str | None:
    """Return the address at the other end of the connection, None if there is none."""
    client = scope.get("client")
    host = client[0] if isinstance(client, (tuple, list)) and client else None
    return host if isinstance(host, str) else None
