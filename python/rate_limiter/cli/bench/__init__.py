"""`rate-limiter bench`: the cost of a decision on this machine."""
