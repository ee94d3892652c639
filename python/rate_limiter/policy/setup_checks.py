"""SetupChecks: find mistakes in a limiter's configuration by the first requests.

Each mistake is logged once, as a warning: what was seen, what it means and how to fix it.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rate_limiter.checks.members import header_pairs, peer_of
from rate_limiter.policy.client_address import example_of

logger = logging.getLogger("rate_limiter")

SAMPLE = 1000
"""Number of requests that are checked."""
_PEERS = 10  # so many addresses with one key are no coincidence
_UNKNOWN = 100  # requests without an address
_SERVERS = ("gunicorn", "uvicorn", "hypercorn", "granian")
USER_KEYS = (
    "let authentication run first: in FastAPI give the dependency, key=Depends(current_user); in "
    "Flask use a decorator, which decides when the view is called; of middlewares, add the limit "
    "before the one that authenticates"
)
"""How a key can depend on the user."""

_PROXY_HEADERS = (b"x-forwarded-for", b"forwarded", b"x-real-ip")


class SetupChecks:
    """Check the first requests of an application.

    Args:
        in_memory: limits are kept in the memory of this process.
        uses_address: keys are client addresses, or fall back to them.
        trusts_proxies: at least one proxy is trusted.
        shares_key: sharing one key is intentional.
    """

    def __init__(
        self,
        *,
        in_memory: bool,
        uses_address: bool = True,
        trusts_proxies: bool = False,
        shares_key: bool = False,
    ) -> None:
        self._in_memory = in_memory
        self._looks_for_proxies = uses_address and not trusts_proxies
        self._looks_for_sharing = not shares_key
        self._looks_for_users = True
        self.is_done = False
        self._seen = 0
        self._unknown = 0
        self._keys: set[Any] = set()
        self._peers: set[Any] = set()

    def look(self, scope: Any, key: Any, *, calls_key: bool = False) -> bool:
        """Check a request; return whether to check the next one too.

        Args:
            scope: the ASGI scope.
            key: the client's key, None for its address.
            calls_key: the key may come from a user's function.
        """
        if self.is_done:
            return False
        self._seen += 1
        if self._seen == 1 and self._in_memory:
            _check_workers()
        peer = peer_of(scope)
        if self._looks_for_proxies:
            self._check_proxies(scope, peer)
        if self._looks_for_sharing:
            self._check_sharing(peer, peer if key is None else key)
        looks_for_users = calls_key and self._looks_for_users
        if looks_for_users:
            self._check_user(scope, key)
        more = self._looks_for_proxies or self._looks_for_sharing or looks_for_users
        self.is_done = self._seen >= SAMPLE or not more
        return not self.is_done

    def _check_proxies(self, scope: Any, peer: object) -> None:
        for name, value in header_pairs(scope):
            if name in _PROXY_HEADERS:
                self._looks_for_proxies = False
                logger.warning(
                    "a request from %s has the header %s (%a), but no proxy is trusted: if that is "
                    "your proxy, all its clients share one limit. Name it or its network, such as "
                    "trusted_proxies=['%s']; otherwise a client may have forged it, "
                    "and no change is needed",
                    peer if peer is None or str(peer).isprintable() else ascii(peer),
                    name.decode("latin-1"),
                    value[:100].decode("latin-1"),
                    example_of(peer or "unix"),
                )
                return

    def _check_user(self, scope: Any, key: Any) -> None:
        """Look for a key function that returns None for a client that logs in."""
        is_address = isinstance(key, str) and key.startswith("ip:")
        if is_address and any(name == b"authorization" for name, _ in header_pairs(scope)):
            self._looks_for_users = False
            logger.warning(
                "a request has an Authorization header, but the function given as key returned "
                "None, so the client's address counts. To use the user as the key, %s",
                USER_KEYS,
            )

    def _check_sharing(self, peer: object, key: object) -> None:
        if peer is None and key in (None, "unknown", "ip:unknown"):
            self._unknown += 1
            if self._unknown == _UNKNOWN:
                self._looks_for_sharing = False
                logger.warning(
                    "%s requests came without an address, as behind a unix socket, so all clients "
                    "share the limit of 'unknown': let the proxy set X-Forwarded-For and trust it "
                    "with trusted_proxies=['unix'], or limit by another key",
                    _UNKNOWN,
                )
            return
        self._keys.add(key)
        self._peers.add(peer)
        if len(self._keys) > 1:
            self._looks_for_sharing = False
            self._keys.clear()
            self._peers.clear()
        elif len(self._peers) >= _PEERS:
            self._looks_for_sharing = False
            logger.warning(
                "%s clients with different addresses share one key, %r, and so one limit: look at "
                "what key= returns; if one shared limit is intended, use key='all'",
                len(self._peers),
                key,
            )


# --- Workers -------------------------------------------------------------------------------------


def _check_workers() -> None:
    workers = configured_workers(sys.argv, os.environ)
    if workers > 1:
        logger.warning(
            "%s worker processes serve this application, and each keeps its own limits in its "
            "memory: together they allow %s times as much. Share them with "
            "store='shared:///dev/shm/NAME' on this host or store='redis://...', or run one worker",
            workers,
            workers,
        )


def configured_workers(arguments: Sequence[str], environment: Any) -> int:
    """Return the number of worker processes of this program's server, 1 if it is unknown.

    Args:
        arguments: the command line.
        environment: the variables, of which WEB_CONCURRENCY and GUNICORN_CMD_ARGS are read.
    """
    program = Path(arguments[0]) if arguments else Path()
    names = {program.name, program.parent.name}
    server = next((name for name in _SERVERS if name in names), None)
    if server is None:
        return 1
    given = list(arguments[1:])
    if server == "gunicorn":
        given = shlex.split(environment.get("GUNICORN_CMD_ARGS", "")) + given
    counts = [environment.get("WEB_CONCURRENCY", "")]
    for i, one in enumerate(given):
        if one in ("-w", "--workers"):
            counts += given[i + 1 : i + 2]
        elif one.startswith("--workers="):
            counts.append(one.partition("=")[2])
        elif server != "granian" and one.startswith("-w") and one[2:].isdigit():
            counts.append(one[2:])
    numbers = [int(text) for text in counts if text.isdigit()]
    return numbers[-1] if numbers else 1
