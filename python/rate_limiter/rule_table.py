"""Rules and how one is found."""

from rate_limiter.policy.rules import Rule, RuleTable

__all__ = ["Rule", "RuleTable"]
