"""Small programs in the styles of real ones, before and after `rate-limiter migrate --write`.

Each program has the files of an application and check.py, with what its users and its tests do.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from rate_limiter.cli.main import main

FASTAPI_CHECK = """
from fastapi.testclient import TestClient

def ask(app, *requests):
    client = TestClient(app, raise_server_exceptions=False)
    found = []
    for request in requests:
        method, path, *headers = request.split()
        answer = client.request(method, path, headers=dict(one.split("=") for one in headers))
        left = answer.headers.get("x-ratelimit-remaining")
        found.append((request, answer.status_code, answer.text, left))
    return found
"""
FLASK_CHECK = """
def ask(app, *requests):
    client = app.test_client()
    found = []
    for request in requests:
        method, path, *headers = request.split()
        answer = client.open(path, method=method, headers=dict(one.split("=") for one in headers))
        left = answer.headers.get("x-ratelimit-remaining")
        found.append((request, answer.status_code, answer.text, left))
    return found
"""

PROGRAMS: dict[str, dict[str, str]] = {
    "slowapi, one file": {
        "main.py": """
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address

limiter = Limiter(key_func=get_remote_address)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

@app.get("/home")
@limiter.limit("2/hour")
async def homepage(request: Request):
    return {"page": "home"}

@app.get("/free")
def free():
    return "free"
""",
        "check.py": FASTAPI_CHECK
        + """
from main import app

def check():
    return ask(app, *["GET /home"] * 3, "GET /free")
""",
    },
    "slowapi, application factory and routers": {
        "extensions.py": """
from slowapi import Limiter
from slowapi.util import get_remote_address

limiter = Limiter(key_func=get_remote_address, default_limits=["4/hour"], headers_enabled=True)
""",
        "routes.py": """
from fastapi import APIRouter, Request, Response
from extensions import limiter

router = APIRouter(prefix="/api")

@router.post("/login")
@limiter.limit("1/hour")
def login(request: Request, response: Response):
    return "token"

@router.get("/items/{number}")
@limiter.limit("3/hour")
async def items(request: Request, response: Response, number: int):
    return {"number": number}
""",
        "factory.py": """
from fastapi import FastAPI
from slowapi import _rate_limit_exceeded_handler as handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware

def create_app():
    from extensions import limiter
    from routes import router

    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, handler)
    app.add_middleware(SlowAPIMiddleware)
    app.include_router(router)
    return app
""",
        "check.py": FASTAPI_CHECK
        + """
from factory import create_app

def check():
    return ask(create_app(), *["POST /api/login"] * 2, *["GET /api/items/1"] * 4)
""",
    },
    "slowapi, a key for each user": {
        "users.py": """
from fastapi import Request
from slowapi.util import get_remote_address

USERS = {"t1": "ann", "t2": "bob"}

def user_or_address(request: Request) -> str:
    return USERS.get(request.headers.get("authorization", ""), "") or get_remote_address(request)
""",
        "main.py": """
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from users import user_or_address

limiter = Limiter(key_func=user_or_address)
app = FastAPI()
app.state.limiter = limiter

@app.exception_handler(RateLimitExceeded)
async def too_many(request: Request, error: RateLimitExceeded):
    return JSONResponse({"error": error.detail, "who": user_or_address(request)}, 429)

@app.get("/mine")
@limiter.limit("2/hour")
async def mine(request: Request):
    return user_or_address(request)
""",
        "check.py": FASTAPI_CHECK
        + """
from main import app

def check():
    return ask(app, *["GET /mine Authorization=t1"] * 3, "GET /mine Authorization=t2",
               *["GET /mine Authorization=forged"] * 3)
""",
    },
    "slowapi, tests that reset and switch off": {
        "main.py": """
import slowapi
from slowapi.util import get_remote_address
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIASGIMiddleware
from fastapi import FastAPI

limiter = slowapi.Limiter(key_func=get_remote_address, default_limits=["2/hour"])
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, slowapi._rate_limit_exceeded_handler)
app.add_middleware(SlowAPIASGIMiddleware)

@app.get("/a")
async def a():
    return "a"

@app.get("/health")
@limiter.exempt
async def health():
    return "up"
""",
        "check.py": FASTAPI_CHECK
        + """
