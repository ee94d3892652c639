"""RateLimitMiddleware for WSGI: any application, however it starts and sends its response."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from rate_limiter import ManualClock
from rate_limiter.jwt import Jwt
from rate_limiter.policy.settling import Finished
from rate_limiter.wsgi import RateLimitMiddleware
from support.calling import ask_wsgi, wsgi_app
from support.odd_requests import PEER, environ_of
from support.servers import ROOT, serve
from support.tokens import token
from werkzeug.test import EnvironBuilder, run_wsgi_app


class Body:
    """A body that counts its chunks and whether it was closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.left = list(chunks)
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        return self.left.pop(0)

    def close(self) -> None:
        self.is_closed = True


def limited(app: Any, **options: Any) -> RateLimitMiddleware:
    return RateLimitMiddleware(app, **({"limits": "9/hour", "clock": ManualClock()} | options))


def left(app: RateLimitMiddleware) -> float:
    (limiter,) = app.policy.limiters().values()
    return limiter.peek(PEER).remaining


class Settled:
    """A cost_after that keeps what it got, and charges five tokens in all."""

    def __init__(self) -> None:
        self.got: list[Finished] = []

    def __call__(self, finished: Finished) -> float:
        self.got.append(finished)
        return 5


def started(seen: list[Any]) -> Any:
    def start_response(status: str, headers: Any, *error: Any) -> Any:
        seen.append((status, dict(headers)))
        return seen.append  # write()

    return start_response


def test_without_settling_the_body_is_the_applications_own() -> None:
    body = Body(b"a", b"b")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    assert limited(app)(environ_of(), started([])) is body


def test_a_stream_is_passed_on_chunk_by_chunk() -> None:
    body, settled = Body(b"one", b"two"), Settled()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    gate = limited(app, cost_after=settled)
    stream: Any = gate(environ_of(), started([]))
    assert next(stream) == b"one"
    assert body.left == [b"two"]
    assert left(gate) == 8
    assert list(stream) == [b"two"]
    stream.close()
    assert body.is_closed
    assert left(gate) == 4
    (finished,) = settled.got
    assert (finished.status, finished.body_bytes, finished.disconnected) == (200, 6, False)
    assert (finished.cost, finished.key) == (1, PEER)


def test_a_client_that_leaves_in_the_middle() -> None:
    settled = Settled()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body(b"one", b"two")

    stream: Any = limited(app, cost_after=settled)(environ_of(), started([]))
    next(stream)
    stream.close()
    (finished,) = settled.got
    assert (finished.body_bytes, finished.disconnected) == (3, True)


def test_a_response_that_begins_with_its_first_chunk() -> None:
    settled = Settled()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", [("Content-Length", "2")])
        yield b"ok"

    seen: list[Any] = []
    gate = limited(app, cost_after=settled)
    stream: Any = gate(environ_of(), started(seen))
    assert not seen
    assert next(stream) == b"ok"
    assert seen[0][1]["X-RateLimit-Remaining"] == "8"
    assert left(gate) == 4  # the client's next request sees the final cost
    stream.close()
    assert [one.status for one in settled.got] == [201]


def test_the_write_function_of_the_server_is_returned() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"written")
        return []

    seen: list[Any] = []
    assert list(limited(app)(environ_of(), started(seen))) == []
    assert seen[1] == b"written"


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Body")]
)
def test_a_response_without_a_body(method: str, status: str) -> None:
    settled = Settled()

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("Content-Length", "400")])
        return [b""]

    gate = limited(app, cost_after=settled)
    answer = ask_wsgi(gate, environ_of(REQUEST_METHOD=method))
    assert answer.values("X-RateLimit-Limit") == ["9"]
    (finished,) = settled.got
    assert (finished.status, finished.body_bytes, finished.disconnected) == (
        int(status[:3]),
        0,
        False,
    )


@pytest.mark.parametrize("when", ["before", "after", "while"])
def test_an_application_that_raises(when: str) -> None:
    settled = Settled()

    def app(environ: Any, start_response: Any) -> Any:
        if when != "before":
            start_response("200 OK", [])
        if when == "while":
            return (1 / 0 for _ in "x")
        raise ZeroDivisionError

    gate = limited(app, cost_after=settled)
    with pytest.raises(ZeroDivisionError):
        ask_wsgi(gate, environ_of())
    (finished,) = settled.got
    assert isinstance(finished.error, ZeroDivisionError)
    assert finished.failed
    assert finished.status == (None if when == "before" else 200)
    assert left(gate) == 4


