"""Metrics: what is counted, where it is shown, and how processes share it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from prometheus_client import REGISTRY, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rate_limiter import AsyncRateLimiter, Limit, ManualClock, RateLimiter, RateLimitPolicy, _core
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.metrics import registry, rl_allowed, rl_blocked, rl_latency
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.registry import meter, readings, watch
from rate_limiter.policy.rule_sources import FileRules, RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.settings import Settings
from rate_limiter.token_bucket import TokenBucketLimiter
from support.redis_servers import RedisServer, redis_server, wait_until
from support.servers import ROOT, serve


@pytest.fixture
def dimension() -> str:
    """Return a name that no other test has used."""
    return f"test-{uuid.uuid4().hex[:12]}"


def shown(name: str, **labels: str) -> float | None:
    """Return what this process shows."""
    return REGISTRY.get_sample_value(f"rate_limiter_{name}", labels)


def counted(dimension: str) -> tuple[float | None, float | None]:
    return (
        shown("allowed_total", dimension=dimension),
        shown("blocked_total", dimension=dimension),
    )


def samples() -> dict[tuple[str, str | None], float]:
    """Return what registry() shows, by name and dimension."""
    return {
        (sample.name, sample.labels.get("dimension")): sample.value
        for family in text_string_to_metric_families(generate_latest(registry()).decode())
        for sample in family.samples
    }


# --- Limiters ---


def test_decisions_are_counted_and_questions_are_not(dimension: str) -> None:
    limiter = RateLimiter("0/second; burst=5")
    limiter.allow("k")  # before
    watch(limiter, dimension)
    limiter.peek("k")
    limiter.peek_each("k")
    limiter.refund("k")
    limiter.charge("k")
    limiter.allow("k")
    limiter.hit("k")
    limiter.hit_each("k")
    limiter.allow_many(["k", "k", "x"])
    limiter.allow_many([])
    assert counted(dimension) == (5, 1)
    assert shown("decision_seconds_count", dimension=dimension) == 6
    assert shown("decision_seconds_bucket", dimension=dimension, le="+Inf") == 6
    assert 0 < shown("decision_seconds_sum", dimension=dimension) < 6  # type: ignore[operator]
    with pytest.raises(ValueError, match="finite"):
        limiter.allow("k", -1)
    assert counted(dimension) == (5, 1)


@pytest.mark.parametrize("clock", ["monotonic", "coarse", ManualClock(10**15)], ids=str)
def test_durations_are_real_whatever_the_clock(dimension: str, clock: Any) -> None:
    limiter = RateLimiter("5/second", clock=clock)
    watch(limiter, dimension)
    for _ in range(100):
        limiter.allow("k")
    sum_s = shown("decision_seconds_sum", dimension=dimension)
    assert sum_s is not None
    assert 100 * 1e-9 < sum_s < 100 * 1e-3


def test_a_limiter_is_measured_once(dimension: str) -> None:
    for limiter in (RateLimiter("5/second"), RateLimiter("5/second", store="redis://127.0.0.1:1")):
        watch(limiter, dimension)
        watch(limiter, dimension)
        with pytest.raises(ValueError, match="measured by another meter already"):
            watch(limiter, f"{dimension}-2")


def test_several_limiters_of_one_dimension(dimension: str) -> None:
    limiters = [RateLimiter("1/hour") for _ in range(3)]
    for limiter in limiters:
        watch(limiter, dimension)
        limiter.allow("k")
        limiter.allow("k")
    assert counted(dimension) == (3, 3)
    assert shown("keys", dimension=dimension) == 3
    assert shown("table_bytes", dimension=dimension) == sum(
        limiter.stats()["bytes"] for limiter in limiters
    )


def test_shadow_denials_are_no_real_ones(dimension: str) -> None:
    real, shadow = RateLimiter("1/hour"), RateLimiter("1/hour")
    watch(real, dimension)
    watch(shadow, dimension, shadow=True)
    assert shown("shadow_denied_total", dimension=dimension) == 0
    for limiter in (real, real, shadow, shadow, shadow):
        limiter.allow("k")
    assert counted(dimension) == (4, 1)  # three requests passed the shadow rule
    assert shown("shadow_denied_total", dimension=dimension) == 2
    assert shown("decision_seconds_count", dimension=dimension) == 5
    with pytest.raises(ValueError, match="measured by another meter already"):
        watch(shadow, dimension)


def test_shadow_denials_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimension: str
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    dimension = f"{dimension}/@shadow"
    meter(dimension, shadow=True).record(2, 3, 10)
    meter(dimension).record(4, 5, 10)
    assert counted(dimension) == (9, 5)
    assert shown("shadow_denied_total", dimension=dimension) == 3
    assert len(list(tmp_path.glob("*meter*"))) == 2


def test_rules_have_series_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"default": {"limits": "5/minute"}}')
    source = FileRules(path)

    def of_rules(version: str) -> list[float | None]:
        """Return what is shown of the rules: loaded, refused, stale, processes of the version."""
        labels = {"source": str(path)}
        plain = [
            shown(f"rules_{name}", **labels) for name in ("loaded_total", "refused_total", "stale")
        ]
        return [*plain, shown("rules_info", version=version, **labels)]

    first = source.version
    assert of_rules(first) == [1, 0, 0, 1]
    path.write_text("{")
    source.reload()
    assert of_rules(first) == [1, 1, 1, 1]
    path.write_text('{"default": {"limits": "6/minute"}}')
    source.reload()
    assert of_rules(source.version) == [2, 1, 0, 1]
    assert of_rules(first)[-1] is None


def test_errors_of_a_store_have_series_from_the_start(dimension: str) -> None:
    limiter = RateLimiter("1/s", store="redis://127.0.0.1:1/7")
    watch(limiter, dimension)
    found = {one.labels["kind"]: one.value for one in readings() if one.name == "store_errors"}
    source = (ROOT / "csrc/python/redis/errors.c").read_text()
    kinds = re.findall(r'\[RL_FAULT_\w+\] = "(\w+)"', source)
    assert set(found) == set(kinds) - {"none"}


def test_a_large_table_is_swept_in_a_thread(dimension: str) -> None:
    """Metrics may be collected on an event loop, which a sweep of 600,000 keys would block."""
    clock = ManualClock()
    limiter = RateLimiter("1/second", clock=clock)
    watch(limiter, dimension)
    limiter.allow_many([str(number) for number in range(60_000)])
    clock.advance(60)
    assert shown("keys", dimension=dimension) == 60_000
    wait_until(lambda: shown("keys", dimension=dimension) == 0, "the full buckets are freed")


@pytest.mark.parametrize("is_asyncio", [False, True])
def test_redis(server: RedisServer, dimension: str, is_asyncio: bool) -> None:
    limiter = RateLimiter("0/second; burst=3", store=server.url, name=dimension)
    awaited = AsyncRateLimiter.of(limiter)
    watch(awaited if is_asyncio else limiter, dimension)

    async def ask() -> None:
        await awaited.allow("k")
        await awaited.hit("k")
        await awaited.peek("k")
        await awaited.allow_many(["k", "k"])
        await awaited.hit_each("k")

    if is_asyncio:
        asyncio.run(ask())
    else:
        limiter.allow("k")
        limiter.hit("k")
        limiter.peek("k")
        limiter.allow_many(["k", "k"])
        limiter.hit_each("k")
    assert counted(dimension) == (3, 2)
    assert shown("keys", dimension=dimension) == 0  # there is nothing in this memory
    assert shown("decision_seconds_bucket", dimension=dimension, le="1e-06") == 0


def test_a_store_that_fails(tmp_path: Path, dimension: str) -> None:
    with redis_server(tmp_path) as redis:
        limiter = RateLimiter("0/second; burst=9", store=redis.url)
        watch(limiter, dimension)
        store = ", ".join(limiter.store.connection.client.servers)  # type: ignore[attr-defined]
        wait_until(lambda: bool(limiter.peek("k")) and limiter.store.ping(), "Redis decides")  # type: ignore[attr-defined]
        wait_until(lambda: shown("fallback_active", store=store) == 0, "no fallback")
        before = shown("fallback_decisions_total", store=store)
        redis.kill()
        for _ in range(4):
            limiter.hit("k")
        assert shown("fallback_active", store=store) == 1
        after = shown("fallback_decisions_total", store=store)
        assert before is not None
        assert after == before + 4
        assert counted(dimension) == (4, 0)
        kinds = [
            shown("store_errors_total", store=store, kind=kind) for kind in ("lost", "connect")
        ]
        assert sum(kind or 0 for kind in kinds) >= 1
        redis.start()
        wait_until(lambda: limiter.hit("x") and shown("fallback_active", store=store) == 0, "back")


def test_evictions_are_never_forgotten(dimension: str) -> None:
    def flood() -> None:
        limiter = RateLimiter("1/hour; burst=1000", max_keys=100)
        watch(limiter, dimension)
        for number in range(20_000):
            limiter.allow(f"{number}")
        assert shown("evicted_active_total", dimension=dimension)

    flood()
    first = shown("evicted_active_total", dimension=dimension)
    flood()
    second = shown("evicted_active_total", dimension=dimension)
    assert first is not None
    assert second is not None
    assert second > first > 0
    assert shown("keys", dimension=dimension) is None  # they are gone


def test_evictions_are_counted_once(dimension: str) -> None:
    """Also where rules are read again, and a limiter with other limits takes over the clients."""
    limiter = RateLimiter("1/hour; burst=1000", max_keys=100)
    for number in range(20_000):
        limiter.allow(f"before {number}")
    watch(limiter, dimension)
    assert shown("evicted_active_total", dimension=dimension) == 0
    for number in range(20_000):
        limiter.allow(f"{number}")
    first = shown("evicted_active_total", dimension=dimension)
    assert first is not None
    assert 0 < first <= 20_000
    watch(limiter, dimension)
    assert shown("evicted_active_total", dimension=dimension) == first
    changed = limiter.with_limits("2/hour; burst=1000")
    watch(changed, dimension)
    assert shown("evicted_active_total", dimension=dimension) == first
    for number in range(1000):
        changed.allow(f"after {number}")
    after = shown("evicted_active_total", dimension=dimension)
    assert after is not None
    assert first < after <= first + 1000


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs Linux")
def test_shared_memory_is_reported_once(tmp_path: Path, dimension: str) -> None:
    """Numbers of another file are added."""
    one, same, other = (
        RateLimiter("1/hour", store=f"shared://{tmp_path}/app", name=name, max_keys=100)
        for name in ("one", "one", "other")
    )
    for limiter in (one, same, other):
        watch(limiter, dimension)
    for number in range(5):
        one.allow(str(number))
    for number in range(7):
        other.allow(str(number))
    assert shown("keys", dimension=dimension) == 5 + 7
    in_both = one.stats()["bytes"] + other.stats()["bytes"]
    assert shown("table_bytes", dimension=dimension) == in_both


def test_threads_count_exactly(dimension: str) -> None:
    limiter = RateLimiter("0/second; burst=1000")
    watch(limiter, dimension)
    threads = [
        threading.Thread(target=lambda: [limiter.allow("k") for _ in range(500)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(dimension) == (1000, 3000)


# --- HTTP ---


def send_all(app: Any, paths: list[str], **headers: str) -> list[int]:
    client = TestClient(app)
    return [client.get(path, headers=headers).status_code for path in paths]


def test_middleware(dimension: str) -> None:
    app = FastAPI()
    app.get("/")(lambda: "ok")
    app.add_middleware(
        RateLimitMiddleware, limits="2/minute", metrics=dimension, exempt_paths=["/free"]
    )
    assert send_all(app, ["/", "/", "/", "/free"]) == [200, 200, 429, 404]
    assert counted(dimension) == (2, 1)


def test_rules_have_separate_dimensions(dimension: str) -> None:
    app = FastAPI()
    rules = {
        "default": {"limits": "1/minute"},
        "files": {"path": "/files/*", "limits": "2/minute"},
        "tried": {"path": "/tried", "limits": "1/minute", "shadow": True},
        "free": {"path": "/free", "exempt": True},
    }
    app.add_middleware(RateLimitMiddleware, rules=rules, metrics=dimension)
    paths = ["/", "/", "/files/1", "/files/2", "/tried", "/tried", "/free"]
    assert send_all(app, paths) == [404, 429, 404, 404, 404, 404, 404]
    assert counted(f"{dimension}.default") == (1, 1)
    assert counted(f"{dimension}.files") == (2, 0)
    assert counted(f"{dimension}.tried") == (2, 0)  # both requests passed
    assert shown("shadow_denied_total", dimension=f"{dimension}.tried") == 1
    assert shown("shadow_denied_total", dimension=f"{dimension}.files") == 0
    assert counted(f"{dimension}.free") == (None, None)


def test_plain_limits_with_a_status_path_have_the_name_alone(dimension: str) -> None:
    app = FastAPI()
    app.add_middleware(
        RateLimitMiddleware, limits="1/minute", metrics=dimension, status_path="/status"
    )
    assert send_all(app, ["/", "/", "/status"]) == [404, 429, 200]
    assert counted(dimension) == (1, 1)


class ChangingRules(RuleSource):
    """Rules that a test sets."""

    def __init__(self, *rules: Rule) -> None:
        self.table = RuleTable(rules)
        super().__init__(self.table)

    def current(self) -> RuleTable:
        return self.table


def test_rules_that_change_keep_their_counts(dimension: str) -> None:
    app = FastAPI()
    source = ChangingRules(Rule("default", (Limit(1, 1 / 60),)))
    app.add_middleware(RateLimitMiddleware, rules=source, metrics=dimension)
    assert send_all(app, ["/", "/"]) == [404, 429]
    source.table = RuleTable(
        [Rule("default", (Limit(2, 1 / 60),)), Rule("x", (Limit(1, 1),), paths=("/x",))]
    )
    assert send_all(app, ["/", "/", "/x"]) == [404, 429, 404]
    assert counted(f"{dimension}.default") == (2, 2)
    assert counted(f"{dimension}.x") == (1, 0)


@pytest.mark.parametrize("store", ["memory://", "shared://"])
def test_a_rule_that_stops_being_a_shadow(dimension: str, store: str, tmp_path: Path) -> None:
    store = store if store == "memory://" else f"{store}{tmp_path}/buckets"
    limits = (Limit(1, 1 / 3600),)
    source = ChangingRules(Rule("default", limits, shadow=True))
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, rules=source, metrics=dimension, store=store)
    assert send_all(app, ["/", "/"]) == [404, 404]
    source.table = RuleTable([Rule("default", limits)])
    assert send_all(app, ["/"]) == [429]
    assert counted(f"{dimension}.default") == (2, 1)
    assert shown("shadow_denied_total", dimension=f"{dimension}.default") == 1


def test_rules_that_change_when_the_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimension: str
) -> None:
    """The new rules apply, and are counted in the process."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    app = FastAPI()
    source = ChangingRules(Rule("default", (Limit(1, 1 / 60),)))
    app.add_middleware(RateLimitMiddleware, rules=source, metrics=dimension)
    assert send_all(app, ["/"]) == [404]
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))
    source.table = RuleTable([Rule("other", (Limit(5, 1 / 60),))])
    assert send_all(app, ["/", "/"]) == [404, 404]
    assert source.refused == 0
    assert samples()["rate_limiter_allowed_total", f"{dimension}.other"] == 2


