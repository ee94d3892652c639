"""Secrets show in no repr, error, traceback, log, health, metric, dump or output of a command."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from prometheus_client import generate_latest
from rate_limiter import (
    AsyncRateLimiter,
    AsyncTokenBucketRateLimiter,
    RateLimitConfig,
    RateLimiter,
    RateLimiterMiddleware,
    RateLimitPolicy,
    StoreError,
    TokenBucket,
    TokenBucketLimiter,
    TokenBucketRateLimiter,
)
from rate_limiter.checks.redaction import redacted
from rate_limiter.cli.load.generator import LoadPlan
from rate_limiter.cli.main import main as command
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.jwt import Jwt
from rate_limiter.metrics import registry
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.rule_sources import RedisRules, as_source
from rate_limiter.policy.storage import Storage
from rate_limiter.redis_client import get_redis
from rate_limiter.redis_store_async import AsyncRedisStore
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake
from rate_limiter.stores.address import check_store
from rate_limiter.stores.connection import connect
from rate_limiter.stores.redis_address import redis_address
from rate_limiter.stores.redis_store import RedisStore
from support.fake_redis import FakeConnection, fake_redis
from support.redis_servers import RedisServer, redis_server
from support.servers import serve

SECRET = "PLANTED0secret0value0of0thirty2bytes"
WORD = "PLANTED"  # in every secret here, and in each piece of one
HERE = "127.0.0.1:1"  # nothing listens

GOOD = [
    f"redis://:{SECRET}@{HERE}/0",
    f"redis://user:{SECRET}@{HERE}",
    f"redis://:{SECRET}%40{SECRET}@{HERE}",
    f"rediss://user:{SECRET}@{HERE}/0?ssl_cert_reqs=none",
    f"unix://:{SECRET}@/nowhere/redis.sock?db=1",
    f"redis+sentinel://:{SECRET}@{HERE}/mymaster?sentinel_password={SECRET}",
    f"redis+cluster://:{SECRET}@{HERE}",
    f"redis://{HERE}?username=u&password={SECRET}",
    f"redis://{HERE}?password=p@{SECRET}",
]
BAD = [
    f"redis://:{SECRET}:{SECRET}@{SECRET}#{SECRET}@{HERE}",
    f"redis://user:{SECRET}",
    f"redis://user:9{SECRET}",
    f"redis://:{SECRET}/{SECRET}@{HERE}",
    f"redis://:{SECRET}?{SECRET}@{HERE}",
    f"redis://u:12/{SECRET}?x@{HERE}",
    f"redis+cluster://u:{SECRET},{SECRET}@{HERE}@{HERE}",
    f"redis://{HERE}?password={SECRET}&{SECRET}=1",
    f"redis://{HERE}?password={SECRET}&{SECRET}",
    f"redis://:{SECRET}@{HERE}?nope=1",
    f"redis://:{SECRET}@{HERE}/abc",
    f"redis://:{SECRET}@127.0.0.1:abc",
    f"redis://:{SECRET}%zz@{HERE}",
    f"redis://:{SECRET} {SECRET}@{HERE}",
    f"redis+sentinel://:{SECRET}@{HERE}",
    f"http://:{SECRET}@{HERE}",
    f":{SECRET}@{HERE}",
    f"user:{SECRET}@{HERE}/0",
    f"redis:/:{SECRET}@{HERE}",
    f"redis//user:{SECRET}@{HERE}",
    f"redis:{SECRET}@{HERE}",
    f"shared://user:{SECRET}@{HERE}",
]
POLICY = RateLimitPolicy(rate_per_sec=1, burst=2)
CONFIG = RateLimitConfig(capacity=2, refill_rate=1)


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Return a list for all that is shown; the log is added, and the whole is searched."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    yield texts
    texts += [record.getMessage() + (record.exc_text or "") for record in caplog.records]
    assert [text for text in texts if WORD in text] == []


def error_text(error: BaseException) -> str:
    """Return all that is shown of an exception."""
    return f"{error} {error!r} {''.join(traceback.format_exception(error))}"


def answers_of_asgi(middleware: Any) -> str:
    client = TestClient(middleware)
    found = [client.get(path, headers={"X-Key": "k"}) for path in ("/", "/me", "/", "/")]
    return "".join(f"{one.status_code} {one.headers} {one.text}" for one in found)


def asgi(address: str, **settings: Any) -> object:
    middleware = RateLimitMiddleware(app, store=address, name="n", **settings)
    return middleware, answers_of_asgi(middleware)


def route(address: str) -> object:
    limit = RateLimit("2/hour", store=address, name="route")
    return limit, limit.limiter.allow("k")


def flask(address: str) -> object:
    made = Flask("secrets")
    made.config["RATE_LIMITER_STORE"] = address
    limiter = FlaskRateLimiter(made, default_limits="2/hour", metrics="secret-flask")
    made.get("/")(lambda: "ok")
    answers = [made.test_client().get("/") for _ in range(3)]
    return limiter, [(one.status, one.headers, one.text) for one in answers]


def hit(address: str) -> object:
    limiter = RateLimiter("2/hour", store=address, name="secret")
    return limiter, limiter.hit("k"), limiter.stats(), limiter.store.health()  # type: ignore[attr-defined]


def hit_async(address: str) -> object:
    limiter = AsyncRateLimiter("2/hour", store=address)
    return limiter, asyncio.run(limiter.hit("k"))  # type: ignore[arg-type]


def store(address: str) -> object:
    made = RedisStore(address)
    return made, made.health(), made.ping(), vars(made), vars(made.connection)


def old_middleware(address: str) -> object:
    middleware = RateLimiterMiddleware(app, address, 2, 1)
    return middleware, answers_of_asgi(middleware)


def client(address: str) -> object:
    return redis_address(get_redis(address)) == address  # the repr of a client is redis-py's own


USES: dict[str, Callable[[str], object]] = {
    "RateLimiter": hit,
    "limits": lambda address: RateLimiter(address),
    "limits, one of two": lambda address: RateLimiter(["1/hour", address]),
    "name": lambda address: RateLimiter("1/hour", store=f"redis://{HERE}", name=address),
    "on_store_error": lambda address: RedisStore(f"redis://{HERE}", on_store_error=address),
    "raise": lambda address: RateLimiter("1/h", store=address, on_store_error="raise").hit("k"),
    "inspect": lambda address: RateLimiter("1/h", store=address).inspect("k"),
    "subclass": lambda address: type("Own", (RateLimiter,), {})("1/hour", store=address),
    "AsyncRateLimiter": hit_async,
    "RedisStore": store,
    "AsyncRedisStore": lambda address: (
        AsyncRedisStore(address),
        AsyncRedisStore(address).health(),
    ),
    "connect": connect,
    "check_store": check_store,
    "Storage": lambda address: Storage(address),
    "RateLimitMiddleware": lambda address: asgi(address, limits="2/hour", metrics="secret"),
    "with rules": lambda address: asgi(
        address, rules={"default": {"limits": "2/hour"}}, status_path="/me", key="header:X-Key"
    ),
    "as rules": lambda address: RateLimitMiddleware(app, rules=address),
    "as limits": lambda address: RateLimitMiddleware(app, limits=address),
    "as limiter": lambda address: RateLimitMiddleware(app, address),  # type: ignore[arg-type]
    "as key": lambda address: RateLimitMiddleware(app, limits="1/hour", key=address),
    "as tier": lambda address: RateLimitMiddleware(app, limits={"a": "1/hour"}, tier=address),
    "as bypass": lambda address: RateLimitMiddleware(app, limits="1/hour", bypass=address),
    "RateLimit": route,
    "FlaskRateLimiter": flask,
    "RateLimiterMiddleware": old_middleware,
    "TokenBucket": lambda address: (TokenBucket(address, 2, 1).consume("k"), TokenBucket),
    "TokenBucketLimiter": lambda address: TokenBucketLimiter(address, POLICY).check("k"),
    "gateway": lambda address: answers_of_asgi(
        RateLimitMiddleware(app, TokenBucketLimiter(address, POLICY), POLICY)
    ),
    "gateway, address": lambda address: RateLimitMiddleware(app, address, POLICY),  # type: ignore[arg-type]
    "TokenBucketRateLimiter": lambda address: TokenBucketRateLimiter(
        CONFIG, RedisStore(address)
    ).allow_request("k"),
    "AsyncTokenBucketRateLimiter": lambda address: AsyncTokenBucketRateLimiter(
        CONFIG, AsyncRedisStore(address)
    ),
    "address for a store": lambda address: TokenBucketRateLimiter(CONFIG, address),  # type: ignore[arg-type]
    "get_redis": client,
    "RedisRules": RedisRules,
    "as_source": as_source,
    "rules in a list": lambda address: as_source([address]),
    "jwks": lambda address: Jwt(jwks=address, algorithms=["RS256"]),
}


@pytest.mark.parametrize("use", USES)
def test_addresses(use: str, seen: list[str]) -> None:
    for address in [*GOOD, *BAD]:
        try:
            made = USES[use](address)
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            seen.append(error_text(error))
        else:
            assert address not in BAD or use != "RateLimiter", address
            seen.append(f"{made!r} {made}")
    seen.append(generate_latest(registry()).decode())


def test_get_redis(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What redis-py says of such an address is a piece of the password."""
    monkeypatch.setenv("REDIS_URL", f"redis://user:{SECRET}")
    with pytest.raises(ValueError, match=r"wrong, got 'redis://\*\*\*': expected one") as caught:
        get_redis()
    seen.append(error_text(caught.value))


