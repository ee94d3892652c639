"""Rules: which one a request falls under, what a file may say, and where rules come from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock, RateLimiter, StoreError
from rate_limiter.cli.main import main
from rate_limiter.policy import rule_files, rule_sources
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.rule_files import RulesError, as_data, json_schema, load_rules, parse_rules
from rate_limiter.policy.rule_sources import (
    FileRules,
    RedisRules,
    RuleSource,
    as_source,
    push_rules,
)
from rate_limiter.policy.rules import (
    Rule,
    RuleTable,
    rules_of_limits,
    segments_of_pattern,
    split_path,
)
from rate_limiter.policy.storage import Storage
from support.redis_servers import RedisServer, redis_server

LIMITS = (Limit(10, 1),)

# --- Which rule ---


def rule(name: str, **asks: Any) -> Rule:
    return Rule(name, LIMITS, **{field: tuple(values) for field, values in asks.items()})


TABLE = RuleTable(
    [
        rule("default"),
        rule("api", paths=["/api/**"]),
        rule("items", paths=["/api/items"]),
        rule("item", paths=["/api/items/{id}"]),
        rule("special", paths=["/api/items/special"]),
        rule("parts", paths=["/api/items/{id}/parts/*"]),
        rule("left", paths=["/a/*/c"]),
        rule("right", paths=["/*/b/c"]),
        rule("post", methods=["POST"]),
        rule("post-items", paths=["/api/items"], methods=["POST", "PUT"]),
        rule("pro", tiers=["pro"]),
        rule("enterprise", tiers=["enterprise"]),
        rule("pro-items", paths=["/api/items"], tiers=["pro"]),
        rule("pro-post-items", paths=["/api/items"], methods=["POST"], tiers=["pro"]),
        rule("partner", keys=["header:x-api-key:partner"]),
        rule("partner-items", keys=["header:x-api-key:partner"], paths=["/api/items"]),
        rule("get-only", paths=["/only"], methods=["GET"]),
        rule("head", paths=["/heads"], methods=["HEAD"]),
        rule("heads-get", paths=["/heads"], methods=["GET"]),
    ]
)


@pytest.mark.parametrize(
    ("path", "method", "tiers", "key", "expected"),
    [
        ("/", "GET", (), None, "default"),
        ("", "GET", (), None, "default"),
        ("/elsewhere/far/away", "GET", (), None, "default"),
        ("/api", "GET", (), None, "api"),
        ("/api/", "GET", (), None, "api"),
        ("/api/other", "GET", (), None, "api"),
        ("/api/items", "GET", (), None, "items"),
        ("/api/items/", "GET", (), None, "items"),
        ("//api///items", "GET", (), None, "items"),
        ("/api/items/7", "GET", (), None, "item"),
        ("/api/items/special", "GET", (), None, "special"),
        ("/api/items/7/parts/9", "GET", (), None, "parts"),
        ("/api/items/special/parts/9", "GET", (), None, "parts"),
        ("/api/items/7/parts", "GET", (), None, "api"),
        ("/API/items", "GET", (), None, "default"),
        # the leftmost word decides
        ("/a/b/c", "GET", (), None, "left"),
        ("/x/b/c", "GET", (), None, "right"),
        # path before method before tier
        ("/", "POST", (), None, "post"),
        ("/api/items", "POST", (), None, "post-items"),
        ("/api/items", "PUT", (), None, "post-items"),
        ("/api/other", "POST", (), None, "api"),
        ("/", "GET", ("pro",), None, "pro"),
        ("/", "POST", ("pro",), None, "post"),
        ("/api/items", "GET", ("pro",), None, "pro-items"),
        ("/api/items", "POST", ("pro",), None, "pro-post-items"),
        ("/api/items", "PUT", ("pro",), None, "post-items"),
        # of several tiers the highest that has a rule; unknown ones count for nothing
        ("/", "GET", ("pro", "enterprise"), None, "enterprise"),
        ("/", "GET", ("enterprise", "pro"), None, "enterprise"),
        ("/api/items", "GET", ("enterprise", "pro"), None, "pro-items"),
        ("/", "GET", ("gold", "pro"), None, "pro"),
        ("/", "GET", ("gold",), None, "default"),
        # key before everything
        ("/", "POST", ("pro",), "header:x-api-key:partner", "partner"),
        ("/api/items", "POST", ("pro",), "header:x-api-key:partner", "partner-items"),
        ("/", "GET", (), "header:x-api-key:other", "default"),
        # HEAD
        ("/only", "GET", (), None, "get-only"),
        ("/only", "HEAD", (), None, "get-only"),
        ("/only", "DELETE", (), None, "default"),
        ("/heads", "HEAD", (), None, "head"),
        ("/heads", "GET", (), None, "heads-get"),
        ("/", "WEBSOCKET", (), None, "default"),
    ],
)
def test_the_most_specific_rule(
    path: str, method: str, tiers: tuple[str, ...], key: str | None, expected: str
) -> None:
    found = TABLE.match(path, method, tiers, key)
    assert found is not None
    assert found.name == expected
    assert TABLE.matches(path, method, tiers, key)[0] is found


def test_no_rule() -> None:
    table = RuleTable([rule("api", paths=["/api"])])
    assert table.match("/", "GET") is None
    assert table.match("/api/x", "GET") is None


def test_all_that_match_in_order() -> None:
    found = TABLE.matches("/api/items", "POST", ("pro",))
    assert [one.name for one in found] == [
        "pro-post-items",
        "post-items",
        "pro-items",
        "items",
        "api",
        "post",
        "pro",
        "default",
    ]


segments = st.sampled_from(["a", "b", "*"])
patterns = st.lists(segments, max_size=3).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join([*parts, "**"])])
)
asked_rules = st.lists(
    st.tuples(patterns, st.sampled_from([(), ("GET",)]), st.sampled_from([(), ("t",)])),
    unique_by=lambda one: (segments_of_pattern(one[0]), one[1], one[2]),
    max_size=8,
)


@given(asked=asked_rules, path=st.lists(st.sampled_from("abc"), max_size=4), tier=st.booleans())
def test_it_is_what_a_scan_would_find(
    asked: list[tuple[str, tuple[str, ...], tuple[str, ...]]], path: list[str], tier: bool
) -> None:
    """The tree against the definition: sort by specificity, take the first match."""
    rules = [
        rule(str(i), paths=[pattern], methods=methods, tiers=tiers)
        for i, (pattern, methods, tiers) in enumerate(asked)
    ]

    def holds(one: Rule) -> bool:
        wanted = list(segments_of_pattern(one.paths[0]))
        given = list(path)
        if wanted[-1:] == ["**"]:
            wanted.pop()
            given = given[: len(wanted)]
        same = len(wanted) == len(given) and all(
            want in ("{}", has) for want, has in zip(wanted, given, strict=False)
        )
        return same and (not one.tiers or tier)

    def specificity(one: Rule) -> tuple[Any, ...]:
        ranks = {"{}": 1, "**": 3}
        parts = [ranks.get(part, 0) for part in segments_of_pattern(one.paths[0])]
        return ([*parts, 2] if parts[-1:] != [3] else parts, not one.methods, not one.tiers)

    expected = sorted(filter(holds, rules), key=specificity)
    found = RuleTable(rules).matches("/" + "/".join(path), "GET", ("t",) if tier else ())
    assert found == expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([rule("a"), rule("a")], "two rules have the name 'a'"),
        ([rule("a"), rule("b")], "the rules 'a' and 'b' have the same conditions"),
        ([rule("a", paths=["/x/{i}"]), rule("b", paths=["/x/*"])], "have the same conditions"),
        ([rule("a", methods=["GET", "PUT"]), rule("b", methods=["PUT"])], "have the same"),
    ],
)
def test_rules_that_clash(rules: list[Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RuleTable(rules)


@pytest.mark.parametrize(
    "pattern", ["x", "", "/a/**/b", "/{x:path}/b", "/a*", "/{", "/{a-b}", "/x}"]
)
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="path: "):
        segments_of_pattern(pattern)


@given(st.text(alphabet="/ab*{}:é\x00 .", max_size=60))
def test_any_path_finds_something(path: str) -> None:
    assert TABLE.match(path, "GET") is not None
    assert all(split_path(path))


def test_a_long_path_is_not_slow() -> None:
    deep = RuleTable([rule(str(i), paths=["/" + "/".join(["*"] * i) + "/x"]) for i in range(1, 40)])
    began_s = time.perf_counter()
    assert deep.match("/" + "a/" * 30_000, "GET") is None
    assert time.perf_counter() - began_s < 20


# --- Files ---

SEED = (
    '{"default": {"capacity": 20, "refill_rate": 5}, '
    '"special_path": {"capacity": 50, "refill_rate": 10}}'
)
GROWN = {
    "$schema": "rate_limits.schema.json",
    "default": {"limits": "100/minute"},
    "upload": {
        "description": "Uploads are dear.",
        "path": "/files/{id}",
        "methods": ["post", "PUT"],
        "limits": ["5/minute", "20/hour; window=sliding"],
        "cost": 3,
        "key": ["header:X-API-Key", "ip"],
        "on_store_error": "deny",
    },
    "login": {"path": "/login", "limits": "5/minute", "refund": ["2xx", 404]},
    "pro": {"tier": "pro", "limits": "1000/minute"},
    "partner": {"keys": ["header:x-api-key:p"], "limits": "9/second"},
    "health": {"path": ["/health", "/metrics"], "exempt": True},
    "new": {"path": "/new/**", "limits": "1/minute", "shadow": True},
}


def test_the_shape_of_the_distributed_middleware_demo() -> None:
    table = parse_rules(SEED)
    names = {path: table.match(path, "GET") for path in ("/", "/special_path", "/special_path/x")}
    assert [one and one.name for one in names.values()] == [
        "default",
        "special_path",
        "special_path",
    ]
    assert table.rules["default"].limits == (Limit(20, 5),)


def test_a_name_may_be_a_path() -> None:
    table = parse_rules(
        '{"/api/upload": {"limits": "5/s"}, "api/x": {"limits": "5/s"}, "/d/**": {"limits": "1/s"}}'
    )
    for path, name in (("/api/upload", "/api/upload"), ("/api/x/y", "api/x"), ("/d/e", "/d/**")):
        found = table.match(path, "GET")
        assert found is not None
        assert found.name == name
    assert table.match("/", "GET") is None


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rate_limits{suffix}"
    path.write_text(_written(GROWN, suffix))
    table = load_rules(path)
    assert list(table.rules) == [name for name in GROWN if name != "$schema"]
    upload = table.rules["upload"]
    assert upload.limits == (Limit(5, 5 / 60), Limit.sliding_window(20, 3600))
    assert (upload.cost, upload.methods, upload.on_store_error) == (3, ("POST", "PUT"), "deny")
    assert upload.key == ("header:X-API-Key", "ip")
    login = table.rules["login"]
    assert [login.refunds(status) for status in (200, 204, 404, 401, 500)] == [
        *(True, True, True),
        *(False, False),
    ]
    assert table.rules["health"].exempt
    assert table.rules["new"].shadow
    assert RuleTable(parse_rules(json.dumps(as_data(table))).rules.values()).rules == table.rules


def _written(rules: dict[str, Any], suffix: str) -> str:
    if suffix == ".toml":
        lines = []
        for name, one in rules.items():
            if isinstance(one, str):
                lines.append(f"{json.dumps(name)} = {json.dumps(one)}")
                continue
            lines.append(f"[{json.dumps(name)}]")
            lines += [f"{field} = {json.dumps(value)}" for field, value in one.items()]
        return "\n".join(lines)
    if suffix == ".yaml":
        import yaml

        text: str = yaml.safe_dump(rules, sort_keys=False)
        return text
    return json.dumps(rules, indent=2)


BAD = [
    ("{", ".json", "f.json:1: column 2: Expecting property name"),
    ('{"a": {"limits": "5/s"\n"cost": 1}}', ".json", "f.json:2: column 1"),
    ("[1]", ".json", "f.json: expected an object of rules by name, got [1]"),
    ("{}", ".json", "f.json: expected at least one rule"),
    ('{"a": {"limits": "5/s"}, "a": {}}', ".json", "f.json: 'a' is there twice"),
    ('{"a": 3}', ".json", "f.json:1: rule 'a': input should be"),
    ('{\n"a": {\n"capacity": "x",\n"refill_rate": 5}}', ".json", "f.json:3: rule 'a', capacity: "),
    ('{"a": {"capacity": 5}}', ".json", "rule 'a', refill_rate: missing beside capacity"),
    ('{"a": {"refill_rate": 5}}', ".json", "rule 'a', capacity: missing beside refill_rate"),
    ('{"a": {"capacity": -1, "refill_rate": 1}}', ".json", "or equal to 0, got -1"),
    ('{"a": {"capacity": 1e300, "refill_rate": 1}}', ".json", "rule 'a', capacity: capacity must"),
    ('{"a": {}}', ".json", "rule 'a', limits: expected limits such as '100/minute'"),
    ('{"a": {"limits": "often"}}', ".json", "rule 'a', limits: invalid limit 'often'"),
    ('{"a": {"limits": []}}', ".json", "rule 'a', limits: expected 1 to 8 limits, got 0"),
    ('{"a": {"limits": "5/s", "capacity": 5}}', ".json", "give either limits, or capacity"),
    ('{"a": {"limits": "5/s",\n"cost": 9}}', ".json", "f.json:2: rule 'a', cost: cost 9.0 is"),
    ('{"a": {"limits": "5/s", "cost": -1}}', ".json", "greater than or equal to 0, got -1"),
    ('{"a": {"limits": "5/s", "colour": 1}}', ".json", "rule 'a', colour: unknown; known are"),
    ('{"a": {"limits": "5/s", "path": "x"}}', ".json", "path: expected a pattern that begins"),
    ('{"a": {"limits": "5/s", "refund": "6xx"}}', ".json", "refund: expected statuses"),
    ('{"a": {"limits": "5/s", "on_store_error": "x"}}', ".json", "'memory', 'allow', 'deny' or"),
    ('{"a": {"limits": "5/s", "exempt": true}}', ".json", "exempt: a rule that exempts has no"),
    ('{"a": {"limits": "5/s", "methods": ["po st"]}}', ".json", "methods: expected names"),
    ('{"a b": {"limits": "5/s"}}', ".json", "rule 'a b': expected a name without spaces"),
    ('{"a": {"limits": "5/s", "path": "/x"}, "b": {"limits": "5/s", "path": "/x"}}', ".json",
     "f.json: the rules 'a' and 'b' have the same conditions"),
    ("[a\nlimits = 1", ".toml", "f.toml: "),
    ('[a]\nlimits = "5/s"\ncost = "x"', ".toml", "f.toml:3: rule 'a', cost: "),
    ("a: [", ".yaml", "f.yaml:1: "),
    ("a:\n  limits: 5/s\n  cost: x", ".yaml", "f.yaml:3: rule 'a', cost: "),
    ("- 1", ".yml", "f.yml: expected an object"),
    ("a: {limits: 5/s}\na: {limits: 9/s}", ".yaml", "f.yaml: 'a' is there twice"),
    ('{"a": {"limits": "5/s", "key": []}}', ".json", "rule 'a', key"),
    ("1: {limits: 5/s}", ".yaml", "f.yaml: rule 1: expected a name"),
    ('{"a": {"capacity": "20", "refill_rate": 1}}', ".json", "capacity: input should be a valid n"),
    ('{"a": {"capacity": 20, "refill_rate": true}}', ".json", "rule 'a', refill_rate: input sh"),
    ('{"a": {"limits": "5/s", "cost": "2"}}', ".json", "cost: input should be a valid number, got"),
    ('{"a": {"limits": "5/s", "cost": true}}', ".json", "cost: input should be a valid number"),
    ('{"a": {"limits": "5/s", "shadow": "yes"}}', ".json", "shadow: input should be a valid bool"),
    ('{"a": {"limits": "5/s", "shadow": 1}}', ".json", "shadow: input should be a valid boolean"),
    ('{"a": {"exempt": "true"}}', ".json", "rule 'a', exempt: input should be a valid boolean"),
    ("a: {limits: 5/s, shadow: 'on'}", ".yaml", "f.yaml:1: rule 'a', shadow: input should be"),
    ("a: &a {limits: 5/s}\nb: {<<: *a, cost: 1, cost: 1}", ".yaml", "f.yaml: 'cost' is there tw"),
    ('{"a": {"limits": "5/s",\n"key": "heder:X"}}', ".json", "f.json:2: rule 'a', key: key m"),
    ('{"a": {"limits": "5/s", "key": ["ip", "cookie:"]}}', ".json", "rule 'a', key: key must be"),
    ("{}", ".ini", "f.ini: expected a file of .json, .toml, .yaml, .yml"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "suffix", "message"), BAD)
def test_bad_files(text: str, suffix: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text, suffix, f"f{suffix}")
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
def test_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rate_limits{suffix}"
    path.write_text("\ufeff" + _written(GROWN, suffix), "utf-8")
    assert load_rules(path).rules == parse_rules(json.dumps(GROWN)).rules


def test_merge_keys_of_yaml() -> None:
    table = parse_rules(
        """