def test_fastapi_dependency(dimension: str) -> None:
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("1/minute", metrics=dimension))])(lambda: "ok")
    assert send_all(app, ["/", "/"]) == [200, 429]
    assert counted(dimension) == (1, 1)


def test_flask(dimension: str) -> None:
    app = Flask("web")
    limiter = FlaskRateLimiter(app, default_limits="2/minute", metrics=dimension)
    app.get("/")(lambda: "ok")
    app.get("/upload", endpoint="upload")(limiter.limit("1/minute", name="upload")(lambda: "ok"))
    client = app.test_client()
    statuses = [client.get(path).status_code for path in ("/", "/", "/", "/upload", "/upload")]
    assert statuses == [200, 200, 429, 200, 429]
    assert counted(dimension) == (2, 1)
    assert counted(f"{dimension}.upload") == (1, 1)


def test_gateway_shows_its_store_too(server: RedisServer, dimension: str) -> None:
    policy = RateLimitPolicy(rate_per_sec=0.001, burst=2)
    app = FastAPI()
    limiter = TokenBucketLimiter(server.url, policy)
    app.add_middleware(
        RateLimitMiddleware, limiter=limiter, policy=policy, dimension_label=dimension
    )
    assert send_all(app, ["/"] * 3, **{"x-api-key": dimension}) == [404, 404, 429]
    assert counted(dimension) == (2, 1)
    assert shown("decision_seconds_count", dimension=dimension) == 3
    assert shown("keys", dimension=dimension) == 0
    with pytest.raises(TypeError, match="dimension_label"):
        RateLimitMiddleware(app, limiter, policy, metrics=dimension)


