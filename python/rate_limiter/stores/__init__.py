"""Stores of buckets: addresses, connections to Redis, the state of a bucket."""
