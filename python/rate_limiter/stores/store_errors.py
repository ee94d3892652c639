"""Classify errors of a store: about the store as a whole, or about one request.

A breaker counts only failures of the store. Otherwise one client whose key always fails could
open it for all clients.

    kind of StoreError, and how an answer begins                  about
    connect, lost, timeout, protocol, memory                      the store
    busy                                                          one request: this process sends
                                                                  more than the store answers
    closed                                                        one request: this process has
                                                                  closed the store
    answer  CROSSSLOT, MOVED, ASK, TRYAGAIN                       one request: its slot
            WRONGTYPE, ERR rate_limiter:                          one request: the value at its key
            ERR user_script, ERR Error running script             one request: a script failed on
                                                                  the value at its key
            all others: LOADING, CLUSTERDOWN, MASTERDOWN,         the store
            READONLY, OOM, MISCONF, NOREPLICAS, BUSY, NOAUTH,
            NOPERM, NOSCRIPT, ERR unknown command, ...

Up to Redis 6 the error of a script contains the error of the command that failed in it, such as
OOM. Then the error of the command counts.
"""

from __future__ import annotations

import re

from rate_limiter._core import StoreError

ERROR_KINDS = ("connect", "lost", "timeout", "answer", "protocol", "busy", "memory")
"""All values of StoreError.kind."""

_ABOUT_ONE_REQUEST = ("CROSSSLOT", "MOVED", "ASK", "TRYAGAIN", "WRONGTYPE", "ERR rate_limiter:")
# After "host:port: " where the answer ended the handshake. Redis before 6 has other texts.
_LOGIN = re.compile(
    r"(?:^|: )(?:NOAUTH|WRONGPASS|NOPERM|ERR (?:invalid password|AUTH|Client sent AUTH|DB index|"
    r"invalid DB index))"
)
_OF_A_SCRIPT = ("ERR user_script", "ERR Error running script")
_COMMAND_IN_SCRIPT = re.compile(r".*user_script: ?\d+: -?([A-Z]{3,} .*)", re.DOTALL)


def is_about_one_request(error: StoreError) -> bool:
    """Return True if other requests may succeed, because the store has not failed."""
    if error.kind != "answer":
        return error.kind in ("busy", "closed")
    text = str(error)
    if text.startswith(_OF_A_SCRIPT):
        command = _COMMAND_IN_SCRIPT.match(text)
        if command is None or command[1].startswith("ERR "):
            return True
        text = command[1]
    return text.startswith(_ABOUT_ONE_REQUEST)


def is_about_the_login(error: StoreError) -> bool:
    """Return True if the store refuses the user, the password or the database."""
    return error.kind in ("connect", "answer") and _LOGIN.search(str(error)) is not None
