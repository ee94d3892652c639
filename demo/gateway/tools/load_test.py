"""Send load to the gateway and print the effect of its limits.

python tools/load_test.py --url http://localhost:8080/v1/hello --api-key demo --concurrency 20 \
--seconds 10

All options are those of `rate-limiter load`.
"""

import sys

from rate_limiter.cli.load.command import script

if __name__ == "__main__":
    sys.exit(script("Put load on the gateway.", url="http://localhost:8080/v1/hello"))
