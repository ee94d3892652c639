"""The rival of benchmarks/memory.py: a token bucket as it is usually written in Python."""

import threading
import time


class PythonBucket:
    """A dict of (tokens, time), and a lock."""

    def __init__(self, capacity: float, refill_rate: float) -> None:
        self._capacity = capacity
        self._refill_rate = refill_rate
        self._lock = threading.Lock()
        self.buckets: dict[str, tuple[float, float]] = {}

    def allow(self, key: str, cost: float = 1) -> bool:
        """Take `cost` tokens; tell whether that was allowed."""
        with self._lock:
            now_s = time.monotonic()
            tokens, last_s = self.buckets.get(key, (self._capacity, now_s))
            tokens = min(self._capacity, tokens + (now_s - last_s) * self._refill_rate)
            allowed = tokens >= cost
            self.buckets[key] = (tokens - cost if allowed else tokens, now_s)
            return allowed
