"""Settings and the default rule, from the environment, .env and the file of rules."""

import logging

from rate_limiter import Limit
from rate_limiter.rules import RulesError, load_rules
from rate_limiter.settings import Settings

logger = logging.getLogger("demo")

settings = Settings()


def default_limit() -> Limit:
    """Return what the rule `default` allows; 10 tokens and one a second where there is none."""
    path = settings.rules or "rate_limits.json"
    try:
        rules = load_rules(path).rules
        return rules["default"].limits[0]
    except (RulesError, LookupError) as error:
        logger.error("no default rule, so 10 tokens and 1 a second count: %s", error)
        return Limit(10, 1)
