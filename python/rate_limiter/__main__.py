"""`python -m rate_limiter` is the command rate-limiter."""

import sys

from rate_limiter.cli.main import main

sys.exit(main())
