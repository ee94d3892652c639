"""Programs for Flask-Limiter answer the same with it and with the compat module."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView
from support.flask_limiter_names import OURS, THEIRS, Names, Program, Steps, flask_app
from support.flask_limiter_setups import SETUPS, off, two_applications
from support.flask_limiter_views import VIEWS

START = 1_750_000_000.25  # no boundary of a second, a minute or an hour


def each_step(steps: Steps) -> Iterator[str]:
    for step in steps.split("; "):
        times, x, once = step.partition("x ")
        yield from [once] * int(times) if x and times.isdecimal() else [step]


def run(program: Program, module: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    now = START
    monkeypatch.setattr(time, "time", lambda: now)
    app, steps = program(Names(module))
    client, answers = app.test_client(), []
    for step in each_step(steps):
        if step.startswith("+"):
            now += float(step)
            continue
        method, path, *pairs = step.split()
        headers = dict(pair.split("=", 1) for pair in pairs)
        address = headers.pop("From", "127.0.0.1")
        got = client.open(
            path, method=method, headers=headers, environ_base={"REMOTE_ADDR": address}
        )
        fields = sorted(
            (name, value)
            for name, value in got.headers.items()
            if name.lower().startswith(("x-", "retry", "content-t"))
        )
        answers.append((step, got.status_code, fields, got.text))
    return answers


# --- programs whose answers differ: see docs/migration/flask-limiter.md ---


def denied_takes_nothing(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app()
    limiter = fl.limiter(app, application_limits=["3/hour"])

    @app.get("/a")
    @limiter.limit("1/minute")
    def a() -> str:
        return "a"

    @app.get("/b")
    @limiter.limit("5/minute")
    @limiter.limit("1/hour", key_func=lambda: "all")
    def b() -> str:
        return "b"

    return app, "4x GET /a; GET /b"


def one_function_makes_views(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)

    def add(name: str, text: str) -> None:
        @limiter.limit(text)
        def view() -> str:
            return name

        app.add_url_rule(f"/{name}", name, view)

    add("a", "1/minute")
    add("b", "3/minute")
    return app, "3x GET /b"


def view_named_static(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)
    pages = Blueprint("pages", __name__)

    @pages.get("/static-pages", endpoint="static")
    @limiter.limit("1/minute")
    def static_pages() -> str:
        return "ok"

    app.register_blueprint(pages)
    return app, "2x GET /static-pages"


def deduct_when_raises(fl: Any) -> tuple[Flask, Steps]:
    app = flask_app("/a")
    fl.limiter(
        app, default_limits=["2/minute"], default_limits_deduct_when=lambda response: response.none
    )
    return app, "GET /a"


def one_method_limited(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app, default_limits=["1/hour"])

    class Methods(MethodView):
        @limiter.limit("2/minute")
        def get(self) -> str:
            return str([str(one.limit) for one in limiter.current_limits])

        def post(self) -> str:
            return "post"

    app.add_url_rule("/a", view_func=Methods.as_view("a"))
    return app, "GET /a; 2x POST /a"


def exempt_from_application_limits(fl: Any) -> tuple[Flask, Steps]:
    app = Flask("program")
    limiter = fl.limiter(app)

    @app.get("/a")
    @limiter.exempt(flags=fl.ExemptionScope.APPLICATION)
    @limiter.limit("1/minute")
    def a() -> str:
        return "a"

    return app, "2x GET /a"


DIFFERENCES: list[tuple[Program, list[int], list[int]]] = [
    (denied_takes_nothing, [200, 429, 429, 429, 429], [200, 429, 429, 429, 200]),
    (one_function_makes_views, [200, 429, 429], [200, 200, 200]),
    (view_named_static, [200, 200], [200, 429]),
    (deduct_when_raises, [500], [200]),
    (one_method_limited, [200, 200, 200], [200, 200, 429]),
    (exempt_from_application_limits, [200, 200], [200, 429]),
]


@pytest.fixture(autouse=True)
def quiet_loggers() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs warns about memory storage
        logging.getLogger("flask-limiter").setLevel(logging.CRITICAL)
        yield
        logging.getLogger("flask-limiter").setLevel(logging.NOTSET)


@pytest.mark.parametrize("program", [*VIEWS, *SETUPS], ids=lambda program: program.__name__)
def test_programs_answer_the_same(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = run(program, THEIRS, monkeypatch)
    assert run(program, OURS, monkeypatch) == theirs
    assert len({answer[1] for answer in theirs}) > 1 or program in (off, two_applications)


@pytest.mark.parametrize(
    ("program", "theirs", "ours"), DIFFERENCES, ids=lambda one: getattr(one, "__name__", "")
)
def test_documented_differences(
    program: Program, theirs: list[int], ours: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [answer[1] for answer in run(program, THEIRS, monkeypatch)] == theirs
    assert [answer[1] for answer in run(program, OURS, monkeypatch)] == ours
