"""Draw the result of a load test as an image (matplotlib, the extra ``plot``)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from rate_limiter.checks.redaction import redacted
from rate_limiter.cli.load.generator import LoadPlan, LoadResult
from rate_limiter.cli.load.result import COLUMNS, KINDS

_COLOURS = {"allowed": "#2a9d5c", "limited": "#e0a100", "other": "#c8553d", "errors": "#7a1f1f"}
_PERCENTS = [*range(100), 99.5, 99.9, 99.95, 99.99, 100]


def save_plot(plan: LoadPlan, result: LoadResult, path: str | Path) -> None:
    """Write an image with two charts: answers per second, and latencies by percentile.

    Args:
        plan: the plan of the test.
        result: the result of the test.
        path: file to write; its suffix selects the format, such as .png.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is not supported.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle(f"{plan.method} {redacted(plan.url)}", parse_math=False)
    over_time, by_percentile = figure.subplots(2, 1)
    _draw_timeline(over_time, result)
    _draw_percentiles(by_percentile, result)
    figure.savefig(path, dpi=120)


def _draw_timeline(axes: Axes, result: LoadResult) -> None:
    seconds = range(len(result.timeline))
    below = [0] * len(result.timeline)
    for column, kind in enumerate(COLUMNS):
        counts = [row[column] for row in result.timeline]
        if any(counts):
            axes.bar(
                seconds,
                counts,
                bottom=below,
                width=1.0,
                align="edge",
                color=_COLOURS[kind],
                label=kind,
            )
        below = [one + two for one, two in zip(below, counts, strict=True)]
    axes.set(xlabel="second", ylabel="requests in that second")
    if any(below):
        axes.legend()


def _draw_percentiles(axes: Axes, result: LoadResult) -> None:
    for kind in KINDS:
        latencies = result.latencies[kind]
        if latencies.count:
            values_ms = [value_ns / 1e6 for value_ns in latencies.percentiles_ns(_PERCENTS)]
            axes.step(_PERCENTS, values_ms, where="pre", color=_COLOURS[kind], label=kind)
    axes.set(xlabel="percentile of the answers", ylabel="latency in ms", xlim=(0, 100))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(visible=True, which="both", alpha=0.25)
    if result.answers:
        axes.legend()
