"""Which limiters are measured, under which dimension, and what their numbers are.

    limiter ── decisions ──> Meter (C) ──┐
       └────── keys, evictions ──────────┼──> readings(): rate_limiter.metrics shows them
    store ──── errors, fallback ─────────┘

A dimension is a name of yours for what is limited, such as "api". Keys of clients never get here.

Where ``PROMETHEUS_MULTIPROC_DIR`` is set, as it is for gunicorn's workers, the processes tell each
other through that folder: meters lie in files there, into which all of them count, and each writes
the rest of its readings beside them, once a second and when it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import threading
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from rate_limiter._core import Meter

PUBLISHED_EVERY_S = 1.0
_DIMENSION_MAX = 200  # percent-encoded, as it is in the name of a file
_METER_ENDING = ".rate_limiter_meter"
_READINGS_ENDING = ".rate_limiter_readings"


@dataclass(frozen=True)
class Reading:
    """One number, for the metric of a name with these labels.

    Attributes:
        is_gauge: it means nothing after its process has ended.
        common: what it tells of, where several processes tell of the same: that is not added up.
    """

    name: str
    labels: dict[str, str]
    value: float
    is_gauge: bool = False
    common: str = ""


def shared_folder() -> Path | None:
    """Return the folder through which processes tell each other their numbers; None: they do not.

    The variable is that of prometheus_client: its documentation, "Multiprocess Mode".
    """
    named = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(named) if named else None


def watch(limiter: Any, dimension: str) -> None:
    """Measure a limiter from now on: its decisions, and what else there is to know of it.

    Args:
        limiter: a RateLimiter or AsyncRateLimiter. It is not kept alive.
        dimension: what its numbers are shown under. Several limiters may share one.

    Raises:
        TypeError: `limiter` or `dimension` is something else.
        ValueError: `dimension` is empty or too long; or the limiter is measured under another one.
        OSError: the meter's file in the folder of the processes cannot be used.
    """
    limiter = getattr(limiter, "_limiter", limiter)  # what an AsyncRateLimiter asks
    if not hasattr(limiter, "_measure"):
        raise TypeError(f"limiter must be a RateLimiter or AsyncRateLimiter, got {limiter!r}")
    limiter._measure(meter(dimension))
    follow(limiter, dimension)


def meter(dimension: str) -> Meter:
    """Return the meter of a dimension; it is made when it is first asked for.

    Raises:
        As watch.
    """
    with _lock:
        if dimension not in _meters:
            _meters[dimension] = _made_meter(checked_dimension(dimension))
        return _meters[dimension]


def checked_dimension(dimension: object) -> str:
    """Return the name of a dimension.

    Raises:
        TypeError, ValueError: it cannot be one.
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


def checked_metrics(metrics: str | None) -> str | None:
    """Return the dimension that an argument `metrics` names, made ready to be shown; None stays.

    Raises:
        TypeError, ValueError: it cannot be one.
        ImportError: prometheus_client is missing.
    """
    if metrics is None:
        return None
    try:
        importlib.import_module("rate_limiter.metrics")
    except ImportError as error:
        raise ImportError(
            f"metrics={metrics!r} needs prometheus_client: pip install 'rate_limiter[metrics]'",
            name="prometheus_client",
        ) from error
    return checked_dimension(metrics)


def follow(limiter: Any, dimension: str) -> None:
    """Show what is known of a limiter, but for its decisions. Arguments are those of watch."""
    with _lock:
        known = _followed.get(limiter)
        # Other limits may have been given to the clients, and the count, of one that is followed.
        evicted = limiter.stats()["evicted_active"] if known is None else known.evicted_active
        _followed[limiter] = _Followed(dimension, evicted)
    _publisher.start()


