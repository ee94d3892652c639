"""Key functions of slowapi."""

from __future__ import annotations

from starlette.requests import Request

_UNKNOWN = "127.0.0.1"


def get_remote_address(request: Request) -> str:
    """Return the address of the peer, or ``127.0.0.1`` if the server does not name one."""
    client = request.scope.get("client")
    return (client and client[0]) or _UNKNOWN


def get_ipaddr(request: Request) -> str:
    """Return the value of a header ``X_FORWARDED_FOR``, else the address of the peer.

    Clients choose that header, so they can choose their key.
    """
    return request.headers.get("X_FORWARDED_FOR") or get_remote_address(request)
