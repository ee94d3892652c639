"""The pluggable-limiter demo: limiters on a store of your choice."""
