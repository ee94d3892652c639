"""The live page of invented traffic, of which screenshots.py takes pictures.

PROMETHEUS_MULTIPROC_DIR names an empty folder.
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

from rate_limiter import RateLimiter
from rate_limiter.metrics import watch
from rate_limiter.observe import live, live_history
from rate_limiter.observe.dashboard import dashboard
from rate_limiter.observe.live_history import Sample
from rate_limiter.observe.registry import meter
from rate_limiter.observe.top_clients import TopClient
from rate_limiter.policy.rule_sources import FileRules

TOKEN = "the-token-of-the-picture"
RULES = {  # the limits, allowed requests per second, the share of denied ones, tokens of a client
    "search": ("300/minute, 2000/hour", 118, 0.09, 200),
    "default": ("1000/hour", 64, 0.01, 100),
    "files": ("30/minute; window=sliding", 31, 0.04, 1),
    "login": ("10/minute", 7, 0.22, 9),
}
CLIENTS = [
    ("search", "203.0.113.0/24…9f3a1c2b", 4120, 0),
    ("search", "header:x-api-key:k_l…5b0c44aa", 1873, 12),
    ("login", "198.51.100.0/24…07d1e6c4", 640, 0),
    ("files", "header:x-api-key:k_li…c8815f02", 318, 7),
    ("search", "2001:db8::/48…61b7aa3d", 204, 19),
]
STEP_S, SAMPLES = 5, 180
DURATIONS_NS = (700, 2_000, 40_000, 160_000, 220_000, 400_000, 800_000, 2_000_000, 4_000_000)
SHARES = (0.05, 0.06, 0.09, 0.11, 0.27, 0.24, 0.13, 0.04, 0.01)


def counts(rule: str, i: int) -> list[int]:
    """Return what was allowed, denied and denied by shadow rules in sample `i`."""
    _, rate, share, _ = RULES[rule]
    wave = 1 + 0.18 * math.sin(i / 17 + len(rule)) + random.uniform(-0.06, 0.06)
    attack = 9 * math.exp(-(((i - 118) / 11) ** 2)) if rule == "search" else 0
    allowed = rate * STEP_S * wave
    return [round(allowed), round(allowed * share * (1 + attack)), 0]


class InventedHistory:
    """Stands for the sampler; its samples end at any time that is asked for."""

    def __init__(self) -> None:
        self._rules = [{f"api.{rule}": counts(rule, i) for rule in RULES} for i in range(SAMPLES)]
        for name in self._rules[0]:
            allowed, denied = (sum(each[name][i] for each in self._rules) for i in (0, 1))
            for share, elapsed_ns in zip(SHARES, DURATIONS_NS, strict=True):
                meter(name).record(round(allowed * share), round(denied * share), elapsed_ns)

    def start(self) -> None:
        """Do nothing."""

    def samples(self, now_s: float) -> list[Sample]:
        """Return samples of the last 15 minutes."""
        last_s = now_s // STEP_S * STEP_S
        durations = [sum(each) for each in zip(*map(self._durations, RULES), strict=True)]
        return [
            Sample(
                last_s - (SAMPLES - 1 - i) * STEP_S,
                STEP_S,
                rules,
                durations if i == 0 else [],
            )
            for i, rules in enumerate(self._rules)
        ]

    def _durations(self, rule: str) -> list[int]:
        allowed, denied, _ = meter(f"api.{rule}").read()
        return [sum(each) for each in zip(allowed, denied, strict=True)]


def top_clients(count: int = 20, *, denied: bool | None = None) -> list[TopClient]:
    """Return the invented clients."""
    factor = 1 if denied else 3
    return [
        TopClient("api", rule, key, bool(denied), factor * number, error)
        for rule, key, number, error in CLIENTS
    ]


random.seed(7)
live_history.SAMPLER = InventedHistory()
live.top_clients = top_clients
rules_file = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).parent / "rate_limits.json"
rules_file.write_text(json.dumps({"default": {"limits": "1000/hour"}}))
source = FileRules(rules_file)
limiters = {rule: RateLimiter(values[0].split(", ")) for rule, values in RULES.items()}
for rule, limiter in limiters.items():
    watch(limiter, f"api.{rule}")
    for _ in range(round(RULES[rule][1] * 19)):
        limiter.hit(str(random.random()), RULES[rule][3])
app = dashboard(TOKEN, allow_reset=True)