def meters() -> dict[str, Meter]:
    """Return all meters by their dimensions, those of other processes included."""
    folder = shared_folder()
    if folder is not None:
        for file in folder.glob(f"*{_METER_ENDING}"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                meter(unquote(file.name.removesuffix(_METER_ENDING)))
    with _lock:
        return dict(_meters)


def readings() -> list[Reading]:
    """Return all readings; of other processes what they published last."""
    own = _own_readings()
    folder = shared_folder()
    return _joined([*own, *(_of_others(folder) if folder is not None else ())])


# --- This process ---


@dataclass
class _Followed:
    """A limiter's dimension, and how much of its count has been added to the total of that."""

    dimension: str
    evicted_active: int


# Re-entrant, because garbage may be collected while it is held.
_lock = threading.RLock()  # guards the three below
_meters: dict[str, Meter] = {}
_followed: weakref.WeakKeyDictionary[Any, _Followed] = weakref.WeakKeyDictionary()
_evicted_active: dict[str, int] = {}  # of limiters that are gone too: a counter never falls


def _made_meter(dimension: str) -> Meter:
    folder = shared_folder()
    if folder is None:
        return Meter()
    return Meter(folder / f"{quote(dimension, safe='')}{_METER_ENDING}")


def _own_readings() -> list[Reading]:
    found: list[Reading] = []
    connections: dict[int, Any] = {}
    with _lock:
        for limiter, followed in list(_followed.items()):
            stats = limiter.stats()
            common = getattr(limiter, "_path", None) or ""  # the file of shared memory
            labels = {"dimension": followed.dimension}
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
            store = getattr(limiter, "store", None)
            if store is not None:
                connections[id(store.connection)] = store.connection
        for dimension, total in _evicted_active.items():
            found.append(Reading("evicted_active", {"dimension": dimension}, total))
    for connection in connections.values():
        found.extend(_of_store(connection))
    return found


def _of_store(connection: Any) -> Iterable[Reading]:
    health = connection.breaker.health()
    store = ", ".join(connection.client.servers)
    labels = {"store": store}
    yield Reading("fallback_active", labels, float(health["status"] != "ok"), True, store)
    yield Reading("fallback_decisions", labels, health["fallback_decisions"])
    for kind, count in health["errors"].items():
        yield Reading("store_errors", {"store": store, "kind": kind}, count)


def _joined(found: Iterable[Reading]) -> list[Reading]:
    """Return one reading for each name and labels."""
    of_common: dict[tuple[Any, ...], Reading] = {}
    totals: dict[tuple[Any, ...], Reading] = {}
    for one in found:
        place = (*_place(one), one.common)
        if not one.common:
            _add(totals, one)
        elif place not in of_common or of_common[place].value < one.value:
            of_common[place] = one
    for one in of_common.values():
        _add(totals, one)
    return list(totals.values())


def _place(one: Reading) -> tuple[Any, ...]:
    return (one.name, *sorted(one.labels.items()))


def _add(totals: dict[tuple[Any, ...], Reading], one: Reading) -> None:
    before = totals.get(_place(one))
    value = one.value + (before.value if before is not None else 0)
    totals[_place(one)] = replace(one, value=value, common="")


# --- Processes among each other ---


def _of_others(folder: Path) -> Iterable[Reading]:
    for file in folder.glob(f"*{_READINGS_ENDING}"):
        pid = int(file.name.removesuffix(_READINGS_ENDING))
        if pid == os.getpid():
            continue
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            told = [Reading(**one) for one in json.loads(file.read_text("utf-8"))]
            alive = _is_alive(pid)
            yield from (one for one in told if alive or not one.is_gauge)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def publish() -> None:
    """Tell the other processes this one's readings, where there are others."""
    folder = shared_folder()
    if folder is None:
        return
    file = folder / f"{os.getpid()}{_READINGS_ENDING}"
    half_made = file.with_suffix(".new")
    half_made.write_text(json.dumps([asdict(one) for one in _own_readings()]), "utf-8")
    half_made.replace(file)  # so that nobody reads a part


class _Publisher:
    """A thread that publishes, while there is somebody to tell."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Start it, where it is needed and not running. A fork leaves it behind."""
        if shared_folder() is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name="rate_limiter-metrics", daemon=True
        )
        self._thread.start()
        atexit.register(self.end)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(PUBLISHED_EVERY_S):
            with contextlib.suppress(OSError):  # of a full disk; the next one may do
                publish()

    def end(self) -> None:
        """Publish for the last time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(OSError):
                publish()


_publisher = _Publisher()


def _after_fork_in_child() -> None:
    """Count anew: of what was evicted until now the parent tells."""
    global _lock
    _lock = threading.RLock()
    _evicted_active.clear()
    for limiter, followed in list(_followed.items()):
        followed.evicted_active = limiter.stats()["evicted_active"]
    _publisher._thread = None
    if _followed:
        _publisher.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
