"""The Flask-Limiter module: refusals, several applications, stores that are down, exactness."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, request
from rate_limiter import Decision, StoreError
from rate_limiter.compat.flask_limiter import (
    ApplicationLimit,
    ExemptionScope,
    Limit,
    Limiter,
    RateLimitExceeded,
)
from rate_limiter.compat.flask_limiter.util import get_remote_address
from rate_limiter.compat.limits import parse
from rate_limiter.compat.limits.errors import ConfigurationError
from rate_limiter.compat.limits.strategies import Hit
from support.redis_servers import RedisServer
from support.servers import free_port
from werkzeug.test import EnvironBuilder


def app_of(**settings: Any) -> Flask:
    app = Flask("app")
    app.config.update(settings)
    app.add_url_rule("/a", "a", lambda: "a")
    app.add_url_rule("/b", "b", lambda: "b")
    return app


def limiter_of(app: Flask | None = None, **options: Any) -> Limiter:
    return Limiter(get_remote_address, app=app, **options)


def statuses(app: Flask, path: str, count: int, **options: Any) -> list[int]:
    client = app.test_client()
    return [client.get(path, **options).status_code for _ in range(count)]


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"storage_uri": "memcached://localhost:11211"}, "shared://"),
        ({"storage_uri": "mongodb://localhost:27017"}, "Redis"),
        ({"storage_uri": "nonsense"}, "nonsense"),
        ({"storage_options": {"cluster_mode": True}}, "cluster_mode"),
        ({"strategy": "leaky"}, "leaky"),
        ({"retry_after": "minutes"}, "minutes"),
    ],
)
def test_unsupported_options_are_refused_at_start(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        limiter_of(app_of(), **options)


@pytest.mark.parametrize("group", ["default_limits", "application_limits", "meta_limits"])
def test_malformed_limits_of_the_extension_are_refused_at_start(group: str) -> None:
    with pytest.raises(ValueError, match="fortnight"):
        limiter_of(app_of(), **{group: ["5 per fortnight"]})


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match="key_func"):
        Limiter("ip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a limit must be a text"):
        limiter_of().limit(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a view"):
        limiter_of().limit("5/minute")(None)
    with pytest.raises(RuntimeError, match="init_app"):
        limiter_of().reset()


def test_settings_that_do_not_exist_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    limiter_of(app_of(RATELIMIT_STORAGE_URL="redis://localhost", RATELIMIT_DEFAULT="1/day"))
    assert [one for one in caplog.messages if one.startswith("RATELIMIT_")] == [
        "RATELIMIT_STORAGE_URL has no effect: there is no such setting"
    ]


def test_malformed_limits_of_a_view_are_logged_and_the_defaults_apply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("app")
    limiter = limiter_of(app, default_limits=["1/day"])
    app.add_url_rule("/a", "a", limiter.limit("often")(lambda: "a"))
    assert statuses(app, "/a", 2) == [200, 429]
    assert any("failed to load ratelimit" in one and "often" in one for one in caplog.messages)


# --- applications ---


def test_each_application_has_its_own_settings_and_counts() -> None:
    limiter = limiter_of()
    first = app_of(RATELIMIT_DEFAULT="1/day", RATELIMIT_HEADERS_ENABLED=True)
    second = app_of(RATELIMIT_DEFAULT="2/day")
    limiter.init_app(first)
    limiter.init_app(second)
    assert statuses(second, "/a", 3) == [200, 200, 429]
    assert statuses(first, "/a", 2) == [200, 429]
    assert "X-RateLimit-Limit" in first.test_client().get("/b").headers
    assert "X-RateLimit-Limit" not in second.test_client().get("/b").headers
    with first.app_context():
        limiter.reset()
    assert statuses(first, "/a", 2) == [200, 429]
    assert statuses(second, "/a", 1) == [429]


def test_a_second_init_app_begins_afresh_and_counts_once() -> None:
    app = app_of()
    limiter = limiter_of(app, default_limits=["2/day"])
    assert statuses(app, "/a", 3) == [200, 200, 429]
    limiter.init_app(app)
    assert statuses(app, "/a", 3) == [200, 200, 429]


def test_a_limiter_that_began_disabled_can_be_enabled() -> None:
    app = app_of(RATELIMIT_ENABLED=False)
    limiter = limiter_of(app, default_limits=["1/day"])
    assert statuses(app, "/a", 3) == [200, 200, 200]
    limiter.enabled = True
    assert statuses(app, "/a", 2) == [200, 429]


def test_decorated_functions_work_outside_a_request_and_without_an_application() -> None:
    limiter = limiter_of()
    double = limiter.limit("1/day")(lambda value: 2 * value)
    assert [double(2), double(3)] == [4, 6]
    app = Flask("app")  # init_app was not called
    app.add_url_rule("/a", "a", limiter.limit("1/day")(lambda: "a"))
    assert statuses(app, "/a", 2) == [200, 200]


def test_one_definition_serves_two_limiters() -> None:
    limit = Limit("1/day")
    by_address, by_user = app_of(), app_of()
    limiter_of(by_address, default_limits=[limit])
    Limiter(lambda: request.headers["X-User"], app=by_user, default_limits=[limit])
    client = by_user.test_client()
    answers = [client.get("/a", headers={"X-User": user}).status_code for user in "aab"]
    assert answers == [200, 429, 200]
    assert statuses(by_address, "/a", 2) == [200, 429]


# --- views ---


def test_an_exempt_function_between_stacked_decorators_stays_exempt() -> None:
    app = Flask("app")
    limiter = limiter_of(app, default_limits=["1/day"])
    view = limiter.limit("1/day")(limiter.exempt(limiter.limit("1/hour")(lambda: "a")))
    app.add_url_rule("/a", "a", view)
    assert statuses(app, "/a", 3) == [200, 200, 200]


def test_decorating_again_leaves_the_first_function_alone() -> None:
    app = Flask("app")
    limiter = limiter_of(app)
    looser = limiter.limit("3/day")(lambda: "a")
    app.add_url_rule("/loose", "loose", looser)
    app.add_url_rule("/strict", "strict", limiter.limit("1/hour")(looser))
    assert statuses(app, "/loose", 4) == [200, 200, 200, 429]
    assert statuses(app, "/strict", 2) == [200, 429]


def test_limits_and_exemptions_added_after_a_request_count() -> None:
    app = app_of()
    limiter = limiter_of(app, default_limits=["1/day"])
    assert statuses(app, "/a", 2) == [200, 429]
    limiter.exempt(app.view_functions["a"])
    assert statuses(app, "/a", 2) == [200, 200]


def test_a_nested_blueprint_registered_under_another_name_has_its_limits() -> None:
    app = Flask("app")
    limiter = limiter_of(app, application_limits=[ApplicationLimit("9/day")])
    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
    inner.add_url_rule("/a", "a", lambda: "a")
    limiter.limit("1/day")(inner)
    limiter.exempt(outer, flags=ExemptionScope.APPLICATION)
    outer.register_blueprint(inner, name="renamed")
    app.register_blueprint(outer)
    assert statuses(app, "/a", 2) == [200, 429]


def test_check_counts_the_current_request() -> None:
    app = Flask("app")
    limiter = limiter_of(app)

    @app.get("/a")
    @limiter.limit("3/day")
    def a() -> str:
        limiter.check()
        return "a"

    assert statuses(app, "/a", 2) == [200, 429]


def test_current_limits_include_those_of_the_application() -> None:
    app = Flask("app")
    limiter = limiter_of(app, application_limits=["9/day"])

    @app.get("/a")
    @limiter.limit("3/hour")
    def a() -> list[str]:
        assert limiter.current_limit is not None
        assert str(limiter.current_limit.limit) == "3 per 1 hour"
        return [f"{one.limit}: {one.remaining}" for one in limiter.current_limits]

    assert app.test_client().get("/a").json == ["3 per 1 hour: 2", "9 per 1 day: 8"]


# --- headers ---


def test_headers_that_the_view_has_set_stay() -> None:
    app = Flask("app")
    limiter_of(app, default_limits=["5/day"], headers_enabled=True)
    app.add_url_rule("/a", "a", lambda: ("a", 200, {"x-ratelimit-remaining": "mine"}))
    headers = app.test_client().get("/a").headers
    assert headers.getlist("X-RateLimit-Remaining") == ["mine"]
    assert headers["X-RateLimit-Limit"] == "5"


@pytest.mark.parametrize("given", ["Fri, 01 Jan 2100 00:00:00 GMT", "2309990400", "soon"])
def test_the_later_retry_after_counts(given: str) -> None:
    app = Flask("app")
    limiter_of(app, default_limits=["5/second"], headers_enabled=True)
    app.add_url_rule("/a", "a", lambda: ("a", 503, {"Retry-After": given}))
    (value,) = app.test_client().get("/a").headers.getlist("Retry-After")
    assert (int(value) > 1_000_000_000) == (given != "soon")


def test_a_request_that_can_never_pass_has_headers() -> None:
    app = Flask("app")
    limiter = limiter_of(app, headers_enabled=True)
    breaches: list[int] = []
    limit = limiter.limit("5/hour", cost=6, on_breach=lambda one: breaches.append(one.remaining))
    app.add_url_rule("/a", "a", limit(lambda: "a"))
    response = app.test_client().get("/a")
    assert response.status_code == 429
    assert 3590 <= int(response.headers["Retry-After"]) <= 3600
    assert (response.headers["X-RateLimit-Remaining"], breaches) == ("5", [5])


def test_streams_are_not_read() -> None:
    app = Flask("app")
    limiter_of(app, default_limits=["5/day"], headers_enabled=True)
    produced: list[int] = []

    def parts() -> Any:
        for number in range(3):
            produced.append(number)
            yield str(number)

    app.add_url_rule("/a", "a", lambda: Response(parts()))
    response = app.test_client().get("/a", buffered=False)
    assert response.headers["X-RateLimit-Remaining"] == "4"
    assert "Content-Length" not in response.headers
    assert len(produced) < 3
    assert response.text == "012"


@pytest.mark.parametrize("decorated", [False, True])
def test_requests_leave_no_reference_cycles(decorated: bool) -> None:
    app = app_of()
    limiter = limiter_of(app, headers_enabled=True, default_limits=["500/day"])
    app.view_functions["b"] = limiter.limit("1/day", cost=2)(app.view_functions["b"])
    if decorated:
        app.view_functions["a"] = limiter.limit("500/day")(app.view_functions["a"])
    for path, status in (("/a", 200), ("/b", 429)):
        assert statuses(app, path, 2) == [status] * 2
        assert left_in_cycles(app, path) == left_in_cycles(app_of(), "/a")  # Werkzeug's own


def left_in_cycles(app: Flask, path: str) -> Counter[str]:
    """Return what requests leave to the cyclic collector: how many objects of which types.

    What else a process leaves at times is not there every time.
    """
    environ = EnvironBuilder(path).get_environ()

    def left_by_requests(count: int) -> Counter[str]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(count):
                b"".join(app(dict(environ), lambda *_: None))
            gc.collect()
            return Counter(type(each).__name__ for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    left_by_requests(1)  # the first one fills caches
    return left_by_requests(10) & left_by_requests(10) & left_by_requests(10)


# --- exactness ---


def test_threads_never_exceed_a_limit() -> None:
    app = app_of()
    limiter_of(app, default_limits=["50/day"])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: statuses(app, "/a", 20), range(8)))
    assert sum(answer.count(200) for answer in answers) == 50


def test_guesses_at_the_same_moment_all_count() -> None:
    app = Flask("app")
    limiter = limiter_of(app)
    inside: list[int] = []

    @app.get("/login")
    @limiter.limit("2/day", deduct_when=lambda response: response.status_code == 401)
    def login() -> tuple[str, int]:
        if len(inside) < 5:  # the next guess comes before this one is answered
            inside.append(1)
            inside.append(statuses(app, "/login", 1)[0])
        return "no", 401

    assert statuses(app, "/login", 1) == [401]
    assert sorted(one for one in inside if one > 1) == [401, 429]


# --- Redis ---


def test_counts_in_redis_are_shared_and_reset(server: RedisServer) -> None:
    apps = [app_of(), app_of()]
    limiters = [limiter_of(app, default_limits=["3/day"], storage_uri=server.url) for app in apps]
    assert [statuses(app, "/a", 1) for app in apps * 2] == [[200], [200], [200], [429]]
    limiters[0].reset()
    assert statuses(apps[1], "/a", 4) == [200, 200, 200, 429]
    assert not limiters[0].limiter.hit(parse("3/day"), "127.0.0.1", "a")


DOWN: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [200, 429, 429]),
    ({"in_memory_fallback_enabled": True}, [200, 429, 429]),
    ({"in_memory_fallback_enabled": True, "swallow_errors": True}, [200, 429, 429]),
    ({"swallow_errors": True}, [200, 200, 200]),
    ({"in_memory_fallback": ["2/minute"]}, [200, 200, 429]),
    ({"storage_options": {"on_store_error": "deny"}}, [429, 429, 429]),
]


@pytest.mark.parametrize(("options", "expected"), DOWN)
@pytest.mark.parametrize("decorated", [False, True])
def test_requests_are_answered_while_redis_is_down(
    options: dict[str, Any], expected: list[int], decorated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of()
    uri = f"redis://127.0.0.1:{free_port()}"
    limiter = limiter_of(
        app, default_limits=["1/day"], storage_uri=uri, headers_enabled=True, **options
    )
    if decorated:
        app.view_functions["a"] = limiter.limit("1/day")(app.view_functions["a"])
    assert statuses(app, "/a", 3) == expected
    if options == {"swallow_errors": True}:
        assert caplog.messages.count("Failed to rate limit. Swallowing error") == 3
    if "in_memory_fallback" in options:
        assert (
            caplog.messages.count(
                "Rate limit storage unreachable - falling back to in-memory limits"
            )
            == 1
        )


def test_a_program_can_ask_for_the_error() -> None:
    app = app_of()
    uri, raising = f"redis://127.0.0.1:{free_port()}", {"on_store_error": "raise"}
    limiter_of(app, default_limits=["1/day"], storage_uri=uri, storage_options=raising)
    app.testing = True
    with pytest.raises(StoreError):
        app.test_client().get("/a")


def test_the_store_is_used_again_when_it_is_back(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of()
    caplog.set_level(logging.INFO, "flask-limiter")
    limiter_of(
        app, default_limits=["2/day"], storage_uri=server.url, in_memory_fallback=["1/minute"]
    )

    take = Hit.take

    def fails_remotely(hit: Hit) -> Decision:
        if hit.counter.limiter.is_remote:
            raise StoreError("down")
        return take(hit)

    with monkeypatch.context() as patch:
        patch.setattr(Hit, "take", fails_remotely)
        assert statuses(app, "/a", 2) == [200, 429]
    assert statuses(app, "/a", 3) == [200, 200, 429]
    assert "Rate limit storage recovered" in caplog.messages


# --- exceptions and commands ---


def test_the_exception_has_the_limit() -> None:
    app = Flask("app")
    limiter = limiter_of(app)
    seen: list[RateLimitExceeded] = []
    app.add_url_rule("/a", "a", limiter.limit("1/day", error_message="enough")(lambda: "a"))

    @app.errorhandler(RateLimitExceeded)
    def handler(error: RateLimitExceeded) -> tuple[str, int]:
        seen.append(error)
        return "later", 429

    assert statuses(app, "/a", 2) == [200, 429]
    assert seen[0].description == "enough"
    assert seen[0].code == 429
    assert seen[0].limit.limit == parse("1/day")
    assert (seen[0].limit.shared, seen[0].limit.key_func) == (False, get_remote_address)


def test_commands() -> None:
    app = app_of()
    limiter = limiter_of(
        app, default_limits=["1/day", lambda: "5/hour"], key_prefix="p", storage_uri="memory://"
    )
    limiter.limit("2/minute", per_method=True)(app.view_functions["b"])
    run = app.test_cli_runner().invoke
    assert statuses(app, "/a", 2) == [200, 429]

    configured = run(args=["limiter", "config"]).output
    assert "FixedWindowRateLimiter" in configured
    assert "1/day, (a callable)" in configured

    listed = run(args=["limiter", "limits", "--key", "127.0.0.1"]).output.splitlines()
    of_a = [line.split()[3:] for line in listed if line.startswith("a ")]
    assert of_a == [["5", "per", "1", "hour", "4", "left"], ["1", "per", "1", "day", "0", "left"]]

    clear = ["limiter", "clear", "--path", "/a", "--key", "127.0.0.1"]
    assert run(args=clear, input="n\n").exit_code == 1
    assert statuses(app, "/a", 1) == [429]
    assert "Cleared 2 counts" in run(args=[*clear, "-y"]).output
    assert statuses(app, "/a", 2) == [200, 429]
    assert (
        "no endpoint answers GET /none" in run(args=["limiter", "limits", "--path", "/none"]).output
    )
    assert "no endpoint is named x" in run(args=["limiter", "limits", "--endpoint", "x"]).output
