"""The C code for requests gives what the Python code gave that it replaced: see csrc/http.

The models are in tests/support/reference_*.py. Each comparison runs over examples of Hypothesis and
over many seeded random cases.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import Decision, Limit
from rate_limiter._core import FieldStyle, ProxyWalk, RuleRoutes
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.headers import HeaderStyle, LimitState, reset_at_s
from rate_limiter.policy.rules import Rule, RuleTable
from support import reference_client_address, reference_headers, reference_rules

CASES = 20_000

# --- Addresses ---

PROXIES: tuple[tuple[str, ...], ...] = (
    (),
    ("unix",),
    ("10.0.0.0/8", "unix"),
    ("10.0.0.0/8", "fd00::/8", "192.0.2.7"),
    ("0.0.0.0/0",),
    ("::/0",),
    ("0.0.0.0/0", "::/0"),
    ("2001:db8::/33", "128.0.0.0/1", "fe80::%eth0/64"),
)
ADDRESSES = (
    *("10.0.0.1", "10.9.9.9", "192.0.2.7", "203.0.113.9", "255.255.255.255", "1.2.3.4:80"),
    *("::1", "::", "fd00::5", "2001:db8::1", "2001:db8:8000::1", "2001:DB8:0:0:1::", "[::1]:443"),
    *("::ffff:10.0.0.1", "::ffff:203.0.113.9", "[::ffff:1.2.3.4]", "::1.2.3.4", "fe80::1%eth0"),
    *("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:8", "1:0:0:4:5:0:0:8", "64:ff9b::8.8.8.8", "::2:3"),
)
NO_ADDRESSES = (
    *("", "unknown", "_hidden", "testclient", "0203.0.113.9", "1.2.3", "1.2.3.4.5", "256.1.1.1"),
    *("1.2.3.4:", "1.2.3.4:123456", "[1.2.3.4]", "[::1", "::1]", "[::1]x", "[::1]:", "[]", "[:"),
    *("fe80::1%", "1.2.3.4%eth0", "::1%é", "12345::", ":::", "1::2::3", "fe80::1%" + "e" * 57),
    *(
        "\x00",
        "1.2.3.4\x00",
        "1.2.3.4\n",
        "é",
        "٢٠٣.0.113.9",
        "日本",
        "\ud800",
        "::1%日" + "本" * 40,
    ),
)
NODES = ADDRESSES + NO_ADDRESSES
PIECES = (
    *("for=", "For=", "FOR", "=", '"', "\\", ";", ",", " ", "\t", "[", "]", ":", "%", "\n", "\x00"),
    *('for="', "by=10.0.0.1", 'host="a,b;c=\\"d"', "proto=https", "\\\n", "é", "日", "x", "."),
)


def random_line(rng: random.Random, header: str) -> str:
    """Return a line of a header: well formed, with a blemish, or of mere pieces."""
    way = rng.random()
    if way < 0.3:
        return "".join(rng.choice(NODES + PIECES) for _ in range(rng.randrange(12)))
    nodes = rng.choices(ADDRESSES if way < 0.8 else NODES, k=rng.choice((1, 1, 2, 3, 6, 40)))
    if header == "forwarded":
        nodes = [
            rng.choice(("for={}", 'for="{}"', 'FOR="{}";by=x', 'proto=a; for="{}" ')).format(one)
            for one in nodes
        ]
    line = rng.choice((",", ", ", " ,\t", "," + " " * 70)).join(nodes)
    if rng.random() < 0.1:
        at = rng.randrange(len(line) + 1)
        line = line[:at] + rng.choice(PIECES) + line[at:]
    return line


def as_bytes(line: str) -> str | bytes:
    """Return a line as a server gives it, where it can be given so."""
    try:
        return line.encode("latin-1")
    except UnicodeEncodeError:
        return line


def scope_of(peer: str | None, header: str, values: list[str]) -> dict[str, Any]:
    lines = [(header.encode(), value.encode("latin-1", "replace")) for value in values]
    noise = [(b"x-forwarded-fo", b"6.6.6.6"), (b"host", b"x"), (b"X-Forwarded-For", b"7.7.7.7")]
    scope = {"client": (peer, 5) if peer is not None else None, "headers": [*noise, *lines]}
    return scope if lines or peer else {}


def compare_addresses(
    proxies: tuple[str, ...], header: str, prefix: int, peer: str | None, values: list[str]
) -> None:
    """Check that the model and the C code find the same client."""
    header = header if proxies else "x-forwarded-for"
    model = reference_client_address.ClientAddress(proxies, header=header, ipv6_prefix=prefix)
    ours = ClientAddress(proxies, header=header, ipv6_prefix=prefix)
    case = (proxies, header, prefix, peer, values)
    expected = model.key(peer, values)
    assert ours.key(peer, values) == expected, case
    assert ours.key(peer, map(as_bytes, values)) == expected, case
    for strict in (False, True):
        address = ours.address(peer, values, strict=strict)
        assert address == model.address(peer, values, strict=strict), case
    if all(value.isascii() for value in values):
        assert ours.key_of_scope(scope_of(peer, header, values)) == expected, case


HEADERS = st.sampled_from(["x-forwarded-for", "forwarded"])
LINES = st.text(max_size=200) | st.lists(st.sampled_from(NODES + PIECES), max_size=20).map("".join)


@given(
    proxies=st.sampled_from(PROXIES),
    header=HEADERS,
    prefix=st.sampled_from([16, 33, 56, 64, 127, 128]),
    peer=st.none() | st.sampled_from(NODES) | LINES,
    values=st.lists(LINES, max_size=4),
)
def test_addresses(
    proxies: tuple[str, ...], header: str, prefix: int, peer: str | None, values: list[str]
) -> None:
    compare_addresses(proxies, header, prefix, peer, values)


def test_addresses_at_random() -> None:
    rng = random.Random(8)
    for _ in range(CASES):
        header = rng.choice(("x-forwarded-for", "forwarded"))
        compare_addresses(
            rng.choice(PROXIES),
            header,
            rng.choice((16, 48, 64, 99, 128)),
            rng.choice((None, *NODES, "10.0.0.1", "10.0.0.1", "fd00::5")),
            [random_line(rng, header) for _ in range(rng.choice((0, 1, 1, 2, 5)))],
        )


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
@pytest.mark.parametrize(
    "values",
    [
        ["10.0.0.1," * 7000],
        ["for=10.0.0.1," * 5000 + "for=10.0.0.2"],
        [" " * 65_536],
        ['for="' + "\\" * 65_536],
        [", ".join(["203.0.113.9", *["10.0.0.1"] * 1000])],
        [", ".join(["for=203.0.113.9", *['for="10.0.0.1"'] * 1000])],
        ["203.0.113.9", *["10.0.0.1, 10.0.0.2"] * 10_000],
        ["for=203.0.113.9", *["for=10.0.0.1;by=x"] * 10_000],
        ["203.0.113.9", *["\x00"] * 10_000],
    ],
)
def test_long_headers(header: str, values: list[str]) -> None:
    proxies = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    for trusted in (tuple(proxies), ("10.0.0.0/8",)):
        compare_addresses(trusted, header, 64, "10.0.0.1", values)


def test_a_mapped_network_holds_for_ipv4() -> None:
    """The model left such a network without effect."""
    assert ClientAddress(["::ffff:10.0.0.0/104"]).key("10.0.0.1", ["203.0.113.9"]) == "203.0.113.9"
    assert ClientAddress(["::ffff:10.0.0.0/104"]).key("11.0.0.1", ["203.0.113.9"]) == "11.0.0.1"


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        ({"client": 5}, "unknown"),
        ({"client": (5, 5)}, "unknown"),
        ({"client": {"a": 1}}, "unknown"),
        ({"client": ("10.0.0.1", 1), "headers": None}, "10.0.0.1"),
        ({"client": ("10.0.0.1", 1), "headers": 5}, "10.0.0.1"),
        ({"client": ("10.0.0.1", 1), "headers": [None]}, "10.0.0.1"),
        ({"client": ("10.0.0.1", 1), "headers": [()]}, "10.0.0.1"),
        ({"client": ("10.0.0.1", 1), "headers": [(b"a", b"b", b"c")]}, "10.0.0.1"),
        ({"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", 5)]}, "10.0.0.1"),
    ],
)
def test_members_of_a_wrong_type_count_as_missing(scope: Any, key: str) -> None:
    assert ClientAddress(["10.0.0.0/8"]).key_of_scope(scope) == key


@pytest.mark.parametrize("scope", [None, []])
def test_what_is_no_scope_is_refused(scope: Any) -> None:
    with pytest.raises(TypeError, match="scope must be a dict"):
        ClientAddress(["10.0.0.0/8"]).key_of_scope(scope)


def test_odd_scopes() -> None:
    address = ClientAddress(["10.0.0.0/8"])
    line = [b"x-forwarded-for", bytearray(b"203.0.113.9")]
    assert address.key_of_scope({}) == "unknown"
    assert address.key_of_scope({"client": ()}) == "unknown"
    assert address.key_of_scope({"client": ["10.0.0.1"]}) == "10.0.0.1"
    assert address.key_of_scope({"client": ("", 1)}) == "unknown"
    headers: list[Any] = [("x-forwarded-for", "6.6.6.6"), [b"x-forwarded-for", bytes(line[1])]]
    scope = {"client": ("10.0.0.1", 1), "headers": (one for one in headers)}
    assert address.key_of_scope(scope) == "203.0.113.9"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"networks": ["10.0.0.1/8"]}, ValueError),
        ({"networks": ["unix"]}, ValueError),
        ({"networks": [5]}, TypeError),
        ({"networks": 5}, TypeError),
        ({"header": "x-real-ip"}, ValueError),
        ({"header": b"forwarded"}, TypeError),
        ({"ipv6_prefix": 15}, ValueError),
        ({"ipv6_prefix": 129}, ValueError),
        ({"ipv6_prefix": "64"}, TypeError),
    ],
)
def test_a_walk_checks_its_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ProxyWalk(**arguments)


# --- Header fields ---

NOW_S = 1_700_000_000.25
NAMES = ("", "api", 'a"b\\c', "é", "日本", "\x00\n", "\ud800", "default:1", "x" * 300)
LIMITS = (
    *(Limit(10, 1), Limit(0.5, 0.1), Limit(4e15, 1e9), Limit(7, 0), Limit(100, 100 / 60)),
    *(Limit.fixed_window(5, 60), Limit.sliding_window(2_000_000_000, 1_000_000_000)),
    *(Limit.fixed_window(1, 1), Limit.sliding_window(3, 7), Limit(1e-9, 1e-9), Limit(1, 1e-200)),
)
# Above 2**53 nanoseconds the model rounded times to what a float has of them.
TIMES_S = (0.0, 1e-9, 0.25, 0.999999999, 1.0, 1.000000001, 59.5, 86_400.0, 999_999.5, math.inf)
TOKENS = (0.0, 0.5, 0.999, 1.0, 9.999999, 100.0, 4e15)


def random_decision(rng: random.Random) -> Decision:
    time_s = rng.choice(TIMES_S) if rng.random() < 0.7 else round(rng.uniform(0, 1e5), 6)
    return Decision(
        rng.random() < 0.5,
        rng.choice(TOKENS),
        limit=rng.choice(TOKENS),
        retry_after=time_s,
        reset_after=rng.choice(TIMES_S),
        store_unavailable=rng.random() < 0.1,
    )


def compare_fields(
    style: tuple[str, str, float, bool],
    decision: Decision,
    each: list[LimitState],
    spread: float,
) -> None:
    """Check that the model and the C code write the same."""
    model, ours = reference_headers.HeaderStyle(*style), HeaderStyle(*style)
    expected = model.values(decision, each, spread)
    if expected.get("Access-Control-Expose-Headers") == "":
        del expected["Access-Control-Expose-Headers"]  # it exposed nothing
    case = (style, decision, each, spread)
    assert list(ours.values(decision, each, spread).items()) == list(expected.items()), case
    assert ours.retry_after_s(decision, spread) == model.retry_after_s(decision, spread), case
    for limit in (None, *(one.limit for one in each)):
        if not math.isinf(decision.reset_after):
            assert reset_at_s(decision, limit) == reference_headers.reset_at_s(decision, limit), (
                case
            )


@pytest.fixture
def _standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_S)


@pytest.mark.usefixtures("_standing_clock")
def test_fields_at_random() -> None:
    rng = random.Random(9)
    for _ in range(CASES):
        each = [
            LimitState(rng.choice(NAMES), rng.choice(LIMITS), random_decision(rng))
            for _ in range(rng.choice((0, 1, 1, 2, 3, 8)))
        ]
        decision = random_decision(rng)
        if each and rng.random() < 0.8:
            decision = rng.choice(each).decision
        style = rng.choice(("x-ratelimit", "ietf", "both", "off"))
        reset = rng.choice(("seconds", "epoch")) if style in ("x-ratelimit", "both") else "seconds"
        jitter_s = rng.choice((0, 0, 5, 0.1, 1e6))
        spread = rng.choice((0.0, 0.5, 1.0, rng.random()))
        compare_fields((style, reset, jitter_s, rng.random() < 0.5), decision, each, spread)


DECISIONS = st.builds(
    Decision,
    st.booleans(),
    st.floats(0, 4e15),
    limit=st.floats(0, 4e15),
    retry_after=st.floats(0, 1e6) | st.just(math.inf),
    reset_after=st.floats(0, 1e6) | st.just(math.inf),
)


@pytest.mark.usefixtures("_standing_clock")
@given(
    style=st.tuples(
        st.sampled_from(["x-ratelimit", "both"]),
        st.sampled_from(["seconds", "epoch"]),
        st.floats(0, 1e6),
        st.booleans(),
    ),
    each=st.lists(
        st.builds(LimitState, st.text(max_size=20), st.sampled_from(LIMITS), DECISIONS),
        min_size=1,
        max_size=8,
    ),
    spread=st.floats(0, 1),
)
def test_fields(style: tuple[str, str, float, bool], each: list[LimitState], spread: float) -> None:
    compare_fields(style, each[0].decision, each, spread)


def test_a_long_time_is_exact() -> None:
    """The model lost the nanosecond in a float."""
    decision = Decision(False, 0, retry_after=9_007_200.0, reset_after=9_007_200.0)
    assert HeaderStyle().values(decision)["Retry-After"] == "9007200"


def test_of_many_limits_the_tightest_are_described() -> None:
    each = [
        LimitState(f"l{i}", Limit(10, 1), Decision(i != 90, i, retry_after=1.0 if i == 90 else 0))
        for i in range(100)
    ]
    found = HeaderStyle("ietf").values(each[90].decision, each)["RateLimit"].split(", ")
    assert [one.partition(";")[0] for one in found] == ['"l90"', *(f'"l{i}"' for i in range(63))]


class Wrong:
    """A limit or its state, with one wrong part."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update({"name": "n", "capacity": 1, "period_s": 1, "edge_s": 0, **parts})
        self.limit = parts.get("limit", self)
        self.decision = parts.get("decision", Decision(True))


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"name": b"n"}, TypeError),
        ({"name": None}, TypeError),
        ({"capacity": "1"}, TypeError),
        ({"capacity": math.nan}, ValueError),
        ({"capacity": -1}, ValueError),
        ({"period_s": -1}, ValueError),
        ({"period_s": None}, TypeError),
        ({"edge_s": 10**30}, (ValueError, OverflowError)),
        ({"edge_s": -1}, ValueError),
        ({"edge_s": 0.5}, TypeError),
        ({"limit": None}, AttributeError),
        ({"decision": None}, TypeError),
    ],
)
def test_wrong_states_are_refused(parts: dict[str, Any], error: type[Exception]) -> None:
    style = FieldStyle("both")
    style.values(Decision(True), [Wrong()], 0, NOW_S)
    with pytest.raises(error):
        style.values(Decision(True), [Wrong(), Wrong(**parts)], 0, NOW_S)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, [], 0, NOW_S), TypeError),
        ((Decision(True), None, 0, NOW_S), TypeError),
        ((Decision(True), [], 2, NOW_S), ValueError),
        ((Decision(True), [], math.nan, NOW_S), ValueError),
        ((Decision(True), [], 0, -1), ValueError),
        ((Decision(True), [], 0, math.inf), ValueError),
        ((Decision(True), [], "0", 0), TypeError),
        ((Decision(True), []), TypeError),
    ],
)
def test_fields_check_their_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        FieldStyle("both").values(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"style": "all"}, ValueError),
        ({"style": b"both"}, TypeError),
        ({"style": "both", "jitter_s": -1}, ValueError),
        ({"style": "both", "jitter_s": math.inf}, ValueError),
        ({"style": "both", "jitter_s": "1"}, TypeError),
    ],
)
def test_a_field_style_checks_its_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        FieldStyle(**arguments)


