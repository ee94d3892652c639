"""Where buckets live: addresses, connections to Redis, what a bucket holds."""
