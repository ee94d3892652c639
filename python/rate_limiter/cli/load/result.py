"""LoadResult: the result of a load test, during and after the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rate_limiter.cli.load.histogram import LatencyHistogram

KINDS = ("allowed", "limited", "other")
COLUMNS = (*KINDS, "errors")  # of a timeline
PERCENTILES = (50, 95, 99)


def kind_of(status: int) -> str:
    """Return the kind of an answer: allowed (2xx), limited (429), or other."""
    if status == 429:
        return "limited"
    return "allowed" if 200 <= status < 300 else "other"


@dataclass
class LoadResult:
    """The result so far.

    Attributes:
        elapsed_s: from the first request to the end of the last.
        statuses: number of answers by HTTP status.
        errors: number of requests without an answer, by kind: timeout, refused, disconnected, ...
        latencies: latencies of answers, by kind.
        retry_after_seen: number of 429s with a Retry-After.
        retry_after_s: minimum and maximum of those in seconds, None if there are none.
        unfinished: requests in flight when the test was interrupted.
        unsent: with a rate, requests that were due but never got a free connection.
        ended_by: reason of the end: requests, seconds, or interrupt.
        timeline: for each second, the number of finished requests for each of COLUMNS.
    """

    elapsed_s: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, LatencyHistogram] = field(
        default_factory=lambda: {kind: LatencyHistogram() for kind in KINDS}
    )
    retry_after_seen: int = 0
    retry_after_s: tuple[int, int] | None = None
    unfinished: int = 0
    unsent: int = 0
    ended_by: str = ""
    timeline: list[list[int]] = field(default_factory=list)

    def record(self, status: int, latency_ns: int, retry_after: str | None) -> None:
        """Count an answer; elapsed_s must be up to date."""
        kind = kind_of(status)
        self.statuses[status] += 1
        self.latencies[kind].record(latency_ns)
        self._count_in_second(KINDS.index(kind))
        if kind == "limited" and retry_after is not None:
            self.retry_after_seen += 1
            if retry_after.isascii() and retry_after.isdigit():
                wait_s = int(retry_after[:18])
                least_s, most_s = self.retry_after_s or (wait_s, wait_s)
                self.retry_after_s = (min(least_s, wait_s), max(most_s, wait_s))

    def record_error(self, kind: str) -> None:
        """Count a request that got no answer; elapsed_s must be up to date."""
        self.errors[kind] += 1
        self._count_in_second(COLUMNS.index("errors"))

    def _count_in_second(self, column: int) -> None:
        second = int(self.elapsed_s)
        while len(self.timeline) <= second:
            self.timeline.append([0] * len(COLUMNS))
        self.timeline[second][column] += 1

    @property
    def answers(self) -> int:
        """Return the number of requests with an answer."""
        return self.statuses.total()

    @property
    def requests(self) -> int:
        """Return the number of finished requests, with an answer or an error."""
        return self.answers + self.errors.total()

    @property
    def requests_per_s(self) -> float:
        """Return the number of finished requests per second."""
        return self.requests / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def failed(self) -> int:
        """Return the number of requests without an answer, or with a status from 500 on."""
        return self.errors.total() + sum(
            count for status, count in self.statuses.items() if status >= 500
        )

    def count_of(self, kind: str) -> int:
        """Return the number of answers of a kind."""
        return self.latencies[kind].count

    def all_latencies(self) -> LatencyHistogram:
        """Return the latencies of all answers."""
        joined = LatencyHistogram()
        for one in self.latencies.values():
            joined.add(one)
        return joined

    def as_json(self) -> dict[str, Any]:
        """Return the result in the format of docs/command.md."""
        named = {"all": self.all_latencies(), **self.latencies}
        least_s, most_s = self.retry_after_s or (None, None)
        return {
            "ended_by": self.ended_by,
            "elapsed_s": round(self.elapsed_s, 6),
            "requests": self.requests,
            "requests_per_s": round(self.requests_per_s, 3),
            **{kind: self.count_of(kind) for kind in KINDS},
            "failed": self.failed,
            "unfinished": self.unfinished,
            "unsent": self.unsent,
            "statuses": {str(status): self.statuses[status] for status in sorted(self.statuses)},
            "errors": dict(sorted(self.errors.items())),
            "latency_ms": {name: _latency_ms(one) for name, one in named.items()},
            "retry_after": {"seen": self.retry_after_seen, "min_s": least_s, "max_s": most_s},
            "timeline": [dict(zip(COLUMNS, row, strict=True)) for row in self.timeline],
        }


def _latency_ms(latencies: LatencyHistogram) -> dict[str, float] | None:
    if not latencies.count:
        return None
    figures = {"mean": latencies.mean_ns or 0.0}
    names = [f"p{percent}" for percent in PERCENTILES]
    figures |= zip(names, latencies.percentiles_ns(PERCENTILES), strict=True)
    figures["max"] = latencies.max_ns
    return {name: round(value_ns / 1e6, 6) for name, value_ns in figures.items()}
