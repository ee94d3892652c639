"""Sources of rules: a table, a file, or a hash in Redis. The last two reload without a restart.

An invalid new version is logged and counted, and the old one stays active.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rate_limiter.checks.arguments import checked_seconds, checked_text
from rate_limiter.checks.redaction import redacted, shown
from rate_limiter.observe.registry import follow_rules
from rate_limiter.policy.rules import RuleTable

if TYPE_CHECKING:
    from rate_limiter.stores.connection import Connection

logger = logging.getLogger("rate_limiter")

CHECK_EVERY_S = 1.0
RULES_KEY = "rl:rules"
VERSION = "$version"
"""The field of the hash with the version: a hash of the rules."""
ORDER = "$order"
"""The field with the names in order, since a hash is unordered."""
NO_VERSION = "none"
"""The version while Redis has no rules."""
UNKNOWN_VERSION = "unknown"
"""The version of rules that something else has written."""

_YOUNG_NS = 2 * 10**9  # more than the resolution of times in any file system

_PUSH = f"""\
local version = redis.call('HGET', KEYS[1], ARGV[1])
  or redis.call('EXISTS', KEYS[1]) == 1 and '{UNKNOWN_VERSION}' or '{NO_VERSION}'
if ARGV[4] and ARGV[4] ~= version then
  return version