@pytest.mark.parametrize(
    "piece", ["a", ":", "@", "a:/", "a://", "?pass", "a.", ":@", "'", "=", "-1"]
)
def test_long_texts_take_no_longer_than_short_ones(piece: str) -> None:
    """A text may be of any length; this would take hours if time grew with its square."""
    text = piece * (1_000_000 // len(piece))
    assert len(redacted(text)) <= len(text) + 100
    assert WORD not in redacted(f"{text}redis://:{SECRET}@h")


# --- Settings ---

SECRETS = {
    "RATE_LIMITER_STORE": GOOD[0],
    "RATE_LIMITER_RULES": GOOD[0],
    "RATE_LIMITER_RULES_FALLBACK": GOOD[1],
    "RATE_LIMITER_BYPASS": f"header:X-Admin={SECRET},X-Admin={SECRET},{SECRET},ip:10.0.0.0/8",
    "RATE_LIMITER_JWT_SECRET": SECRET,
    "RATE_LIMITER_JWT_PUBLIC_KEY": f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    "RATE_LIMITER_JWT_JWKS": f"https://user:{SECRET}@h/keys?token={SECRET}",
    "REDIS_HOST": f"user:{SECRET}@h",
    "REDIS_PASSWORD": SECRET,
    "REDIS_SENTINEL_HOSTS": f"user:{SECRET}@a:1,b:2",
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Return settings that are full of secrets."""
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_settings_are_plain_to_programs_and_hidden_from_readers(
    settings: Settings, seen: list[str]
) -> None:
    seen += [repr(settings), str(settings), f"{settings}", settings.model_dump_json()]
    seen += [repr(settings.model_dump()), json.dumps(settings.model_dump()), repr(vars(settings))]
    seen += [repr(dict(settings)), repr(pickle.loads(pickle.dumps(settings)))]
    seen += [repr(settings.model_copy()), repr(settings.address), repr(settings.redis_address)]
    assert settings.redis_password == SECRET
    assert settings.jwt_secret == SECRET
    assert settings.store == f"{settings.address}" == GOOD[0]
    assert settings.bypass[0] == f"header:X-Admin={SECRET}"
    assert "ip:10.0.0.0/8" in repr(settings)
    assert isinstance(settings.redis_password, str)


@pytest.mark.parametrize("variable", SECRETS)
def test_settings_that_are_wrong(
    variable: str, settings: Settings, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error about one does not show the others; each alone makes a middleware or fails."""
    monkeypatch.setenv("REDIS_PORT", "x")
    with pytest.raises(ValueError, match="REDIS_PORT") as caught:
        Settings()
    seen.append(error_text(caught.value))
    for name in {*SECRETS, "REDIS_PORT"} - {variable}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RATE_LIMITER_JWT_ALGORITHMS", "HS512")
    if variable != "RATE_LIMITER_RULES":
        monkeypatch.setenv("RATE_LIMITER_LIMITS", "1/hour")
    try:
        arguments = Settings().middleware()
        seen += [repr(arguments), repr(RateLimitMiddleware(app, **arguments))]
    except (TypeError, ValueError, StoreError) as error:
        seen.append(error_text(error))


@pytest.mark.parametrize(
    "bypass",
    [
        SECRET,
        f"X-Admin={SECRET}",
        f"headers:X-Admin={SECRET}",
        f"header:X-Admin:{SECRET}",
        f"header:={SECRET}",
        ["ip:10.0.0.0/8", f"jwt:{SECRET}"],
        [("header", "X-Admin", SECRET)],
    ],
)
def test_a_malformed_bypass(bypass: Any, seen: list[str]) -> None:
    for make in (
        lambda: RateLimitMiddleware(app, limits="1/hour", bypass=bypass),
        lambda: FlaskRateLimiter(default_limits="1/hour", bypass=bypass),
    ):
        with pytest.raises((TypeError, ValueError), match=r"number \d is none of these") as caught:
            make()
        seen.append(error_text(caught.value))


def test_a_bypass_and_a_secret_that_work(seen: list[str]) -> None:
    tokens = Jwt(secret=SECRET, algorithms=["HS256"])
    middleware = RateLimitMiddleware(
        app,
        limits="1/hour",
        key=["jwt:sub", "ip"],
        jwt=tokens,
        bypass=f"header:X-Admin={SECRET}",
        status_path="/me",
        metrics="bypassed",
    )
    token = jwt.encode({"sub": "ann", "exp": 1}, SECRET, "HS256")
    client = TestClient(middleware)
    for headers in ({"X-Admin": SECRET}, {}, {"Authorization": f"Bearer {token}"}, {}):
        found = [client.get(path, headers=headers) for path in ("/", "/me")]
        seen += [f"{one.status_code} {one.headers} {one.text}" for one in found]
    seen += [repr(middleware), repr(tokens), generate_latest(registry()).decode()]
    with pytest.raises(ValueError, match="at least 64 bytes") as caught:
        Jwt(secret=SECRET, algorithms=["HS512"])
    seen.append(error_text(caught.value))


def test_a_key_set_that_cannot_be_fetched(seen: list[str]) -> None:
    url = f"http://user:{SECRET}@127.0.0.1:1/keys?token={SECRET}"
    verifier = Jwt(jwks=url, algorithms=["RS256"])
    assert verifier.verify(jwt.encode({"exp": 1}, SECRET, "HS256", {"kid": "k"})) is None
    with pytest.raises(ValueError, match="jwks must be") as caught:
        Jwt(jwks=url.replace("127.0.0.1", "example.com"), algorithms=["RS256"])
    seen.append(error_text(caught.value))
    with pytest.raises(OSError, match="No such file") as missing:
        Jwt(jwks="/nowhere", algorithms=["RS256"])
    seen.append(error_text(missing.value))


# --- Servers ---


@pytest.mark.parametrize(
    "answer",
    [
        f"-ERR unknown command 'AUTH', with args beginning with: 'user' '{SECRET[:12]}",
        f"-ERR invalid password {SECRET}",
        "-WRONGPASS invalid username-password pair or user is disabled.",
    ],
)
def test_a_server_that_repeats_the_password(answer: str, seen: list[str]) -> None:
    def handle(connection: FakeConnection) -> None:
        connection.read_command()
        connection.send(f"{answer}\r\n".encode())

    with fake_redis(handle) as server:
        address = server.url.replace("://", f"://user:{SECRET}@")
        limiter = RateLimiter("1/hour", store=address)
        limiter.allow("k")
        health = limiter.store.health()  # type: ignore[attr-defined]
    seen.append(repr(health))
    assert health["errors"] == {"connect": 1}
    expected = "WRONGPASS" if "WRONGPASS" in answer else "it refused the command AUTH"
    assert expected in health["last_error"]


# --- The command ---


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        status = command(words)
    except SystemExit as left:
        status = int(left.code or 0)
    shown = capsys.readouterr()
    return f"{status} {shown.out} {shown.err}"


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis with a password."""
    with redis_server(tmp_path, password=SECRET) as server:
        yield server


COMMANDS = [
    "inspect k",
    "inspect k --json",
    "inspect k --limit 1/hour",
    "reset k",
    "reset k --json",
    "rules push rates.json",
    "rules push rates.json --json",
    "rules pull",
    "rules pull --json",
    "rules check rates.json",
    "rules explain rates.json --path /",
    "bench --rounds 2",
    "bench --rounds 2 --json",
    "load --url http://127.0.0.1:1/",
    *("inspect --help", "reset --help", "rules --help", "rules push --help", "rules check --help"),
    *("bench --help", "load --help", "rules explain --help", "rules pull --help", "--help"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_that_succeed(
    words: str,
    guarded_redis: RedisServer,
    seen: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rates.json").write_text('{"default": {"limits": "1/hour"}}')
    run(["rules", "push", "rates.json", "--store", guarded_redis.url], capsys)
    named = ["--store", guarded_redis.url]
    takes_store = words.startswith(("inspect", "reset", "bench", "rules pu"))
    text = run([*words.split(), *(named if takes_store else [])], capsys)
    assert text.startswith("1 " if words.startswith("load --url") else "0 "), text
    monkeypatch.setenv("RATE_LIMITER_STORE", guarded_redis.url)
    seen += [text, run(words.split(), capsys)]


@pytest.mark.parametrize("address", [*GOOD[:2], *GOOD[-2:], *BAD])
def test_commands_that_fail(
    address: str,
    seen: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words in COMMANDS:
        if not words.startswith("load") and "--help" not in words:
            # Wrong everywhere, also where a file or a limit belongs.
            named = words.replace("rates.json", address).replace("1/hour", address).split()
            seen.append(run([*named, "--store", address], capsys))
    for variable in ("RATE_LIMITER_RULES", "RATE_LIMIT_RULES_PATH", "RATE_LIMITER_STORE"):
        monkeypatch.setenv(variable, address)
        for words in (
            "rules check",
            "rules explain --path /",
            "rules push",
            "rules pull",
            "reset k",
        ):
            text = run(words.split(), capsys)
            assert not text.startswith("0 ")
            seen.append(text)
        monkeypatch.delenv(variable)
    for words in ("load --url", "bench --store", f"inspect k --password {SECRET} --store"):
        seen.append(run([*words.split(), address], capsys))
    seen.append(run(["inspect", "k", f"--password={SECRET}"], capsys))
    assert "unrecognized arguments: --password" in seen[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["--header", f"Authorization: Bearer {SECRET}"],
        ["--header", f"Authorization=Bearer {SECRET}"],
        ["--header", f"X-Key=a\n{SECRET}"],
        ["--header", f"Authorization: Bearer {SECRET}="],
        ["--api-key", f"{SECRET}\n"],
        ["--api-key", SECRET],
        ["--api-key", SECRET, "--users", "2"],
        ["--json", "--header", f"Cookie=sid={SECRET}"],
    ],
)
def test_load(
    words: list[str], seen: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server = (
        "-m",
        "uvicorn",
        "tests.support.load_app:app",
        "--port",
        "{port}",
        "--log-level",
        "warning",
    )
    files = [tmp_path / "load.json", tmp_path / "load.svg"]
    kept = ["--json-file", str(files[0]), "--plot", str(files[1])]
    with serve(tmp_path / "log", *server) as running:
        url = f"{running.url}/?token={SECRET}"
        seen.append(run(["load", "--url", url, "--requests", "2", *kept, *words], capsys))
    seen += [file.read_text() for file in files if file.exists()]
    plan = LoadPlan(url, headers=(("Authorization", SECRET),), api_key=SECRET)
    seen.append(repr(plan))
    assert redacted(url) in seen[0] or not seen[0].startswith("0 ")


# --- The start ---


@pytest.mark.parametrize("address", BAD[:3])
def test_the_one_line_of_a_start(
    address: str, seen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    served = FastAPI()
    served.add_middleware(RateLimitMiddleware, limits="1/hour", store=address)
    with pytest.raises(SystemExit) as left, exit_on_mistake():
        served.middleware_stack = served.build_middleware_stack()
    assert left.value.code == 3
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("cannot start: the address of the store is wrong: ")
    seen.append(shown.err)
