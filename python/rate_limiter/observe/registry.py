"""The measured limiters, their dimensions and their numbers.

    limiter ── decisions ──> Meter (C) ──┐
       └────── keys, evictions ──────────┼──> readings(): rate_limiter.metrics shows them
    store ──── errors, fallback ─────────┘

A dimension is your name for the limited traffic, such as "api". Metrics contain no client keys.

If ``PROMETHEUS_MULTIPROC_DIR`` is set, as for gunicorn's workers, processes share their numbers
through that folder: all processes count in the same meter files, and each process writes its other
readings to its own file, once a second and when it ends (see process_slots.py). If the folder
cannot be used, a process counts in its own memory (see metrics_folder.py).
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote

from rate_limiter._core import METER_LAYOUT, Meter
from rate_limiter.checks.arguments import NoEffectError, checked_top, checked_top_keys
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import TopKeys
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.metrics_folder import is_unshared, reported, shared_folder
from rate_limiter.observe.process_slots import Slot
from rate_limiter.observe.reading import (
    Decisions,
    Reading,
    decisions_of,
    joined_readings,
    read_readings,
    reading_of_limits,
    readings_of_rules,
    readings_of_store,
    written_readings,
)
from rate_limiter.observe.top_clients import count_clients

PUBLISHED_EVERY_S = 1.0
_SWEPT_AT_ONCE = 1 << 14  # slots of a table; takes half a millisecond
_DIMENSION_MAX = 200  # percent-encoded, as in the name of a file
_SHADOW = "@shadow"  # in the name of a file; a dimension has no @ there, as it is percent-encoded
_METER_ENDING = f".rate_limiter_meter_{METER_LAYOUT}"  # another version has its own files


class LimitsOfCalls(Protocol):
    """What finds the limits of each call of a limiter."""

    @property
    def text(self) -> str:
        """What is shown instead of limits."""

    def known(self, key: str | bytes) -> Any:
        """Return the limits of a client, as far as they are known; else None."""


class Counted(NamedTuple):
    """What a meter counts: the decisions of a dimension, apart from or by shadow rules."""

    dimension: str
    is_shadow: bool = False


def watch(
    limiter: Any,
    dimension: str,
    *,
    shadow: bool = False,
    top: int | None = None,
    top_keys: TopKeys = "masked",
) -> None:
    """Measure a limiter from now on: its decisions and its other numbers.

    Args:
        limiter: a RateLimiter or AsyncRateLimiter. It is not kept alive.
        dimension: value of the label `dimension`. Several limiters may share one.
        shadow: the limiter's denials only count, and requests pass.
        top: how many clients with the most decisions top_clients() is to find, 1 to 100; None
            counts no clients.
        top_keys: what is kept of their keys: ``"plain"``, ``"masked"`` or ``"hashed"``.

    Raises:
        TypeError: `limiter` or `dimension` is something else.
        ValueError: `dimension` is empty or too long, or the limiter has another one, or is measured
            with another value of `shadow`; or `top` or `top_keys` is wrong.
    """
    if top is not None:
        checked_top("top", top)
    elif top_keys != "masked":
        raise NoEffectError("top_keys", "without top")
    measured = Dimension(dimension, "", top, checked_top_keys("top_keys", top_keys))
    measure(limiter, measured, shadow=shadow)


def measure(limiter: Any, dimension: Dimension, *, shadow: bool = False) -> None:
    """Do what watch() does, for a dimension whose `top` and `top_keys` were checked."""
    limiter = getattr(limiter, "_limiter", limiter)  # of an AsyncRateLimiter
    if not hasattr(limiter, "_measure"):
        raise TypeError(f"limiter must be a RateLimiter or AsyncRateLimiter, got {shown(limiter)}")
    limiter._measure(meter(dimension, shadow=shadow))
    follow(limiter, dimension.name, shadow=shadow)


def meter(dimension: str | Dimension, *, shadow: bool = False) -> Meter:
    """Return the meter of a dimension, which is made on first use.

    Raises:
        As watch.
    """
    measured = dimension if isinstance(dimension, Dimension) else Dimension(dimension)
    counted = Counted(measured.name, shadow)
    with _lock:
        if counted not in _meters:
            checked_dimension(measured.name)
            _meters[counted] = _made_meter(counted)
        found = _meters[counted]
        if measured.top is not None:
            count_clients(found, measured, shadow=shadow)
        return found


def checked_dimension(dimension: object) -> str:
    """Return the name of a dimension after checking it.

    Raises:
        TypeError, ValueError: the name is not valid.
    """
    if not isinstance(dimension, str):
        raise TypeError(f"a dimension must be a str, got {dimension!r}")
    try:
        length = len(quote(dimension, safe=""))
    except UnicodeEncodeError:
        raise ValueError(
            f"a dimension must be text that UTF-8 can hold, got {dimension!r}"
        ) from None
    if not 1 <= length <= _DIMENSION_MAX:
        raise ValueError(
            f"a dimension must have 1 to {_DIMENSION_MAX} characters, got {dimension!r}"
        )
    return dimension


def follow(limiter: Any, dimension: str, *, shadow: bool = False) -> None:
    """Show the numbers of a limiter except its decisions. Arguments are those of watch."""
    with _lock:
        known = _followed.get(limiter)
        # A limiter with other limits continues the count of a followed one.
        evicted = limiter._counts()["evicted_active"] if known is None else known.evicted_active
        _followed[limiter] = _Followed(dimension, evicted, shadow)
        folder = shared_folder()
        if folder is not None:
            with reported(folder):
                _hold_slot(folder)
                _publisher.start()


def limits_come_with_calls(limiter: Any, limits_of: LimitsOfCalls) -> None:
    """Show that a limiter's calls give their limits.

    Args:
        limiter: a RateLimiter. It is not kept alive.
        limits_of: finds them. It is not kept alive.
    """
    with _lock:
        _limits_of_calls[limiter] = weakref.ref(limits_of)


def limits_of_calls(limiter: Any) -> LimitsOfCalls | None:
    """Return what finds the limits of a limiter's calls; None if they have the limiter's."""
    with _lock:
        found = _limits_of_calls.get(limiter)
    return None if found is None else found()


def followed() -> list[tuple[Any, str]]:
    """Return the measured limiters of this process, each with its dimension."""
    with _lock:
        return [(limiter, one.dimension) for limiter, one in list(_followed.items())]


def follow_rules(source: Any, name: str) -> None:
    """Show the status of rules that are loaded again when they change.

    Args:
        source: has `health()` as a RuleSource. It is not kept alive.
        name: value of the label `source`.
    """
    with _lock:
        _rules[source] = name


def limits_are_off() -> None:
    """Show that a limiter of this process is switched off by `enabled`."""
    global _limits_off
    _limits_off = True


def decisions() -> dict[str, Decisions]:
    """Return the decisions by their dimensions, including those of other processes."""
    found = {counted: one.read() for counted, one in _all_meters().items()}
    nothing = ((0,), (0,), 0)
    return {
        dimension: decisions_of(
            found.get(Counted(dimension), nothing), found.get(Counted(dimension, True), nothing)
        )
        for dimension in dict.fromkeys(counted.dimension for counted in found)
    }


def _all_meters() -> dict[Counted, Meter]:
    folder = shared_folder()
    if folder is not None:
        with reported(folder):
            for file in folder.glob(f"*{_METER_ENDING}"):
                with reported(folder):
                    name = file.name.removesuffix(_METER_ENDING)
                    dimension = unquote(name.removesuffix(_SHADOW))
                    meter(dimension, shadow=name.endswith(_SHADOW))
    with _lock:
        return dict(_meters)


def readings() -> list[Reading]:
    """Return all readings, including the last published ones of other processes."""
    folder = shared_folder()
    with _lock:
        found = _own_readings()
        if folder is not None:
            if _slot.is_of(folder):
                found += _left
                # Else a count would fall if another process is scraped next or this one is killed.
                with reported(folder):
                    _slot.write(written_readings(joined_readings(found)))
            found += _of_others(folder)
    together = [replace(one, common="") for one in joined_readings(found)]
    return joined_readings(together)


# --- This process ---


@dataclass
class _Followed:
    """A limiter's dimension, and the part of its count already in the total of the dimension."""

    dimension: str
    evicted_active: int
    is_shadow: bool = False
    is_swept_in: int = 0  # the process in which a thread frees its full buckets


