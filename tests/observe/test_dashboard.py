"""The live page: who may see it, what it answers, and how much it holds open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rate_limiter import RateLimiter
from rate_limiter.asgi import ClientAddress, RateLimitMiddleware
from rate_limiter.metrics import watch
from rate_limiter.observe import dashboard as module
from rate_limiter.observe import live_access, live_history
from rate_limiter.observe.dashboard import dashboard, page_paths, wsgi_dashboard
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MOUNT = "/rate-limit/live"
HOST = "http://testserver"
FRONTS = {"asgi": dashboard, "wsgi": wsgi_dashboard}


@pytest.fixture(autouse=True)
def _sampler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made = live_history.Sampler()
    monkeypatch.setattr(live_history, "SAMPLER", made)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    yield
    made.stop()


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def served(front: str, base_url: str = HOST, **options: Any) -> Iterator[httpx.Client]:
    """Return a client of a page below MOUNT."""
    page: Any = FRONTS[front](TOKEN, **options)
    if front == "asgi":
        with TestClient(
            Starlette(routes=[Mount(MOUNT, page)]), base_url=base_url, follow_redirects=False
        ) as client:
            yield client
    else:
        app = DispatcherMiddleware(lambda environ, start: [], {MOUNT: page})
        transport = httpx.WSGITransport(app=app)  # type: ignore[arg-type]
        with httpx.Client(transport=transport, base_url=base_url) as client:
            yield client


def log_in(client: httpx.Client, token: str = TOKEN, **options: Any) -> httpx.Response:
    return client.post(f"{MOUNT}/login", data={"token": token}, **options)


def a_limiter(limit: str = "5/hour") -> tuple[RateLimiter, str]:
    limiter, rule = RateLimiter(limit), f"dashboard-{time.monotonic_ns()}"
    watch(limiter, rule)
    return limiter, rule


# --- Arguments ---


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (None, "token must be a str, got NoneType: the page is only served with a token"),
        (b"correct-horse-battery", "token must be a str, got bytes"),
        ("", "token must have at least 16 characters, got 0; make one with"),
        ("x" * 15, "token must have at least 16 characters, got 15; make one with"),
        ("correct horse battery", "token must consist of printable ASCII characters"),
        ("correct-horse-bätterie", "token must consist of printable ASCII characters"),
    ],
)
def test_wrong_tokens_of_the_constructor(front: str, token: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(error)}"):
        FRONTS[front](token)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"allow_reset": "yes"}, "allow_reset must be"),
        ({"secure_cookie": None}, "secure_cookie must be"),
        ({"client": "10.0.0.0/8"}, "client must be a ClientAddress, got '10.0.0.0/8'"),
    ],
)
def test_wrong_options(front: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=f"^{error}"):
        FRONTS[front](TOKEN, **options)


def test_a_token_is_needed(front: str) -> None:
    with pytest.raises(TypeError, match="token"):
        FRONTS[front]()  # type: ignore[call-arg]


# --- Tokens and sessions ---


def test_without_a_token_there_is_a_form(front: str) -> None:
    with served(front) as client:
        answer = client.get(f"{MOUNT}/")
        assert (answer.status_code, 'name="token"' in answer.text) == (401, True)
        assert "data-streams" not in answer.text
        for path in ("data", "events"):
            assert client.get(f"{MOUNT}/{path}").status_code == 401
        for path in ("client", "reset", "logout"):
            assert client.post(f"{MOUNT}/{path}").status_code in (401, 403)


def test_a_session(front: str) -> None:
    with served(front) as client:
        answer = log_in(client)
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        cookie = answer.headers["set-cookie"]
        assert re.fullmatch(
            r"rate_limiter_live=\d+-\w{16}\.\w{64}; Path=/rate-limit/live; Max-Age=43200; "
            "HttpOnly; SameSite=Strict",
            cookie,
        )
        assert TOKEN not in cookie
        page = client.get(f"{MOUNT}/")
        assert (page.status_code, 'id="traffic"' in page.text) == (200, True)
        assert client.get(f"{MOUNT}/data").status_code == 200
        answer = client.post(f"{MOUNT}/logout", headers={"Origin": HOST})
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert client.get(f"{MOUNT}/").status_code == 401


@pytest.mark.parametrize("options", [{"secure_cookie": True}, {"base_url": "https://testserver"}])
def test_secure_cookies(front: str, options: dict[str, Any]) -> None:
    with served(front, **options) as client:
        assert log_in(client).headers["set-cookie"].endswith("; Secure")


def test_a_bearer_token(front: str) -> None:
    with served(front) as client:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {TOKEN}"}
            assert client.get(f"{MOUNT}/data", headers=headers).json()["version"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Bearer {TOKEN}x")],
        [("Authorization", f"Bearer {TOKEN[:-1]}")],
        [("Authorization", f"Bearer {TOKEN.upper()}")],
        [("Authorization", "Bearer")],
        [("Authorization", "")],
        [("Authorization", f"Basic {TOKEN}")],
        [("Authorization", TOKEN)],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
        [("Cookie", f"rate_limiter_live={TOKEN}")],
        [("Cookie", "rate_limiter_live=")],
        [("Cookie", "rate_limiter_live=.")],
        [("Cookie", "rate_limiter_live=99999999999-0000000000000000." + "0" * 64)],
    ],
)
def test_wrong_tokens(front: str, headers: list[tuple[str, str]]) -> None:
    if front == "wsgi" and len(headers) > 1:
        headers = [(headers[0][0], ",".join(value for _, value in headers))]  # as servers do
    with served(front) as client:
        answer = client.get(f"{MOUNT}/data", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "set-cookie" not in answer.headers


def test_a_token_in_the_address_is_ignored(front: str) -> None:
    with served(front) as client:
        for path in (f"?token={TOKEN}", f"data?token={TOKEN}", f"login?token={TOKEN}"):
            assert client.get(f"{MOUNT}/{path}").status_code in (401, 405)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"token=", b"token=wrong", f"token={TOKEN}&token={TOKEN}".encode(), b"\xff\xfe"),
        *(b"token=\xff", b"a=1&" * 500, f"token[]={TOKEN}".encode()),
    ],
)
def test_wrong_forms(front: str, body: bytes) -> None:
    with served(front) as client:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = client.post(f"{MOUNT}/login", content=body, headers=kind)
        assert (answer.status_code, "This token is wrong." in answer.text) == (401, True)
        assert "set-cookie" not in answer.headers


def test_sessions_end(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(front) as client:
        log_in(client)
        clock = live_access.time.time() + live_access.SESSION_S + 1
        monkeypatch.setattr(live_access.time, "time", lambda: clock)
        assert client.get(f"{MOUNT}/data").status_code == 401


def test_sessions_of_another_token_or_changed_ones(front: str) -> None:
    with served(front) as client:
        log_in(client)
        session = client.cookies["rate_limiter_live"]
    later = str(int(session[:10]) + 1) + session[10:]
    other: Any = FRONTS[front]("another-token-of-it")
    access = other._page.access
    request = live_access.PageRequest("GET", "/", headers={"cookie": [f"{live_access.COOKIE}="]})
    assert not access.has_session(request)
    for value in (session, later):
        headers = {"cookie": [f"{live_access.COOKIE}={value}"]}
        assert not access.has_session(live_access.PageRequest("GET", "/", headers=headers))


def test_wrong_tokens_are_limited(front: str) -> None:
    with served(front) as client:
        wrong = [log_in(client, "wrong").status_code for _ in range(6)]
        wrong += [
            client.get(f"{MOUNT}/data", headers={"Authorization": "Bearer wrong"}).status_code
            for _ in range(6)
        ]
        assert wrong == [401] * 10 + [429] * 2
        denied = log_in(client)  # the right one too: else an attacker could go on
        assert denied.status_code == 429
        assert 1 <= int(denied.headers["retry-after"]) <= 6
        assert "Too many wrong tokens. Try again in" in denied.text
        assert client.get(f"{MOUNT}/data", headers=BEARER).status_code == 429


def test_right_tokens_are_not_limited(front: str) -> None:
    with served(front) as client:
        assert {log_in(client).status_code for _ in range(30)} == {303}
        assert {client.get(f"{MOUNT}/data", headers=BEARER).status_code for _ in range(30)} == {200}


def test_wrong_tokens_count_for_the_client_behind_a_proxy() -> None:
    page = dashboard(TOKEN, client=ClientAddress(["10.0.0.0/8"]))
    access = page._page.access

    def status(forwarded: str) -> int:
        headers = {"x-forwarded-for": [forwarded]}
        request = live_access.PageRequest("GET", "/data", headers=headers, peer="10.0.0.1")
        with pytest.raises(live_access.Denied) as caught:
            access.check_token(request, "wrong")
        return caught.value.status

    assert [status("203.0.113.7") for _ in range(11)] == [401] * 10 + [429]
    assert status("203.0.113.8") == 401


# --- Other sites ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://testserver:81"},
        {"Sec-Fetch-Site": "cross-site", "Origin": HOST},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
def test_posts_of_other_sites(front: str, headers: dict[str, str]) -> None:
    limiter, rule = a_limiter()
    limiter.hit("client")
    body = {"rule": rule, "key": "client"}
    with served(front, allow_reset=True) as client:
        log_in(client)
        for path in ("client", "reset"):
            answer = client.post(f"{MOUNT}/{path}", json=body, headers=headers)
            assert answer.status_code == 403
        if headers:
            assert log_in(client, headers=headers).status_code == 403
            assert client.post(f"{MOUNT}/reset", json=body, headers=headers | BEARER).is_error
    assert int(limiter.peek("client").remaining) == 4


@pytest.mark.parametrize("headers", [{"Origin": HOST}, {"Sec-Fetch-Site": "same-origin"}, BEARER])
def test_posts_of_the_page_and_of_programs(front: str, headers: dict[str, str]) -> None:
    limiter, rule = a_limiter()
    limiter.hit("client")
    with served(front, allow_reset=True) as client:
        if headers is not BEARER:
            log_in(client)
        for path, left in (("client", 4), ("reset", 5)):
            body = {"rule": rule, "key": "client"}
            answer = client.post(f"{MOUNT}/{path}", json=body, headers=headers)
            assert answer.status_code == 200
            assert int(answer.json()["limits"][0]["remaining"]) == left
    assert int(limiter.peek("client").remaining) == 5


def test_data_is_not_for_other_sites(front: str) -> None:
    with served(front) as client:
        log_in(client)
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert client.get(f"{MOUNT}/data", headers=headers).status_code == 403
        assert client.get(f"{MOUNT}/data", headers={"Sec-Fetch-Site": "none"}).is_success


def test_headers_of_every_answer(front: str) -> None:
    with served(front) as client:
        answers = [client.get(f"{MOUNT}/"), client.get(f"{MOUNT}/data", headers=BEARER)]
        answers += [client.get(f"{MOUNT}/nothing"), log_in(client, "wrong"), log_in(client)]
        answers += [client.get(f"{MOUNT}/"), client.put(f"{MOUNT}/data")]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    policy = answers[5].headers["content-security-policy"]
    assert re.fullmatch(
        r"default-src 'none'; script-src( 'sha256-[\w+/]{43}='){3}; "
        r"style-src 'sha256-[\w+/]{43}='; img-src data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        policy,
    )
    page = answers[5].text
    assert not re.search(
        r"\son\w+=|javascript:|style=|https?://|\{\{",
        re.sub(r'"http://www.w3.org/2000/svg"', "", page),
    )


# --- Paths ---


def test_the_slash(front: str) -> None:
    with served(front) as client:
        answer = client.get(MOUNT)
        assert answer.status_code in (307, 308)
        assert answer.headers["location"] in (f"{HOST}{MOUNT}/", "./live/")


def test_paths_and_methods(front: str) -> None:
    with served(front) as client:
        assert client.get(f"{MOUNT}/../live/nothing", headers=BEARER).status_code == 404
        assert client.get(f"{MOUNT}/data/", headers=BEARER).status_code == 404
        for method, path, allowed in (
            ("POST", "data", "GET, HEAD"),
            ("GET", "reset", "POST"),
            ("DELETE", "client", "POST"),
            ("OPTIONS", "data", "GET, HEAD"),
        ):
            answer = client.request(method, f"{MOUNT}/{path}", headers=BEARER)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        answer = client.head(f"{MOUNT}/data", headers=BEARER)
        assert (answer.status_code, answer.content) == (200, b"")


def test_long_bodies(front: str) -> None:
    with served(front) as client:
        for path in ("login", "client"):
            answer = client.post(f"{MOUNT}/{path}", content=b"x" * 70_000, headers=BEARER)
            assert answer.status_code == 413


@pytest.mark.parametrize(
    "query", ["since=x", "since=-1", "since=nan", "since=1e400", "x", "since="]
)
def test_wrong_queries(front: str, query: str) -> None:
    with served(front) as client:
        assert client.get(f"{MOUNT}/data?{query}", headers=BEARER).status_code == 200


def test_paths_that_a_middleware_exempts() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope["path"])

    app = Starlette(routes=[Mount(MOUNT, dashboard(TOKEN)), Mount("/other", never)])
    limited = RateLimitMiddleware(app, limits="1/hour", exempt_paths=page_paths(MOUNT))
    with TestClient(limited, base_url=HOST) as client:
        for _ in range(3):
            assert client.get(MOUNT).status_code == 401
            assert client.get(f"{MOUNT}/data", headers=BEARER).status_code == 200
            body = {"rule": "no such", "key": "k"}
            answer = client.post(f"{MOUNT}/reset", json=body, headers=BEARER)
            assert answer.status_code == 403
        with pytest.raises(AssertionError, match="/other"):
            client.get("/other/")
        assert client.get("/other").status_code == 429  # the page lifts no other limit
        assert client.get(f"{MOUNT}/nothing").status_code == 429


def test_wrong_mounts() -> None:
    with pytest.raises(ValueError, match=r"^mount must be a str"):
        page_paths("live")
    assert page_paths("/") == page_paths("/live/") - page_paths("/live") | {
        one.removeprefix("/live") for one in page_paths("/live") - {"/live"}
    }


# --- One client ---


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'{"rule": "a"}', b'{"rule": 1, "key": "k"}', b"[" * 60_000),
        *(b'{"rule": "a", "key": ""}', b'{"rule": "a", "key": ["k"]}', b"\xff"),
    ],
)
def test_wrong_bodies(front: str, body: bytes) -> None:
    headers = BEARER | {"Content-Type": "application/json"}
    with served(front) as client:
        answer = client.post(f"{MOUNT}/client", content=body, headers=headers)
        assert (answer.status_code, "expected" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    "key", ["<script>alert(1)</script>", "\u202egnp", "\0\x1b[2J", "k" * 10_000, "\ud800", "ключ"]
)
def test_odd_keys(front: str, key: str) -> None:
    limiter, rule = a_limiter()
    with served(front, allow_reset=True) as client:
        body = json.dumps({"rule": rule, "key": key})
        headers = BEARER | {"Content-Type": "application/json"}
        for path in ("client", "reset"):
            answer = client.post(f"{MOUNT}/{path}", content=body, headers=headers)
            assert (answer.status_code, answer.json()["key"]) == (200, key)
    assert int(limiter.peek("other").remaining) == 5


def test_rules_that_are_not_here(front: str) -> None:
    with served(front) as client:
        body = {"rule": "<no such rule>", "key": "k"}
        answer = client.post(f"{MOUNT}/client", json=body, headers=BEARER)
        assert answer.status_code == 404
        assert "has no limiter of this rule" in answer.json()["detail"]
        assert "<" not in answer.text


def test_resets_are_off_by_default(front: str) -> None:
    limiter, rule = a_limiter()
    limiter.hit("client")
    body = {"rule": rule, "key": "client"}
    with served(front) as client:
        answer = client.post(f"{MOUNT}/reset", json=body, headers=BEARER)
        assert (answer.status_code, "allow_reset=True" in answer.json()["detail"]) == (403, True)
        assert client.post(f"{MOUNT}/reset", json=body).status_code == 401
    assert int(limiter.peek("client").remaining) == 4


def test_a_store_that_does_not_answer(front: str) -> None:
    limiter = RateLimiter(
        "5/hour", store="redis://127.0.0.1:1?timeout=0.05", on_store_error="raise"
    )
    watch(limiter, "dashboard-without-redis")
    with served(front, allow_reset=True) as client:
        body = {"rule": "dashboard-without-redis", "key": "k"}
        for path in ("client", "reset"):
            answer = client.post(f"{MOUNT}/{path}", json=body, headers=BEARER)
            assert answer.status_code == 503


# --- Events ---


def scope_of(path: str = "/events", **headers: str) -> dict[str, Any]:
    given = {"authorization": f"Bearer {TOKEN}"} | headers
    return {
        "type": "http",
        "method": "GET",
        "path": f"{MOUNT}{path}",
        "root_path": MOUNT,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5),
        "scheme": "http",
    }


class Viewer:
    """A client of the events: what it was sent, and a task that serves it."""

    def __init__(self, page: Any, *, is_slow: bool = False, **headers: str) -> None:
        self.sent: list[Any] = []
        self._gone, self._sent = asyncio.Event(), asyncio.Event()
        self._is_slow = is_slow
        self.task = asyncio.ensure_future(page(scope_of(**headers), self._receive, self._send))

    async def _receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._is_slow and message["type"] == "http.response.body":
            await asyncio.Event().wait()
        self.sent.append(message)
        self._sent.set()

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return the documents of the first events, once they are there."""
        while len(self.sent) < 1 + count:
            await self._sent.wait()
            self._sent.clear()
        bodies = [message["body"].decode() for message in self.sent[1 : 1 + count]]
        assert all(body.endswith("\n\n") and body.count("\n") == 4 for body in bodies)
        return [json.loads(body.partition("data: ")[2]) for body in bodies]

    async def leave(self) -> None:
        self._gone.set()
        await self.task


