"""The numbers that metrics show: the decisions of a dimension, and readings of everything else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any, TypeAlias

from rate_limiter.stores.store_errors import ERROR_KINDS

_ERROR_MAX = 500  # characters of an error that a process publishes

MeterRead: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]  # Meter.read()


@dataclass(frozen=True)
class Decisions:
    """The decisions of a dimension.

    Attributes:
        allowed: decisions by which a request passed, `shadow_denied` included.
        blocked: decisions that denied a request.
        shadow_denied: decisions by which a shadow rule would have denied a request.
        by_duration: all of them by how long they took, see Meter.read().
        sum_ns: the total duration in nanoseconds.
    """

    allowed: int
    blocked: int
    shadow_denied: int
    by_duration: tuple[int, ...]
    sum_ns: int

    def __add__(self, other: Decisions) -> Decisions:
        return Decisions(
            self.allowed + other.allowed,
            self.blocked + other.blocked,
            self.shadow_denied + other.shadow_denied,
            tuple(map(sum, zip_longest(self.by_duration, other.by_duration, fillvalue=0))),
            self.sum_ns + other.sum_ns,
        )


def decisions_of(real: MeterRead, shadow: MeterRead) -> Decisions:
    """Return the decisions of a dimension: those that count, and those of shadow rules."""
    allowed, blocked, shadow_allowed, shadow_denied = map(sum, (*real[:2], *shadow[:2]))
    by_outcome = (*real[:2], *shadow[:2])
    return Decisions(
        allowed + shadow_allowed + shadow_denied,
        blocked,
        shadow_denied,
        tuple(map(sum, zip_longest(*by_outcome, fillvalue=0))),
        real[2] + shadow[2],
    )


@dataclass(frozen=True)
class Reading:
    """One number, for the metric of a name with these labels.

    The live page shows all; ``limits_info``, ``processes``, ``rules_error`` and ``store_state`` are
    for it alone.

    Attributes:
        is_gauge: the value is meaningless after its process has ended.
        common: the object that several processes report, or "". Its values are not added up.
    """

    name: str
    labels: dict[str, str]
    value: float
    is_gauge: bool = False
    common: str = ""


def reading_of_limits(limiter: Any, limits: str, dimension: str, *, is_shadow: bool) -> Reading:
    """Return what a followed limiter is: its limits, as they are shown, mode and store."""
    is_in_file = bool(getattr(limiter, "_path", None))
    labels = {
        "dimension": dimension,
        "limits": limits,
        "mode": "shadow" if is_shadow else "enforced",
        "store": "redis" if limiter.is_remote else "shared" if is_in_file else "memory",
    }
    return Reading("limits_info", labels, 1, True)


def readings_of_store(connection: Any) -> Iterable[Reading]:
    """Yield the health of a Redis: its errors, and whether it is replaced by the fallback."""
    health = connection.breaker.health()
    store = ", ".join(connection.client.servers)
    labels = {"store": store}
    yield Reading("fallback_active", labels, float(health["status"] != "ok"), True, store)
    yield Reading("fallback_decisions", labels, health["fallback_decisions"])
    if health["status"] != "ok":
        error = _shortened(health["last_error"])
        state = {"breaker": health["breaker"], "nodes": ", ".join(health["failed_nodes"])}
        yield Reading("store_state", labels | state | {"error": error}, 1, True)
    for kind in ERROR_KINDS:
        labels = {"store": store, "kind": kind}
        yield Reading("store_errors", labels, health["errors"].get(kind, 0))


def readings_of_rules(health: dict[str, Any], name: str) -> Iterable[Reading]:
    """Yield the status of rules that are loaded again when they change."""
    labels = {"source": name}
    yield Reading("rules_info", labels | {"version": health["version"]}, 1, True)
    yield Reading("rules_stale", labels, float(health["last_error"] is not None), True)
    if health["last_error"] is not None:
        error = _shortened(health["last_error"])
        yield Reading("rules_error", labels | {"error": error}, 1, True)
    yield Reading("rules_loaded", labels, health["loaded"])
    yield Reading("rules_refused", labels, health["refused"])


def _shortened(error: str | None) -> str:
    text = error or ""
    return text if len(text) <= _ERROR_MAX else f"{text[:_ERROR_MAX]}..."


# --- Of several processes ---


def joined_readings(found: Iterable[Reading]) -> list[Reading]:
    """Return one reading for each name, labels and common object."""
    together: dict[tuple[Any, ...], Reading] = {}
    for one in found:
        place = (one.name, one.common, *sorted(one.labels.items()))
        before = together.get(place)
        if before is not None:
            add = max if one.common else sum
            one = replace(one, value=add((before.value, one.value)))
        together[place] = one
    return list(together.values())


def written_readings(found: Iterable[Reading]) -> str:
    """Return readings as text for other processes."""
    return json.dumps([asdict(one) for one in found])


def read_readings(text: str) -> list[Reading]:
    """Return the readings that another process wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [Reading(**one) for one in json.loads(text)]
    except (ValueError, TypeError):
        raise ValueError(
            "a *.rate_limiter_readings there is something else, or of another version: empty the "
            f"folder before a start; it is {text[:80]!r}"
        ) from None
