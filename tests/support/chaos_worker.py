"""One process of the chaos run: threads and tasks that ask limiters until its input ends.

``python -m support.chaos_worker CONFIGURATION RESULT`` writes what they have seen, as JSON.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from rate_limiter import AsyncRateLimiter, RateLimiter, RateLimitExceeded, StoreError

POLICIES = ("raise", "deny", "memory")
ACQUIRE_S = 0.1
THREADS = 2
TASKS = 4
PAUSE_S = (0.02, 0.12)


class Seen:
    """What the callers of this process have seen. Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.grants: dict[str, list[tuple[float, float]]] = {}
        self.outages: dict[str, list[list[float]]] = {}  # from the first error to the next answer
        self.answered: dict[str, float] = {}  # when last
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.worst: tuple[float, str] = (0.0, "")
        self._lock = threading.Lock()

    def add(self, name: str, method: str, began_s: float, outcome: object) -> None:
        """Record a call: the limiter and key, and the result or the exception."""
        now_s = time.monotonic()
        with self._lock:
            self.calls[method] += 1
            self.worst = max(self.worst, (now_s - began_s, f"{method} {name}"))
            if isinstance(outcome, StoreError):
                self.errors[outcome.kind] += 1
                outages = self.outages.setdefault(name, [])
                if not outages or len(outages[-1]) == 2:
                    outages.append([now_s])
                return
            if name.endswith("raise"):
                self.answered[name] = now_s
                outages = self.outages.get(name, [])
                if outages and len(outages[-1]) == 1:
                    outages[-1].append(now_s)
            if outcome:
                self.grants.setdefault(name, []).append((began_s, now_s))

    def fail(self, error: BaseException) -> None:
        """Record an exception that should not be."""
        text = "".join(traceback.format_exception(error))
        with self._lock:
            self.errors[type(error).__name__] += 1
            if len(self.wrong) < 5:
                self.wrong.append(text)


class Callers:
    """The threads and tasks, and their limiters by store and policy."""

    def __init__(self, stores: dict[str, Any], limits: str, seen: Seen) -> None:
        self.limiters = {
            (store, policy): RateLimiter(
                limits, store=one["address"], name=policy, on_store_error=policy
            )
            for store, one in stores.items()
            for policy in POLICIES
        }
        self.keys = {store: one["keys"] for store, one in stores.items()}
        self.seen = seen
        self.is_over = threading.Event()

    def chosen(self, random: Random) -> tuple[RateLimiter, str, str, str]:
        """Return a limiter, a key, their name, and a method."""
        store, policy = random.choice(list(self.limiters))
        key = random.choice(self.keys[store])
        method = random.choice(("hit", "hit", "allow", "allow_many", "acquire", "peek"))
        return self.limiters[store, policy], key, f"{store}/{key}/{policy}", method

    def thread(self, random: Random) -> None:
        """Ask with pauses, until it is over."""
        while not self.is_over.is_set():
            limiter, key, name, method = self.chosen(random)
            began_s = time.monotonic()
            try:
                answer = _ask(limiter, method, key)
                self.seen.add(name, method, began_s, _grants(method, answer))
            except BaseException as error:
                self._raised(name, method, began_s, error)
            time.sleep(random.uniform(*PAUSE_S))

    async def task(self, random: Random) -> None:
        """Do the same as a task."""
        while not self.is_over.is_set():
            limiter, key, name, method = self.chosen(random)
            began_s = time.monotonic()
            try:
                answer = await _ask(AsyncRateLimiter.of(limiter), method, key)
                self.seen.add(name, method, began_s, _grants(method, answer))
            except BaseException as error:
                self._raised(name, method, began_s, error)
            await asyncio.sleep(random.uniform(*PAUSE_S))

    def _raised(self, name: str, method: str, began_s: float, error: BaseException) -> None:
        if isinstance(error, StoreError) and name.endswith("raise"):
            self.seen.add(name, method, began_s, error)
        elif isinstance(error, RateLimitExceeded):
            self.seen.add(name, method, began_s, False)
        else:
            self.seen.fail(error)


def _ask(limiter: Any, method: str, key: str) -> Any:
    if method == "allow_many":
        return limiter.allow_many([key])
    if method == "acquire":
        return limiter.acquire(key, timeout=ACQUIRE_S)
    return getattr(limiter, method)(key)


def _grants(method: str, answer: Any) -> bool:
    if method == "peek":
        return False
    return bool(answer[0]) if method == "allow_many" else bool(answer)


def main() -> None:
    faulthandler.register(10)  # SIGUSR1: show where a caller hangs
    logging.getLogger("rate_limiter").setLevel(logging.CRITICAL)
    configuration = json.loads(sys.argv[1])
    seen = Seen()
    callers = Callers(configuration["stores"], configuration["limits"], seen)
    seed = configuration["seed"]

    async def tasks() -> None:
        await asyncio.gather(*(callers.task(Random(f"{seed}:task:{i}")) for i in range(TASKS)))

    threads = [
        threading.Thread(target=callers.thread, args=[Random(f"{seed}:thread:{i}")])
        for i in range(THREADS)
    ]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for one in threads:
        one.start()
    sys.stdin.read()
    callers.is_over.set()
    for one in threads:
        one.join()
    result = {
        "calls": seen.calls,
        "grants": seen.grants,
        "outages": seen.outages,
        "answered": seen.answered,
        "errors": seen.errors,
        "wrong": seen.wrong,
        "worst": seen.worst,
        "health": {
            "/".join(name): limiter.store.health()["status"]  # type: ignore[attr-defined]
            for name, limiter in callers.limiters.items()
        },
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