def test_what_others_count_is_added(dimension: str) -> None:
    rl_allowed.labels(dimension).inc(2)
    rl_blocked.labels(dimension=dimension).inc()
    rl_latency.labels(dimension).observe(0.003)
    limiter = RateLimiter("5/second")
    watch(limiter, dimension)
    limiter.allow("k")
    assert counted(dimension) == (3, 1)
    assert shown("decision_seconds_count", dimension=dimension) == 2
    assert shown("decision_seconds_bucket", dimension=dimension, le="0.0025") == 1
    assert shown("decision_seconds_bucket", dimension=dimension, le="0.005") == 2


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITER_METRICS", "api")
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "5/minute")
    assert Settings().middleware()["metrics"] == "api"


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("", ValueError, "1 to 200 characters, got ''"),
        ("\U0001f40d" * 20, ValueError, "1 to 200 characters"),
        ("\ud800", ValueError, r"text that UTF-8 can hold, got '\\ud800'"),
        (5, TypeError, "must be a str, got 5"),
    ],
)
def test_dimensions_that_cannot_be(metrics: Any, error: type[Exception], message: str) -> None:
    policy = RateLimitPolicy(rate_per_sec=1, burst=2)
    limiter = TokenBucketLimiter("redis://127.0.0.1:1", policy)
    for make in (
        lambda: RateLimitMiddleware(FastAPI(), limits="5/minute", metrics=metrics),
        lambda: RateLimitMiddleware(FastAPI(), limiter, policy, dimension_label=metrics),
        lambda: RateLimit("5/minute", metrics=metrics),
        lambda: FlaskRateLimiter(metrics=metrics),
        lambda: watch(RateLimiter("5/minute"), metrics),
    ):
        with pytest.raises(error, match=message):
            make()