end
redis.call('DEL', KEYS[1])
for name, text in pairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', KEYS[1], name, text)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return nil
"""


class Follower(Protocol):
    """What uses the rules of a source."""

    def prepare(self, table: RuleTable) -> None: ...


class RuleSource:
    """A source of rules that never change; subclasses reload them.

    Attributes:
        loaded: number of versions that were loaded.
        refused: number of versions that were invalid or could not be read.
        last_error: the error of the last version; None if it was loaded.
        version: a hash of the rules in use; "" for rules that never change.
    """

    version = ""

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

    def follow(self, follower: Follower) -> None:
        """Call ``follower.prepare()`` with new rules before they are current.

        It is called by the thread that loads them, and not kept alive.
        """

    def health(self) -> dict[str, Any]:
        """Return the rule status.

        ``rules`` is their number; the other items are the attributes ``version``, ``loaded``,
        ``refused`` and ``last_error``.
        """
        return {
            "rules": len(self._table.rules),
            "version": self.version,
            "loaded": self.loaded,
            "refused": self.refused,
            "last_error": self.last_error,
        }


class ReloadedRules(RuleSource):
    """Rules that are loaded again when they change.

    A request starts a thread that checks for changes if the last check is `check_every_s` old. It
    does not wait for the thread, so it and those that follow use the rules before. The
    thread compiles new rules for all policies that follow, so requests do not wait for that either.
    """

    def __init__(self, table: RuleTable, what: str, check_every_s: float) -> None:
        super().__init__(table)
        self._what = what  # in logs and metrics
        self._check_every_s = check_every_s
        self._followers: list[weakref.ref[Follower]] = []
        self._busy_pid = 0  # the process in which a thread is checking
        self._next_s = time.monotonic() + check_every_s
        follow_rules(self, what)

    def current(self) -> RuleTable:
        if time.monotonic() >= self._next_s and self._busy_pid != os.getpid():
            self._busy_pid = os.getpid()
            thread = threading.Thread(target=self._run, name="rate_limiter rules", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many, or the interpreter ends
                self._busy_pid = 0
        return self._table

    def _run(self) -> None:
        try:
            self.reload()
        finally:
            self._next_s = time.monotonic() + self._check_every_s
            self._busy_pid = 0

    def reload(self) -> None:
        """Check for changes now, and load them. Rules that cannot be used are logged."""
        try:
            table = self._changed()
        except Exception as error:
            self._refuse(error)
        else:
            if table is not None:
                self._take(table)

    @abstractmethod
    def _changed(self) -> RuleTable | None:
        """Return new rules, None if they did not change.

        Raises:
            RulesError, StoreError: they cannot be used.
        """

    def follow(self, follower: Follower) -> None:
        alive = [one for one in self._followers if one() is not None]
        self._followers = [*alive, weakref.ref(follower)]

    def _take(self, table: RuleTable) -> None:
        for one in self._followers:
            follower = one()
            if follower is not None:
                follower.prepare(table)
        self._table = table
        self.loaded += 1
        self.last_error = None
        logger.info("loaded new rules from %s: %s", self._what, ", ".join(table.rules))

    def _refuse(self, error: Exception) -> None:
        if str(error) != self.last_error:  # else it is the same version again
            self.refused += 1
            logger.error("new rules are invalid; keeping the old ones: %s", error)
        self.last_error = str(error)


class FileRules(ReloadedRules):
    """Rules of a file. A request starts a thread that checks it for changes every second.

    Args:
        path: JSON, TOML or YAML.
        check_every_s: seconds between checks.

    Raises:
        RulesError: the file cannot be read, or is invalid.
    """

    def __init__(self, path: str | Path, *, check_every_s: float = CHECK_EVERY_S) -> None:
        self.path: Path = Path(path)
        self._state: _State | None = None  # of the file when it was read last
        self._is_young = False  # it may change once more without another state
        self._read: str | None = None  # the version of what was read last, usable or not
        check_every_s = checked_seconds("check_every_s", check_every_s)
        table = self._changed()
        assert table is not None
        super().__init__(table, redacted(str(self.path)), check_every_s)

    def _changed(self) -> RuleTable | None:
        from rate_limiter.policy.rule_files import parse_rules, read_text

        state = _state_of(self.path)
        if state == self._state and self._read is not None and not self._is_young:
            return None
        known, self._read = self._read, None
        self._state, self._is_young = state, _is_young(state)
        text = read_text(self.path)
        self._read = _version_of(text)
        if self._read == known:
            return None
        table = parse_rules(text, self.path.suffix.lower() or ".json", redacted(str(self.path)))
        self.version: str = self._read
        return table


class _State(NamedTuple):
    """What changes when a file does."""

    mtime_ns: int
    ctime_ns: int
    size: int
    inode: int


def _state_of(path: Path) -> _State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _State(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _is_young(state: _State | None) -> bool:
    return state is not None and time.time_ns() - state.ctime_ns < _YOUNG_NS


def _version_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RedisRules(ReloadedRules):
    """Rules of a hash in Redis for a whole fleet, written by ``rate-limiter rules push``.

    A request starts a thread that checks for changes every second.

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

        self.key: str = checked_text("key", key)
        self._connection = redis_store(store, "memory").connection
        check_every_s = checked_seconds("check_every_s", check_every_s)
        self._seen: bytes | None = None  # the version that was read last, usable or not
        try:
            table = self._fetch()
        except (RulesError, StoreError) as error:
            if fallback is None:
                raise
            logger.error("could not load rules from Redis; using %s: %s", fallback, error)
            table = load_rules(fallback)
        super().__init__(table, f"Redis ({self.key})", check_every_s)

    def _fetch(self) -> RuleTable:
        table, self._seen = pull_rules(self._connection, self.key)
        self.version: str = version_text(self._seen)
        return table

    def _changed(self) -> RuleTable | None:
        version = self._connection.client.command("HGET", self.key, VERSION)
        if version == self._seen:
            return None
        try:
            return self._fetch()
        except ValueError:
            self._seen = version  # refuse each wrong version once
            raise


def push_rules(
    connection: Connection,
    table: RuleTable,
    key: str = RULES_KEY,
    *,
    if_version: str | None = None,
) -> str:
    """Replace the rules in Redis in one step; return their version, a hash of them.

    Args:
        if_version: the version that must be there, NO_VERSION for none; None replaces any.

    Raises:
        RulesError: another version is there.
        StoreError: Redis did not answer.
    """
    from rate_limiter.policy.rule_files import RulesError, as_data

    texts = {name: json.dumps(rule) for name, rule in as_data(table).items()}
    texts[ORDER] = json.dumps(list(texts))
    pushed = json.dumps(texts)
    version = _version_of(pushed)
    expected = () if if_version is None else (if_version,)
    words = (VERSION, version, pushed, *expected)
    other: bytes | None = connection.client.command("EVAL", _PUSH, "1", key, *words)
    if other is not None:
        there = version_text(other)
        raise RulesError(f"Redis ({key}): the version there is {there}, not {if_version}")
    return version


def version_text(version: bytes | None) -> str:
    """Return the version of rules in Redis as a text to show: anything may have been written."""
    text = UNKNOWN_VERSION if version is None else version.decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)


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
