"""The same programs on slowapi and on rate_limiter.compat.slowapi answer alike.

Only the import lines differ. The programs follow the examples of slowapi's documentation. Time
stands still but where a program moves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from starlette.testclient import TestClient

HEAD = """
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from limits import parse
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.extension import Limiter as SameLimiter
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_ipaddr, get_remote_address
from slowapi.wrappers import Limit, LimitGroup

def application(limiter, make=FastAPI, **options):
    app = make(**options)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    return app
"""

PROGRAMS = {
    "starlette": (
        """
limiter = Limiter(key_func=get_remote_address)

@limiter.limit("5/minute")
async def homepage(request: Request):
    return PlainTextResponse("test")

@limiter.limit("2/minute")
def blocking(request):
    return PlainTextResponse("test")

app = application(limiter, Starlette, routes=[Route("/home", homepage), Route("/sync", blocking)])
""",
        "/home 6, /sync 3, +59.9, /home 1, +0.2, /home 6, /sync 1",
    ),
    "fastapi": (
        """
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
app = application(limiter)

@app.get("/home")
@limiter.limit("5/minute")
async def homepage(request: Request):
    return PlainTextResponse("test")

@app.get("/mars")
@limiter.limit("5/minute")
async def mars(request: Request, response: Response):
    return {"key": "value"}

@app.get("/sync")
@limiter.limit("1/second;3/minute")
def blocking(request: Request, response: Response):
    return {"key": "value"}
""",
        "/home 4, +20, /home 3, /mars 6, /sync 2, +1, /sync 1, +1, /sync 2, +1, /sync 1, +60, "
        "/sync 1",
    ),
    "defaults and exempt views": (
        """
limiter = Limiter(key_func=get_remote_address, default_limits=["2/minute"], headers_enabled=True)
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/a")
@app.get("/b")
async def either():
    return "ok"

@app.get("/items/{item}")
def item(item: int):
    return item

@app.get("/own")
@limiter.limit("1/minute")
async def own(request: Request, response: Response):
    return "ok"

@app.get("/health")
@limiter.exempt
async def health():
    return "ok"

@app.get("/none")
@limiter.exempt
def none():
    return "ok"
""",
        "/a 3, /b 3, /items/1 3, /items/2 1, /own 2, /health 4, /none 4, /missing 4, POST /a 3",
    ),
    "application limits": (
        """
limiter = Limiter(get_remote_address, application_limits=["5/minute"], default_limits=["3/minute"])
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/a")
def a():
    return "ok"

@app.get("/b")
def b():
    return "ok"

@app.get("/c")
@limiter.limit(lambda: "2/minute")
def c(request: Request):
    return "ok"
""",
        "/c 2, /a 2, /b 3, /a 1, +60, /c 3",
    ),
    "shared limits": (
        """
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
app = application(limiter)
shared = limiter.shared_limit("3/minute", scope="files", error_message="slow down")

@app.get("/a")
@shared
async def a(request: Request, response: Response):
    return "ok"

@app.get("/b")
@shared
@limiter.limit("2/minute")
async def b(request: Request, response: Response):
    return "ok"
""",
        "/a 1, /b 2, /a 1, /b 1, +60, /b 3",
    ),
    "keys of users": (
        """
def user(request: Request):
    return request.headers.get("X-User", "anonymous")

limiter = Limiter(key_func=user, key_prefix="mine")
app = application(limiter)

@app.get("/a")
@limiter.limit("2/minute")
async def a(request: Request):
    return "ok"

@app.get("/address")
@limiter.limit("2/minute", key_func=get_ipaddr)
async def address(request: Request):
    return "ok"

@app.get("/all")
@limiter.limit("2/minute", key_func=lambda: "everybody")
async def everybody(request: Request):
    return "ok"

@app.get("/empty")
@limiter.limit("1/minute", key_func=lambda request: "")
async def empty(request: Request):
    return "ok"
