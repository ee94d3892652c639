"""Name the extra of this package that installs a missing library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_EXTRAS = {
    "pydantic": "rules",
    "pydantic_settings": "rules",
    "yaml": "rules",
    "tomli": "rules",
    "jwt": "jwt",
    "prometheus_client": "metrics",
    "opentelemetry": "otel",
    "fastapi": "fastapi",
    "starlette": "fastapi",
    "flask": "flask",
    "werkzeug": "flask",
    "aiohttp": "load",
    "yarl": "load",
    "rich": "load",
    "matplotlib": "plot",
    "httpx": "httpx",
    "requests": "requests",
}
"""The extra for each library."""


def text_of_missing(error: ImportError) -> str:
    """Return what to install for a failed import; its own text for a module of no extra."""
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRAS:
        return str(error)
    return f"{name} is missing: pip install 'rate-limiter-c[{_EXTRAS[name]}]'"


@contextlib.contextmanager
def extra_named() -> Iterator[None]:
    """Import libraries of extras; an error names the extra.

    Raises:
        ModuleNotFoundError: a library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(text_of_missing(error), name=error.name) from None
