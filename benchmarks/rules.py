"""Measure the cost of finding a rule among few and many rules: `python benchmarks/rules.py`.

Prints ratios of times taken in one run, with alternating cases. The requested paths have three
segments, and each rule is requested equally often.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
from collections.abc import Callable
from typing import Any

from rate_limiter import Limit
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.rule_table import Rule, RuleTable
from ratios import ratios

LIMITS = (Limit(1e9, 1e9),)
SIZES = (10, 100, 1000, 10_000)


def table_of(n: int) -> RuleTable:
    """Return `n` rules: paths with a variable segment, some for a method or a tier."""
    rules = [Rule("default", LIMITS)]
    for i in range(n - 1):
        conditions: dict[str, Any] = {"paths": (f"/api/service{i}/{{id}}",)}
        if i % 3 == 1:
            conditions["methods"] = ("POST",)
        if i % 3 == 2:
            conditions["tiers"] = ("pro",)
        rules.append(Rule(f"rule{i}", LIMITS, **conditions))
    return RuleTable(rules)


def matching(n: int) -> Callable[[], None]:
    """Return a function that looks up a thousand requests."""
    table = table_of(n)
    requests = [
        (f"/api/service{(i * 7919) % (n - 1)}/{i}", ("GET", "POST")[i % 2], ("pro",)[: i % 2])
        for i in range(1000)
    ]

    def run() -> None:
        limiting = table.limiting
        for path, method, tiers in requests:
            limiting(path, method, tiers)

    return run


async def _app(scope: Any, receive: Any, send: Any) -> None: ...


def serving(middleware: Any) -> Callable[[], None]:
    """Return a function that sends a thousand requests through a middleware."""
    scopes = [
        {
            "type": "http",
            "method": "GET",
            "path": f"/api/service{i % 9}/{i}",
            "headers": [(b"host", b"x")],
            "client": ("192.0.2.1", 1),
        }
        for i in range(1000)
    ]

    async def ask() -> None:
        for scope in scopes:
            await middleware(scope, None, None)

    def run() -> None:
        asyncio.run(ask())

    return run


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    given = parser.parse_args()
    print(f"CPython {platform.python_version()}, {platform.machine()}; {given.rounds} rounds\n")
    print("looking up a rule, as a ratio to 10 rules")
    ratios({f"{n} rules": matching(n) for n in SIZES}, "10 rules", given.rounds)
    print("\na request through the middleware, as a ratio to plain limits")
    plain = {"limits": LIMITS, "setup_checks": False}
    ruled = {"rules": table_of(1000), "setup_checks": False}
    ratios(
        {
            "nothing": serving(_app),
            "plain limits": serving(RateLimitMiddleware(_app, **plain)),  # type: ignore[arg-type]
            "1000 rules": serving(RateLimitMiddleware(_app, **ruled)),  # type: ignore[arg-type]
        },
        "plain limits",
        given.rounds,
    )


if __name__ == "__main__":
    main()