def test_something_else_is_not_watched() -> None:
    with pytest.raises(TypeError, match="RateLimiter or AsyncRateLimiter, got 'x'"):
        watch("x", "api")


def test_without_prometheus_client(run_python: Callable[..., str]) -> None:
    program = """
import sys
sys.modules["prometheus_client"] = None
from rate_limiter.middleware import RateLimitMiddleware
try:
    RateLimitMiddleware(None, limits="5/minute", metrics="api")
except ImportError as error:
    print(error, error.name)
RateLimitMiddleware(None, limits="5/minute")
"""
    expected = "metrics='api' needs prometheus_client: pip install 'rate-limiter-c[metrics]'"
    assert run_python(program) == f"{expected} prometheus_client\n"


def test_registry_can_be_described() -> None:
    names = {family.name for family in registry().collect()}
    assert {"rate_limiter_allowed", "rate_limiter_decision_seconds"} <= names
    with pytest.raises(ValueError, match="Duplicated timeseries"):  # also of what is not there yet
        Counter("rate_limiter_store_errors", "Somebody else's.")


def test_a_registry_that_was_cleared(run_python: Callable[..., str]) -> None:
    program = """
from prometheus_client import REGISTRY, generate_latest
from rate_limiter import RateLimiter
from rate_limiter.metrics import registry, watch
limiter = RateLimiter("5/second")
watch(limiter, "cleared")
for collector in list(REGISTRY._collector_to_names):
    REGISTRY.unregister(collector)
for _ in range(2):
    print(generate_latest(registry()).decode().count("rate_limiter_allowed_total{"))
"""
    assert run_python(program) == "1\n1\n"


