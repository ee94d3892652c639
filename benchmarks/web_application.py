"""The application of one case of benchmarks/web.py, for a server."""

import os
from typing import Any

from web_peers import all_cases


def application() -> Any:
    """Return the application of the case that the variable CASE names."""
    return next(case for case in all_cases() if case.name == os.environ["CASE"]).make()
