"""`rate-limiter load`: a load test for your own server."""
