"""The pluggable limiter on FastAPI."""
