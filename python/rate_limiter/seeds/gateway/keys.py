"""Keys of clients: by API key, by user, by address."""

from __future__ import annotations


def key_for_api_key(api_key: str, prefix: str) -> str:
    """Return ``prefix:apikey:api_key``."""
    return f"{prefix}:apikey:{api_key}"


def key_for_user(user_id: str, prefix: str) -> str:
    """Return ``prefix:user:user_id``."""
    return f"{prefix}:user:{user_id}"


def key_for_ip(ip: str, prefix: str) -> str:
    """Return ``prefix:ip:ip``, with ``_`` for the colons of an IPv6 address."""
    return f"{prefix}:ip:{ip.replace(':', '_')}"


def pick_identity_key(prefix: str, api_key: str | None, user_id: str | None, ip: str) -> str:
    """Return the key of the API key, else of the user, else of the address. Empty is absent."""
    if api_key:
        return key_for_api_key(api_key, prefix)
    if user_id:
        return key_for_user(user_id, prefix)
    return key_for_ip(ip, prefix)
