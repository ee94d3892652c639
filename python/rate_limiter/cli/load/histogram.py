"""LatencyHistogram: any number of latencies in little memory, with a bounded error."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

PRECISION_BITS = 10
RELATIVE_ERROR = 2.0**-PRECISION_BITS
"""Maximum relative error of a percentile (0.1 %)."""

_HALF = 1 << (PRECISION_BITS - 1)


class LatencyHistogram:
    """Count latencies in buckets whose width is proportional to their value.

    The layout is that of HdrHistogram (https://hdrhistogram.org): below 2^10 ns each value has its
    own bucket, above it each power of two is split into 2^9 equal buckets. A bucket is represented
    by its middle, at most 2^-10 of the value off. Latencies from a nanosecond to an hour use fewer
    than 18,000 buckets; empty buckets take no memory.

    Attributes:
        count: number of recorded latencies.
        total_ns: their sum, exact.
        min_ns, max_ns: exact; 0 when there are none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0
        self._counts: dict[int, int] = {}

    def record(self, latency_ns: int) -> None:
        """Count one latency.

        Raises:
            ValueError: it is negative.
        """
        if latency_ns < 0:
            raise ValueError(f"a latency must be >= 0 ns, got {latency_ns}")
        index = _index(latency_ns)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.min_ns = min(self.min_ns, latency_ns) if self.count else latency_ns
        self.max_ns = max(self.max_ns, latency_ns)
        self.count += 1
        self.total_ns += latency_ns

    def add(self, other: LatencyHistogram) -> None:
        """Add the counts of another histogram."""
        if not other.count:
            return
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.min_ns = min(self.min_ns, other.min_ns) if self.count else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.count += other.count
        self.total_ns += other.total_ns

    @property
    def mean_ns(self) -> float | None:
        """Return the mean, rounded to a float; None if empty."""
        return self.total_ns / self.count if self.count else None

    def percentile_ns(self, percent: float) -> float | None:
        """Return the smallest latency that `percent` of all do not exceed (nearest rank).

        Args:
            percent: 0 to 100.

        Returns:
            Nanoseconds, within RELATIVE_ERROR; None if empty.

        Raises:
            ValueError: `percent` is out of range.
        """
        found_ns = self.percentiles_ns([percent])
        return found_ns[0] if found_ns else None

    def percentiles_ns(self, percents: Sequence[float]) -> list[float]:
        """Return several percentiles in one pass over the buckets; an empty list if empty.

        Args, Raises:
            As percentile_ns.
        """
        for percent in percents:
            if not 0 <= percent <= 100:
                raise ValueError(f"a percentile must be 0 to 100, got {percent}")
        if not self.count:
            return []
        used = sorted(self._counts)
        seen = list(accumulate(self._counts[index] for index in used))
        ranks = [max(1, math.ceil(self.count * percent / 100)) for percent in percents]
        return [self._middle_ns(used[bisect_left(seen, rank)]) for rank in ranks]

    def _middle_ns(self, index: int) -> float:
        low_ns, width_ns = _bucket(index)
        return min(max(low_ns + (width_ns - 1) / 2, float(self.min_ns)), float(self.max_ns))

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Yield (low_ns, high_ns, count) of each used bucket in order; high_ns is exclusive."""
        for index in sorted(self._counts):
            low_ns, width_ns = _bucket(index)
            yield low_ns, low_ns + width_ns, self._counts[index]


def _index(value: int) -> int:
    shift = max(0, value.bit_length() - PRECISION_BITS)
    return shift * _HALF + (value >> shift)


def _bucket(index: int) -> tuple[int, int]:
    """Return the lowest value of a bucket, and its width."""
    shift = max(0, index // _HALF - 1)
    return (index - shift * _HALF) << shift, 1 << shift
