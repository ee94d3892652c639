"""The command rate-limiter bench, which measures decisions on this machine."""

from __future__ import annotations

import argparse
import signal
from types import FrameType
from typing import Any

from rate_limiter.checks.redaction import HIDDEN, redacted
from rate_limiter.cli.common import (
    DONE,
    STOPPED_BY,
    UsageError,
    add_json,
    epilog,
    parsed,
    print_json,
)
from rate_limiter.limit import Limit

EXAMPLES = """\
  rate-limiter bench
  rate-limiter bench --store redis://localhost:6379/0
  rate-limiter bench --store shared:///dev/shm/bench --limit "100/minute" --rounds 101
  rate-limiter bench --json > bench.json
"""
LIMIT = "1000000000/second"
ROUNDS = 51
ROUNDS_MAX = 100_000


def add_parser(actions: Any) -> None:
    """Add the command to the program."""
    parser = actions.add_parser(
        "bench",
        help="measure decisions on this machine",
        description="Measure decisions on this machine: in memory, and in a store if one is "
        "named.\nAll cases run in each round; the command reports medians and quartiles.",
        epilog=epilog(EXAMPLES),
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--store", metavar="URL", help="redis://... or shared:///PATH: measure this as well"
    )
    parser.add_argument(
        "--limit",
        metavar="LIMIT",
        type=parsed(Limit.parse),
        default=LIMIT,
        help=f"limit of the one client ({LIMIT}, so that all requests are allowed)",
    )
    parser.add_argument(
        "--rounds",
        type=parsed(_rounds),
        default=ROUNDS,
        metavar="N",
        help=f"number of rounds ({ROUNDS})",
    )
    add_json(parser)


def _rounds(text: str) -> int:
    rounds = int(text) if text.isascii() and text.isdigit() else 0
    if not 2 <= rounds <= ROUNDS_MAX:
        raise ValueError(f"must be 2 to {ROUNDS_MAX}, got {text!r}")
    return rounds


def _run(given: argparse.Namespace) -> int:
    from rate_limiter.cli.bench.measure import Bench, about

    stopped: int | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        # The current round is finished first; a second signal stops at once.
        nonlocal stopped
        stopped = STOPPED_BY[signal.Signals(number)]
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in STOPPED_BY}
    try:
        bench = Bench(given.limit, given.store)
        try:
            while bench.rounds < given.rounds and not (stopped and bench.rounds >= 2):
                bench.round()
        finally:
            bench.close()
    except ValueError as error:
        raise UsageError(str(error)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    report = {
        **about(),
        "store": None if given.store is None else redacted(given.store).replace(f"{HIDDEN}@", ""),
        "limit": str(given.limit),
        "rounds": bench.rounds,
        "cases": bench.results(),
    }
    if given.json:
        print_json(report)
    else:
        _print(report)
    return stopped or DONE


def _print(report: dict[str, Any]) -> None:
    print(
        "rate_limiter {rate_limiter}, {python}, {system}\n{machine}\n"
        "limit {limit}, {rounds} rounds, medians and quartiles".format_map(report)
    )
    if report["store"] is not None:
        print(f"store {report['store']}")
    print(f"\n{'':<28}{'ns':>10}{'quartiles':>20}{'per second':>13}{'x empty call':>14}")
    for case in report["cases"]:
        ns, ratio = case["ns"], case["to_empty_call"]
        quartiles = f"{ns['low']:,.0f} .. {ns['high']:,.0f}"
        print(
            f"{case['name']:<28}{ns['median']:>10,.0f}{quartiles:>20}"
            f"{case['per_second']:>13,.0f}{ratio['median']:>14.1f}"
        )
    rival = next(case for case in report["cases"] if case["name"] == "memory, allow")["to_python"]
    print(
        f"\nallow takes {rival['median']:.2f} of the time of a dict and a Lock in Python "
        f"(quartiles {rival['low']:.2f} .. {rival['high']:.2f})"
    )
