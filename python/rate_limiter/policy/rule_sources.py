"""Sources of rules: a table, a file, or a hash in Redis. The last two reload without a restart.

An invalid new version is logged and counted, and the old one stays active.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rate_limiter.checks.arguments import checked_seconds, checked_text
from rate_limiter.checks.redaction import shown
from rate_limiter.policy.rules import RuleTable

if TYPE_CHECKING:
    from rate_limiter.stores.connection import Connection

logger = logging.getLogger("rate_limiter")

CHECK_EVERY_S = 1.0
RULES_KEY = "rl:rules"
VERSION = "$version"
"""The field of the hash that changes with every push."""
ORDER = "$order"
"""The field with the names in order, since a hash is unordered."""

_PUSH = """\
local version = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) + 1
redis.call('DEL', KEYS[1])
for name, text in pairs(cjson.decode(ARGV[2])) do
  redis.call('HSET', KEYS[1], name, text)
end
redis.call('HSET', KEYS[1], ARGV[1], version)
return version
"""


class RuleSource:
    """A source of rules that never change; subclasses reload them.

    Attributes:
        loaded: number of versions that were loaded.
        refused: number of versions that were invalid or could not be read.
        last_error: the error of the last version; None if it was loaded.
    """

    def __init__(self, table: RuleTable) -> None:
        self.loaded = 1
        self.refused = 0
        self.last_error: str | None = None
        self._table = table

    @property
    def is_fixed(self) -> bool:
        """Whether the rules never change."""
        return type(self) is RuleSource

    def current(self) -> RuleTable:
        """Return the current rules; a new object after each change."""
        return self._table

    def _take(self, table: RuleTable, what: str) -> None:
        self._table = table
        self.loaded += 1
        self.last_error = None
        logger.info("took new rules from %s: %s", what, ", ".join(table.rules))

    def _refuse(self, error: Exception, what: str) -> None:
        self.refused += 1
        if str(error) != self.last_error:
            logger.error("new rules are wrong, so the old ones stay: %s", error)
        self.last_error = str(error)

    def health(self) -> dict[str, Any]:
        """Return the rule status: ``rules``, ``loaded``, ``refused``, ``last_error``."""
        return {
            "rules": len(self._table.rules),
            "loaded": self.loaded,
            "refused": self.refused,
            "last_error": self.last_error,
        }


class FileRules(RuleSource):
    """Rules of a file. A request checks it for changes if the last check is a second old.

    Args:
        path: JSON, TOML or YAML.
        check_every_s: seconds between checks.

    Raises:
        RulesError: the file cannot be read, or is invalid.
    """

    def __init__(self, path: str | Path, *, check_every_s: float = CHECK_EVERY_S) -> None:
        from rate_limiter.policy.rule_files import load_rules

        self.path = Path(path)
        self._load = load_rules
        self._check_every_s = checked_seconds("check_every_s", check_every_s)
        self._busy_pid = 0  # the process in which a thread is checking
        self._state = self._stat()
        super().__init__(load_rules(self.path))
        self._next_s = time.monotonic() + check_every_s

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def current(self) -> RuleTable:
        if time.monotonic() >= self._next_s and self._busy_pid != os.getpid():
            self._busy_pid = os.getpid()
            try:
                self._next_s = time.monotonic() + self._check_every_s
                self._look()
            finally:
                self._busy_pid = 0
        return self._table

    def _look(self) -> None:
        state = self._stat()
        if state == self._state:
            return
        self._state = state
        try:
            table = self._load(self.path)
        except ValueError as error:
            self._refuse(error, str(self.path))
        else:
            self._take(table, str(self.path))


class RedisRules(RuleSource):
    """Rules of a hash in Redis for a whole fleet, written by ``rate-limiter rules push``.

    A request starts a thread that checks for changes if the last check is a second old.

    Args:
        store: the address of the Redis, a redis-py client or a RedisStore.
        key: the key of the hash.
        fallback: a file to use if Redis has no rules at the start.
        check_every_s: seconds between checks.

    Raises:
        RulesError: Redis has no rules, or invalid ones, and there is no fallback.
        StoreError: Redis did not answer, and there is no fallback.
    """

    def __init__(
        self,
        store: object,
        *,
        key: str = RULES_KEY,
        fallback: str | Path | None = None,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        from rate_limiter._core import StoreError
        from rate_limiter.policy.rule_files import RulesError, load_rules
        from rate_limiter.stores.address import redis_store

        self.key = checked_text("key", key)
        self._connection = redis_store(store, "memory").connection
        self._check_every_s = checked_seconds("check_every_s", check_every_s)
        self._version: bytes | None = None
        self._busy_pid = 0  # the process in which a thread is checking
        try:
            table = self._fetch()
        except (RulesError, StoreError) as error:
            if fallback is None:
                raise
            logger.error("could not load rules from Redis; using %s: %s", fallback, error)
            table = load_rules(fallback)
        super().__init__(table)
        self._next_s = time.monotonic() + check_every_s

    def _fetch(self) -> RuleTable:
        table, self._version = pull_rules(self._connection, self.key)
        return table

    def current(self) -> RuleTable:
        if time.monotonic() >= self._next_s and self._busy_pid != os.getpid():
            self._busy_pid = os.getpid()
            self._next_s = time.monotonic() + self._check_every_s
            threading.Thread(target=self._look, name="rate_limiter rules", daemon=True).start()
        return self._table

    def _look(self) -> None:
        try:
            version = self._connection.client.command("HGET", self.key, VERSION)
            if version != self._version:
                self._take(self._fetch(), f"Redis ({self.key})")
        except ValueError as error:
            self._version = version  # log each wrong version once
            self._refuse(error, self.key)
        except Exception as error:
            self._refuse(error, self.key)  # the next check tries again
        finally:
            self._busy_pid = 0


def push_rules(connection: Connection, table: RuleTable, key: str = RULES_KEY) -> int:
    """Replace the rules in Redis in one step; return their version.

    Raises:
        StoreError: Redis did not answer.
    """
    from rate_limiter.policy.rule_files import as_data

    texts = {name: json.dumps(rule) for name, rule in as_data(table).items()}
    texts[ORDER] = json.dumps(list(texts))
    version: int = connection.client.command("EVAL", _PUSH, "1", key, VERSION, json.dumps(texts))
    return version


def pull_rules(connection: Connection, key: str = RULES_KEY) -> tuple[RuleTable, bytes | None]:
    """Return the rules in Redis and their version.

    Raises:
        RulesError: there are none, or they are invalid.
        StoreError: Redis did not answer.
    """
    from rate_limiter.policy.rule_files import RulesError, check_rules

    words = connection.client.command("HGETALL", key)
    fields = dict(zip(words[::2], words[1::2], strict=True))
    version: bytes | None = fields.pop(VERSION.encode(), None)
    source = f"Redis ({key})"
    if not fields:
        raise RulesError(f"{source}: there are no rules; push some with 'rate-limiter rules push'")
    data: dict[str, Any] = {}
    for name, text in fields.items():
        try:
            data[name.decode()] = json.loads(text)
        except ValueError as error:
            raise RulesError(f"{source}: rule {name.decode(errors='replace')!r}: {error}") from None
    order = data.pop(ORDER, None)
    if isinstance(order, list):
        data = {name: data[name] for name in sorted(data, key=_rank(order))}
    return check_rules(data, source=source), version


def _rank(order: list[Any]) -> Callable[[str], int]:
    ranks = {name: i for i, name in enumerate(order) if isinstance(name, str)}
    return lambda name: ranks.get(name, len(ranks))


def as_source(rules: object) -> RuleSource:
    """Return the source of the rules.

    Args:
        rules: a RuleSource, a RuleTable, the path of a file, a dict like the data of a file, or
            the address of a Redis.

    Raises:
        TypeError: `rules` is something else.
        RulesError: the rules are invalid.
    """
    if isinstance(rules, RuleSource):
        return rules
    if isinstance(rules, RuleTable):
        return RuleSource(rules)
    if isinstance(rules, str) and "://" in rules:
        return RedisRules(rules)
    if isinstance(rules, (str, os.PathLike)):
        return FileRules(os.fspath(rules))
    if isinstance(rules, dict):
        from rate_limiter.policy.rule_files import check_rules

        return RuleSource(check_rules(rules))
    raise TypeError(
        f"rules must be a file, a dict, the address of a Redis or a RuleSource, got {shown(rules)}"
    )
