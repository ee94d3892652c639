"""Shared code of the commands: exit statuses, one-line errors, JSON, the store."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rate_limiter._core import StoreError
from rate_limiter.checks.extras import text_of_missing
from rate_limiter.checks.redaction import redacted
from rate_limiter.startup import one_line
from rate_limiter.stores.address import MEMORY
from rate_limiter.stores.connection import Connection, connect

if TYPE_CHECKING:
    from rate_limiter.settings import Settings

DONE = 0
FAILED = 1
WRONG_USAGE = 2
REQUESTS_FAILED = 3
INTERRUPTED = 130  # 128 + SIGINT, as in shells
STOPPED_BY = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: 143}
"""Signals that end load and bench, and the exit status for each."""

LOCAL_REDIS = "redis://localhost:6379/0"
"""The default of --store."""

EXIT_STATUS = """\
exit status:
  0    done
  1    failed; one line on stderr names the reason
  2    wrong usage; one line on stderr names what was expected
  3    load only: done, but requests failed (no response, or a status of 500 or above)
  130  interrupted with Ctrl-C; load and bench print their results so far
  143  load and bench only: ended by SIGTERM, as sent by timeout; they print results too
"""

_T = TypeVar("_T")


class UsageError(ValueError):
    """Raised for a mistake in the command line."""


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the layout of its texts and prints errors in one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        unknown, found, words = message.partition("unrecognized arguments: ")
        if found:  # a value among them may be a secret
            names = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
            message = f"{unknown}{found}{' '.join(names) or 'more than expected'}"
        text = redacted(" ".join(message.split()))
        self.exit(WRONG_USAGE, f"rate-limiter: {text} (see {self.prog} --help)\n")


def epilog(examples: str) -> str:
    """Return the text below the options of a command: examples and exit statuses."""
    return f"examples:\n{examples}\n{EXIT_STATUS}"


def parsed(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return an argparse type that keeps the message of `parse`."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except (TypeError, ValueError) as error:
            # Further lines may show the position below the text.
            raise argparse.ArgumentTypeError(str(error).partition("\n")[0]) from None

    return convert


def name_and_value(text: str) -> tuple[str, str]:
    """Return the two halves of NAME=VALUE.

    Raises:
        ValueError: the text has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError("must be NAME=VALUE")
    return name.strip(), value


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print only JSON")


def add_header(parser: argparse.ArgumentParser) -> None:
    """Add --header."""
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=parsed(name_and_value),
        metavar="NAME=VALUE",
        help="repeatable",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help=f"the Redis (from the environment or .env, else {LOCAL_REDIS})",
    )


def settings() -> Settings | None:
    """Return the settings in the environment and .env, None if pydantic_settings is missing.

    Raises:
        UsageError: one is wrong.
    """
    try:
        from rate_limiter.settings import Settings
    except ImportError:
        return None
    try:
        return Settings()
    except ValueError as error:
        raise UsageError(one_line(error)) from None


def store_of(given: argparse.Namespace) -> str:
    """Return the address of --store, by default that of the settings.

    Raises:
        UsageError: the settings are wrong, or cannot be read.
    """
    if given.store is not None:
        return str(given.store)
    found = settings()
    if found is not None:
        return LOCAL_REDIS if found.address == MEMORY and found.store is None else found.address
    for name in ("REDIS_HOST", "REDIS_SENTINEL_HOSTS"):
        if os.environ.get(name):
            raise UsageError(
                f"reading {name} needs pydantic_settings: pip install 'rate-limiter-c[rules]', "
                "or give --store"
            )
    return os.environ.get("RATE_LIMITER_STORE") or os.environ.get("REDIS_URL") or LOCAL_REDIS


def connected(address: str, argument: str = "--store") -> Connection:
    """Return the connection to the Redis at an address; errors name the argument.

    Raises:
        UsageError: the address is wrong.
    """
    try:
        return connect(address)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{argument}: {error}") from None


def make_printable() -> None:
    """Escape characters that the encoding of the output does not have, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def guarded(run: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    """Run a command; return its exit status. An error is printed in one line."""
    # Log records of the package are not shown: errors are printed in one line below.
    logging.getLogger("rate_limiter").addHandler(logging.NullHandler())
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        status = run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has exited, as `head` does. Without this, Python fails when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except UsageError as error:
        return _fail(str(error), WRONG_USAGE)
    except ImportError as error:
        return _fail(text_of_missing(error))
    except OSError as error:
        named = error.filename and redacted(str(error.filename))
        return _fail(f"{named}: {error.strerror}" if named else str(error))
    except (StoreError, TypeError, RuntimeError) as error:
        return _fail(" ".join(str(error).split()))
    except ValueError as error:
        return _fail(str(error))


def _fail(message: str, status: int = FAILED) -> int:
    # Each line is an error, such as a mistake in a file of rules.
    for line in redacted(message).splitlines() or [""]:
        print(f"rate-limiter: {line}", file=sys.stderr)
    return status