nested: &nested
    <<: &base {limits: 5/s, cost: 2}
    path: /deep
    cost: 3
    methods: POST
several: {<<: [*nested, *base], path: /several, cost: 1}
""",
        ".yaml",
    )
    nested, several = table.rules["nested"], table.rules["several"]
    assert (nested.cost, nested.paths, nested.methods) == (3, ("/deep",), ("POST",))
    assert (several.cost, several.paths, several.methods) == (1, ("/several",), ("POST",))
    assert nested.limits == several.limits == (Limit(5, 5),)


def test_a_pipe_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rules.json")
    with pytest.raises(RulesError, match=r"rules\.json: expected a regular file"):
        FileRules(tmp_path / "rules.json")


def test_every_mistake_is_reported() -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules('{"a": {"cost": -1, "colour": 1}, "b": {}, "c": 3}', source="f")
    assert len(str(caught.value).splitlines()) == 4


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"missing\.json: No such file"):
        load_rules(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": 1}')
    with pytest.raises(RulesError, match=r"latin\.json: expected UTF-8"):
        load_rules(tmp_path / "latin.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["limits", "cost", "path", "capacity", "refill_rate", "tier", "x"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_rules_or_an_error(data: object) -> None:
    with contextlib.suppress(RulesError):
        table = parse_rules(json.dumps(data))
        assert table.rules


@given(st.text(max_size=100), st.sampled_from([".json", ".toml", ".yaml"]))
def test_any_text_is_rules_or_an_error(text: str, suffix: str) -> None:
    with contextlib.suppress(RulesError):
        parse_rules(text, suffix)


def test_deep_nesting_is_an_error() -> None:
    texts = {".json": "[" * 100_000, ".yaml": "a: " + "[" * 5_000, ".toml": "a=" + "[" * 5_000}
    for suffix, text in texts.items():
        with pytest.raises(RulesError):
            parse_rules(text, suffix)


def test_the_published_schema_is_that_of_the_code() -> None:
    published = Path(__file__).parents[2] / "docs" / "rate_limits.schema.json"
    assert json.loads(published.read_text()) == json_schema()


# --- Limits by tier ---


def test_limits_of_tiers() -> None:
    table = rules_of_limits({"free": "1/s", "pro": "10/s"})
    assert [table.match("/", "GET", tiers) for tiers in ((), ("free",), ("pro",), ("x",))] == [
        table.rules[name] for name in ("default", "free", "pro", "default")
    ]
    assert table.rules["default"].limits == table.rules["free"].limits
    table = rules_of_limits({"default": "2/s", "pro": "10/s"})
    assert table.rules["default"].limits == (Limit(2, 2),)
    with pytest.raises(ValueError, match="at least one tier"):
        rules_of_limits({})


# --- Changes ---


def policy_of(source: RuleSource, **storage: Any) -> Policy:
    return Policy(source, Storage(**storage), Identities())


def take(policy: Policy, n: int = 1, path: str = "/") -> tuple[bool, float, float]:
    from rate_limiter.policy.settling import run_now

    for _ in range(n):
        outcome = run_now(
            policy.decide({"path": path, "method": "GET", "client": ("192.0.2.1", 1)})
        )
    assert outcome is not None
    return outcome.decision.allowed, outcome.decision.limit, outcome.decision.remaining


def change(source: FileRules, text: str) -> None:
    source.path.write_text(text)
    source.reload()


def test_a_changed_file_counts_at_once_and_keeps_the_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"capacity": 10, "refill_rate": 1}, "/b": {"limits": "7/s"}}')
    source = FileRules(path)
    policy = policy_of(source, clock=ManualClock())
    assert take(policy, 4) == (True, 10, 6)
    assert take(policy, 2, "/b") == (True, 7, 5)
    change(source, '{"default": {"capacity": 100, "refill_rate": 1}, "/b": {"limits": "7/s"}}')
    assert take(policy) == (True, 100, 95)  # four were used
    assert take(policy, 1, "/b") == (True, 7, 4)  # unchanged, and untouched
    # A broken version: the old one stays, it is said once, and counted.
    for text in ("{", '{"default": {"limits": "often"}}'):
        with caplog.at_level(logging.ERROR, "rate_limiter"):
            change(source, text)
            source.reload()
        assert take(policy)[1] == 100
        assert "new rules are invalid; keeping the old ones" in caplog.records[-1].message
    assert [record.levelname for record in caplog.records].count("ERROR") == 2
    assert (source.loaded, source.refused) == (2, 2)
    assert source.health()["last_error"].startswith(str(path))
    path.unlink()
    for _ in range(3):
        source.reload()
    assert take(policy)[1] == 100
    assert source.refused == 3
    change(source, '{"default": {"limits": "3/s; window=fixed"}}')
    assert take(policy) == (True, 3, 2)
    assert source.health()["last_error"] is None


def test_a_change_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"limits": "5/s"}}')
    source = FileRules(path)
    policy = policy_of(source, clock=ManualClock())
    new = '{"default": {"limits": "6/s"}, "/x": {"limits": "1/s", "key": "jwt:sub"}}'
    change(source, new)  # no Jwt was given
    assert take(policy)[1] == 5
    assert take(policy, 1, "/x")[1] == 5  # the old rules, not none
    assert "cannot be used, so the old ones stay" in caplog.text
    change(source, '{"default": {"limits": "7/s"}}')
    assert take(policy)[1] == 7


def test_what_a_request_cost_counts_under_the_new_rules(tmp_path: Path) -> None:
    from rate_limiter.policy.settling import Finished, run_now, settle

    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"capacity": 10, "refill_rate": 1, "refund": "5xx"}}')
    source = FileRules(path)
    policy = policy_of(source, clock=ManualClock())
    scope = {"path": "/", "method": "GET", "client": ("192.0.2.1", 1)}
    outcome = run_now(policy.decide(scope))
    assert outcome is not None
    change(source, '{"default": {"capacity": 20, "refill_rate": 1, "refund": "5xx"}}')
    assert take(policy)[2] == 18
    run_now(settle([outcome], Finished(scope, 1, outcome.key, status=500)))
    assert take(policy)[2] == 18  # one came back, one was taken


def test_a_new_policy_of_a_rule(tmp_path: Path) -> None:
    rules = {"default": {"limits": "5/s", "on_store_error": "allow"}}
    path = tmp_path / "rate_limits.json"
    path.write_text(json.dumps(rules))
    unreachable = "redis://127.0.0.1:1"
    source = FileRules(path)
    policy = policy_of(source, store=unreachable)
    assert _async_take(policy)(1)[0]
    rules["default"]["on_store_error"] = "deny"
    change(source, json.dumps(rules))
    assert not _async_take(policy)(1)[0]


def test_a_request_looks_for_changes_and_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"limits": "5/s"}}')
    rarely, often = (FileRules(path, check_every_s=seconds) for seconds in (600, 0))
    path.write_text('{"default": {"limits": "6/s"}}')
    reading, go_on = threading.Event(), threading.Event()
    parse = rule_files.parse_rules

    def parse_slowly(*arguments: Any) -> RuleTable:
        reading.set()
        assert go_on.wait(60)
        return parse(*arguments)

    monkeypatch.setattr(rule_files, "parse_rules", parse_slowly)
    assert often.current().rules["default"].limits == (Limit(5, 5),)
    assert reading.wait(60)
    assert often.current().rules["default"].limits == (Limit(5, 5),)  # the thread still reads
    go_on.set()
    _until(lambda: often.current().rules["default"].limits == (Limit(6, 6),))
    assert rarely.current().rules["default"].limits == (Limit(5, 5),)
    assert rarely.loaded == 1


def test_a_file_that_looks_unchanged(tmp_path: Path) -> None:
    """It has the size, the inode and the time of modification of the one before."""
    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"limits": "5/s"}}')
    source = FileRules(path)
    before = path.stat()
    change(source, '{"default": {"limits": "6/s"}}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.write_text('{"default": {"limits": "7/s"}}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    source.reload()
    assert source.current().rules["default"].limits == (Limit(7, 7),)
    version, loaded = source.version, source.loaded
    os.utime(path)  # the text is the same
    source.reload()
    assert (source.version, source.loaded) == (version, loaded)


@pytest.mark.parametrize("is_young", [True, False])
def test_a_change_within_the_resolution_of_times(
    is_young: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changed just before it was read is read again."""
    path = tmp_path / "rate_limits.json"
    path.write_text('{"default": {"limits": "5/s"}}')
    state = rule_sources._state_of(path)
    monkeypatch.setattr(rule_sources, "_state_of", lambda path: state)
    monkeypatch.setattr(rule_sources, "_is_young", lambda state: is_young)
    source = FileRules(path)
    change(source, '{"default": {"limits": "6/s"}}')
    assert source.current().rules["default"].limits == ((Limit(6, 6) if is_young else Limit(5, 5)),)


