"""The pluggable limiter on Flask."""
