"""Top clients: who is counted, under which rule, how keys are shown, and who shares the counts."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import uuid
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from prometheus_client import generate_latest
from rate_limiter import AsyncRateLimiter, RateLimiter, _core, hit_all
from rate_limiter.checks.arguments import TOP_MAX
from rate_limiter.fastapi import RateLimit, RateLimits
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.metrics import TopClient, registry, top_clients, watch
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.settings import Settings
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from werkzeug.test import Client


@pytest.fixture
def name() -> str:
    """Return a name that no other test has used."""
    return f"top-{uuid.uuid4().hex[:12]}"


def found(meter: str, **wanted: Any) -> list[TopClient]:
    """Return the top clients of a meter."""
    everyone = top_clients(10_000, **wanted)
    return [one for one in everyone if one.meter == meter]


def counts(meter: str) -> dict[tuple[str, str, bool], int]:
    """Return the counts of a meter by rule, key and result."""
    return {(one.rule, one.key, one.denied): one.count for one in found(meter)}


def measured(name: str, limits: str = "2/hour", **options: Any) -> RateLimiter:
    limiter = RateLimiter(limits)
    watch(limiter, name, **{"top": 100, "top_keys": "plain"} | options)
    return limiter


# --- What is counted ---


def test_every_way_to_decide(name: str) -> None:
    limiter = measured(name)
    awaitable = AsyncRateLimiter("2/hour")
    watch(awaitable, name, top=100, top_keys="plain")
    for _ in range(3):
        limiter.allow("allow")
        limiter.hit(b"hit")
        limiter.hit_each("each")
        asyncio.run(awaitable.hit("async"))
        hit_all([(limiter, "all")])
    limiter.allow_many(["many"] * 3)
    limiter.allow_many(["costly"] * 3, cost=5)
    limiter.peek("peek")
    limiter.refund("peek")
    keys = ("allow", "hit", "each", "async", "all", "many")
    expected = {("", key, denied): 1 if denied else 2 for key in keys for denied in (True, False)}
    assert counts(name) == expected | {("", "costly", True): 3}
    assert all(one.error == 0 and not one.shadow for one in found(name))
    assert {one.denied for one in found(name, denied=True)} == {True}
    assert {one.denied for one in found(name, denied=False)} == {False}
    assert [one.count for one in top_clients(2)] == sorted(
        (one.count for one in top_clients(2)), reverse=True
    )
    assert len(top_clients(1)) == 1
    assert top_clients(0) == []


def test_waiting_clients_count_their_denials(name: str) -> None:
    limiter = RateLimiter("1/hour", waiters_first=True)
    watch(limiter, name, top=1, top_keys="plain")
    limiter.allow("k")
    limiter.allow("k")
    assert counts(name) == {("", "k", False): 1, ("", "k", True): 1}


def test_nothing_is_counted_without_top(name: str) -> None:
    limiter = RateLimiter("1/hour")
    watch(limiter, name)
    limiter.allow("k")
    assert found(name) == []
    watch(limiter, name, top=5, top_keys="plain")  # from now on
    limiter.allow("k")
    assert counts(name) == {("", "k", True): 1}


def test_zipf_traffic(name: str) -> None:
    clients = [f"client-{number}" for number in range(5000)]
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(clients))))
    traffic = random.Random(1).choices(clients, cum_weights=weights, k=50_000)
    measured(name, "1000000/second").allow_many(traffic)
    truth = Counter(traffic)
    listed = found(name)
    assert {client for client, _ in truth.most_common(20)} <= {one.key for one in listed[:25]}
    for one in listed:
        # Counts fade by 1.2 % a second, and the test may take a few seconds.
        assert one.count - one.error <= truth[one.key] + 1
        assert one.count >= truth[one.key] * 0.5


def test_threads(name: str) -> None:
    limiter = measured(name, "1000000/second")

    def call(own: str) -> None:
        for _ in range(2000):
            limiter.allow(own)
            limiter.allow("shared")

    threads = [threading.Thread(target=call, args=(f"own-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert all(one.error == 0 for one in found(name))
    shared = max(found(name), key=lambda one: one.count)
    assert len(found(name)) == 5
    assert shared.key == "shared"
    assert 4000 <= shared.count <= 8000  # it fades while a slow machine runs the test


# --- Keys ---


def test_masked_keys_are_shortened_and_differ(name: str) -> None:
    limiter = measured(name, top_keys="masked")
    keys = ("203.0.113.9", "203.0.113.10", "user:joanna", "2001:db8:1:2::/64")
    for key in keys:
        limiter.allow(key)
    shown = {one.key for one in found(name)}
    assert len(shown) == 4
    prefixes = sorted(key.partition("…")[0] for key in shown)
    assert prefixes == ["2001:db8:1::/48", "203.0.113.0/24", "203.0.113.0/24", "user:jo"]
    assert all(len(key.partition("…")[2]) == 8 for key in shown)


def test_hashed_keys(name: str) -> None:
    limiter, other = measured(name, top_keys="hashed"), measured(name + "2", top_keys="hashed")
    for one in (limiter, other):
        one.allow("203.0.113.9")
    (key,) = {one.key for one in found(name)}
    assert len(key) == 16
    assert int(key, 16) > 0
    assert [one.key for one in found(name + "2")] == [key]  # a client has one hash everywhere


@pytest.mark.parametrize("top_keys", ["plain", "masked", "hashed"])
def test_hostile_keys_are_valid_text(name: str, top_keys: str) -> None:
    limiter = measured(name, top_keys=top_keys)
    hostile = [
        *("x" * 10_000, "x" * 10_001, "<script>alert(1)</script>", "\x1b[31m\0\r\n"),
        *("\u202eabc", "\ud800" * 50, "", "é" * 100),
        *(b"\xff\xfe", b"\xff" * 200),
    ]
    for key in hostile:
        limiter.allow(key)
    shown = [one.key for one in found(name)]
    assert len(set(shown)) == len(hostile)
    for key in shown:
        key.encode()  # no surrogates
        assert len(key) <= 270


def test_metrics_contain_no_keys(name: str) -> None:
    measured(name).allow("a-key-of-a-client")
    assert found(name)[0].key == "a-key-of-a-client"
    text = generate_latest(registry()).decode()
    assert name in text
    assert "a-key-of-a-client" not in text


# --- Fronts ---

RULES = {
    "files": {"path": "/files/*", "limits": "1/hour"},
    "shady": {"path": "/shady", "limits": "1/hour", "shadow": True},
    "closed": {"path": "/closed", "deny": True},
    "default": {"limits": "2/hour"},
}
BY_RULE = {
    ("default", "ip", False): 2,
    ("default", "ip", True): 1,
    ("files", "ip", False): 1,
    ("files", "ip", True): 2,
    ("shady", "ip", False): 1,
    ("shady", "ip", True): 2,
    ("closed", "ip", True): 3,
}


def by_rule(name: str) -> dict[tuple[str, str, bool], int]:
    return {(one.rule, "ip", one.denied): one.count for one in found(name)}


def test_asgi_rules(name: str) -> None:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, rules=RULES, metrics=name, top=10)
    client = TestClient(app)
    for path in ("/files/7", "/shady", "/closed", "/") * 3:
        client.get(path)
    assert by_rule(name) == BY_RULE
    assert {one.rule for one in found(name) if one.shadow} == {"shady"}


def test_wsgi_rules(name: str) -> None:
    app = WsgiMiddleware(Flask("app"), rules=RULES, metrics=name, top=10)
    client = Client(app)
    for path in ("/files/7", "/shady", "/closed", "/") * 3:
        client.get(path)
    assert by_rule(name) == BY_RULE


def test_flask(name: str) -> None:
    app = Flask("app")
    limiter = FlaskRateLimiter(app, default_limits="2/hour", metrics=name, top=10, top_keys="plain")
    app.add_url_rule("/", "plain", lambda: "ok")
    app.add_url_rule("/own", "own", limiter.limit("1/hour")(lambda: "ok"))
    for path in ("/", "/own") * 3:
        app.test_client().get(path)
    own = next(one.rule for one in found(name) if one.rule)
    assert counts(name) == {
        ("", "127.0.0.1", False): 2,
        ("", "127.0.0.1", True): 1,
        (own, "127.0.0.1", False): 1,
        (own, "127.0.0.1", True): 2,
    }


def test_fastapi(name: str) -> None:
    app = FastAPI()
    limits = RateLimits(metrics=name, top=10, top_keys="plain")
    own = RateLimit("1/hour", metrics=f"{name}-own", top=5, top_keys="hashed")
    app.get("/", dependencies=[limits("1/hour", key=lambda connection: "k")])(lambda: "ok")
    app.get("/own", dependencies=[Depends(own)])(lambda: "ok")
    client = TestClient(app)
    for path in ("/", "/own") * 2:
        client.get(path)
    assert counts(name) == {("GET /", "k", False): 1, ("GET /", "k", True): 1}
    assert {one.denied: one.count for one in found(f"{name}-own")} == {True: 1, False: 1}


def test_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "1/hour")
    monkeypatch.setenv("RATE_LIMITER_METRICS", name)
    monkeypatch.setenv("RATE_LIMITER_TOP", "10")
    monkeypatch.setenv("RATE_LIMITER_TOP_KEYS", "plain")
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, **Settings().middleware())
    TestClient(app).get("/")
    assert counts(name) == {("", "testclient", False): 1}


# --- Mistakes ---


def test_mistakes(name: str) -> None:
    limiter = measured(name, top=10)
    with pytest.raises(ValueError, match="counted already, with another top"):
        watch(limiter, name, top=20, top_keys="plain")
    with pytest.raises(ValueError, match="counted already, with another top"):
        watch(limiter, name, top=10)
    for top in (0, -1, TOP_MAX + 1):
        with pytest.raises(ValueError, match="top must be a number of clients from 1 to 100"):
            watch(limiter, name, top=top)
    for wrong in (True, 1.5, "5"):
        with pytest.raises(TypeError, match="top must be a whole number"):
            watch(limiter, name, top=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_keys must be 'plain', 'masked' or 'hashed'"):
        watch(limiter, name, top=10, top_keys="md5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="top_keys has no effect without top"):
        watch(limiter, name, top_keys="plain")
    with pytest.raises(ValueError, match="count must be >= 0"):
        top_clients(-1)
    with pytest.raises(TypeError, match="count must be a whole number"):
        top_clients(True)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: RateLimitMiddleware(FastAPI(), limits="1/hour", **options),
        lambda **options: WsgiMiddleware(Flask("app"), limits="1/hour", **options),
        lambda **options: FlaskRateLimiter(default_limits="1/hour", **options),
        lambda **options: RateLimit("1/hour", **options),
        lambda **options: RateLimits(**options),
    ],
)
def test_options_without_effect(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match="top has no effect without metrics"):
        make(top=5)
    with pytest.raises(TypeError, match="top_keys has no effect without"):
        make(top_keys="plain")
    with pytest.raises(TypeError, match="top_keys has no effect without top"):
        make(metrics=name, top_keys="plain")
    with pytest.raises(ValueError, match="top must be a number of clients"):
        make(metrics=name, top=101)


def test_the_sketch_itself(tmp_path: Path) -> None:
    for wrong, message in (
        ((b"short", 5, "plain"), "secret must have 16 bytes"),
        ((b"s" * 16, 0, "plain"), "clients must be from 1 to 100"),
        ((b"s" * 16, TOP_MAX + 1, "plain"), "clients must be from 1 to 100"),
        ((b"s" * 16, 5, "md5"), "keys must be 'plain', 'masked' or 'hashed'"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.ClientSketch(*wrong)  # type: ignore[arg-type]
    sketch, meter = _core.ClientSketch(b"s" * 16, TOP_MAX, "plain", tmp_path / "top"), _core.Meter()
    with pytest.raises(TypeError, match="sketch must be a ClientSketch, not int"):
        meter.count_clients(5)  # type: ignore[arg-type]
    meter.count_clients(sketch)
    with pytest.raises(ValueError, match="another sketch"):
        meter.count_clients(_core.ClientSketch(b"s" * 16, 5, "plain"))
    meter.record(2, 1, 5, "k")
    meter.record(1, 0, 5)  # without a key
    (client,) = sketch.read(True)
    assert client[1:] == (b"k", False, 2.0, 0.0)
    with pytest.raises(ValueError, match="something else"):
        _core.ClientSketch(b"s" * 16, 7, "plain", tmp_path / "top")
    secret = _core.client_secret(tmp_path / "secret")
    assert len(secret) == 16
    assert secret == _core.client_secret(str(tmp_path / "secret"))
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


# --- Processes ---

WORKER = """
import sys
from rate_limiter import RateLimiter
from rate_limiter.metrics import top_clients, watch