def test_with_limits() -> None:
    clock = ManualClock()
    before = RateLimiter("10/second; 20/minute; window=fixed", clock=clock)
    before.hit("k", 8)
    after = before.with_limits("100/second; 40/minute; window=fixed")
    assert [one.remaining for one in after.peek_each("k", 0)[1:]] == [20, 32]
    assert after.acquire("k").allowed
    with pytest.raises(ValueError, match="limits of the same kinds"):
        before.with_limits("10/second")


# --- Redis ---


def test_rules_from_redis(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RulesError, match="push some with 'rate-limiter rules push'"):
        RedisRules(server.url)
    connection = RedisRulesConnection(server)
    first = parse_rules('{"default": {"capacity": 10, "refill_rate": 0.001}}')
    version = push_rules(connection, first)
    source = RedisRules(server.url, check_every_s=0)
    assert source.health()["version"] == version
    policy = policy_of(source, store=server.url, on_store_error="raise")
    asked = _async_take(policy)
    assert asked(4) == (True, 10, pytest.approx(6, abs=0.1))
    grown = parse_rules(
        '{"default": {"capacity": 50, "refill_rate": 0.001}, "b": {"limits": "1/s"}}'
    )
    assert push_rules(connection, grown) != version
    _until(lambda: "b" in source.current().rules)
    assert asked(1) == (True, 50, pytest.approx(45, abs=0.1))
    with contextlib.closing(server.admin()) as admin:
        admin.hset("rl:rules", mapping={"b": "{", "$version": "3"})
        _until(lambda: source.current() and source.refused == 1)
        assert asked(1) == (True, 50, pytest.approx(44, abs=0.1))
        assert "rule 'b'" in caplog.text
        admin.delete("rl:rules")
        _until(lambda: source.current() and source.refused == 2)
    assert asked(1) == (True, 50, pytest.approx(43, abs=0.1))