""",
        "/a 3, /a 3 X-User: ann, /address 3 X_FORWARDED_FOR: 1.2.3.4, /address 1, "
        "/all 2 X-User: ann, /all 1 X-User: bob, /empty 3",
    ),
    "exemptions": (
        """
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
app = application(limiter)

@app.get("/request")
@limiter.limit("1/minute", exempt_when=lambda request: "X-Staff" in request.headers)
async def with_request(request: Request, response: Response):
    return "ok"

@app.get("/always")
@limiter.limit("1/minute", exempt_when=lambda: True)
async def always(request: Request, response: Response):
    return "ok"

@app.get("/never")
@limiter.limit("1/minute", exempt_when=lambda: False)
async def never(request: Request, response: Response):
    return "ok"
""",
        "/request 3 X-Staff: yes, /request 2, /always 3, /never 2",
    ),
    "costs": (
        """
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
app = application(limiter)

def cost(request: Request) -> int:
    return int(request.headers.get("X-Cost", 1))

@app.get("/three")
@limiter.limit("9/minute", cost=3)
async def three(request: Request, response: Response):
    return "ok"

@app.get("/some")
@limiter.limit("9/minute", cost=cost)
async def some(request: Request, response: Response):
    return "ok"
""",
        "/three 4, /some 1 X-Cost: 5, /some 1 X-Cost: 0, /some 1 X-Cost: 4, /some 1",
    ),
    "callable limits": (
        """
def plan(request: Request):
    return request.headers.get("X-Plan", "free")

def limit_of(key: str):
    return {"free": "1/minute", "pro": "3/minute;5/hour", "wrong": "many"}[key]

limiter = Limiter(key_func=plan, headers_enabled=True)
app = application(limiter)

@app.get("/key")
@limiter.limit(limit_of)
async def with_key(request: Request, response: Response):
    return "ok"

@app.get("/none")
@limiter.limit(lambda: "2 per 2 minutes")
def without(request: Request, response: Response):
    return "ok"
""",
        "/key 2, /key 4 X-Plan: pro, +60, /key 3 X-Plan: pro, /key 3 X-Plan: wrong, /none 3",
    ),
    "header names and dates": (
        """
limiter = Limiter(
    key_func=get_remote_address, headers_enabled=True, retry_after="http-date",
    default_limits=["2/minute", "9/day"],
)
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/a")
async def a():
    return "ok"

@app.get("/later")
async def later():
    return Response(status_code=503, headers={"Retry-After": "600"})

@app.get("/sooner")
async def sooner():
    return Response(status_code=503, headers={"Retry-After": "5"})
""",
        "/a 3, /later 1, /sooner 1",
    ),
    "methods": (
        """
limiter = Limiter(key_func=get_remote_address)
app = application(limiter)

@app.api_route("/each", methods=["GET", "POST"])
@limiter.limit("2/minute", per_method=True)
async def each(request: Request):
    return "ok"

@app.api_route("/some", methods=["GET", "POST"])
@limiter.limit("1/minute", methods=["POST"])
async def some(request: Request):
    return "ok"
""",
        "/each 3, POST /each 3, /some 3, POST /some 2, PUT /some 1",
    ),
    "messages": (
        """
limiter = Limiter(key_func=get_remote_address)
app = application(limiter)

@app.get("/text")
@limiter.limit("1/minute", error_message="too many")
async def text(request: Request):
    return "ok"

@app.get("/call")
@limiter.limit("1/2 hours", error_message=lambda: "far too many")
async def call(request: Request):
    return "ok"

@app.get("/plain")
@limiter.limit("1/2 hours")
async def plain(request: Request):
    return "ok"
""",
        "/text 2, /call 2, /plain 2",
    ),
    "handlers": (
        """
limiter = Limiter(key_func=get_remote_address, default_limits=["1/minute"], headers_enabled=True)
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.exception_handler(RateLimitExceeded)
def handler(request: Request, exc: RateLimitExceeded):
    item = exc.limit.limit
    response = JSONResponse(
        {"detail": exc.detail, "limit": [item.amount, item.get_expiry(), str(item)]},
        status_code=exc.status_code,
    )
    return request.app.state.limiter._inject_headers(response, request.state.view_rate_limit)

