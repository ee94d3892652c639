"""New rules are compiled by the thread that loads them, and clients keep what they have used."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import ManualClock
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.rule_sources import FileRules, RuleSource
from rate_limiter.policy.rules import RuleTable, rules_of_limits
from rate_limiter.policy.storage import Storage

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}


class Noting(Storage):
    """A Storage that notes the threads that make limiters."""

    threads: list[str]

    def limiter(self, rule: Any, before: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        return super().limiter(rule, before)


def noting(**given: Any) -> Noting:
    storage = Noting(**given)
    object.__setattr__(storage, "threads", [])
    return storage


def rules(limits: str) -> str:
    return json.dumps({"default": {"limits": limits}, "x": {"path": "/x", "limits": "9/hour"}})


def limit(policy: Policy) -> float:
    verdict = policy.decide_now(dict(SCOPE))
    assert verdict is not None
    return verdict.decision.limit


def test_a_request_only_switches(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    storage = noting()
    source = FileRules(file, check_every_s=0.01)
    policy = Policy(source, storage, Identities())
    assert limit(policy) == 5
    storage.threads.clear()
    file.write_text(rules("7/hour"))
    while limit(policy) == 5:
        time.sleep(0.01)
    assert limit(policy) == 7
    assert set(storage.threads) == {"rate_limiter rules"}


def test_two_versions_between_requests(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    source = FileRules(file)
    policy = Policy(source, Storage(clock=ManualClock()), Identities())
    assert limit(policy) == 5
    for limits in ("6/hour", "8/hour"):
        file.write_text(rules(limits))
        source.reload()
    verdict = policy.decide_now(dict(SCOPE))
    assert verdict is not None
    assert verdict.decision.limit == 8
    assert verdict.remaining < 7  # the first request counts
    assert source.loaded == 3


def test_what_was_prepared_from_other_rules_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    source = FileRules(file)
    storage = noting()
    policy = Policy(source, storage, Identities())
    stale: list[Any] = []
    prepare = policy.prepare

    def slow(table: RuleTable) -> None:
        prepare(table)
        stale.append(policy._prepared)

    source.follow(holder := type("Slow", (), {"prepare": staticmethod(slow)})())
    file.write_text(rules("6/hour"))
    source.reload()
    assert limit(policy) == 6
    policy._prepared = stale[0]  # made while the rules before were still in use
    file.write_text(rules("7/hour"))
    source._followers.clear()
    source.reload()
    assert limit(policy) == 7
    assert holder


def test_rules_that_cannot_be_used_are_refused_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "rate_limiter")
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    source = FileRules(file)
    policy = Policy(source, Storage(), Identities(), cost=2)
    file.write_text(rules("1/hour"))  # the cost of the policy could never pass
    source.reload()
    assert [limit(policy) for _ in range(2)] == [5, 5]
    assert source.refused == 1
    assert caplog.text.count("new rules cannot be used, so the old ones stay") == 1
    file.write_text(rules("4/hour"))
    source.reload()
    assert limit(policy) == 4


def test_a_policy_is_not_kept_alive_by_its_source(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    source = FileRules(file)
    gone = weakref.ref(Policy(source, Storage(), Identities()))
    gc.collect()
    assert gone() is None
    kept = Policy(source, Storage(), Identities())
    assert len(source._followers) == 1
    assert limit(kept) == 5


def test_a_source_of_a_user_needs_no_thread() -> None:
    class Changing(RuleSource):
        def current(self) -> RuleTable:
            return self._table

    source = Changing(rules_of_limits("5/hour"))
    policy = Policy(source, Storage(), Identities())
    assert limit(policy) == 5
    source._table = rules_of_limits("6/hour")
    assert limit(policy) == 6


@pytest.mark.parametrize("kind", ["memory", "shared"])
def test_clients_keep_what_they_have_used(kind: str, tmp_path: Path) -> None:
    store = "memory://" if kind == "memory" else f"shared://{tmp_path}/buckets"
    file = tmp_path / "rules.json"
    file.write_text(rules("5/day; window=fixed"))
    source = FileRules(file)
    policy = Policy(source, Storage(store=store, max_keys=1000), Identities())
    for _ in range(4):
        limit(policy)
    file.write_text(rules("20/day; window=fixed"))
    source.reload()
    verdict = policy.decide_now(dict(SCOPE))
    assert verdict is not None
    assert (verdict.decision.limit, verdict.remaining) == (20, 15)


def test_the_old_limiters_are_freed_by_another_thread(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules("5/hour"))
    source = FileRules(file)
    policy = Policy(source, Storage(), Identities())
    freed: list[str] = []

    def note(_: Any) -> None:
        freed.append(threading.current_thread().name)

    gone = weakref.ref(policy.limiters()["default"], note)
    file.write_text(rules("7/hour"))
    source.reload()
    assert limit(policy) == 7
    while not freed:
        time.sleep(0.01)
    assert gone() is None
    assert freed == ["rate_limiter rules"]