# --- Meters ---


def test_meter() -> None:
    made = _core.Meter()
    made.record(2, 1, 600)
    made.record(0, 0, 600)
    allowed, blocked, sum_ns = made.read()
    assert (sum(allowed), sum(blocked), sum_ns) == (2, 1, 1800)
    assert allowed[1] == 2
    assert len(allowed) == len(_core.METER_BOUNDS_NS) + 1
    with pytest.raises(RuntimeError, match="twice"):
        made.__init__()  # type: ignore[misc]
    with pytest.raises(TypeError, match="must be a Meter, not int"):
        RateLimiter("5/second")._measure(5)  # type: ignore[arg-type]
    unmade = _core.Meter.__new__(_core.Meter)
    for call in (unmade.read, lambda: unmade.record(1, 0, 1)):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    with pytest.raises(RuntimeError, match="not initialised"):
        RateLimiter("5/second")._measure(unmade)


def test_meter_in_a_file(tmp_path: Path) -> None:
    one, two = _core.Meter(tmp_path / "m"), _core.Meter(str(tmp_path / "m"))
    one.record(1, 0, 5)
    two.record(1, 2, 5)
    assert one.read() == two.read()
    assert sum(one.read()[1]) == 2
    (tmp_path / "odd").write_text("something else")
    with pytest.raises(ValueError, match=r"odd'.* is something else"):
        _core.Meter(tmp_path / "odd")
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    with pytest.raises(PermissionError, match="no other user can write"):
        _core.Meter(tmp_path / "open")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _core.Meter(tmp_path / "nowhere" / "m")


