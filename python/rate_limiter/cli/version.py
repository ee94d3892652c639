"""The text of `rate-limiter --version`."""

from __future__ import annotations

import platform

from rate_limiter import __version__, _core


def build_details() -> str:
    """Return the versions of the package, its libraries and its interpreter, a line for each."""
    libraries = "without Redis"
    if _core.HAS_REDIS:
        libraries = f"hiredis {_core.HIREDIS_VERSION}, {_core.OPENSSL_VERSION}"
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}"
    lines = (f"rate-limiter {__version__}", libraries, _core.BUILD, f"{interpreter}, {system}")
    return "\n".join(lines)