def RedisRulesConnection(server: RedisServer) -> Any:
    from rate_limiter.stores.connection import connect

    return connect(server.url)


def _async_take(policy: Policy) -> Any:
    import asyncio

    async def asked(n: int) -> Any:
        scope = {"path": "/", "method": "GET", "client": ("192.0.2.1", 1)}
        for _ in range(n):
            outcome = await policy.decide(scope)
        assert outcome is not None
        return outcome.decision.allowed, outcome.decision.limit, outcome.decision.remaining

    return lambda n: asyncio.run(asked(n))


def _until(done: Any) -> None:
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_push_is_not_lost_by_an_error_of_the_network(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = RedisRulesConnection(server)
    push_rules(connection, parse_rules('{"default": {"limits": "5/s"}}'))
    source = RedisRules(server.url, check_every_s=0)
    fetch, failures = source._fetch, 1

    def failing() -> RuleTable:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreError("no answer")
        return fetch()

    monkeypatch.setattr(source, "_fetch", failing)
    push_rules(connection, parse_rules('{"default": {"limits": "6/s"}}'))
    _until(lambda: source.current().rules["default"].limits == (Limit(6, 6),))
    assert source.refused == 1


def test_rules_pushed_to_an_emptied_redis_are_noticed(server: RedisServer) -> None:
    connection = RedisRulesConnection(server)
    one, other = (parse_rules(f'{{"default": {{"limits": "{n}/s"}}}}') for n in (5, 6))
    version = push_rules(connection, one)
    source = RedisRules(server.url)
    with contextlib.closing(server.admin()) as admin:
        admin.flushall()
    push_rules(connection, other)
    source.reload()
    assert source.current().rules == other.rules
    assert push_rules(connection, one) == version  # the same rules are the same version


def test_a_push_over_a_certain_version(server: RedisServer) -> None:
    connection = RedisRulesConnection(server)
    one, other = (parse_rules(f'{{"default": {{"limits": "{n}/s"}}}}') for n in (5, 6))
    with pytest.raises(RulesError, match="the version there is none, not f00"):
        push_rules(connection, one, if_version="f00")
    version = push_rules(connection, one, if_version="none")
    with pytest.raises(RulesError, match=f"the version there is {version}, not none"):
        push_rules(connection, other, if_version="none")
    push_rules(connection, other, if_version=version)
    assert RedisRules(server.url).current().rules == other.rules
    with contextlib.closing(server.admin()) as admin:
        admin.hdel("rl:rules", "$version")  # rules by another program
        with pytest.raises(RulesError, match="the version there is unknown, not none"):
            push_rules(connection, one, if_version="none")
        admin.hset("rl:rules", "$version", "\x1b[2J\x9b2J\xff")
    with pytest.raises(RulesError, match=r"the version there is '\\x1b\[2J\\x9b2J\\xff', not none"):
        push_rules(connection, one, if_version="none")


def test_the_order_of_tiers_survives_redis(server: RedisServer) -> None:
    names = [f"tier{i}" for i in range(300)]
    table = RuleTable([rule("default"), *(rule(name, tiers=[name]) for name in names)])
    push_rules(RedisRulesConnection(server), table)
    assert RedisRules(server.url).current().tiers == tuple(names)


def test_a_fallback_while_redis_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fallback = tmp_path / "rules.json"
    fallback.write_text('{"default": {"limits": "5/s"}}')
    with redis_server(tmp_path) as server:
        source = RedisRules(server.url, fallback=fallback, check_every_s=0)
        assert source.current().rules["default"].limits == (Limit(5, 5),)
        assert "could not load rules from Redis" in caplog.text
        push_rules(RedisRulesConnection(server), parse_rules('{"default": {"limits": "6/s"}}'))
        _until(lambda: source.current().rules["default"].limits == (Limit(6, 6),))
        server.kill()
        with pytest.raises(StoreError):
            RedisRules(server.url)
        _until(lambda: source.current() and source.refused >= 1)
        assert source.current().rules["default"].limits == (Limit(6, 6),)


def test_sources(tmp_path: Path, server: RedisServer) -> None:
    table = parse_rules(SEED)
    assert as_source(table).current() is table
    source = RuleSource(table)
    assert as_source(source) is source
    assert as_source({"default": {"limits": "5/s"}}).current().rules["default"].limits == (
        Limit(5, 5),
    )
    path = tmp_path / "r.json"
    path.write_text(SEED)
    assert isinstance(as_source(path), FileRules)
    assert isinstance(as_source(str(path)), FileRules)
    push_rules(RedisRulesConnection(server), table)
    assert isinstance(as_source(server.url), RedisRules)
    with pytest.raises(TypeError, match="rules must be a file, a dict"):
        as_source(5)


# --- The command ---


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text(json.dumps(GROWN))
    assert main(["rules", "check", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "default: everything: 100/minute"
    assert shown[1] == (
        "upload: path /files/{id}, method POST or PUT: 5/minute; 20/hour; window=sliding, cost 3, "
        "by header:X-API-Key else ip, without a store: deny"
    )
    assert "new: path /new/**: 1/minute, never denied (shadow)" in shown
    assert main(["rules", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pro"]["tier"] == ["pro"]
    path.write_text('{"a": {"limits": "often"}}')
    assert main(["rules", "check", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        f"rate-limiter: {path}:1: rule 'a', limits: invalid limit 'often'"
    )


def test_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text(json.dumps(GROWN))
    command = ["rules", "explain", str(path), "--path", "/files/7", "--method", "post"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "POST /files/7 of 127.0.0.1",
        "=> upload: path /files/{id}, method POST or PUT: 5/minute; 20/hour; window=sliding, "
        "cost 3, by header:X-API-Key else ip, without a store: deny",
        "   default: everything: 100/minute",
        "'upload' wins over 'default': its path is more specific",
    ]
    arguments = ["--tier", "header:X-Plan", "--header", "X-Plan=pro", "--json"]
    assert main(["rules", "explain", str(path), "--path", "/", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rule": "pro",
        "key": "127.0.0.1",
        "tiers": ["pro"],
        "matches": ["pro", "default"],
    }
    key = ["--key", "header:X-API-Key", "--key", "ip", "--header", "X-API-Key=p"]
    assert main(["rules", "explain", str(path), "--path", "/", *key]) == 0
    shown = capsys.readouterr().out
    assert "=> partner: key header:x-api-key:p: 9/second" in shown
    assert "it names the client's key" in shown
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--header", "nonsense"])
    assert "argument --header: must be NAME=VALUE (see" in capsys.readouterr().err


def test_the_file_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RATE_LIMITER_RULES", "RATE_LIMIT_RULES_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert main(["rules", "explain", "--path", "/x"]) == 1
    assert "rate_limits.json: No such file" in capsys.readouterr().err
    (tmp_path / "rate_limits.json").write_text(SEED)
    assert main(["rules", "explain", "--path", "/x", "--method", "POST", "--header", "K=V"]) == 0
    assert "=> default: everything: 5/second; burst=20" in capsys.readouterr().out
    (tmp_path / "other.yaml").write_text("only: {limits: 5/second}")
    monkeypatch.setenv("RATE_LIMITER_RULES", "other.yaml")
    assert main(["rules", "check"]) == 0
    assert capsys.readouterr().out.startswith("only: path /only or /only/**: 5/second")


def test_push_and_pull(
    tmp_path: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rate_limits.json"
    path.write_text(json.dumps(GROWN))
    assert main(["rules", "push", str(path), "--store", server.url]) == 0
    pushed = capsys.readouterr().out
    assert main(["rules", "pull", "--version", "--store", server.url]) == 0
    version = capsys.readouterr().out.strip()
    assert pushed == f"7 rules pushed, version {version}\n"
    assert main(["rules", "pull", "--store", server.url]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert list(pulled) == [name for name in GROWN if name != "$schema"]
    assert pulled["upload"]["description"] == "Uploads are dear."
    assert parse_rules(json.dumps(pulled)).rules == load_rules(path).rules
    path.write_text("{")
    assert main(["rules", "push", str(path), "--store", server.url]) == 1
    path.write_text('{"default": {"limits": "9/s"}}')
    push = ["rules", "push", str(path), "--store", server.url, "--if-version"]
    assert main([*push, "f00"]) == 1
    wrong = f"rate-limiter: Redis (rl:rules): the version there is {version}, not f00\n"
    assert capsys.readouterr().err.endswith(wrong)
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        assert client.hget("rl:rules", "$version") == version.encode()
        assert main([*push, version, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"version": client.hget("rl:rules", "$version").decode(), "rules": 1}  # type: ignore[union-attr]


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_without_pydantic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "rate_limiter.policy.rule_files")
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert main(["rules", "check", str(tmp_path / "x.json")]) == 1
    assert "pydantic is missing: pip install 'rate-limiter-c[rules]'" in capsys.readouterr().err
