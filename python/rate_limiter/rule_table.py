"""Rules, and the table that finds the rule of a request."""

from rate_limiter.policy.rules import Rule, RuleTable

__all__ = ["Rule", "RuleTable"]
