"""Rules that deny, and rules for networks: on every front, and in every form that rules have."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock
from rate_limiter.cli.main import main
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.registry import decisions
from rate_limiter.policy.client_address import network_of
from rate_limiter.policy.rule_files import RulesError, as_data, check_rules, parse_rules
from rate_limiter.policy.rule_sources import RedisRules, push_rules
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.seeds.distributed import DistributedTokenBucketMiddleware
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from support.redis_servers import redis_server
from support.servers import free_port
from werkzeug.test import EnvironBuilder, run_wsgi_app

LIMITS = (Limit(10, 1),)
PEER = "192.0.2.1"
TEXT = "Rate limit exceeded. Please try again later."


class Answer:
    """Status, header fields in lower case, and body of a response."""

    def __init__(self, status: int, headers: Any, text: str) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.text = text


class Asgi:
    def __init__(self, **options: Any) -> None:
        app = Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse("ok"))])
        self.app: Any = RateLimitMiddleware(app, clock=ManualClock(), **options)

    @property
    def policy(self) -> Any:
        return self.app.governor

    def get(self, path: str = "/", peer: str = PEER, **headers: str) -> Answer:
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [
                (name.replace("_", "-").lower().encode(), value.encode())
                for name, value in headers.items()
            ],
            "client": (peer, 1),
        }

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        async def run() -> None:
            await self.app(scope, receive, send)

        asyncio.run(run())
        found = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        return Answer(sent[0]["status"], found, sent[1]["body"].decode())


class Wsgi:
    def __init__(self, **options: Any) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok"]

        self.app: Any = WsgiMiddleware(app, clock=ManualClock(), **options)

    @property
    def policy(self) -> Any:
        return self.app.policy

    def get(self, path: str = "/", peer: str = PEER, **headers: str) -> Answer:
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        builder = EnvironBuilder(headers=sent, environ_base={"REMOTE_ADDR": peer})
        environ = builder.get_environ() | {"PATH_INFO": path}
        body, status, found = run_wsgi_app(self.app, environ, buffered=True)
        return Answer(int(status.split()[0]), found.items(), b"".join(body).decode())


class OnFlask(Wsgi):
    def __init__(self, **options: Any) -> None:
        from rate_limiter.flask import FlaskRateLimiter

        self.app = Flask("denying")
        self.app.get("/", endpoint="root")(lambda: "ok")
        self.app.get("/<path:rest>")(lambda rest: "ok")
        self.limiter = FlaskRateLimiter(self.app, clock=ManualClock(), **options)

    @property
    def policy(self) -> Any:
        raise AssertionError("not needed")


FRONTS = pytest.mark.parametrize("front", [Asgi, Wsgi, OnFlask])


# --- What denies ---


@FRONTS
def test_a_rule_denies_without_a_limiter(front: Any) -> None:
    rules = {"default": {"limits": "2/minute"}, "admin": {"path": "/admin/**", "deny": True}}
    app = front(rules=rules)
    denied = app.get("/admin/x")
    assert denied.status == 429
    assert json.loads(denied.text) == {"detail": TEXT}
    assert "retry-after" not in denied.headers
    assert "x-ratelimit-reset" not in denied.headers
    assert denied.headers["x-ratelimit-limit"] == denied.headers["x-ratelimit-remaining"] == "0"
    assert denied.headers["cache-control"] == "no-store"
    assert [app.get().status for _ in range(3)] == [200, 200, 429]  # the other rule counts alone


@FRONTS
def test_everything_is_denied_by_the_rule_for_all(front: Any) -> None:
    app = front(rules={"default": {"deny": True}})
    assert app.get().status == 429
    assert app.get("/any").status == 429


@FRONTS
@pytest.mark.parametrize("path", ["//admin", "/admin/", "/x/../admin", "/./admin"])
def test_a_reading_that_denies_wins(front: Any, path: str) -> None:
    rules: Any = {
        "default": {"limits": "1/minute"},
        "free": {"path": "/x/**", "exempt": True},
        "admin": {"path": "/admin", "deny": True},
    }
    app = front(rules=rules)
    assert [app.get(path).status for _ in range(2)] == [429, 429]
    assert app.get("/").status == 200  # the limit of another reading has lost nothing


@FRONTS
def test_a_shadow_rule_only_counts(front: Any) -> None:
    rules = {"default": {"limits": "9/minute"}, "new": {"path": "/new", "deny": True}}
    rules["new"]["shadow"] = True
    name = f"shadow-{front.__name__}"
    app = front(rules=rules, metrics=name)
    allowed = app.get("/new")
    assert allowed.status == 200
    assert "x-ratelimit-limit" not in allowed.headers
    counted = decisions()[f"{name}.new"]
    assert (counted.allowed, counted.blocked, counted.shadow_denied) == (1, 0, 1)


@FRONTS
def test_denials_are_counted_with_their_rule(front: Any) -> None:
    name = f"denied-{front.__name__}"
    rules = {"default": {"limits": "9/minute"}, "admin": {"path": "/admin", "deny": True}}
    app = front(rules=rules, metrics=name)
    app.get("/admin")
    app.get("/admin")
    app.get("/")
    found = {rule: decisions()[f"{name}.{rule}"] for rule in rules}
    assert {rule: (one.allowed, one.blocked) for rule, one in found.items()} == {
        "default": (1, 0),
        "admin": (0, 2),
    }


@FRONTS
def test_denied_fills_in_what_a_denying_rule_has(front: Any) -> None:
    denied = {"rule": "{rule}", "left": "{remaining}", "of": "{limit}", "at": "{reset_at}"}
    denied |= {"wait": "{retry_after}", "window": "{window}", "who": "{key}"}
    app = front(rules={"admin": {"path": "/admin", "deny": True}}, denied=denied)
    answer = json.loads(app.get("/admin").text)
    assert answer == {
        "rule": "admin",
        "left": 0,
        "of": 0,
        "at": None,
        "wait": None,
        "window": None,
        "who": PEER,
    }
    problem = front(rules={"default": {"deny": True}}, denied="problem").get()
    assert json.loads(problem.text)["violated-policies"] == []
    assert json.loads(problem.text)["retry_after"] is None


@FRONTS
def test_the_draft_has_no_fields_for_a_denying_rule(front: Any) -> None:
    denied = front(rules={"default": {"deny": True}}, headers="both").get()
    assert "ratelimit" not in denied.headers
    assert "ratelimit-policy" not in denied.headers


@FRONTS
def test_a_denial_calls_no_function_of_the_user(front: Any) -> None:
    called: list[str] = []

    def key(*_: Any) -> str:
        called.append("key")
        return "k"

    def cost(*_: Any) -> float:
        called.append("cost")
        return 1

    rules = {"default": {"limits": "9/minute"}, "admin": {"path": "/admin", "deny": True}}
    rules["net"] = {"keys": "203.0.113.0/24", "deny": True}
    app = front(rules=rules, key=key, cost=cost)
    assert app.get("/admin").status == app.get(peer="203.0.113.5").status == 429
    assert called == []
    assert app.get("/").status == 200
    assert called == ["key", "cost"]


@pytest.mark.parametrize("front", [Asgi, Wsgi])
def test_the_status_of_a_denied_client(front: Any) -> None:
    rules: Any = {"admin": {"path": "/admin", "deny": True}}
    app = front(rules=rules, status_path="/status")
    if front is Asgi:
        found = TestClient(app.app, client=(PEER, 1)).get("/status?path=/admin").json()
    else:
        environ = EnvironBuilder(
            path="/status", query_string="path=/admin", environ_base={"REMOTE_ADDR": PEER}
        ).get_environ()
        found = json.loads(b"".join(run_wsgi_app(app.app, environ, buffered=True)[0]))
    assert found == {"limited": True, "rule": "admin", "key": PEER, "allowed": False, "limits": []}


def test_a_websocket_is_denied() -> None:
    client = TestClient(Asgi(rules={"default": {"deny": True}}).app)
    with pytest.raises(WebSocketDenialResponse) as raised, client.websocket_connect("/"):
        pass
    assert raised.value.status_code == 429


def test_a_limit_becomes_a_denial_and_a_limit_again(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"default": {"limits": "2/hour"}}')
    from rate_limiter.policy.rule_sources import FileRules

    source = FileRules(file)
    app = Asgi(rules=source, metrics="changing")
    statuses = [app.get().status]
    file.write_text('{"default": {"deny": true}}')
    source.reload()
    statuses += [app.get().status, app.get().status]
    file.write_text('{"default": {"limits": "3/hour"}}')
    source.reload()
    statuses.append(app.get().status)
    assert statuses == [200, 429, 429, 200]
    counted = decisions()["changing.default"]
    assert (counted.allowed, counted.blocked) == (2, 2)


# --- What a rule may say ---


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('{"bad": {"keys": ["203.0.113.0/24"], "deny": true}}', ".json"),
        ('[bad]\nkeys = "203.0.113.0/24"\ndeny = true', ".toml"),
        ("bad:\n  keys: 203.0.113.0/24\n  deny: true", ".yaml"),
    ],
)
def test_files_may_deny(text: str, suffix: str) -> None:
    table = parse_rules(text, suffix)
    (rule,) = table.rules.values()
    assert rule == Rule("bad", keys=("203.0.113.0/24",), deny=True)
    assert as_data(table) == {"bad": {"keys": ["203.0.113.0/24"], "deny": True}}
    assert as_data(check_rules(as_data(table))) == as_data(table)


def test_rules_in_redis_may_deny(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        table = check_rules({"bad": {"keys": ["2001:db8::/32"], "deny": True}})
        push_rules(RedisStore(server.url).connection, table)
        app = Asgi(rules=RedisRules(server.url))
        assert app.get(peer="2001:db8::7").status == 429
        assert app.get(peer="2001:db9::7").status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limits", "1/day"),
        ("capacity", 5),
        ("refill_rate", 0),
        ("exempt", True),
        ("tier", "free"),
        ("cost", 0),
        ("key", "all"),
        ("on_store_error", "deny"),
        ("refund", "5xx"),
    ],
)
def test_deny_excludes_what_it_would_ignore(field: str, value: Any) -> None:
    text = json.dumps({"bad": {"path": "/x", "deny": True, field: value}}, indent=1)
    with pytest.raises(RulesError) as raised:
        parse_rules(text)
    assert str(raised.value) == (
        f"rules:4: rule 'bad', deny: give either deny or {field}, not both"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"limits": LIMITS},
        {"exempt": True},
        {"tiers": ("free",)},
        {"cost": 0},
        {"key": "all"},
        {"on_store_error": "deny"},
        {"refund": ("5xx",)},
    ],
)
def test_a_rule_in_code_excludes_the_same(more: dict[str, Any]) -> None:
    (name,) = more
    with pytest.raises(ValueError, match=f"deny: give either deny or {name}, not both"):
        Rule("bad", deny=True, **more)


def test_deny_must_be_a_boolean() -> None:
    with pytest.raises(RulesError, match=r"rule 'bad', deny: .*valid boolean.*got 'yes'"):
        parse_rules('{"bad": {"deny": "yes"}}')


def test_a_rule_that_does_not_deny_needs_limits() -> None:
    with pytest.raises(RulesError, match="limits: expected limits such as"):
        parse_rules('{"bad": {"path": "/x", "deny": false}}')


# --- Networks ---

NETWORKS: Any = {
    "default": {"limits": "9/minute"},
    "range": {"keys": ["203.0.113.0/24", "2001:db8::/32"], "deny": True},
    "part": {"keys": "203.0.113.64/27", "limits": "5/minute"},
    "one": {"keys": "203.0.113.65", "limits": "7/minute"},
}


@FRONTS
def test_the_longest_network_wins_and_a_key_before_it(front: Any) -> None:
    app = front(rules=NETWORKS)

    def limit(peer: str) -> Any:
        return app.get(peer=peer).headers["x-ratelimit-limit"]

    assert limit("203.0.114.1") == "9"
    assert limit("203.0.113.1") == "0"
    assert limit("203.0.113.66") == "5"
    assert limit("203.0.113.65") == "7"
    assert limit("2001:db8:1::1") == "0"
    assert limit("::ffff:203.0.113.1") == "0"
    assert limit("a-name") == "9"


@FRONTS
def test_no_key_leads_out_of_a_network(front: Any) -> None:
    app = front(rules=NETWORKS, key=["header:X-API-Key", "ip"])
    assert app.get(peer="203.0.113.1").status == 429
    for key in ("abc", "203.0.113.65", "ip:203.0.113.65", "/"):
        assert app.get(peer="203.0.113.1", X_API_Key=key).status == 429
    assert app.get(peer="192.0.2.1", X_API_Key="203.0.113.1").status == 200


@FRONTS
def test_a_network_is_that_of_the_client_behind_proxies(front: Any) -> None:
    app = front(rules=NETWORKS | {"own": {"keys": "10.0.0.0/8", "exempt": True}})
    assert "x-ratelimit-limit" not in app.get(peer="10.0.0.1").headers
    behind = front(
        rules=NETWORKS | {"own": {"keys": "10.0.0.0/8", "exempt": True}},
        trusted_proxies=["10.0.0.0/8"],
    )
    forwarded = {"X_Forwarded_For": "6.6.6.6, 203.0.113.1"}
    assert behind.get(peer="10.0.0.1", **forwarded).status == 429
    assert behind.get(peer="192.0.2.1", **forwarded).status == 200  # not a proxy
    malformed = behind.get(peer="10.0.0.1", X_Forwarded_For="203.0.113.1, unknown")
    assert malformed.headers["x-ratelimit-limit"] == "9"  # in no network, not in the proxy's
    assert behind.get(peer="10.0.0.1", X_Forwarded_For="::ffff:203.0.113.9").status == 429


def test_a_network_and_a_path() -> None:
    rules: Any = {
        "default": {"limits": "9/minute"},
        "all": {"keys": "203.0.0.0/16", "limits": "5/minute"},
        "admin": {"keys": "203.0.113.0/24", "path": "/admin", "deny": True},
    }
    app = Asgi(rules=rules)
    assert app.get("/admin", peer="203.0.113.1").status == 429
    assert app.get("/x", peer="203.0.113.1").headers["x-ratelimit-limit"] == "5"
    assert app.get("/admin", peer="203.0.1.1").headers["x-ratelimit-limit"] == "5"


@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("203.0.113.9/32", "203.0.113.9/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("ip:203.0.113.0/24", "203.0.113.0/24"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("203.0.113.9", None),
        ("2001:db8::1", None),
        ("acme/billing", None),
        ("header:x-api-key:10.0.0.0/8", None),
        ("dead/beef", None),
        ("user:7/8", None),
        ("/", None),
        ("", None),
    ],
)
def test_which_keys_are_networks(key: str, network: str | None) -> None:
    assert network_of(key) == network


@pytest.mark.parametrize(
    "key", ["203.0.113.7/24", "203.0.113.0/33", "10/8", "300.0.0.0/8", "2001:db8::1/32", "::/129",
            "203.0.113.0/", "203.0.113.0 /24", "ip:203.0.113.7/24"],
)  # fmt: skip
def test_what_looks_like_a_network_must_be_one(key: str) -> None:
    text = json.dumps({"bad": {"keys": ["fine", key], "deny": True}}, indent=1)
    with pytest.raises(RulesError) as raised:
        parse_rules(text)
    assert "rule 'bad', keys: expected an address or a network such as" in str(raised.value)
    assert repr(key.removeprefix("ip:")) in str(raised.value)
    assert str(raised.value).startswith("rules:3: ")


def test_two_rules_for_one_network_are_refused() -> None:
    with pytest.raises(ValueError, match="the rules 'a' and 'b' have the same conditions"):
        RuleTable(
            [
                Rule("a", deny=True, keys=("2001:DB8::/32",)),
                Rule("b", LIMITS, keys=("2001:db8:0::/32",)),
            ]
        )


ADDRESSES = st.one_of(
    st.ip_addresses(v=4, network="10.0.0.0/28"), st.ip_addresses(v=6, network="2001:db8::/124")
)


@given(
    st.lists(st.tuples(ADDRESSES, st.integers(0, 6)), max_size=6),
    st.lists(ADDRESSES, min_size=1, max_size=4),
)
def test_networks_are_found_as_python_finds_them(given_: Any, clients: Any) -> None:
    networks = dict.fromkeys(
        ipaddress.ip_network((base, base.max_prefixlen - bits), strict=False)
        for base, bits in given_
    )
    rules = [Rule(str(one), deny=True, keys=(str(one),)) for one in networks]
    table = RuleTable([Rule("default", LIMITS), *rules])
    for client in clients:
        within = [one for one in networks if client in one]
        within.sort(key=lambda one: -one.prefixlen)
        expected = [*map(str, within), "default"]
        (found,) = table.both("/", "GET", address=str(client))
        assert found is not None
        assert found.name == expected[0]
        matches = table.matches("/", "GET", address=str(client))
        assert [rule.name for rule in matches] == expected


# --- The command, and the distributed demo ---


def test_the_command_shows_denials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rules.json"
    rules = NETWORKS | {"admin": {"path": "/admin", "deny": True}}
    rules["new"] = {"path": "/new", "deny": True, "shadow": True}
    file.write_text(json.dumps(rules))
    assert main(["rules", "check", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "range: key 203.0.113.0/24 or 2001:db8::/32: denied\n" in shown
    assert "new: path /new: would be denied, only counts (shadow)\n" in shown

    def explained(*words: str) -> list[str]:
        assert main(["rules", "explain", str(file), *words]) == 0
        return capsys.readouterr().out.splitlines()

    lines = explained("--path", "/", "--client", "203.0.113.66")
    assert lines[1:3] == [
        "=> part: key 203.0.113.64/27: 5/minute",
        "   range: key 203.0.113.0/24 or 2001:db8::/32: denied",
    ]
    assert lines[-1] == "'part' wins over 'range': it names the client's key, or a smaller network"
    lines = explained("--path", "/", "--client", "2001:db8::1")
    assert lines[-1] == "'range' wins over 'default': it names the client's network"
    lines = explained("--path", "/x/../admin")
    assert "=> admin: path /admin: denied" in lines
    assert lines[-1] == "'admin' wins: the path can be read in several ways, and it denies one"
    forwarded = ("--trusted-proxy", "127.0.0.0/8", "--header", "X-Forwarded-For=203.0.113.5")
    assert "=> range: key 203.0.113.0/24 or 2001:db8::/32: denied" in explained(
        "--path", "/", *forwarded
    )


def test_the_distributed_demo_denies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "rate_limiter")
    inner = Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse("ok"))])
    inner.add_middleware(
        DistributedTokenBucketMiddleware,
        capacity=5,
        refill_rate=1,
        rules={"admin": {"path": "/admin", "deny": True}},
    )
    import redis.asyncio

    inner.state.redis = redis.asyncio.Redis(port=free_port())
    with TestClient(inner) as client:
        assert client.get("/admin").status_code == 429
