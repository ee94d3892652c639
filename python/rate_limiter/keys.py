"""Keys as the API-gateway demo builds them."""

from rate_limiter.seeds.gateway.keys import (
    key_for_api_key,
    key_for_ip,
    key_for_user,
    pick_identity_key,
)

__all__ = ["key_for_api_key", "key_for_ip", "key_for_user", "pick_identity_key"]