# --- Processes ---

WORKERS = """
import os
from pathlib import Path

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from rate_limiter.metrics import registry, rl_allowed
from rate_limiter.middleware import RateLimitMiddleware

app = FastAPI()
app.add_middleware(
    RateLimitMiddleware, limits="0/second; burst=10", metrics="api", exempt_paths=["/metrics"],
    key="header:x-client", trusted_proxies=["10.0.0.0/8"],
)

@app.get("/")
async def index():
    rl_allowed.labels("other").inc()
    return os.getpid()

@app.get("/metrics")
def metrics():
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)
"""


@pytest.fixture(params=["", "--preload"], ids=["", "preload"])
def workers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run three workers of gunicorn; yield where they answer."""
    (tmp_path / "app.py").write_text(WORKERS)
    (tmp_path / "shared").mkdir()
    command = [
        *("-m", "gunicorn", "--workers=3", "--worker-class=uvicorn_worker.UvicornWorker"),
        *("--bind=127.0.0.1:{port}", "--keep-alive=0", "app:app"),
        *([request.param] if request.param else []),
    ]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")}
    with serve(tmp_path / "log", *command, cwd=tmp_path, environment=environment) as running:
        yield running.url


def ask(url: str, **headers: str) -> httpx.Response:
    """Open a new connection, so that any worker may respond."""
    return httpx.get(url, headers=headers, timeout=30)


def scraped(url: str) -> dict[tuple[str, str], float]:
    """Return the samples that any of the workers shows, by name and dimension."""
    families = text_string_to_metric_families(ask(f"{url}/metrics").text)
    found: dict[tuple[str, str], float] = {}
    for family in families:
        for sample in family.samples:
            if "dimension" in sample.labels and sample.labels.get("le", "+Inf") == "+Inf":
                place = (sample.name.removeprefix("rate_limiter_"), sample.labels["dimension"])
                assert place not in found, "shown twice"
                found[place] = sample.value
    return found


def test_workers_count_together(workers: str) -> None:
    pids: set[int] = set()
    asked = 0

    def ask_one() -> None:
        nonlocal asked
        asked += 1
        answer = ask(workers, **{"x-client": str(asked)})
        assert answer.status_code == 200
        pids.add(answer.json())

    wait_until(lambda: ask_one() or len(pids) == 3, "each worker answers")
    found = scraped(workers)
    assert found["allowed_total", "api"] == asked
    assert found["allowed_total", "other"] == asked  # of prometheus_client's own files
    assert found["decision_seconds_count", "api"] == asked
    assert found["decision_seconds_bucket", "api"] == asked
    wait_until(lambda: scraped(workers)["keys", "api"] == asked, "all workers have published")

    os.kill(next(iter(pids)), signal.SIGKILL)
    wait_until(lambda: scraped(workers)["keys", "api"] < asked, "the dead worker has no keys")
    assert scraped(workers)["allowed_total", "api"] == asked  # but its decisions stay


ENDING = """
import os, sys, time
from rate_limiter import RateLimiter
from rate_limiter.observe.registry import publish, watch
limiter = RateLimiter("1/hour; burst=1000", max_keys=100)
watch(limiter, "flooded")
for number in range(20_000):
    limiter.allow(str(number))