# Re-entrant, because the garbage collector may run while it is held.
_lock = threading.RLock()  # guards the state below
_meters: dict[Counted, Meter] = {}
_followed: weakref.WeakKeyDictionary[Any, _Followed] = weakref.WeakKeyDictionary()
_limits_of_calls: weakref.WeakKeyDictionary[Any, weakref.ref[LimitsOfCalls]] = (
    weakref.WeakKeyDictionary()
)
_rules: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_evicted_active: dict[str, int] = {}  # including freed limiters: a counter never falls
_limits_off = False


def _made_meter(counted: Counted) -> Meter:
    folder = shared_folder()
    if folder is not None:
        with reported(folder):
            name = quote(counted.dimension, safe="") + (_SHADOW if counted.is_shadow else "")
            return Meter(f"{folder}/{name}{_METER_ENDING}")
    return Meter()


def _own_readings() -> list[Reading]:
    found = [
        Reading("metrics_unshared", {}, float(is_unshared()), True),
        Reading("disabled", {}, float(_limits_off), True),
        Reading("processes", {}, 1, True),
    ]
    connections: dict[int, Any] = {}
    with _lock:
        for limiter, followed in list(_followed.items()):
            stats = _stats_of(limiter, followed)
            common = getattr(limiter, "_path", None) or ""  # the file of shared memory
            labels = {"dimension": followed.dimension}
            found.append(
                reading_of_limits(
                    limiter,
                    _limits_text(limiter),
                    followed.dimension,
                    is_shadow=followed.is_shadow,
                )
            )
            found.append(Reading("keys", labels, stats["keys"], True, common))
            found.append(Reading("table_bytes", labels, stats["bytes"], True, common))
            evicted = stats["evicted_active"]
            if common:
                found.append(Reading("evicted_active", labels, evicted, False, common))
            else:
                more = max(0, evicted - followed.evicted_active)
                total = _evicted_active.get(followed.dimension, 0)
                _evicted_active[followed.dimension] = total + more
            followed.evicted_active = evicted
            connection = getattr(getattr(limiter, "store", None), "connection", None)
            if connection is not None:
                connections[id(connection)] = connection
        for dimension, total in _evicted_active.items():
            found.append(Reading("evicted_active", {"dimension": dimension}, total))
        for source, name in list(_rules.items()):
            found.extend(readings_of_rules(source.health(), name))
    for connection in connections.values():
        found.extend(readings_of_store(connection))
    return found


