"""Sources of rules."""

from rate_limiter.policy.rule_sources import FileRules, RedisRules, RuleSource, as_source

__all__ = ["FileRules", "RedisRules", "RuleSource", "as_source"]
