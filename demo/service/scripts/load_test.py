"""Send load to the service as several users, and print the effect of its limits.

    python scripts/load_test.py --requests 1000 --concurrent 50 --users 10 --url http://localhost:8000

A URL without a path means POST /api/resource. All options are those of `rate-limiter load`.
"""

import sys

from rate_limiter.cli.load.command import script

if __name__ == "__main__":
    sys.exit(
        script(
            "Put load on the service.",
            url="http://localhost:8000",
            path="/api/resource",
            method="POST",
            requests=1000,
            concurrency=50,
            users=10,
        )
    )