@app.get("/default")
async def default():
    return "ok"

@app.get("/own")
@limiter.limit("2 per 3 hours")
async def own(request: Request, response: Response):
    return "ok"
""",
        "/default 2, /own 3",
    ),
    "no handler": (
        """
limiter = Limiter(key_func=get_remote_address)
app = FastAPI()
app.state.limiter = limiter

@app.get("/a")
@limiter.limit("1/minute")
async def a(request: Request):
    return "ok"
""",
        "/a 2",
    ),
    "styles of keys": (
        """
limiter = Limiter(key_func=get_remote_address, key_style="endpoint")
app = application(limiter)
by_url = Limiter(key_func=get_remote_address, key_style="url")

@app.get("/endpoint/{number}")
@limiter.limit("2/minute")
async def by_endpoint(request: Request, number: int):
    return number

@app.get("/url/{number}")
@by_url.limit("2/minute")
async def by_path(request: Request, number: int):
    return number
""",
        "/endpoint/1 1, /endpoint/2 1, /endpoint/3 1, /url/1 2, /url/2 2, /url/1 1",
    ),
    "stacked limits": (
        """
limiter = Limiter(get_remote_address, default_limits=["3/minute"], headers_enabled=True)
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/replaced")
@limiter.limit("10/hour")
@limiter.limit("5/minute")
async def replaced(request: Request, response: Response):
    return "ok"

@app.get("/added")
@limiter.limit("4/hour", override_defaults=False)
async def added(request: Request, response: Response):
    return "ok"

@app.get("/malformed")
@limiter.limit("a lot")
async def malformed(request: Request, response: Response):
    return "ok"
""",
        "/replaced 5, /malformed 4, /added 3, +60, /added 2",
    ),
    "moving windows": (
        """
limiter = Limiter(get_remote_address, default_limits=["3/minute"], strategy="moving-window")
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/a")
async def a():
    return "ok"
""",
        "/a 1, +30, /a 3, +29.9, /a 1, +0.3, /a 2, +30, /a 3",
    ),
    "switched off, and counted by the program": (
        """
limiter = Limiter(key_func=get_remote_address, auto_check=False)
counted = Limiter(key_func=get_remote_address)
off = Limiter(key_func=get_remote_address, enabled=False)
app = application(counted)

@app.get("/unchecked")
@limiter.limit("1/minute")
async def unchecked(request: Request):
    return "ok"

@app.get("/off")
@off.limit("1/minute")
async def is_off(request: Request):
    return "ok"

@app.get("/switched")
@counted.limit("1/minute")
async def switched(request: Request):
    return "ok"

@app.get("/switch/{on}")
async def switch(on: bool):
    counted.enabled = on

@app.get("/reset")
async def reset():
    counted.reset()

@app.get("/storage")
async def storage():
    counted._storage.reset()

@app.get("/counted")
async def by_hand():
    item = parse("2/minute")
    passed = counted.limiter.hit(item, "ann")
    tested = counted.limiter.test(item, "ann")
    return passed, tested, counted.limiter.get_window_stats(item, "ann").remaining
""",
        "/off 3, /switched 2, /switch/no 1, /switched 2, /switch/yes 1, /switched 1, "
        "/reset 1, /switched 2, /storage 1, /switched 2, /counted 3",
    ),
    "classes and routers": (
        """
limiter = Limiter(key_func=get_remote_address)
app = application(limiter)
router = APIRouter(prefix="/api")

@router.get("/a")
@limiter.limit("1/minute")
async def a(request: Request):
    return "ok"

class View(HTTPEndpoint):
    @limiter.limit("2/minute")
    async def get(self, request):
        return PlainTextResponse("ok")

app.include_router(router)
app.add_route("/view", View)
""",
        "/api/a 2, /view 3",
    ),
    "settings": (
        """
