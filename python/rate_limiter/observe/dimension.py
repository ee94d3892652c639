"""Dimension: the name for limited traffic in metrics, and whether its top clients are counted."""

from __future__ import annotations

from typing import NamedTuple

from rate_limiter.checks.words import TopKeys


class Dimension(NamedTuple):
    """What is measured together.

    Attributes:
        meter: your name for the limited traffic, such as "api".
        rule: the rule that limits it; "" if there are no rules.
        top: how many of the clients with the most decisions count; None: none do.
        top_keys: what is kept of their keys.
    """

    meter: str
    rule: str = ""
    top: int | None = None
    top_keys: TopKeys = "masked"

    @property
    def name(self) -> str:
        """The value of the label ``dimension``."""
        return f"{self.meter}.{self.rule}" if self.rule else self.meter

    def of_rule(self, rule: str) -> Dimension:
        """Return the dimension of a rule."""
        return self._replace(rule=rule)
