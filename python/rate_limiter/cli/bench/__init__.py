"""`rate-limiter bench`: what a decision costs here."""
