"""Rules: values, files and sources. See docs/rules.md."""

from rate_limiter.policy.rule_files import (
    RulesError,
    check_rules,
    json_schema,
    load_rules,
    parse_rules,
)
from rate_limiter.policy.rule_sources import FileRules, RedisRules, RuleSource
from rate_limiter.policy.rules import Rule, RuleTable

__all__ = [
    "FileRules",
    "RedisRules",
    "Rule",
    "RuleSource",
    "RuleTable",
    "RulesError",
    "check_rules",
    "json_schema",
    "load_rules",
    "parse_rules",
]
