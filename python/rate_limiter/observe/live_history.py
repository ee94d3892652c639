"""The last minutes of decisions, for the live page: a sample every five seconds.

If processes share their metrics, one of them at a time takes the samples and writes them to the
folder; the others read them there. So each process shows the same history, and it survives workers.

    live.rate_limiter_history_lock   locked by the process that samples, until it ends
    live.rate_limiter_history        its samples
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rate_limiter.observe.metrics_folder import locked, reported, shared_folder
from rate_limiter.observe.reading import Decisions
from rate_limiter.observe.registry import decisions

STEP_S = 5
SPAN_S = 900
RULES_MAX = 50
"""Rules of a sample that are counted apart: those with the most decisions."""
OTHERS = ""
"""The name under which a sample has the sum of all other rules."""

_FILE = "live.rate_limiter_history"


@dataclass(frozen=True)
class Sample:
    """The decisions of a few seconds.

    Attributes:
        time_s: when it was taken, in seconds since the epoch.
        seconds: the time since the sample before.
        rules: decisions that allowed, that denied, and that a shadow rule would have denied; by
            rule (dimension), without those that decided nothing.
        by_duration: all decisions by how long they took, see Meter.read().
    """

    time_s: float
    seconds: float
    rules: dict[str, list[int]]
    by_duration: list[int]


@dataclass
class _Totals:
    """The counts at the last sample; the next one has the difference."""

    time_s: float = 0.0
    rules: dict[str, Any] = field(default_factory=dict)
    by_duration: list[int] = field(default_factory=list)


class History:
    """Samples of SPAN_S. Not safe to share between threads."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SPAN_S // STEP_S)
        self._before = _Totals()

    def add(self, found: Mapping[str, Decisions], now_s: float) -> None:
        """Add a sample: what was decided since the last call. The first call adds none."""
        durations = (one.by_duration for one in found.values())
        after = _Totals(
            now_s,
            {name: [one.allowed, one.blocked, one.shadow_denied] for name, one in found.items()},
            [sum(each) for each in zip_longest(*durations, fillvalue=0)],
        )
        before, self._before = self._before, after
        if not 0 < now_s - before.time_s <= SPAN_S:  # the first, or the clock was set
            return
        rules = {
            name: _difference(counts, before.rules.get(name, ()))
            for name, counts in after.rules.items()
        }
        self._samples.append(
            Sample(
                now_s,
                now_s - before.time_s,
                _largest({name: counts for name, counts in rules.items() if any(counts)}),
                _difference(after.by_duration, before.by_duration),
            )
        )

    def samples(self, now_s: float) -> list[Sample]:
        """Return the samples that are not older than SPAN_S."""
        return [one for one in self._samples if now_s - SPAN_S < one.time_s <= now_s + STEP_S]

    def text(self) -> str:
        """Return everything as a text."""
        samples = [asdict(one) for one in self._samples]
        return json.dumps({"samples": samples, "before": asdict(self._before)})

    @classmethod
    def of(cls, text: str) -> History:
        """Return the history that text() has written.

        Raises:
            ValueError: something else has written it.
        """
        made = cls()
        try:
            data = json.loads(text)
            made._before = _Totals(**data["before"])
            made._samples.extend(Sample(**one) for one in data["samples"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{_FILE} there is something else: {text[:80]!r}") from None
        return made


def _difference(after: Iterable[int], before: Iterable[int]) -> list[int]:
    """Return what was added to counts. They start again if their files are removed."""
    return [max(0, one - other) for one, other in zip_longest(after, before, fillvalue=0)]


def _largest(rules: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return RULES_MAX rules and, as OTHERS, the sum of the others."""
    if len(rules) <= RULES_MAX:
        return rules
    order = sorted(rules, key=lambda name: -sum(rules[name]))
    kept = {name: rules[name] for name in order[:RULES_MAX]}
    others = (rules[name] for name in order[RULES_MAX:])
    kept[OTHERS] = [sum(each) for each in zip(*others, strict=True)]
    return kept


def all_decisions() -> dict[str, Decisions]:
    """Return the decisions of all processes, as metrics show them.

    In a single process, gateways count with objects of prometheus_client.
    """
    prometheus = sys.modules.get("rate_limiter.observe.prometheus")
    if prometheus is None or shared_folder() is not None:
        return decisions()
    found: dict[str, Decisions] = prometheus.all_decisions()
    return found


class Sampler:
    """Take a sample every STEP_S in a thread, unless another process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the rest
        self._history = History()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._fd: int | None = None  # of the locked file
        self._folder: Path | None = None  # the folder with that file

    def start(self) -> None:
        """Start the thread if it is not running. It does not survive a fork."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._run, name="rate_limiter-live", daemon=True)
            with contextlib.suppress(RuntimeError):  # there are too many, or the interpreter ends
                self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and leave the file to another process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._leave()
            self._stop = threading.Event()

    def _run(self) -> None:
        self.sample()
        while not self._stop.wait(STEP_S - time.time() % STEP_S):
            self.sample()

    def sample(self, now_s: float | None = None) -> None:
        """Take a sample now, unless another process does.

        Args:
            now_s: seconds since the epoch; the system's clock by default.
        """
        with self._lock:
            now_s = time.time() if now_s is None else now_s
            folder = shared_folder()
            if folder is not None:
                with reported(folder):
                    if self._holds(folder):
                        self._history.add(all_decisions(), now_s)
                        _write(folder / _FILE, self._history.text())
                    return
            self._history.add(all_decisions(), now_s)  # also if the folder cannot be used

    def samples(self, now_s: float) -> list[Sample]:
        """Return the samples of the last SPAN_S."""
        with self._lock:
            folder = shared_folder()
            if folder is not None and self._fd is None and (folder / _FILE).exists():
                with reported(folder):
                    return _read(folder / _FILE).samples(now_s)
            return self._history.samples(now_s)

    def _holds(self, folder: Path) -> bool:
        """Return True if this process takes the samples; continue those of the process before."""
        if self._fd is not None and self._folder == folder:
            return True
        self._leave()
        fd = os.open(folder / f"{_FILE}_lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(fd, fcntl.LOCK_EX):
            os.close(fd)
            return False
        self._fd, self._folder = fd, folder
        self._history = _read(folder / _FILE)
        return True

    def _leave(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def after_fork_in_child(self) -> None:
        """Leave the file to the parent, and start a thread of the child."""
        self._lock = threading.Lock()
        self._leave()
        if self._thread is not None:
            self._thread = None
            self.start()


def _write(file: Path, text: str) -> None:
    half_made = file.with_name(f"{file.name}.new")
    half_made.write_text(text, "utf-8")
    half_made.replace(file)


def _read(file: Path) -> History:
    try:
        return History.of(file.read_text("utf-8"))
    except FileNotFoundError:
        return History()
    except ValueError:
        return History()  # of another version


SAMPLER = Sampler()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SAMPLER.after_fork_in_child)