for ending, top_keys in ((".api", "masked"), ("/mails", "hashed"), (".raw", "plain")):
    limiter = RateLimiter("2/hour")
    watch(limiter, sys.argv[1] + ending, top=10, top_keys=top_keys)
    for _ in range(5):
        limiter.hit("user:joanna.smith")
print(*{one.key for one in top_clients(denied=True)})
"""


def test_processes_share_their_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    program = [sys.executable, "-c", WORKER, name]
    keys = [subprocess.check_output(program, text=True, timeout=60) for _ in range(2)]
    assert set(keys[0].split()) == set(keys[1].split())  # one secret for all processes
    (masked,), (plain,) = found(f"{name}.api", denied=True), found(f"{name}.raw", denied=True)
    assert 3 <= masked.count <= 6  # 3 of each process; they fade
    assert masked.key.startswith("user:joan…")
    assert plain.key == "user:joanna.smith"
    assert found(f"{name}/mails")
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with_keys = [one for one, content in files.items() if b"joanna.smith" in content]
    assert with_keys == [f"{name}.raw@@.rate_limiter_top_1_plain_10"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("*rate_limiter_[ts]*"))
    (tmp_path / "odd@@.rate_limiter_top_1_plain_10").write_bytes(b"odd")
    (tmp_path / "odd.rate_limiter_top_1_").write_bytes(b"odd")
    assert found(f"{name}.api")  # the others are still read