def test_a_style_can_be_copied() -> None:
    style = HeaderStyle("both", "epoch", 5, cors=True)
    style.values(Decision(True))
    assert pickle.loads(pickle.dumps(style)) == copy.deepcopy(style) == style


# --- Rules ---

SEGMENTS = ("a", "b", "items", "{id}", "*", "é", "\ud800", "", ".", "..", "a\n", "x y", "\x00")
RESTS = ("", "", "/**", "/{rest:path}", "/")
PARTS = ("a", "b", "items", "7", "é", "\ud800", "", "", ".", "..", "a\n", "x y", "\x00", "\n")
METHODS = ("GET", "HEAD", "POST", "WEBSOCKET", "")
TIERS = ("free", "pro", "max")
KEYS = ("k", "header:x-api-key:é", "\ud800", "")


def random_rule(rng: random.Random, number: int) -> Rule:
    paths = {
        "/" + "/".join(rng.choices(SEGMENTS, k=rng.randrange(4))) + rng.choice(RESTS)
        for _ in range(rng.choice((0, 1, 1, 2)))
    }
    return Rule(
        f"r{number}",
        (Limit(1, 1),),
        paths=tuple(sorted(paths)),
        methods=tuple(rng.sample(METHODS[:4], rng.choice((0, 0, 1, 2)))),
        tiers=tuple(rng.sample(TIERS, rng.choice((0, 0, 1, 2)))),
        keys=tuple(rng.sample(KEYS, rng.choice((0, 0, 0, 1)))),
    )


