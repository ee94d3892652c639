"""The clients with the most decisions in the last minutes, of all workers of a host.

    app.add_middleware(RateLimitMiddleware, limits="100/minute", metrics="api", top=100)
    top_clients(10, denied=True)

Metrics contain no client keys, because each key would be a series. The clients are kept apart, in
bounded memory (see csrc/engine/top.h), and shown only to those who ask for them here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopClient:
    """A client with many decisions.

    Attributes:
        meter: the name given to ``metrics=``.
        rule: the rule that decided; "" if there are no rules.
        key: the client's key, as ``top_keys=`` says. At most some 90 characters, which may be
            markup or control characters: escape them for the place where you show them.
        denied: the decisions denied requests; False: they allowed them.
        count: decisions in the last minutes. It halves every minute, so a client with `r` decisions
            per second has a count of about ``87 * r``.
        error: `count` is at most this much too high.
        shadow: a rule in shadow mode decided, so denied requests passed nevertheless.
    """

    meter: str
    rule: str
    key: str
    denied: bool
    count: int
    error: int
    shadow: bool = False


def top_clients(count: int = 20, *, denied: bool | None = None) -> list[TopClient]:
    """Return the clients with the most decisions on this host, those with the highest count first.

    Processes share the counts through the folder of metrics, see docs/metrics.md; without it they
    are those of this process.

    Args:
        count: how many to return at most.
        denied: only denied requests (True), only allowed ones (False), or both.

    Raises:
        TypeError, ValueError: `count` is not a whole number >= 0.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be a whole number, got {count!r}")
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    found: list[TopClient] = []
    wanted = [one for one in found if denied in (None, one.denied)]
    return sorted(wanted, key=lambda one: one.count, reverse=True)[:count]