import os
with open("settings.env", "w") as file:
    file.write("RATELIMIT_DEFAULT=2/minute\\nRATELIMIT_HEADERS_ENABLED=true\\n")
    file.write("RATELIMIT_HEADER_LIMIT=X-Limit\\nRATELIMIT_HEADER_REMAINING=X-Left\\n")
    file.write("RATELIMIT_HEADER_RESET=X-Reset\\nRATELIMIT_STRATEGY=moving-window\\n")
    file.write("RATELIMIT_KEY_PREFIX=mine\\n")
limiter = Limiter(key_func=get_remote_address, config_filename="settings.env")
app = application(limiter)
app.add_middleware(MIDDLEWARE)

@app.get("/a")
async def a():
    return "ok"
""",
        "/a 3",
    ),
    "responses": (
        """
limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
app = application(limiter)

@app.get("/error")
@limiter.limit("2/minute")
async def error(request: Request, response: Response):
    from fastapi import HTTPException
    raise HTTPException(404)

@app.get("/state")
@limiter.limit("2/minute")
async def state(request: Request, response: Response):
    item, identifiers = request.state.view_rate_limit
    return [item.amount, identifiers]

@app.get("/by-hand")
async def by_hand(request: Request):
    limit = (parse("7/minute"), ["a", "b"])
    limiter.limiter.hit(*[limit[0], *limit[1]])
    return limiter._inject_headers(PlainTextResponse("ok"), limit)
""",
        "/error 3, /state 3, /by-hand 2",
    ),
}

_SENT = re.compile(r"(?:(?P<method>[A-Z]+) )?(?P<path>/\S*) (?P<times>\d+)(?: (?P<header>.+))?")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def traveller() -> Iterator[Any]:
    with time_machine.travel(1_790_000_000.5, tick=False) as traveller:
        yield traveller


def ours(program: str) -> str:
    """Return a program with the changed import lines."""
    return re.sub(r"^from (slowapi|limits)\b", r"from rate_limiter.compat.\1", program, flags=re.M)


def answers(program: str, requests: str, traveller: Any) -> list[tuple[Any, ...]]:
    """Return what a program answers to requests, written as ``[METHOD] /path times [header]``."""
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "program.py", "exec", dont_inherit=True), names)
    received = []
    traveller.move_to(1_790_000_000.5)
    with TestClient(names["app"], raise_server_exceptions=False) as client:
        for each in requests.split(", "):
            if each.startswith("+"):
                traveller.shift(float(each))
                continue
            sent = _SENT.fullmatch(each)
            assert sent is not None, each
            headers = dict([sent["header"].split(": ")]) if sent["header"] else {}
            for _ in range(int(sent["times"])):
                response = client.request(sent["method"] or "GET", sent["path"], headers=headers)
                received.append((each, *answer_of(response)))
    return received


def answer_of(response: Any) -> tuple[Any, ...]:
    """Return the status, the body and the headers of limits; times in whole seconds."""
    headers = {}
    for name, value in response.headers.items():
        if name.startswith("x-") or name == "retry-after":
            if name.startswith("x-"):  # stacked decorators of slowapi repeat a field
                headers[name] = int(float(value.partition(",")[0]))
            else:
                date = value if value.isdigit() else parsedate_to_datetime(value)
                headers[name] = date if isinstance(date, str) else date.replace(tzinfo=None)
    return response.status_code, response.text, headers


@pytest.mark.parametrize(
    ("name", "middleware"),
    [
        (name, middleware)
        for name, (program, _) in sorted(PROGRAMS.items())
        for middleware in ("SlowAPIMiddleware", "SlowAPIASGIMiddleware")[
            : 2 if "MIDDLEWARE" in program else 1
        ]
    ],
)
def test_programs_answer_alike(name: str, middleware: str, traveller: Any) -> None:
    program, requests = PROGRAMS[name]
    source = HEAD + program.replace("MIDDLEWARE", middleware)
    expected = answers(source, requests, traveller)
    assert any(status == 429 for _, status, *_ in expected)
    assert answers(ours(source), requests, traveller) == expected