def refusal_of(kind: Callable[[list[Rule]], object], rules: list[Rule]) -> str:
    """Return the text of the error that rules give; empty for none."""
    try:
        kind(rules)
    except ValueError as error:
        return str(error)
    return ""


def random_tables(rng: random.Random) -> tuple[reference_rules.RuleTable, RuleTable]:
    """Return the model and the C code with the same rules, which are refused alike before."""
    rules: list[Rule] = []
    for number in range(rng.choice((0, 1, 4, 12, 30))):
        given = [*rules, random_rule(rng, number)]
        refusal = refusal_of(reference_rules.RuleTable, given)
        assert refusal_of(RuleTable, given) == refusal
        rules = rules if refusal else given
    return reference_rules.RuleTable(rules), RuleTable(rules)


def compare_rules(
    model: reference_rules.RuleTable, ours: RuleTable, path: str, rng: random.Random
) -> None:
    """Check that the model and the C code find the same rules."""
    tiers = rng.choice((None, (), ("pro",), ("free", "max", "x"), ("pro", "pro", "free")))
    asked: Any = (path, rng.choice(METHODS), tiers, rng.choice((None, *KEYS, "other", b"k")))
    for like_werkzeug in (False, True):
        found = ours.both(*asked, like_werkzeug=like_werkzeug)
        assert found == model.both(*asked, like_werkzeug=like_werkzeug), (asked, ours.rules)
    assert ours.match(*asked) == model.match(*asked), (asked, ours.rules)
    assert ours.matches(*asked) == model.matches(*asked), (asked, ours.rules)


