"""The command rate-limiter top: the live page of a service in a terminal."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rate_limiter.checks.extras import extra_named
from rate_limiter.cli.common import (
    DONE,
    UsageError,
    add_json,
    epilog,
    parsed,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

EXAMPLES = """\
  rate-limiter top --url http://localhost:8000/rate-limit/live --token-file token.txt
  RATE_LIMITER_LIVE_TOKEN=... rate-limiter top --url https://api.example.com/rate-limit/live
  rate-limiter top --url http://localhost:8000/rate-limit/live --once --json
"""
DESCRIPTION = """\
Show the live page of a service in the terminal: requests per second by rule, top clients, and the
state of the store, of all workers of its host. Ctrl-C ends it."""

TOKEN_VARIABLE = "RATE_LIMITER_LIVE_TOKEN"
TIMEOUT_S = 10.0
BODY_MAX = 16 << 20
_REFUSED = {
    401: "the token is wrong",
    403: "the token is wrong",
    404: "there is no live page",
    429: "too many wrong tokens came from this address; try again later",
}


class PageError(RuntimeError):
    """Raised if a page gives no data. `is_final`: it will not give any later either."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def add_parser(actions: Any) -> None:
    """Add the command to the parser of rate-limiter."""
    made = actions.add_parser(
        "top",
        help="show the rules and clients with the most requests, as the live page does",
        description=DESCRIPTION,
        epilog=epilog(EXAMPLES),
    )
    made.add_argument("--url", required=True, type=parsed(_checked_url), help="of the live page")
    made.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"contains the token of the page (by default {TOKEN_VARIABLE} does)",
    )
    made.add_argument(
        "--every",
        type=parsed(_checked_pause),
        default=2.0,
        metavar="SECONDS",
        help="time between two updates (default: 2)",
    )
    made.add_argument("--once", action="store_true", help="print the data once and end")
    add_json(made)
    made.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if given.json and not given.once:
        raise UsageError("--json needs --once")
    if not given.once and not sys.stdout.isatty():
        raise UsageError("the output is no terminal: give --once")
    token = _token(given.token_file)
    if not given.json:
        with extra_named():
            import rich  # noqa: F401
    if given.once:
        found = fetch(given.url, token)
        if given.json:
            print_json(found)
        else:
            from rich.console import Console

            Console().print(shown(found))
        return DONE
    return _follow(given.url, token, given.every)


def fetch(url: str, token: str) -> dict[str, Any]:
    """Return the data of a live page.

    Redirects are not followed: another server would get the token.

    Raises:
        PageError: the page gives no data, or no answer.
    """
    parts = urlsplit(url)
    port = parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            str(parts.hostname), port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(str(parts.hostname), port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        connection.request("GET", f"{parts.path.rstrip('/')}/data", headers=headers)
        answer = connection.getresponse()
        body = answer.read(BODY_MAX + 1)
    except http.client.HTTPException as error:
        raise PageError(f"{url}: not an HTTP response: {type(error).__name__}") from None
    except OSError as error:
        raise PageError(f"{url}: no answer: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        reason = _REFUSED.get(answer.status, "expected a live page")
        is_final = answer.status in _REFUSED
        raise PageError(f"{url}: {reason} (status {answer.status})", is_final=is_final)
    return _document(url, body)


def _document(url: str, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body) if len(body) <= BODY_MAX else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise PageError(f"{url}/data is not the data of a live page of this version", is_final=True)
    return found


def _follow(url: str, token: str, every_s: float) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    latest: RenderableType = Text(f"waiting for {url}")
    with Live(latest, screen=True, auto_refresh=False) as live:
        while True:
            try:
                latest = shown(fetch(url, token))
                live.update(latest, refresh=True)
            except PageError as error:
                if error.is_final:
                    raise
                failure = Text(f"no data: {printable(str(error))}", style="bold red")
                live.update(Group(failure, latest), refresh=True)
            time.sleep(every_s)


# --- Layout ---


def shown(found: dict[str, Any]) -> RenderableType:
    """Return the document of a live page as tables.

    Raises:
        PageError: the document is not one.
    """
    try:
        return _tables(found)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise PageError(
            f"the data is not that of a live page: {type(error).__name__}: {error}", is_final=True
        ) from None


def _tables(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    host, top = found["host"], found["top"]
    clock = time.strftime("%H:%M:%S", time.localtime(float(found["time"])))
    heading = f"{clock}  {int(host['processes'])} processes"
    parts = [_text(heading), _rules(found["rules"])]
    for result in ("denied", "allowed"):
        if top[result]:
            parts.append(_clients(f"top clients, {result}", top[result]))
    if found["stores"]:
        parts.append(_stores(found["stores"]))
    return Group(*parts)


def _rules(rules: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            rule["rule"],
            f"{rule['allowed_per_s']:.1f}",
            f"{rule['denied_per_s']:.1f}",
            f"{rule['allowed']:,}",
            f"{rule['denied']:,}",
            f"{rule['keys']:,}",
        )
        for rule in rules
    ]
    return _table("rules", ("rule", "allowed/s", "denied/s", "allowed", "denied", "keys"), rows)


def _clients(title: str, clients: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            client["key"],
            client["rule"] + (" (shadow)" if client["shadow"] else ""),
            f"{client['count']:,}",
            f"{client['error']:,}" if client["error"] else "",
        )
        for client in clients
    ]
    return _table(title, ("client", "rule", "count", "at most too high by"), rows)


def _stores(stores: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (one["store"], one["status"], one["breaker"], one["last_error"] or "") for one in stores
    ]
    return _table("stores", ("store", "status", "breaker", "last error"), rows)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    """Return a table of texts from outside: they are shown, never read as markup."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        is_number = column not in ("rule", "client", "store", "status", "breaker", "last error")
        made.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_text, row))
    return made


def _text(text: str) -> RenderableType:
    from rich.text import Text

    return Text(printable(text))


# --- Arguments ---


def _checked_url(text: str) -> str:
    parts = urlsplit(text)
    is_printable = text.isascii() and text.isprintable() and " " not in text
    if not is_printable or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be the address of a live page, such as http://localhost:8000/live")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, query or fragment: the token goes into --token-file")
    _ = parts.port  # raise for a wrong one
    return text.rstrip("/")


def _checked_pause(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds < math.inf:
        raise ValueError("must be at least 0.1 seconds")
    return seconds


def _token(file: str | None) -> str:
    """Return the token in a file, by default in the environment.

    Raises:
        UsageError: there is none, or it cannot be one.
        OSError: the file cannot be read.
    """
    place = TOKEN_VARIABLE if file is None else file
    raw = os.environ.get(TOKEN_VARIABLE, "") if file is None else _content(Path(file))
    token = raw.strip()
    if not token:
        raise UsageError(f"no token: give --token-file, or set {TOKEN_VARIABLE}")
    if not token.isascii() or not token.isprintable() or " " in token:  # not shown: it is a secret
        raise UsageError(f"{place} has no token: expected one line of printable ASCII")
    return token


def _content(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file} has no token: it is not a text") from None