def _limits_text(limiter: Any) -> str:
    of_calls = limits_of_calls(limiter)
    return ", ".join(map(str, limiter.limits)) if of_calls is None else of_calls.text


def _stats_of(limiter: Any, followed: _Followed) -> dict[str, int]:
    """Return the limiter's stats.

    Those of a large table may count buckets that have become full since the last reading: a thread
    frees them, since the caller may be an event loop.
    """
    stats: dict[str, int] = limiter._counts()
    if stats["slots"] <= _SWEPT_AT_ONCE:
        stats = limiter.stats()
    elif followed.is_swept_in != os.getpid():
        followed.is_swept_in = os.getpid()
        thread = threading.Thread(target=_sweep, args=(limiter, followed), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter ends
            followed.is_swept_in = 0
    return stats


def _sweep(limiter: Any, followed: _Followed) -> None:
    try:
        limiter.stats()
    finally:
        followed.is_swept_in = 0


# --- Other processes ---

_slot = Slot()  # guarded by _lock, as is:
_left: list[Reading] = []  # counts of previous holders of the slot


def _of_others(folder: Path) -> Iterable[Reading]:
    with reported(folder):
        for text, is_alive in _slot.others(folder):
            with reported(folder):
                yield from [one for one in read_readings(text) if is_alive or not one.is_gauge]


def _hold_slot(folder: Path) -> None:
    if not _slot.is_of(folder):
        _left.clear()
    if not _slot.hold(folder):
        return
    text = _slot.left()
    if text is not None:
        _left.clear()
        with reported(folder):
            _left[:] = [one for one in read_readings(text) if not one.is_gauge]
        _slot.write(written_readings(_left))  # gauges of the previous holder are out of date


def publish() -> None:
    """Write the readings of this process for the other processes, if there are any."""
    folder = shared_folder()
    if folder is None:
        return
    with _lock, reported(folder):
        _hold_slot(folder)
        _slot.write(written_readings(joined_readings([*_own_readings(), *_left])))


class _Publisher:
    """A thread that publishes readings regularly, if processes share them."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread if it is needed and not running. It does not survive a fork."""
        if shared_folder() is None:
            return
        with _lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stop,), name="rate_limiter-metrics", daemon=True
            )
            self._thread.start()
        atexit.register(self.end)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(PUBLISHED_EVERY_S):
            publish()

    def end(self) -> None:
        """Publish for the last time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            publish()


_publisher = _Publisher()


def _after_fork_in_child() -> None:
    """Reset the counts: the parent reports evictions before the fork."""
    global _lock
    _lock = threading.RLock()
    _evicted_active.clear()
    _left.clear()
    _slot.leave()
    for limiter, followed in list(_followed.items()):
        followed.evicted_active = limiter._counts()["evicted_active"]
    _publisher._thread = None
    if _followed:
        _publisher.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