from limits import parse
from main import app, limiter

def check():
    found = ask(app, *["GET /a"] * 3, *["GET /health"] * 3)
    limiter.reset()
    found += ask(app, *["GET /a"] * 3)
    limiter.enabled = False
    found += ask(app, "GET /a")
    limiter.enabled = True
    limiter._storage.reset()
    found += ask(app, "GET /a")
    item = parse("2/minute")
    found.append([limiter.limiter.hit(item, "by hand") for _ in range(3)])
    return found
""",
    },
    "slowapi, plans and shared limits": {
        "main.py": """
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

def plan_of(request: Request) -> str:
    return request.headers.get("x-plan", "free")

def limit_of(key: str) -> str:
    return {"pro": "3/hour"}.get(key, "1/hour")

limiter = Limiter(key_func=plan_of)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
reports = limiter.shared_limit("2/hour", scope="reports")

@app.get("/plan")
@limiter.limit(limit_of)
async def plan(request: Request):
    return "plan"

@app.get("/sales")
@reports
def sales(request: Request):
    return "sales"

@app.get("/stock")
@reports
def stock(request: Request):
    return "stock"
""",
        "check.py": FASTAPI_CHECK
        + """
from main import app

def check():
    return ask(app, *["GET /plan"] * 2, *["GET /plan X-Plan=pro"] * 4,
               "GET /sales", "GET /stock", "GET /sales", "GET /stock X-Plan=pro")
""",
    },
    "Flask-Limiter, application factory": {
        "extensions.py": """
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

limiter = Limiter(get_remote_address)
""",
        "factory.py": """
from flask import Flask
from extensions import limiter

def create_app(**config):
    app = Flask(__name__)
    app.config.update(RATELIMIT_DEFAULT="2 per hour", RATELIMIT_STORAGE_URI="memory://",
                      RATELIMIT_HEADERS_ENABLED=True, **config)
    limiter.init_app(app)

    @app.get("/a")
    def a():
        return "a"

    @app.get("/b")
    @limiter.limit("1/hour")
    def b():
        return "b"

    @app.get("/ping")
    @limiter.exempt
    def ping():
        return "pong"

    return app
""",
        "check.py": FLASK_CHECK
        + """
from factory import create_app

def check():
    return ask(create_app(), *["GET /a"] * 3, *["GET /b"] * 2, *["GET /ping"] * 3)
""",
    },
    "Flask-Limiter, blueprints": {
        "app.py": """
from flask import Blueprint, Flask
from flask_limiter import ExemptionScope, Limiter
from flask_limiter.util import get_remote_address

app = Flask(__name__)
limiter = Limiter(get_remote_address, app=app, default_limits=["3/hour"],
                  storage_uri="memory://", headers_enabled=True)
login = Blueprint("login", __name__, url_prefix="/login")
docs = Blueprint("docs", __name__, url_prefix="/docs")
shop = Blueprint("shop", __name__, url_prefix="/shop")

@login.post("/")
def enter():
    return "in"

@docs.get("/")
def read():
    return "read"

@shop.get("/")
def look():
    return "look"

limiter.limit("1/hour")(login)
limiter.exempt(docs, flags=ExemptionScope.DEFAULT)
for one in (login, docs, shop):
    app.register_blueprint(one)
""",
        "check.py": FLASK_CHECK
        + """
from app import app

def check():
    return ask(app, *["POST /login/"] * 2, *["GET /docs/"] * 5, *["GET /shop/"] * 4)
""",
    },
    "Flask-Limiter, class-based views": {
        "app.py": """
from flask import Flask
from flask.views import MethodView, View
import flask_limiter
from flask_limiter.util import get_remote_address

app = Flask(__name__)
limiter = flask_limiter.Limiter(get_remote_address, app=app, storage_uri="memory://",
                                headers_enabled=True)

class Items(MethodView):
    decorators = [limiter.limit("3/hour")]

    def get(self):
        return "items"

    def post(self):
        return "added"

class Report(View):
    methods = ["GET", "POST"]
    decorators = [limiter.limit("1/hour", per_method=True)]

    def dispatch_request(self):
        return "report"