if sys.argv[1] == "fork" and os.fork() == 0:
    for number in range(20_000, 21_000):
        limiter.allow(str(number))
    sys.exit()
print(limiter.stats()["evicted_active"])
if sys.argv[1] == "fork":
    os.wait()
"""


@pytest.mark.parametrize("way", ["end", "fork"])
def test_what_a_process_counted_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", ENDING, way],
        capture_output=True,
        text=True,
        check=True,
    )
    own = int(done.stdout)
    found = samples()
    total = found["rate_limiter_evicted_active_total", "flooded"]
    if way == "end":
        assert total == own > 0
    else:  # the child's are added, and the parent's not counted twice
        assert own + 500 < total <= own + 1000
    assert found["rate_limiter_allowed_total", "flooded"] >= 100
    assert ("rate_limiter_keys", "flooded") not in found  # they are gone
    with contextlib.suppress(KeyError):
        meter.__globals__["_meters"].pop("flooded")


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["init", "this one"])
def test_a_dead_process_whose_id_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """Counters of a process that has ended are shown, its gauges are not."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    left = [
        {"name": "keys", "labels": {"dimension": "dead"}, "value": 7, "is_gauge": True},
        {"name": "evicted_active", "labels": {"dimension": "dead"}, "value": 5},
    ]
    (tmp_path / f"{pid}.rate_limiter_readings").write_text(json.dumps(left))
    of_dead = {one.name: one.value for one in readings() if one.labels == {"dimension": "dead"}}
    assert of_dead == {"evicted_active": 5}


def test_readings_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "0.rate_limiter_readings").write_text('[{"names": "keys"}]')
    left = [{"name": "evicted_active", "labels": {"dimension": "left"}, "value": 5}]
    (tmp_path / "1.rate_limiter_readings").write_text(json.dumps(left))
    found = {one.name: one.value for one in readings() if one.labels == {"dimension": "left"}}
    assert found == {"evicted_active": 5}
    assert "of another version: empty the folder" in caplog.text


def run_in(folder: Path, program: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program that shares its numbers in a folder that this process does not use."""
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_workers_that_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no more files than workers at a time, and no count is lost."""
    program = ENDING.replace("flooded", "replaced")
    evicted = sum(int(run_in(tmp_path, program, "end").stdout) for _ in range(3))
    assert len(list(tmp_path.glob("*.rate_limiter_readings"))) == 1
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert [one.value for one in readings() if one.labels == {"dimension": "replaced"}] == [evicted]


KILLED = """
import os, signal
from rate_limiter import RateLimiter
from rate_limiter.observe import registry as measuring
measuring.PUBLISHED_EVERY_S = 1000
limiter = RateLimiter("1/hour; burst=1000", max_keys=100)
measuring.watch(limiter, "killed")
for number in range(20_000):
    limiter.allow(str(number))
print(*(one.value for one in measuring.readings() if one.name == "evicted_active"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_shown_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_in(tmp_path, KILLED)
    assert done.returncode == -signal.SIGKILL
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    of_dead = {one.name: one.value for one in readings() if one.labels == {"dimension": "killed"}}
    assert of_dead == {"evicted_active": int(done.stdout)}


FORKING = """
import os
from rate_limiter import RateLimiter
from rate_limiter.observe.registry import publish, readings, watch
limiter = RateLimiter("5/second", store="redis://127.0.0.1:1")
watch(limiter, "forking")
limiter.allow("k")
child = os.fork()
limiter.allow("k")
publish()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
for one in readings():
    if one.name in ("fallback_decisions", "store_errors") and one.value:
        print(one.name, one.value)
"""


def test_what_was_before_a_fork_is_reported_once(tmp_path: Path) -> None:
    done = run_in(tmp_path, FORKING)
    assert sorted(done.stdout.splitlines()) == ["fallback_decisions 3", "store_errors 3"]