async def test_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    now_s = time.time()
    live_history.SAMPLER.sample(now_s - 9)
    live_history.SAMPLER.sample(now_s - 4)
    page = dashboard(TOKEN)
    viewer = Viewer(page)
    first, second = await viewer.events(2)
    assert first["history"]["samples"][0]["time"] == now_s - 4
    assert second["history"]["samples"] == []
    start = viewer.sent[0]
    assert start["status"] == 200
    assert (b"content-type", b"text/event-stream") in start["headers"]
    await viewer.leave()
    again = Viewer(page, **{"last-event-id": str(now_s - 4)})
    (event,) = await again.events(1)
    assert now_s - 4 not in [one["time"] for one in event["history"]["samples"]]
    await again.leave()


async def test_a_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_S", 0.05)
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    viewer = Viewer(dashboard(TOKEN))
    await viewer.task
    assert viewer.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_streams_are_bounded() -> None:
    page = dashboard(TOKEN)
    viewers = [Viewer(page) for _ in range(module.STREAMS_MAX)]
    await asyncio.gather(*(viewer.events(1) for viewer in viewers))
    more = [Viewer(page) for _ in range(900)]
    await asyncio.gather(*(viewer.task for viewer in more))
    assert {viewer.sent[0]["status"] for viewer in more} == {503}
    assert (b"retry-after", b"30") in more[0].sent[0]["headers"]
    await viewers[0].leave()
    last = Viewer(page)
    await last.events(1)
    await asyncio.gather(*(viewer.leave() for viewer in [*viewers[1:], last]))


