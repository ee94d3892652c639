"""Show a LoadResult in a terminal, or as plain lines (rich)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from rate_limiter.checks.redaction import redacted
from rate_limiter.cli.load.generator import LoadPlan, LoadResult
from rate_limiter.cli.load.histogram import LatencyHistogram
from rate_limiter.cli.load.result import KINDS, PERCENTILES
from rate_limiter.cli.load.target import parse_url

STYLES = {"allowed": "green", "limited": "yellow", "other": "red"}
_NAMES = {"allowed": "allowed (2xx)", "limited": "limited (429)", "other": "other answers"}
_BAR_WIDTH = 40
_ROWS_MAX = 14
# Edges of the bars of a histogram: a few round numbers per power of ten.
_STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
_ENDED = {
    "requests": "all requests sent",
    "seconds": "time is up",
    "interrupt": "interrupted: the results so far",
    "": "running",
}


def headline(plan: LoadPlan) -> Text:
    """Return the plan in one line."""
    how = (
        f"closed loop of {plan.concurrency:,} connections"
        if plan.rate is None
        else f"{plan.rate:,g} requests/s due, over {plan.concurrency:,} connections at most"
    )
    bounds = f"at most {plan.seconds:g} s and {plan.requests:,} requests"
    users = f", {plan.users:,} users" if plan.users else ""
    line = Text(f"{plan.method} {redacted(str(parse_url(plan.url)))}", style="bold")
    return line.append(f"\n{how}{users}; {bounds}", style="dim not bold")


def report(plan: LoadPlan, result: LoadResult, *, is_unicode: bool) -> RenderableType:
    """Return the final report.

    Args:
        plan: the plan of the test.
        result: the result of the test.
        is_unicode: the terminal can show blocks.
    """
    parts: list[RenderableType] = [summary(plan, result)]
    if result.answers:
        parts += [Text(), histogram(result, "█" if is_unicode else "#")]
    return Group(*parts)


def summary(plan: LoadPlan, result: LoadResult) -> RenderableType:
    """Return the table of latencies and the lines below it."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("latency in ms", no_wrap=True)
    for name in ("answers", "mean", *(f"p{each}" for each in PERCENTILES), "max"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    for kind in KINDS:
        if kind != "other" or result.count_of(kind):
            _add_row(table, _NAMES[kind], result.latencies[kind], STYLES[kind])
    _add_row(table, "all answers", result.all_latencies(), "bold")
    return Group(table, Text(), *_lines(plan, result))


def _add_row(table: Table, name: str, latencies: LatencyHistogram, style: str) -> None:
    values_ns: list[float] = []
    if latencies.mean_ns is not None:
        values_ns = [latencies.mean_ns, *latencies.percentiles_ns(PERCENTILES), latencies.max_ns]
    shown = [_ms(value_ns) for value_ns in values_ns] or ["-"] * (len(PERCENTILES) + 2)
    table.add_row(Text(name, style=style), f"{latencies.count:,}", *shown)


def _ms(value_ns: float) -> str:
    value = value_ns / 1e6
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _lines(plan: LoadPlan, result: LoadResult) -> Iterator[Text]:
    rate = f"{result.requests:,} in {result.elapsed_s:.2f} s = {result.requests_per_s:,.1f}/s"
    yield _line("requests", f"{rate}, {_ENDED[result.ended_by]}")
    statuses = (f"{status}: {result.statuses[status]:,}" for status in sorted(result.statuses))
    yield _line("statuses", ", ".join(statuses) or "none")
    errors = (f"{kind}: {count:,}" for kind, count in sorted(result.errors.items()))
    yield _line("errors", ", ".join(errors) or "none", "red" if result.errors else "")
    if result.count_of("limited"):
        yield _line("Retry-After", _retry_after(result))
    if result.unfinished:
        yield _line("unfinished", f"{result.unfinished:,} were under way at the end")
    if result.unsent:
        yield _line("unsent", f"{result.unsent:,} were due, and no connection was free", "red")
    yield _line(
        "measured",
        "sending to last byte; closed loop: a slow server is sent less"
        if plan.rate is None
        else "from when a request was due to its last byte",
    )


def _line(name: str, text: str, style: str = "") -> Text:
    return Text(f"{name:<15}", style="dim").append(text, style=f"not dim {style}".strip())


def _retry_after(result: LoadResult) -> str:
    limited = result.count_of("limited")
    seen = "all" if result.retry_after_seen == limited else f"{result.retry_after_seen:,} of them"
    if not result.retry_after_seen:
        return "on no 429"
    if result.retry_after_s is None:
        return f"on {seen} 429s, none of them in seconds"
    least_s, most_s = result.retry_after_s
    return f"on {seen} of the 429s, " + (
        f"{least_s} s" if least_s == most_s else f"{least_s} to {most_s} s"
    )


# --- The histogram ---


def histogram(result: LoadResult, block: str) -> RenderableType:
    """Return a bar for each range of latencies, cut at round numbers of a logarithmic scale."""
    edges_ms = _edges(result.all_latencies())
    counts = {kind: _counts(result.latencies[kind], edges_ms) for kind in KINDS}
    most = max(sum(counts[kind][row] for kind in KINDS) for row in range(len(edges_ms) - 1))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row(Text("ms, up to", style="dim"), Text("answers", style="dim"), _legend(result))
    for row, edge_ms in enumerate(edges_ms[1:]):
        of_row = [counts[kind][row] for kind in KINDS]
        bar = Text()
        done = 0
        for kind, count in zip(KINDS, of_row, strict=True):
            # Rounded at the edges, so that the parts of a bar add up to its length.
            begin, done = done, done + count
            cells = round(done * _BAR_WIDTH / most) - round(begin * _BAR_WIDTH / most)
            bar.append(block * cells, style=STYLES[kind])
        if sum(of_row) and not bar:
            bar.append(".", style="dim")
        grid.add_row(f"{edge_ms:,g}", f"{sum(of_row):,}", bar)
    return grid


def _legend(result: LoadResult) -> Text:
    legend = Text()
    for kind in KINDS:
        if result.count_of(kind):
            legend.append(f"{_NAMES[kind]}  ", style=STYLES[kind])
    return legend


def _edges(latencies: LatencyHistogram) -> list[float]:
    """Return round numbers of ms around all latencies, as many as fit."""
    least_ms = max(latencies.min_ns / 1e6, 1e-6)
    most_ms = max(latencies.max_ns / 1e6, least_ms)
    found: list[float] = []
    for steps in _STEPS:
        powers = range(math.floor(math.log10(least_ms)) - 1, math.floor(math.log10(most_ms)) + 2)
        rounds = [float(f"{step}e{power}") for power in powers for step in steps]
        first = max(i for i, edge in enumerate(rounds) if edge < least_ms)
        last = min(i for i, edge in enumerate(rounds) if edge >= most_ms)
        found = rounds[first : last + 1]
        if len(found) <= _ROWS_MAX + 1:
            break
    return found


def _counts(latencies: LatencyHistogram, edges_ms: list[float]) -> list[int]:
    counts = [0] * (len(edges_ms) - 1)
    row = 0
    for low_ns, high_ns, count in latencies.buckets():
        while row < len(counts) - 1 and (low_ns + high_ns - 1) / 2 > edges_ms[row + 1] * 1e6:
            row += 1
        counts[row] += count
    return counts


# --- While it runs ---


class LiveView:
    """A progress bar with the table below, for rich.live.Live."""

    def __init__(self, plan: LoadPlan, result: LoadResult) -> None:
        self._plan = plan
        self._result = result
        self._progress = Progress(
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.percentage:>3.0f}%  {task.description}"),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=1.0)

    def update(self, elapsed_s: float) -> None:
        """Update the bar with the share of time or of requests, whichever is larger."""
        of_time = elapsed_s / self._plan.seconds
        of_count = self._result.requests / self._plan.requests
        self._progress.update(
            self._task,
            completed=min(1.0, max(of_time, of_count)),
            description=f"{elapsed_s:.0f} of {self._plan.seconds:g} s, Ctrl-C ends it",
        )

    def __rich__(self) -> RenderableType:
        return Group(self._progress, Text(), summary(self._plan, self._result))


def is_unicode(console: Console) -> bool:
    """Return True if a console can show block characters."""
    return console.encoding.lower().replace("-", "").startswith("utf")
