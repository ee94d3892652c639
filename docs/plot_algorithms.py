"""Draw docs/images/algorithms.svg: what each algorithm admits at a window's edge.

    python docs/plot_algorithms.py

A client sends a request every tenth of a second, from 30 s before the edge of a minute to 100 s
after it; its limit is 60 a minute in every case. The engine decides, at the times of a ManualClock.
Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from rate_limiter import Limit, ManualClock, RateLimiter

COUNT, WINDOW_S = 60, 60
BEFORE_S, AFTER_S, STEP_S = 30, 100, 0.1
LIMITS = {
    "token bucket, 60/minute": Limit(COUNT, COUNT / WINDOW_S),
    "token bucket, 60/minute; burst=10": Limit(10, COUNT / WINDOW_S),
    "fixed window": Limit.fixed_window(COUNT, WINDOW_S),
    "sliding window": Limit.sliding_window(COUNT, WINDOW_S),
}
FILE = Path(__file__).parent / "images" / "algorithms.svg"


def admitted(limit: Limit) -> list[float]:
    """Return the times of the requests that pass, in seconds from the edge."""
    clock = ManualClock(10 * WINDOW_S * 10**9 - BEFORE_S * 10**9)
    limiter = RateLimiter(limit, clock=clock)
    times = []
    for step in range(round((BEFORE_S + AFTER_S) / STEP_S)):
        if limiter.allow("client"):
            times.append(round(step * STEP_S - BEFORE_S, 6))
        clock.advance(STEP_S)
    return times


def most_in(times: list[float], stretch_s: float) -> int:
    """Return how many pass in the busiest stretch of such a length."""
    return max(sum(start <= time < start + stretch_s for time in times) for start in times)


def main() -> None:
    """Write the drawing."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rate_limiter"  # the same file each time
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name, limit in LIMITS.items():
        times = admitted(limit)
        counts = range(1, len(times) + 1)
        label = f"{name}: {most_in(times, 60)} in the busiest minute"
        axes.step([*times, AFTER_S], [*counts, len(times)], where="post", label=label)
    axes.axvline(0, color="grey", linestyle=":", linewidth=1)
    axes.axvline(WINDOW_S, color="grey", linestyle=":", linewidth=1)
    axes.set_xlabel("seconds from the edge of a window; ten requests come each second")
    axes.set_ylabel("requests that have passed")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    FILE.parent.mkdir(exist_ok=True)
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()
