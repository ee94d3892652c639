"""The pluggable-limiter demo: limiters over a store of one's choice."""
