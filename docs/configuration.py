"""Write docs/configuration.md from the code: what each class can be told, with defaults.

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
from rate_limiter.asgi import Store
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

Written by `python docs/configuration.py` from the code. What the environment says is in
[settings](settings.md). An argument that is wrong is refused when the object is made, with a
message that names it. So is an argument that has no effect beside the others, such as
`proxy_header` without `trusted_proxies`: the message names both.
"""
KNOWN: dict[str, Any] = {
    one.__name__: one
    for one in (
        RateLimiter,
        RateLimitMiddleware,
        RateLimit,
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
    "ClientAddress": ("The value of `client=`; see [identity](identity.md).", ClientAddress),
    "HeaderStyle": ("A value of `headers=`; see [headers](headers.md).", HeaderStyle),
    "Store": ("A value of `store=`, for middlewares, `RateLimit` and `FlaskRateLimiter`.", Store),
    "RedisStore": (
        "Where an address alone says too little. Options of the address are in "
        "[stores](stores.md#addresses).",
        RedisStore,
    ),
    "Jwt": ("Who may sign [tokens](identity.md#tokens).", Jwt),
    "FileRules": ("[Rules](rules.md) of a file.", FileRules),
    "RedisRules": ("[Rules](rules.md) of a fleet.", RedisRules),
}


def meanings(documented: Any) -> dict[str, str]:
    """Return what a docstring says about each argument."""
    text = inspect.getdoc(documented) or ""
    found = re.search(r"^Args:\n((?:(?: .*)?\n)*)", text + "\n", re.MULTILINE)
    told: dict[str, str] = {}
    for names, meaning in re.findall(
        r"^    ([a-z0-9_, ]+): ((?:.*\n)(?:     +.*\n)*)", found[1] if found else "", re.MULTILINE
    ):
        for name in names.split(", "):
            plain = " ".join(meaning.split()).replace("``", "`")
            told[name] = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", plain)
    return told


def meaning(documented: Any, name: str) -> str:
    """Return what an argument means, wherever it is told.

    Raises:
        LookupError: nobody tells it.
    """
    told = meanings(documented)[name]
    where = re.match(r"(?:as for|see) (\w+)(?:[.;,] ?|$)", told)
    if where is None or where[1] not in KNOWN:
        return told
    rest = told[where.end() :]
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
        told = meaning(documented, name).replace("|", r"\|")
        lines.append(f"| `{name}` | {default} | {told} |")
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
