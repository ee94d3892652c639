"""``flask limiter config | limits | clear``: show the limits of an application, forget counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rate_limiter.checks.extras import extra_named

with extra_named():
    import click
    from flask import current_app
    from flask.cli import with_appcontext
    from werkzeug.exceptions import HTTPException

if TYPE_CHECKING:
    from rate_limiter.compat.flask_limiter.definitions import RuntimeLimit

Limiter: TypeAlias = Any  # the extension imports this module


class Row(NamedTuple):
    """A limit of an endpoint, for one method, and what names its count besides the key."""

    endpoint: str
    method: str
    path: str
    limit: RuntimeLimit
    scope: str


@click.group(help="Show the rate limits of the application, and forget counts.")
def cli() -> None:
    pass


@cli.command(help="Show the configuration of the extension.")
@with_appcontext
def config() -> None:
    for limiter in _limiters():
        for name, value in limiter.describe():
            click.echo(f"{name:<16} {value}")


@cli.command(help="Show the limits of the endpoints.")
@click.option("--endpoint", help="Only this endpoint.")
@click.option("--path", help="Only the endpoint that this path leads to.")
@click.option("--method", default="GET", show_default=True, help="The method for --path.")
@click.option("--key", help="Show what this key has left of each limit.")
@with_appcontext
def limits(endpoint: str | None, path: str | None, method: str, key: str | None) -> None:
    endpoint = _endpoint(endpoint, path, method)
    for limiter in _limiters():
        for row in _rows(limiter, endpoint):
            left = "" if key is None else f"  {_left(limiter, row, key)} left"
            click.echo(f"{row.endpoint:<24} {row.method:<7} {row.path:<24} {row.limit.limit}{left}")


@cli.command(help="Forget what is counted for a key.")
@click.option("--endpoint", help="Only for this endpoint.")
@click.option("--path", help="Only for the endpoint that this path leads to.")
@click.option("--method", default="GET", show_default=True, help="The method for --path.")
@click.option("--key", required=True, help="The key.")
@click.option("-y", "is_sure", is_flag=True, help="Do not ask.")
@with_appcontext
def clear(endpoint: str | None, path: str | None, method: str, key: str, is_sure: bool) -> None:
    endpoint = _endpoint(endpoint, path, method)
    if not is_sure:
        click.confirm(f"Forget the counts of {key}?", abort=True)
    counts = [
        (limiter, row.limit.limit, tuple(limiter.count_names(key, row.scope)))
        for limiter in _limiters()
        for row in _rows(limiter, endpoint)
    ]
    for limiter, item, names in dict.fromkeys(counts):
        limiter.limiter.clear(item, *names)
    click.echo(f"Cleared {len(dict.fromkeys(counts))} counts of {key}")


def _limiters() -> list[Limiter]:
    return list(current_app.extensions.get("limiter", ()))


def _endpoint(endpoint: str | None, path: str | None, method: str) -> str | None:
    if endpoint is not None and endpoint not in current_app.view_functions:
        raise click.ClickException(f"no endpoint is named {endpoint}")
    if path is None:
        return endpoint
    try:
        found: Any = current_app.url_map.bind("localhost").match(path, method.upper())
    except HTTPException:
        raise click.ClickException(f"no endpoint answers {method.upper()} {path}") from None
    return str(found[0])


def _rows(limiter: Limiter, endpoint: str | None) -> Iterator[Row]:
    for rule in current_app.url_map.iter_rules(endpoint):
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            with current_app.test_request_context(method=method) as context:
                context.request.url_rule = rule
                context.request.routing_exception = None
                found = [(limit, limit.scope_for(rule.endpoint)) for limit in limiter.resolve()]
            for limit, scope in found:
                yield Row(rule.endpoint, method, rule.rule, limit, scope)


def _left(limiter: Limiter, row: Row, key: str) -> int:
    names = limiter.count_names(key, row.scope)
    return int(limiter.limiter.get_window_stats(row.limit.limit, *names).remaining)