app.add_url_rule("/items", view_func=Items.as_view("items"))
app.add_url_rule("/report", view_func=Report.as_view("report"))
""",
        "check.py": FLASK_CHECK
        + """
from app import app

def check():
    return ask(app, "GET /items", "POST /items", "GET /items", "POST /items",
               "GET /report", "POST /report", "GET /report")
""",
    },
    "Flask-Limiter, a key for each user and own errors": {
        "app.py": """
from flask import Flask, g, jsonify, request
from flask_limiter import Limiter, RequestLimit
from flask_limiter.util import get_remote_address

app = Flask(__name__)

@app.before_request
def authenticate():
    g.user = request.headers.get("X-User")

def user():
    return g.user or get_remote_address()

breaches = []
limiter = Limiter(user, app=app, storage_uri="memory://",
                  on_breach=lambda limit: breaches.append(str(limit.limit)))

@limiter.request_filter
def internal():
    return request.headers.get("X-Internal") == "yes"

@app.errorhandler(429)
def too_many(error):
    return jsonify(error=error.description, user=user(), breaches=breaches), 429

@app.get("/mine")
@limiter.limit("2/hour", error_message="slow down")
def mine():
    return user()
""",
        "check.py": FLASK_CHECK
        + """
from app import app

def check():
    return ask(app, *["GET /mine X-User=ann"] * 3, "GET /mine X-User=bob",
               *["GET /mine X-User=ann X-Internal=yes"] * 3, *["GET /mine"] * 3)
""",
    },
    "Flask-Limiter, tests that reset and switch off": {
        "app.py": """
from flask import Flask, Response, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

app = Flask(__name__)
limiter = Limiter(get_remote_address, app=app, storage_uri="memory://",
                  strategy="moving-window")

def limit_of_plan():
    return "3/hour" if request.headers.get("X-Plan") == "pro" else "1/hour"

@app.get("/plan")
@limiter.limit(limit_of_plan)
def plan():
    return "plan"

@app.get("/guess")
@limiter.limit("1/hour", deduct_when=lambda response: response.status_code == 403)
def guess():
    return Response("no", 403) if request.headers.get("X-Wrong") else "yes"

@app.get("/block")
def block():
    with limiter.limit("2/hour", cost=2):
        return "block"
""",
        "check.py": FLASK_CHECK
        + """
from app import app, limiter
from limits import parse

def check():
    found = ask(app, *["GET /plan"] * 2, "GET /plan X-Plan=pro", "GET /guess", "GET /guess",
                *["GET /guess X-Wrong=1"] * 2, *["GET /block"] * 2)
    limiter.reset()
    found += ask(app, "GET /plan")
    limiter.enabled = False
    found += ask(app, "GET /plan")
    limiter.enabled = True
    found += ask(app, "GET /plan")
    item = parse("2/minute")
    with app.app_context():
        found.append([limiter.limiter.hit(item, "by hand") for _ in range(3)])
        found.append(limiter.limiter.get_window_stats(item, "by hand").remaining)
    return found
""",
    },
}


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Import the program of a folder, and return what its check.py has seen."""
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)
        try:
            found: list[Any] = importlib.import_module("check").check()
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if Path(file).is_relative_to(folder):
                    del sys.modules[name]
    return found


def changed_lines(before: Path, after: Path) -> list[str]:
    """Return the lines that are new in one of the files."""
    lines = []
    for file in sorted(before.iterdir()):
        old, new = (one.read_text().splitlines() for one in (file, after / file.name))
        lines += [line[2:] for line in difflib.ndiff(old, new) if line.startswith("+ ")]
    return lines


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_style(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)  # of both
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    for file, text in PROGRAMS[name].items():
        if text:
            (before / file).write_text(text)
    shutil.copytree(before, after)
    assert main(["migrate", "--write", str(after)]) == 0, capsys.readouterr().out
    changed = changed_lines(before, after)
    assert changed
    for line in changed:
        assert line.lstrip().startswith(("from ", "import ")), line
        assert "rate_limiter.compat" in line
    expected = run(before, monkeypatch)
    assert any(one[1] == 429 for one in expected if isinstance(one, tuple))
    assert any(one[1] == 200 for one in expected if isinstance(one, tuple))
    assert run(after, monkeypatch) == expected
