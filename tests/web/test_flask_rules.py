"""Flask with rules, tiers, bypasses, costs after the answer, headers and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request
from rate_limiter import ManualClock
from rate_limiter.flask import FlaskRateLimiter, FlaskRateLimitExceeded
from support.redis_servers import RedisServer
from support.rules_app import RULES, sf
from support.tokens import HS, token


def app_of(config: dict[str, Any] | None = None, **arguments: Any) -> tuple[Flask, Any]:
    app = Flask(__name__)
    app.config.update(config or {})
    if "store" not in arguments:
        arguments.setdefault("clock", ManualClock(10**9))
    limiter = FlaskRateLimiter(app, **arguments)

    @app.route("/", defaults={"path": ""}, methods=["GET", "POST"])
    @app.route("/<path:path>", methods=["GET", "POST"])
    def view(path: str) -> Any:
        if path == "broken":
            raise RuntimeError("broken")
        return jsonify(path=path), int(request.args.get("status", 200))

    @app.get("/own")
    @limiter.limit("5/minute; 9/hour; window=fixed", key=["header:X-API-Key", "ip"])
    def own() -> str:
        return "own"

    return app, app.test_client()


def test_rules() -> None:
    _, client = app_of(rules=RULES, tier="jwt:plan", jwt=HS)
    assert client.get("/").headers["X-RateLimit-Limit"] == "100"
    assert client.post("/files/7").headers["X-RateLimit-Remaining"] == "7"
    bearer = {"Authorization": f"Bearer {token({'plan': 'pro'})}"}
    assert client.get("/", headers=bearer).headers["X-RateLimit-Limit"] == "1000"
    assert "X-RateLimit-Limit" not in client.get("/health").headers
    assert [client.get("/new").status_code for _ in range(3)] == [200] * 3
    keyed = [client.get("/keyed", headers={"X-API-Key": name}) for name in ("a", "b", "a")]
    assert [one.headers["X-RateLimit-Remaining"] for one in keyed] == ["4", "4", "3"]
    assert client.get("/own").headers["X-RateLimit-Limit"] == "5"  # a decorator comes first


def test_rules_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text("default: {limits: 3/minute}")
    _, client = app_of({"RATE_LIMITER_RULES": str(path)})
    assert client.get("/").headers["X-RateLimit-Limit"] == "3"
    with pytest.raises(ValueError, match="give default_limits or rules, not both"):
        app_of({"RATE_LIMITER_RULES": str(path)}, default_limits="1/s")


def test_rules_in_redis(server: RedisServer) -> None:
    rules = {"default": {"capacity": 9, "refill_rate": 0.001}, "login": RULES["login"]}
    _, client = app_of(rules=rules, store=server.url, on_store_error="raise")
    _, other = app_of(rules=rules, store=server.url, on_store_error="raise")
    assert client.get("/").headers["X-RateLimit-Remaining"] == "8"
    assert other.get("/").headers["X-RateLimit-Remaining"] == "7"
    for _ in range(5):
        assert client.get("/login").status_code == 200  # given back
    codes = [client.get("/login?status=401").status_code for _ in range(4)]
    assert codes == [401, 401, 401, 429]


def test_tiers_of_default_limits() -> None:
    plan = "free"
    _, client = app_of(default_limits={"free": "1/minute", "pro": "5/minute"}, tier=lambda: plan)
    assert client.get("/").headers["X-RateLimit-Limit"] == "1"
    plan = "pro"
    assert client.get("/").headers["X-RateLimit-Limit"] == "5"


def test_bypass() -> None:
    _, client = app_of(
        default_limits="1/minute", bypass=["header:X-Admin=s", lambda: request.path == "/free"]
    )
    codes = [client.get("/", headers={"X-Admin": "s"}).status_code for _ in range(3)]
    assert codes == [200] * 3
    assert [client.get("/free").status_code for _ in range(3)] == [200] * 3
    assert [client.get("/").status_code for _ in range(2)] == [200, 429]


def test_bypass_by_a_set_of_functions() -> None:
    _, client = app_of(default_limits="1/minute", bypass={lambda: request.path == "/free"})
    assert [client.get("/free").status_code for _ in range(3)] == [200] * 3


def test_odd_header_names_are_no_error() -> None:
    _, client = app_of(default_limits="5/minute")
    assert client.get("/", environ_overrides={"HTTP_X_\xb5": "1"}).status_code == 200


def test_trusted_proxies() -> None:
    _, client = app_of(default_limits="1/minute", trusted_proxies=["127.0.0.0/8"])
    for client_address, codes in (("203.0.113.9", [200, 429]), ("203.0.113.8", [200, 429])):
        headers = {"X-Forwarded-For": f"6.6.6.6, {client_address}"}
        assert [client.get("/", headers=headers).status_code for _ in range(2)] == codes


def test_cost_after() -> None:
    seen: list[Any] = []

    def cost(finished: Any) -> float:
        seen.append(finished)
        return 0 if finished.failed else 4

    app, client = app_of(default_limits="9/minute", cost_after=cost)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert client.get("/").headers["X-RateLimit-Remaining"] == "8"
    assert client.get("/?status=500").headers["X-RateLimit-Remaining"] == "4"
    assert client.get("/broken").status_code == 500
    assert client.get("/").headers["X-RateLimit-Remaining"] == "4"
    assert [one.status for one in seen] == [200, 500, 500, 200]
    assert seen[0].body_bytes == len(client.get("/health").data) - len("health")
    assert (b"content-type", b"application/json") in seen[0].headers
    assert (seen[0].cost, seen[0].key) == (1, "127.0.0.1")


def test_cost_after_of_a_view_that_raises() -> None:
    app, client = app_of(default_limits="9/minute", cost_after=lambda one: 0 if one.failed else 1)
    app.testing = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            client.get("/broken")
    assert client.get("/").headers["X-RateLimit-Remaining"] == "8"


def test_headers() -> None:
    _, client = app_of(default_limits="3/minute", headers="both", retry_jitter_s=5)
    answer = client.get("/own")
    assert sf(answer.headers["RateLimit-Policy"]) == [
        ("5/minute; 9/hour; window=fixed-1", {"q": 5, "w": 60}),
        ("5/minute; 9/hour; window=fixed-2", {"q": 9, "w": 3600}),
    ]
    assert sf(client.get("/").headers["RateLimit"]) == [("default", {"r": 2, "t": 20})]
    for _ in range(3):
        denied = client.get("/")
    assert 20 <= int(denied.headers["Retry-After"]) <= 25


def test_answers() -> None:
    _, client = app_of(default_limits="1/minute", denied="problem")
    client.get("/")
    denied = client.get("/")
    assert (denied.status_code, denied.content_type) == (429, "application/problem+json")
    assert denied.get_json()["violated-policies"] == ["default"]
    app, client = app_of(default_limits="1/minute", denied={"wait": "{retry_after}"})

    @app.errorhandler(FlaskRateLimitExceeded)
    def handler(error: FlaskRateLimitExceeded) -> Response:
        response: Response = error.get_response()
        response.headers["X-Handled"] = "yes"
        return response

    client.get("/")
    denied = client.get("/")
    assert (denied.get_json(), denied.headers["X-Handled"]) == ({"wait": 60}, "yes")


def test_status() -> None:
    _, client = app_of(rules=RULES, status_path="/me")
    client.get("/")
    for _ in range(2):
        decision = client.get("/me")
        assert decision.headers["Cache-Control"] == "no-store"
        assert decision.get_json()["limits"][0]["remaining"] == 99
    assert client.get("/me?path=/files/1&method=POST").get_json()["rule"] == "upload"
    _, bare = app_of(status_path="/me")
    assert bare.get("/me").get_json() == {"limited": False, "rule": None, "limits": []}


def test_setup_checks(caplog: pytest.LogCaptureFixture) -> None:
    _, client = app_of(default_limits="100/minute")
    for _ in range(3):
        client.get("/", headers={"X-Forwarded-For": "203.0.113.9"})
    (record,) = caplog.records
    assert "no proxy is trusted" in record.message
    _, client = app_of(default_limits="100/minute", setup_checks=False)
    client.get("/", headers={"X-Forwarded-For": "203.0.113.9"})
    assert len(caplog.records) == 1


def test_a_key_set_is_waited_for(tmp_path: Path) -> None:
    import json

    from rate_limiter.jwt import Jwt
    from support.tokens import RSA, RSA_OTHER, jwks_of

    path = tmp_path / "keys.json"
    path.write_text(json.dumps(jwks_of(other=RSA_OTHER)))
    tokens = Jwt(jwks=path, algorithms=["RS256"], retry_s=0)
    path.write_text(json.dumps(jwks_of(one=RSA)))
    _, client = app_of(default_limits="1/minute", key="jwt:sub", jwt=tokens)
    for name, codes in (("bob", [200, 429]), ("eve", [200, 429])):
        bearer = f"Bearer {token({'sub': name}, RSA, 'RS256', kid='one')}"
        answers = [client.get("/", headers={"Authorization": bearer}) for _ in range(2)]
        assert [one.status_code for one in answers] == codes


@pytest.mark.parametrize("what", ["key", "cost", "tier", "bypass"])
def test_async_functions_are_refused(what: str) -> None:
    async def later() -> Any: ...

    with pytest.raises(TypeError, match=f"{what} must be a plain function, not an async one"):
        FlaskRateLimiter(default_limits="1/s", **{what: later})
