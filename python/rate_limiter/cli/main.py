"""The command rate-limiter, with a module per subcommand."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rate_limiter.cli import buckets, completion, migrate, rules, top
from rate_limiter.cli.bench import command as bench
from rate_limiter.cli.common import Parser, epilog, guarded, make_printable
from rate_limiter.cli.load import command as load
from rate_limiter.cli.version import build_details

EXAMPLES = """\
  rate-limiter load --url http://localhost:8080/v1/hello --api-key demo --seconds 10
  rate-limiter inspect user:42 --store redis://localhost:6379/0
  rate-limiter reset user:42
  rate-limiter rules check rate_limits.json
  rate-limiter rules explain --path /files/7 --method POST
  rate-limiter bench --store redis://localhost:6379/0
  rate-limiter top --url http://localhost:8000/rate-limit/live --token-file token.txt
  rate-limiter completion bash
  rate-limiter migrate .

`rate-limiter COMMAND --help` shows more examples.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    Args:
        arguments: arguments, by default those of the process.

    Raises:
        SystemExit: the arguments are wrong (2), or ask for help (0).
    """
    make_printable()
    given = parser().parse_args(arguments)
    return guarded(given.run, given)


def parser() -> Parser:
    """Return the parser with all commands."""
    made = Parser(
        prog="rate-limiter",
        description="Test a rate limit, inspect its buckets, check its rules, measure it.",
        epilog=epilog(EXAMPLES),
    )
    made.add_argument(
        "--version",
        action="version",
        version=build_details(),
        help="print the versions of this package and of the libraries in it",
    )
    actions = made.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for command in (load, buckets, rules, bench, top, migrate):
        command.add_parser(actions)
    completion.add_parser(actions, made)
    return made


if __name__ == "__main__":
    sys.exit(main())