async def test_slow_readers_lose_their_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_MAX_S", 0.05)
    page = dashboard(TOKEN)
    slow = [Viewer(page, is_slow=True) for _ in range(module.STREAMS_MAX)]
    await asyncio.gather(*(viewer.task for viewer in slow))
    other = Viewer(page)
    await other.events(1)
    await other.leave()


async def test_a_cancelled_stream_frees_its_place() -> None:
    page = dashboard(TOKEN)
    for _ in range(module.STREAMS_MAX + 1):
        viewer = Viewer(page)
        await viewer.events(1)
        viewer.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await viewer.task


async def test_events_need_a_token() -> None:
    viewer = Viewer(dashboard(TOKEN), authorization="Bearer wrong")
    await viewer.task
    assert viewer.sent[0]["status"] == 401


def test_wsgi_polls() -> None:
    with served("wsgi") as client:
        answer = client.get(f"{MOUNT}/events", headers=BEARER)
        assert (answer.status_code, "ASGI" in answer.json()["detail"]) == (501, True)
        log_in(client)
        assert 'data-streams="false"' in client.get(f"{MOUNT}/").text


async def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await dashboard(TOKEN)({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_served_alone() -> None:
    with TestClient(dashboard(TOKEN), base_url=HOST) as client:  # with its lifespan
        assert client.get("/").status_code == 401
        assert (
            "Path=/;"
            in client.post("/login", data={"token": TOKEN}, follow_redirects=False).headers[
                "set-cookie"
            ]
        )
