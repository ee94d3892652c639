"""The command `rate-limiter`."""
