"""Try the pages of docs/ as printed, block by block; see pages.py."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from rate_limiter import Limit, ManualClock, RateLimiter, _core
from rate_limiter.policy.denials import FIELDS
from rate_limiter.policy.headers import HeaderStyle, LimitState
from rate_limiter.policy.rule_files import RuleModel
from support import guides
from support.pages import Block, PageRun, blocks_of
from support.redis_servers import RedisServer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages with a test file of their own, which names them.
ELSEWHERE = {
    "command.md",
    "deployment.md",
    "metrics.md",
    "testing.md",
    "security.md",
    "faq.md",
    *(f"migration/{page.name}" for page in DOCS.glob("migration/*.md")),
    *(f"cookbook/{page.name}" for page in DOCS.glob("cookbook/*.md")),
}
PAGES = {
    name: page
    for page in sorted(DOCS.rglob("*.md"))
    if (name := page.relative_to(DOCS).as_posix()) not in ELSEWHERE
}


# --- Every block ---


def before_settings(run: PageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "5/minute")


def before_stores(run: PageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page looks at a client that has used something."""
    RateLimiter("100/minute", store=run.redis_url, on_store_error="raise").hit("user:42", 63)


def before_under_attack(run: PageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules in use are those of the page of rules."""
    rules = next(block for block in blocks_of(DOCS / "rules.md") if block.file is not None)
    (run.folder / "rate_limits.json").write_text(rules.text)


def after_fastapi(run: PageRun) -> None:
    """The routes that the page adds to its first application do what it says."""
    client = TestClient(run.apps[2])  # after two of RateLimits
    assert client.get("/search").headers["X-RateLimit-Limit"] == "10"
    assert client.get("/suggest").headers["X-RateLimit-Remaining"] == "8"
    assert [client.post("/upload").status_code for _ in range(2)] == [200, 429]
    assert client.post("/upload").json()["wait_s"] > 0
    assert client.get("/v1/hello").headers["X-RateLimit-Limit"] == "10"
    assert client.get("/quota").json()["left"] == 99
    assert client.get("/report?pages=40", headers={"X-Tenant": "a"}).status_code == 200
    assert client.get("/report?pages=61", headers={"X-Tenant": "a"}).status_code == 429
    assert client.get("/report?pages=61", headers={"X-Tenant": "b"}).status_code == 200
    assert client.get("/state").json() == {"rule": "state", "left": 19, "key": "testclient"}
    orders = [client.get("/orders", headers={"X-User": "ann"}) for _ in range(3)]
    assert [answer.status_code for answer in orders] == [200, 200, 429]
    assert client.get("/orders", headers={"X-User": "bob"}).json() == {"user": "bob"}
    answers = [client.post("/login?user=bob") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert client.get("/health").json() == {"limits": "ok"}
    with client.websocket_connect("/chat") as chat:
        chat.send_text("hello")
        assert chat.receive_text() == "hello"


def after_flask(run: PageRun) -> None:
    """So do those of the application with all kinds of views."""
    client = next(app for app in run.apps if "search" in app.view_functions).test_client()
    assert client.get("/search").headers["X-RateLimit-Limit"] == "10"
    assert [client.post("/item").status_code for _ in range(6)] == [200] * 5 + [429]
    assert client.get("/api/hello").headers["X-RateLimit-Limit"] == "100"
    report = [client.get("/report?pages=60", headers={"X-Tenant": "a"}) for _ in range(2)]
    assert [answer.status_code for answer in report] == [200, 429]


def addresses_and_rights(run: PageRun, block: Block) -> None:
    """The forms of addresses; the access rule is what test_redis_limiter.py runs."""
    if "ACL SETUSER limiter" in block.text:
        return
    forms = re.findall(r"(?:redis|unix)(?:\+\w+)?://\S+", block.text)
    assert len(forms) == 4
    for form in forms:
        address = re.sub(r"[][]", "", form).replace(":port", ":6379").replace("/db", "/0")
        assert _core.RedisClient(address).kind


def header_example(run: PageRun, block: Block) -> None:
    """Two limits in the state that the page shows."""
    clock = ManualClock()
    limits = (Limit.parse("5/minute"), Limit.parse("20/hour"))
    limiter = RateLimiter(limits, clock=clock)
    for _ in range(3):
        limiter.hit("client")
    decision, *each = limiter.peek_each("client", 0)
    named = [
        LimitState(f"upload-{number}", limit, one)
        for number, (limit, one) in enumerate(zip(limits, each, strict=True), start=1)
    ]
    values = HeaderStyle("ietf").values(decision, named)
    assert block.text == "".join(f"{name}: {value}\n" for name, value in values.items())


SPECIAL = {
    ("stores.md", "indented"): addresses_and_rights,
    ("headers.md", "http"): header_example,
}
BEFORE: dict[str, Callable[[PageRun, pytest.MonkeyPatch], None]] = {
    "settings.md": before_settings,
    "stores.md": before_stores,
    "under-attack.md": before_under_attack,
}
AFTER = {"fastapi.md": after_fastapi, "flask.md": after_flask}


@pytest.mark.parametrize("page", PAGES)
def test_every_block(
    page: str, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with PageRun(tmp_path, server.address, SPECIAL) as run:
        if page in BEFORE:
            BEFORE[page](run, monkeypatch)
        for block in blocks_of(PAGES[page]):
            run.run(block)
        if page in AFTER:
            AFTER[page](run)


def test_commands_of_the_readme(server: RedisServer, tmp_path: Path) -> None:
    found = [block for block in blocks_of(ROOT / "README.md") if block.language == "console"]
    assert found
    with PageRun(tmp_path, server.address) as run:
        for block in found:
            run.run(block)


def test_blocks_of_the_readme() -> None:
    """The others are tried by test_readme.py."""
    assert {block.language for block in blocks_of(ROOT / "README.md")} <= {
        "console",
        "http",
        "python",
    }


# What the other test files run; those of guides each say how.
KINDS = {"command.md": {"console"}, "deployment.md": {"console", "sh"}, "metrics.md": {"python"}}


@pytest.mark.parametrize("page", sorted(ELSEWHERE))
def test_blocks_of_the_other_pages(page: str) -> None:
    found = blocks_of(DOCS / page)
    if page in KINDS:
        assert {block.language for block in found} == KINDS[page]
    else:
        assert [block.line for block in found] == [
            one.line for one in guides.blocks_of(DOCS / page)
        ]


def test_every_page_has_a_test() -> None:
    """Those that are not tried here are named by another test file."""
    tests = set((ROOT / "tests").rglob("test_*.py")) - {Path(__file__)}
    texts = [path.read_text(encoding="utf-8") for path in tests]
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        folder = name.rpartition("/")[0]
        named = folder if folder in ("migration", "cookbook") else page.stem
        pattern = rf"[\"/]{named}(\.md)?\""
        assert name in PAGES or any(re.search(pattern, text) for text in texts), name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```ruby\nputs 1\n```\n", "nothing runs this"),
        ("    indented\n", "nothing runs this"),
        ("```text\noutput of nothing\n```\n", "no output before"),
        ("```console\n$ echo one\ntwo\n```\n", "there came"),
        ("```console\n$ false\n```\n", "false"),
        ("```console\n$ pip install 'rate-limiter-c[nothing]'\n```\n", "extra 'nothing'"),
        ("```console\n$ make nothing-of-that-name\n```\n", "nothing-of-that-name"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "there came"),
    ],
)
def test_what_is_wrong_on_a_page_is_found(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}")
    *before, last = blocks_of(tmp_path / "page.md")
    with PageRun(tmp_path, "redis://127.0.0.1:1/0") as run:
        for block in before:
            run.run(block)
        with pytest.raises(AssertionError, match=re.escape(reason)):
            run.run(last)


# --- Tables, figures, drawings ---


def page_text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def test_options_are_all_known() -> None:
    text = page_text("stores")
    table = text[text.index("| option |") : text.index("A redis-py client")]
    names = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line)
    )
    assert len(names) >= 11
    known = {"ssl_ca_certs": "/etc/ssl/certs/ca-certificates.crt"}
    for name in names:
        values = ("false", "none", "0.5") if name not in known else (known[name],)
        scheme = "rediss" if name.startswith("ssl_") else "redis"
        accepted = []
        for value in values:
            with contextlib.suppress(ValueError):
                accepted.append(_core.RedisClient(f"{scheme}://h?{name}={value}"))
        if name not in (
            "ssl_certfile",
            "ssl_keyfile",
            "ssl_ca_certs",
        ):  # of files that are not here
            assert accepted, name
        with pytest.raises(ValueError, match=f"there is no option '{name}x'"):
            _core.RedisClient(f"{scheme}://h?{name}x=1")


def test_fields_of_the_rules() -> None:
    text = page_text("rules")
    table = text[text.index("| field |") : text.index("If a rule has no")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(RuleModel.model_fields)


def test_fields_of_templates() -> None:
    found = re.search(r"Fields are (.*?)\. A text", page_text("headers"), re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r"`(\w+)`", found[1])) == FIELDS


def test_settings_of_flask() -> None:
    from rate_limiter.web.flask_settings import CHECKS

    found = re.search(r"Settings of the application are\n(.*?);", page_text("flask"), re.DOTALL)
    assert found is not None
    assert set(re.findall(r"`RATE_LIMITER_(\w+)`", found[1])) == set(CHECKS)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripts of docs/ importable."""
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.mark.usefixtures("scripts")
def test_what_is_written_by_scripts() -> None:
    import configuration  # type: ignore[import-not-found]
    import settings_table  # type: ignore[import-not-found]

    assert settings_table.table() in page_text("settings")
    assert configuration.page() == page_text("configuration"), "python docs/configuration.py"


@pytest.mark.usefixtures("scripts")
def test_drawings_are_what_the_scripts_draw() -> None:
    import draw_decisions  # type: ignore[import-not-found]
    import plot_algorithms  # type: ignore[import-not-found]

    drawn = draw_decisions.drawings() | plot_algorithms.drawings()
    for name, text in drawn.items():
        assert (DOCS / "images" / name).read_text(encoding="utf-8") == text, name
    others = {path.name for path in (DOCS / "images").glob("*.svg")} - set(drawn)
    assert others == {"rivals-dark.svg", "rivals-light.svg"}  # see test_readme.py


@pytest.mark.usefixtures("scripts")
def test_the_figures_of_the_drawings() -> None:
    """The pages describe the drawings as the engine behaves."""
    import draw_decisions
    import plot_algorithms

    most = [
        plot_algorithms.most_in(plot_algorithms.admitted(limit), 60)
        for limit in plot_algorithms.LIMITS.values()
    ]
    bucket, small, fixed, sliding = most
    assert (
        f"it gets {bucket} requests through a token bucket, {small} through one with `burst=10`, "
        f"{fixed} through a fixed window, and {sliding} through a sliding one"
    ) in " ".join(page_text("algorithms").split())
    requests = draw_decisions.history()[1]
    at_once = sum(one.allowed for one in requests[:14])
    after = sum(one.allowed for one in requests[14:34])
    assert len(requests) == 35
    assert requests[34].allowed
    assert (
        f"Of the 14 requests at once, {at_once} pass, from the saved tokens. "
        f"Of the 20 that follow, {after} pass"
    ) in " ".join(page_text("how-it-decides").split())


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
