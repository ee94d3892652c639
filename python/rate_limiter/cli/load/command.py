"""The command rate-limiter load, which the load-test scripts of the demos also run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rate_limiter.checks.redaction import redacted
from rate_limiter.cli.common import (
    DONE,
    EXIT_STATUS,
    REQUESTS_FAILED,
    STOPPED_BY,
    Parser,
    UsageError,
    add_header,
    add_json,
    epilog,
    guarded,
    make_printable,
    print_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rate_limiter.cli.load.generator import LoadPlan, LoadResult, LoadRun

EXAMPLES = """\
  rate-limiter load --url http://localhost:8080/v1/hello --api-key demo --seconds 10
  rate-limiter load --url http://localhost:8000/api/resource --method POST --requests 500 --users 20
  rate-limiter load --url http://localhost:8080/v1/hello --rate 200 --concurrency 100
  rate-limiter load --url http://localhost:8080/v1/hello --json-file load.json --plot load.png
"""
DESCRIPTION = """\
Send requests and report how many passed, how many were limited, and how fast responses were.

By default a closed loop: each of --concurrency connections sends its next request after the last
response, so a slow server gets fewer requests. With --rate, requests are due at fixed times
instead, and latencies are measured from then. The test ends after --seconds or --requests,
whichever comes first. Targets other than this machine are refused without --target-is-mine.
Redirects are not followed.
"""
SECONDS = 10.0
SECONDS_FOR_REQUESTS = 300.0
REQUESTS = 1_000_000
REFRESH_S = 0.25
DRAWING_SHARE = 0.02
"""Maximum share of time: answers wait while the table is drawn, which adds to their latencies."""
_IMAGES = (".png", ".svg", ".pdf")


def add_parser(actions: Any) -> None:
    """Add the command to the program."""
    parser = actions.add_parser(
        "load",
        help="send load to a server and report how its limits respond",
        description=DESCRIPTION,
        epilog=epilog(EXAMPLES),
    )
    _add_options(parser, {})
    parser.set_defaults(run=_run)


def script(description: str, arguments: Sequence[str] | None = None, **defaults: Any) -> int:
    """Run the command as a script with other defaults; return the exit status.

    Args:
        description: text for --help.
        arguments: arguments, by default those of the process.
        defaults: defaults of options; ``path`` is added to a URL without a path. ``users`` has no
            effect with --api-key.
    """
    make_printable()
    parser = Parser(description=f"{description}\n\n{DESCRIPTION}", epilog=EXIT_STATUS)
    _add_options(parser, defaults)
    parser.set_defaults(**defaults | {"users": None})
    given = parser.parse_args(arguments)
    if given.users is None:
        given.users = 0 if given.api_key is not None else defaults.get("users", 0)
    return guarded(_run, given)


def _add_options(parser: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    add = parser.add_argument
    url, users = defaults.get("url"), defaults.get("users")
    path = f"; without a path: {defaults['path']}" if "path" in defaults else ""
    add("--url", required=url is None, help=f"http or https{f' ({url}{path})' if url else ''}")
    add(
        *("--concurrency", "--concurrent"),
        type=int,
        default=20,
        metavar="N",
        help=f"connections ({defaults.get('concurrency', 20)})",
    )
    seconds = "300" if "requests" in defaults else "10; 300 with --requests"
    add("--seconds", type=float, metavar="S", help=f"at most ({seconds})")
    requests = defaults.get("requests", REQUESTS)
    add("--requests", type=int, metavar="N", help=f"at most ({requests})")
    add("--rate", type=float, metavar="R", help="requests per second (default: closed loop)")
    add("--timeout", type=float, default=10.0, metavar="S", help="timeout of each request (10)")
    add("--api-key", metavar="K", help="sent as X-API-Key")
    add(
        "--users",
        type=int,
        default=0,
        metavar="M",
        help=f"rotate M API keys: user-0, user-1, ...{f' ({users})' if users else ''}",
    )
    add("--method", default="GET", help=f"HTTP method ({defaults.get('method', 'GET')})")
    add_header(parser)
    add("--target-is-mine", action="store_true", help="allow a target on another host")
    add("--cacert", type=Path, metavar="FILE", help="certificates to trust, in PEM form")
    add("--insecure", action="store_true", help="do not verify the certificate")
    add("--json-file", type=Path, metavar="FILE", help="also write the result here, as JSON")
    add("--plot", type=Path, metavar="FILE", help="plot the result (.png, .svg or .pdf)")
    add_json(parser)


def _run(given: argparse.Namespace) -> int:
    plan = _plan(given)
    _check_files(given)
    _allow_open_files(plan.concurrency)
    from rich.console import Console

    from rate_limiter.cli.load.generator import LoadRun
    from rate_limiter.cli.load.report import is_unicode, report

    console = Console(highlight=False, soft_wrap=True, quiet=given.json)
    result, stopped = asyncio.run(_shown(LoadRun(plan), console))
    console.print(report(plan, result, is_unicode=is_unicode(console)))
    data = _as_json(plan, result)
    if given.json:
        print_json(data)
    if given.json_file is not None:
        with _naming(given.json_file):
            given.json_file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if given.plot is not None:
        from rate_limiter.cli.load.plot import save_plot

        with _naming(given.plot):
            save_plot(plan, result, given.plot)
    if stopped is not None:
        return stopped
    return REQUESTS_FAILED if result.failed else DONE


def _plan(given: argparse.Namespace) -> LoadPlan:
    from rate_limiter.cli.load.generator import LoadPlan
    from rate_limiter.cli.load.target import parse_url

    seconds = SECONDS if given.requests is None else SECONDS_FOR_REQUESTS
    try:
        url = parse_url(given.url)
        if url.path in ("", "/") and getattr(given, "path", None):
            url = url.with_path(given.path)
        return LoadPlan(
            str(url),
            method=given.method.upper(),
            headers=tuple(given.header),
            api_key=given.api_key,
            users=given.users,
            concurrency=given.concurrency,
            seconds=seconds if given.seconds is None else given.seconds,
            requests=REQUESTS if given.requests is None else given.requests,
            rate=given.rate,
            timeout_s=given.timeout,
            is_mine=given.target_is_mine,
            ca_file=given.cacert,
            checks_certificate=not given.insecure,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_files(given: argparse.Namespace) -> None:
    """Check before the test that its results can be written."""
    if given.plot is not None:
        if given.plot.suffix.lower() not in _IMAGES:
            raise UsageError(f"--plot must end in {', '.join(_IMAGES)}, got {str(given.plot)!r}")
        import matplotlib  # noqa: F401
    for path in (given.plot, given.json_file):
        if path is not None:
            is_new = not os.path.lexists(path)
            path.open("ab").close()
            if is_new:
                path.unlink()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path to errors of a file: that of a full disk does not contain it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _allow_open_files(concurrency: int) -> None:
    """Raise the limit of open files to what the test needs.

    Raises:
        RuntimeError: the hard limit is too low.
    """
    import resource

    from rate_limiter.cli.load.generator import OPEN_FILES_BESIDES

    needed = concurrency + OPEN_FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise RuntimeError(
            f"{concurrency} connections need {needed} open files, and {hard} are allowed "
            f"(ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _shown(run: LoadRun, console: Console) -> tuple[LoadResult, int | None]:
    """Run the test, with a live table on a terminal, until it ends or a signal stops it.

    Returns:
        The result, and the exit status if a signal came.
    """
    from rate_limiter.cli.load.report import headline

    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(run.run())

    stopped: int | None = None

    def stop(status: int) -> None:
        nonlocal stopped
        stopped = status
        run.stop()
        if not run.begun.is_set():
            running.cancel()

    for number, status in STOPPED_BY.items():
        loop.add_signal_handler(number, stop, status)
    begun = asyncio.ensure_future(run.begun.wait())
    try:
        await asyncio.wait([running, begun], return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            console.print(headline(run.plan))
            console.print()
            sys.stdout.flush()
        if begun.done() and console.is_terminal and not console.quiet:
            await _live(run, console, running)
        return await running, stopped
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        begun.cancel()
        for number in STOPPED_BY:
            loop.remove_signal_handler(number)


async def _live(run: LoadRun, console: Console, running: asyncio.Future[LoadResult]) -> None:
    from rich.live import Live

    from rate_limiter.cli.load.report import LiveView

    view = LiveView(run.plan, run.result)
    begun_s = time.monotonic()
    with Live(view, console=console, auto_refresh=False, transient=True) as live:
        while not running.done():
            drawing_s = time.monotonic()
            view.update(drawing_s - begun_s)
            live.refresh()
            taken_s = time.monotonic() - drawing_s
            await asyncio.wait([running], timeout=max(REFRESH_S, taken_s / DRAWING_SHARE))


def _as_json(plan: LoadPlan, result: LoadResult) -> dict[str, Any]:
    return {
        "url": redacted(plan.url),
        "method": plan.method,
        "loop": "closed" if plan.rate is None else "open",
        "rate": plan.rate,
        "concurrency": plan.concurrency,
        "users": plan.users,
        "seconds_max": plan.seconds,
        "requests_max": plan.requests,
        **result.as_json(),
    }
