"""Settings and rules, from the environment, .env and the file of rules."""

import logging
from pathlib import Path

from rate_limiter import Limit
from rate_limiter.rule_source import RuleSource, as_source
from rate_limiter.rules import RulesError
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake

logger = logging.getLogger("demo")

DEFAULT = Limit(capacity=10, refill_rate=1)

with exit_on_mistake():
    settings = Settings()


def rules_file() -> str:
    """Return the configured file, else the one in the working directory, else in this folder."""
    beside = Path("rate_limits.json")
    found = beside if beside.exists() else Path(__file__).with_name(beside.name)
    return settings.rules or str(found)


def load_rules() -> tuple[Limit, RuleSource]:
    """Return the limit of the rule `default`, and all rules.

    If the file is missing or invalid, or has no such rule, the limit is 10 tokens and one per
    second.
    """
    try:
        source = as_source(rules_file())
    except RulesError as error:
        logger.error("the rules do not count, but 10 tokens and 1 a second: %s", error)
        return DEFAULT, as_source({"default": {"capacity": 10, "refill_rate": 1}})
    try:
        return source.current().rules["default"].limits[0], source
    except LookupError:
        logger.error("%s has no rule 'default': 10 tokens and 1 a second count", rules_file())
        return DEFAULT, source
