"""`rate-limiter load`: load on a server of your own."""