def random_path(rng: random.Random) -> str:
    path = "/".join(rng.choices(PARTS, k=rng.choice((0, 1, 2, 3, 5))))
    return path if rng.random() < 0.1 else f"/{path}{rng.choice(('', '', '/', chr(10)))}"


def test_rules_at_random() -> None:
    rng = random.Random(10)
    for _ in range(CASES // 50):
        model, ours = random_tables(rng)
        for _ in range(50):
            compare_rules(model, ours, random_path(rng), rng)


@given(path=st.text(alphabet="/ab7*{}:é\x00 .\n", max_size=60) | st.text(), seed=st.integers())
def test_rules(path: str, seed: int) -> None:
    rng = random.Random(seed)
    model, ours = random_tables(rng)
    compare_rules(model, ours, path, rng)


@pytest.mark.parametrize(
    "path", ["/" * 65_536, "/a" * 30_000, "/a/.." * 20_000, "/" + "x" * 65_536]
)
def test_long_paths(path: str) -> None:
    rng = random.Random(11)
    for _ in range(20):
        model, ours = random_tables(rng)
        compare_rules(model, ours, path, rng)


def test_a_deep_pattern() -> None:
    most, deeper = "/a" * 64, "/a" * 65
    assert RuleTable([Rule("r", (Limit(1, 1),), (most,))]).match(most, "GET") is not None
    with pytest.raises(ValueError, match=f"at most 64 segments, got '{deeper}'"):
        RuleTable([Rule("r", (Limit(1, 1),), (deeper,))])


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (None, TypeError),
        (["/", None, -1, None, 0], TypeError),
        (("/", None, -1, None), TypeError),
        (("/", None, -2, None, 0), ValueError),
        (("/", None, -1, None, -1), ValueError),
        (("/", None, -1, None, 2**32 - 1), ValueError),
        (("/", None, 2**40, None, 0), OverflowError),
        (("x", None, -1, None, 0), ValueError),
        (("/**/x", None, -1, None, 0), ValueError),
        ((b"/", None, -1, None, 0), TypeError),
        (("/", 5, -1, None, 0), TypeError),
        (("/", None, -1, b"k", 0), TypeError),
        (("/", None, -1, None, 0, b"10.0.0.0/8"), TypeError),
        (("/", None, -1, None, 0, "10.0.0.1/8"), ValueError),
        (("/", None, -1, "k", 0, "10.0.0.0/8"), ValueError),
    ],
)
def test_wrong_routes_are_refused(route: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        RuleRoutes([("/a", None, -1, None, 0), route])


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ((b"/", "GET", (), None, False), TypeError),
        (("/", None, (), None, False), TypeError),
        (("/", "GET", None, None, False), TypeError),
        (("/", "GET", (-1,), None, False), ValueError),
        (("/", "GET", (2**40,), None, False), ValueError),
        (("/", "GET", ("1",), None, False), TypeError),
        (("/", "GET", (), None), TypeError),
        (("/", "GET", (), None, False, b"10.0.0.1"), TypeError),
    ],
)
def test_routes_check_what_is_asked(asked: Any, error: type[Exception]) -> None:
    routes = RuleRoutes([("/", None, -1, None, 7)])
    assert routes.find("/", "GET", range(40), 5, False) == (7,)
    with pytest.raises(error):
        routes.find(*asked)
