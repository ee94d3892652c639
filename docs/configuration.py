"""Write docs/configuration.md from the code: the arguments of each class, with defaults.

    python docs/configuration.py

Names, types and defaults are those of the signatures; meanings are those of the docstrings. An
argument of which a docstring says "as for X" or "see X" has the meaning that X gives it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rate_limiter import RateLimiter
from rate_limiter.asgi import DynamicLimits, Store
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.headers import HeaderStyle
from rate_limiter.jwt import Jwt
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.proxies import ClientAddress
from rate_limiter.redis_store import RedisStore
from rate_limiter.rule_source import FileRules, RedisRules

FILE = Path(__file__).parent / "configuration.md"
BEGINNING = """# Configuration

Written by `python docs/configuration.py` from the code. Variables of the environment are in
[settings](settings.md). An invalid argument is an error when the object is created, and the
message names it. An argument without effect, such as `proxy_header` without `trusted_proxies`, is
an error that names both.
"""
KNOWN: dict[str, Any] = {
    one.__name__: one
    for one in (
        RateLimiter,
        RateLimitMiddleware,
        RateLimit,
        DynamicLimits,
        FlaskRateLimiter,
        RedisStore,
        Jwt,
        FileRules,
        RedisRules,
        HeaderStyle,
        ClientAddress,
    )
}
# An argument that is called something else in the class that explains it.
OTHER_NAMES = {("HeaderStyle", "headers"): "style", ("ClientAddress", "proxy_header"): "header"}
SECTIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "RateLimiter": ("The same for `AsyncRateLimiter`.", RateLimiter),
    "RateLimitMiddleware": (
        "For every ASGI application. The middleware for "
        "[WSGI](flask.md#before-flask-any-wsgi-application) takes the same arguments, without "
        "`policy` and the three at the end.",
        RateLimitMiddleware,
    ),
    "RateLimit": ("A dependency of [FastAPI](fastapi.md).", RateLimit),
    "FlaskRateLimiter": ("The extension of [Flask](flask.md).", FlaskRateLimiter),
    "FlaskRateLimiter.limit": ("Its decorator.", FlaskRateLimiter.limit),
    "DynamicLimits": (
        "Limits that a function returns: a value of `limits=`; see "
        "[limits](limits.md#limits-that-depend-on-the-client).",
        DynamicLimits,
    ),
    "ClientAddress": ("The value of `client=`; see [identity](identity.md).", ClientAddress),
    "HeaderStyle": ("A value of `headers=`; see [headers](headers.md).", HeaderStyle),
    "Store": ("A value of `store=`, for middlewares, `RateLimit` and `FlaskRateLimiter`.", Store),
    "RedisStore": (
        "For options that an address cannot express. Options of the address are in "
        "[stores](stores.md#addresses).",
        RedisStore,
    ),
    "Jwt": ("Keys that may sign [tokens](identity.md#tokens).", Jwt),
    "FileRules": ("[Rules](rules.md) from a file.", FileRules),
    "RedisRules": ("[Rules](rules.md) from Redis.", RedisRules),
}


def meanings(documented: Any) -> dict[str, str]:
    """Return what a docstring says about each argument."""
    text = inspect.getdoc(documented) or ""
    found = re.search(r"^Args:\n((?:(?: .*)?\n)*)", text + "\n", re.MULTILINE)
    described: dict[str, str] = {}
    for names, meaning in re.findall(
        r"^    ([a-z0-9_, ]+): ((?:.*\n)(?:     +.*\n)*)", found[1] if found else "", re.MULTILINE
    ):
        for name in names.split(", "):
            plain = " ".join(meaning.split()).replace("``", "`")
            described[name] = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", plain)
    return described


def meaning(documented: Any, name: str) -> str:
    """Return what an argument means, following "as for X" and "see X".

    Raises:
        LookupError: no docstring describes it.
    """
    text = meanings(documented)[name]
    where = re.match(r"(?:as for|see) (\w+)(?:[.;,] ?|$)", text)
    if where is None or where[1] not in KNOWN:
        return text
    rest = text[where.end() :]
    other = OTHER_NAMES.get((where[1], name), name)
    first = meaning(KNOWN[where[1]], other).rstrip(".")
    return f"{first}. {rest[:1].upper()}{rest[1:]}".strip()


def table(documented: Callable[..., Any]) -> str:
    """Return the arguments of a class or a function, as a table."""
    lines = ["| argument | default | meaning |", "| --- | --- | --- |"]
    # A class may have a __new__ besides, that says less.
    makes = documented.__init__ if inspect.isclass(documented) else documented
    for name, parameter in inspect.signature(makes).parameters.items():
        if name == "self":
            continue
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        text = meaning(documented, name).replace("|", r"\|")
        lines.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(lines)


def page() -> str:
    """Return the page."""
    sections = [
        f"## {title}\n\n{text}\n\n{table(documented)}\n"
        for title, (text, documented) in SECTIONS.items()
    ]
    return "\n".join([BEGINNING, *sections])


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
