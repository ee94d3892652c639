"""The document of the live page: numbers of all processes, and the last minutes."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import RateLimiter
from rate_limiter.metrics import watch
from rate_limiter.observe import live, live_history, registry
from rate_limiter.observe.live_history import OTHERS, RULES_MAX, SPAN_S, History, Sampler
from rate_limiter.observe.reading import Decisions
from rate_limiter.observe.top_clients import TopClient
from support.servers import free_port


@pytest.fixture(autouse=True)
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """Replace the sampler of this process by one without a thread."""
    made = Sampler()
    monkeypatch.setattr(live_history, "SAMPLER", made)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return made


def new_rule() -> str:
    return f"rule-{uuid.uuid4()}"


def of_rule(document: dict[str, Any], rule: str) -> dict[str, Any]:
    (found,) = (one for one in document["rules"] if one["rule"] == rule)
    return dict(found)


def counts(allowed: int, denied: int = 0, durations: tuple[int, ...] = ()) -> Decisions:
    return Decisions(allowed, denied, 0, durations, 0)


def test_a_rule(sampler: Sampler) -> None:
    rule, now_s = new_rule(), time.time()
    limiter = RateLimiter(["3/hour", "100/day"])
    watch(limiter, rule)
    sampler.sample(now_s - 4)
    assert [limiter.allow("client") for _ in range(5)] == [True] * 3 + [False] * 2
    sampler.sample(now_s)
    document = json.loads(json.dumps(live.snapshot()))
    assert of_rule(document, rule) == {
        "rule": rule,
        "allowed": 3,
        "denied": 2,
        "shadow_denied": 0,
        "allowed_per_s": 3 / 4,
        "denied_per_s": 2 / 4,
        "keys": 1,
        "bytes": limiter.stats()["bytes"],
        "evicted": 0,
        "limits": [{"limits": "3/hour, 100/day", "mode": "enforced", "store": "memory"}],
    }
    (sample,) = document["history"]["samples"]
    assert (sample["time"], sample["seconds"], sample["rules"][rule]) == (now_s, 4, [3, 2, 0])
    assert live.snapshot(since_s=now_s)["history"]["samples"] == []
    assert sum(document["latency"]["recent"]) == 5 <= sum(document["latency"]["counts"])
    assert 0 < document["latency"]["p50_s"] <= document["latency"]["p99_s"] < 1


def test_a_shadow_rule(sampler: Sampler) -> None:
    rule = new_rule()
    limiter = RateLimiter("1/hour")
    watch(limiter, rule, shadow=True)
    sampler.sample(time.time() - 5)
    for _ in range(3):
        limiter.allow("client")
    sampler.sample()
    found = of_rule(live.snapshot(), rule)
    assert (found["allowed"], found["denied"], found["shadow_denied"]) == (3, 0, 2)
    assert found["limits"][0]["mode"] == "shadow"


def test_a_store_that_fails() -> None:
    address = f"127.0.0.1:{free_port()}"
    limiter = RateLimiter("5/minute", store=f"redis://{address}/7?timeout=0.05")
    watch(limiter, new_rule())
    for _ in range(6):
        limiter.allow("client")
    (store,) = (one for one in live.snapshot()["stores"] if one["store"] == address)
    assert (store["status"], store["breaker"], store["without"]) == ("degraded", "open", 1)
    assert store["fallback_decisions"] == 6
    assert sum(store["errors"].values()) == 5
    assert address in store["last_error"]


def test_refused_rules_show_their_error(tmp_path: Path) -> None:
    from rate_limiter.policy.rule_sources import FileRules

    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "5/minute"}}')
    source = FileRules(file)
    file.write_text("{")
    source.reload()
    (found,) = (one for one in live.snapshot()["sources"] if one["source"] == str(file))
    assert [one["version"] for one in found["versions"]] == [source.version]
    assert (found["stale"], found["loaded"], found["refused"]) == (1, 1, 1)
    assert found["last_errors"] == [source.last_error]


def test_long_errors_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        def health(self) -> dict[str, Any]:
            fixed = {"version": "v", "loaded": 1, "refused": 1}
            return fixed | {"last_error": "x" * 10_000}

    source, name = Source(), new_rule()
    registry.follow_rules(source, name)
    (found,) = (one for one in live.snapshot()["sources"] if one["source"] == name)
    assert found["last_errors"] == ["x" * 500 + "..."]


def test_top_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(count: int, *, denied: bool) -> list[TopClient]:
        return [TopClient("api", "files" if denied else "", "k", denied, count, 3)]

    monkeypatch.setattr(live, "top_clients", found)
    assert live.snapshot(top=7)["top"] == {
        "denied": [{"rule": "api.files", "key": "k", "count": 7, "error": 3, "shadow": False}],
        "allowed": [{"rule": "api", "key": "k", "count": 7, "error": 3, "shadow": False}],
    }


# --- History ---


def test_old_samples_are_forgotten() -> None:
    history = History()
    for i in range(400):
        history.add({"a": counts(i)}, 1000.0 + 5 * i)
    now_s = 1000.0 + 5 * 399
    found = history.samples(now_s)
    assert len(found) == SPAN_S // 5
    assert found[0].time_s > now_s - SPAN_S
    assert history.samples(now_s + SPAN_S) == []


def test_a_clock_that_is_set_adds_nothing_wrong() -> None:
    history = History()
    for now_s, allowed in ((1000, 1), (1005, 3), (500, 7), (505, 8), (505, 9), (9000, 90)):
        history.add({"a": counts(allowed)}, now_s)
    assert [(one.time_s, one.rules) for one in history._samples] == [
        (1005, {"a": [2, 0, 0]}),
        (505, {"a": [1, 0, 0]}),
    ]


def test_counts_that_fall_start_again() -> None:
    history = History()
    for i, allowed in enumerate([5, 9, 2, 3]):
        history.add({"a": counts(allowed, 0, (allowed,))}, 1000 + 5 * i)
    found = history.samples(1015)
    assert [dict(one.rules) for one in found] == [{"a": [4, 0, 0]}, {}, {"a": [1, 0, 0]}]
    assert [one.by_duration for one in found] == [[4], [0], [1]]


def test_many_rules_are_added_up() -> None:
    history = History()
    history.add({}, 1000)
    history.add({str(i): counts(1000 - i, i) for i in range(1000)}, 1005)
    (sample,) = history.samples(1005)
    assert len(sample.rules) == RULES_MAX + 1
    assert sum(sum(each) for each in sample.rules.values()) == 1000 * 1000
    assert sum(sample.rules[OTHERS]) == 1000 * (1000 - RULES_MAX)


def test_processes_share_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(live_history, "all_decisions", lambda: {"a": counts(next(numbers))})
    numbers = iter(range(1, 100, 2))
    first, second = Sampler(), Sampler()
    for now_s in (1000, 1005):
        first.sample(now_s)
        second.sample(now_s + 1)  # the first one holds the file
    assert first.samples(1005) == second.samples(1005)
    assert [one.time_s for one in second.samples(1005)] == [1005]
    first._leave()  # as at the end of its process
    second.sample(1010)
    assert [one.rules for one in second.samples(1010)] == [{"a": [2, 0, 0]}] * 2
    assert first.samples(1010) == second.samples(1010)
    second._leave()


@pytest.mark.parametrize("content", ["", "[]", '{"samples": [{}], "before": {}}', "\0"])
def test_something_else_in_the_file(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "live.rate_limiter_history").write_text(content)
    sampler = Sampler()
    assert sampler.samples(1000) == []
    sampler.sample(1000)
    sampler.sample(1005)
    assert [one.time_s for one in sampler.samples(1005)] == [1005]
    sampler._leave()


def test_without_a_folder_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    sampler = Sampler()
    sampler.sample(1000)
    sampler.sample(1005)
    assert [one.time_s for one in sampler.samples(1005)] == [1005]