def test_a_response_that_is_started_again_after_an_error() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Own", "1")])
        try:
            raise ValueError
        except ValueError as error:
            start_response("500 Oops", [], (ValueError, error, None))
        return [b"failed"]

    answer = ask_wsgi(limited(app), environ_of())
    assert (answer.status, answer.values("X-RateLimit-Limit")) == (500, ["9"])
    assert not answer.values("X-Own")


def test_a_cost_after_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def failing(finished: Finished) -> float:
        raise ValueError("planned")

    gate = limited(wsgi_app, cost_after=failing)
    assert ask_wsgi(gate, environ_of()).body == b"ok"
    assert "could not be settled" in caplog.text
    assert left(gate) == 8


def test_the_applications_own_headers_stay() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("x-ratelimit-limit", "77"), ("Retry-After", "5")])
        return [b"ok"]

    answer = ask_wsgi(limited(app), environ_of())
    assert answer.headers == [("x-ratelimit-limit", "77"), ("retry-after", "5")]


def test_a_denied_request_does_not_enter_the_application() -> None:
    entered: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        entered.append(environ)
        return wsgi_app(environ, start_response)

    gate = limited(app, limits="1/hour")
    assert [ask_wsgi(gate, environ_of()).status for _ in range(3)] == [200, 429, 429]
    assert len(entered) == 1


def test_a_denial_by_ones_own_application() -> None:
    def denied(environ: Any, decision: Any) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            start_response("420 Calm", [("X-Wait", str(decision.retry_after))])
            return [b"later"]

        return app

    gate = limited(wsgi_app, limits="1/hour", denied=denied)
    ask_wsgi(gate, environ_of())
    answer = ask_wsgi(gate, environ_of())
    assert (answer.status, answer.body, answer.values("X-Wait")) == (420, b"later", ["3600.0"])
    assert answer.values("Retry-After") == ["3600"]


@pytest.mark.parametrize("what", ["key", "cost", "cost_after", "tier", "bypass", "denied"])
def test_async_functions_are_refused(what: str) -> None:
    async def later(environ: Any) -> Any: ...

    with pytest.raises(TypeError, match=f"{what} must be a plain function, not an async one"):
        limited(wsgi_app, **{what: later})


def test_a_key_that_must_be_awaited() -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return "key"

    gate = limited(wsgi_app, key=lambda environ: later())
    outer = limited(gate)
    with pytest.raises(TypeError, match="no event loop"):
        ask_wsgi(outer, environ_of())
    assert (left(gate), left(outer)) == (9, 9)


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "gunicorn", "-b", "127.0.0.1:{port}", "--threads", "4", "support.wsgi_app:app"),
        ("-m", "waitress", "--listen=127.0.0.1:{port}", "support.wsgi_app:app"),
    ],
    ids=["gunicorn", "waitress"],
)
def test_threads_of_a_server(tmp_path: Path, words: tuple[str, ...]) -> None:
    tests = str(ROOT / "tests")
    with (
        serve(tmp_path / "log", *words, environment={"PYTHONPATH": tests}) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda n: client.get("/"), range(40)))
        assert sorted(one.status_code for one in answers) == [200] * 20 + [429] * 20
        assert all(len(one.headers.get_list("X-RateLimit-Limit")) == 1 for one in answers)
        assert {one.text for one in answers if one.status_code == 200} == {"ok"}
        assert client.head("/").status_code == 429


def test_a_token_is_verified_once_for_a_request() -> None:
    """By the tier, the key and a bypass of one middleware, and by the next one."""
    verified: list[str] = []

    class Counting(Jwt):
        def verify(self, token: str) -> Any:
            verified.append(token)
            return super().verify(token)

    jwt = Counting(secret="s" * 32, algorithms=["HS256"])
    options: dict[str, Any] = {
        "limits": {"default": "5/hour", "pro": "9/hour"},
        "key": "jwt:sub",
        "tier": "jwt:plan",
        "bypass": "jwt:role=admin",
        "jwt": jwt,
    }

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["rate_limiter"].key.encode()]

    limited = RateLimitMiddleware(RateLimitMiddleware(app, **options), **options)
    authorization = f"Bearer {token({'sub': 'bob', 'plan': 'pro'}, 's' * 32)}"
    builder = EnvironBuilder(headers={"Authorization": authorization})
    body, status, headers = run_wsgi_app(limited, builder.get_environ())
    assert (b"".join(body), status, headers["X-RateLimit-Limit"]) == (b"jwt:sub:bob", "200 OK", "9")
    assert len(verified) == 1
