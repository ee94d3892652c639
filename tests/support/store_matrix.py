"""The matrix of stores: what is called on a limiter, and how a store is compared with memory.

A case is a list of steps, each a call of one method, which a limiter with full buckets gets. Run on
two stores it gives two lists of outcomes, which must be the same. To add a method, add steps to
CASES; to add a kind of limit, add it to LIMITS.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any

from rate_limiter import AsyncRateLimiter, Decision, Limit, RateLimiter, RateLimitExceeded
from rate_limiter.stores.bucket_info import BucketInfo

DAY_S = 86400
# The longest windows: one ends in 2033, the next in 2065, so none does while a test runs.
LONG_S = 1_000_000_000
MAX_KEYS = 1000

LIMITS: dict[str, tuple[Limit, ...]] = {
    "bucket": (Limit(4.75, 5 / DAY_S),),
    "frozen": (Limit(4.75, 0),),
    "fixed": (Limit.fixed_window(5, LONG_S),),
    "sliding": (Limit.sliding_window(5, LONG_S),),
    "sliding of many": (Limit.sliding_window(12, LONG_S),),
    "first": (Limit.fixed_window(5, LONG_S, start="first"),),
    "calendar": (Limit.calendar_window(5, "year"),),
    "denied counts": (Limit(4.75, 5 / DAY_S, count_denied=True),),
    "two buckets": (Limit(4.75, 5 / DAY_S), Limit(8, 2 / DAY_S)),
    "one of each": (
        Limit.sliding_window(6, LONG_S),
        Limit(4.75, 5 / DAY_S),
        Limit.fixed_window(8, LONG_S),
    ),
}


@dataclass(frozen=True)
class Made:
    """An argument that is made for each call, such as a generator."""

    make: Callable[[], object]


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        words: whether the text of an error belongs to the outcome. That of a wrong signature comes
            from Python or from C.
    """

    method: str
    args: tuple[Any, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    words: bool = True

    def __str__(self) -> str:
        given = [_short(one) for one in self.args]
        given += [f"{name}={_short(one)}" for name, one in self.settings.items()]
        return f"{self.method}({', '.join(given)})"


def step(method: str, *args: Any, **settings: Any) -> Step:
    return Step(method, args, settings)


def unfit(method: str, *args: Any, **settings: Any) -> Step:
    """Return a step that does not fit the signature of the method."""
    return Step(method, args, settings, words=False)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


class Text(str):
    """A key whose type is not exactly str."""


class Broken:
    """A cost that is no number in its own way."""

    def __float__(self) -> float:
        raise LookupError("no number")


def _breaks() -> Iterator[str]:
    yield "a"
    raise LookupError("no more keys")


KEYS: list[Any] = [
    "", "k", "{", "}", "{}", "{k}", "{}k", "a{b}c", "%", "%7b", "{%}", "k:", ":k", "sha256:",
    "*", "\n", "a\r\nb", "\0", "\0k", "k\0", " k", "é", "\N{SNOWMAN}", "\ud800", "k\udfff",
    b"\xff", b"\xc3", b"\xed\xa0", "k" * 200, "k" * 201, "k" * 5000, "{" * 200, "}" * 201,
]  # fmt: skip
SAME_KEYS: list[tuple[Any, Any]] = [
    ("", b""), ("k", b"k"), ("k", Text("k")), ("é", "é".encode()), ("\ud800", b"\xed\xa0\x80"),
    ("k" * 300, b"k" * 300), ("{}", b"{}"), ("\0", b"\0"),
]  # fmt: skip
HUGE_KEYS: list[Any] = ["k" * 10_000_000, b"{}" * 5_000_000]
BAD_KEYS: list[Any] = [5, None, 1.5, True, ["k"], ("k",), bytearray(b"k"), memoryview(b"k"), object]
COSTS: list[Any] = [
    0, 1, 2, 5, 6, 100, 0.5, 1.5, 4.999, 5.0, -0.0, 1e-9, 5e-324, 1e300, True, 2**70,
    Fraction(3, 2), Decimal("1.5"),
]  # fmt: skip
BAD_COSTS: list[Any] = [
    -1, -1e-9, math.inf, -math.inf, math.nan, 10**400, -(10**400), "1", b"1", None, [1], 1j, object,
    Broken(),
]  # fmt: skip

TAKES = ("allow", "hit", "hit_each")
ASKS = (*TAKES, "peek", "peek_each")
OF_COST = (*ASKS, "charge", "refund")
OF_KEY = (*OF_COST, "reset", "inspect", "acquire")

_LOOK = step("peek_each", "k", 0)


def _each_on_its_own(key: Any, *steps: Step) -> list[Step]:
    return [*steps, step("reset", key)]


CASES: dict[str, list[Step]] = {
    "until denied": [step(method, "k") for _ in range(3) for method in TAKES]
    + [_LOOK, step("hit", "k", 5), step("hit", "k", 9), step("hit", "k", 0), step("hit", "other")],
    "costs": [
        one
        for method in OF_COST
        for cost in COSTS
        for one in _each_on_its_own("k", step("hit", "k", 3), step(method, "k", cost), _LOOK)
    ],
    "names": [step(method, key="k", cost=2) for method in OF_COST]
    + [step("acquire", key="k", cost=1, timeout=0, max_waiting=0), step("inspect", key="k")]
    + [step("reset", key="k"), step("allow_many", keys=["k"], cost=2), _LOOK],
    "bad costs": [step(method, "k", cost) for method in OF_COST for cost in BAD_COSTS]
    + [step("acquire", "k", cost) for cost in BAD_COSTS]
    + [step("allow_many", ["k"], cost) for cost in BAD_COSTS]
    + [step("allow_many", [], cost) for cost in BAD_COSTS]
    + [_LOOK],
    "bad keys": [step(method, key) for method in OF_KEY for key in BAD_KEYS]
    + [step("allow_many", ["good", key]) for key in BAD_KEYS]
    + [step("hit", key, "cost") for key in BAD_KEYS]
    + [step("peek", "good", 0)],
    "bad signatures": [
        one
        for method in (*OF_KEY, "allow_many")
        for one in (
            unfit(method),
            unfit(method, "k", unknown=1),
            unfit(method, "k", key="k", keys="k"),
            unfit(method, "k", 1, 2, 3, 4),
        )
    ]
    + [unfit("reset", "k", 1), unfit("inspect", "k", 1), unfit("stats", "k"), unfit("with_limits")]
    + [_LOOK],
    "charge": [
        step("charge", "k", 3),
        step("charge", "k", 4),
        step("hit", "k"),
        _LOOK,
        step("charge", "k", 100),
        _LOOK,
        step("hit", "k"),
        step("refund", "k", 6),
        _LOOK,
        step("charge", "k", 0),
        step("refund", "k", 100),
        _LOOK,
    ],
    "refund": [
        step("refund", "k"),
        _LOOK,
        step("hit", "k", 4),
        step("refund", "k", 1.5),
        _LOOK,
        step("refund", "k", 0),
        step("refund", "k", 9),
        _LOOK,
        step("refund", "other", 2),
    ],
    "reset": [step("hit", "k", 5), step("reset", "k"), _LOOK, step("reset", "k"), step("hit", "k")],
    "inspect": [
        step("inspect", "k"),
        step("hit", "k", 2),
        step("inspect", "k"),
        step("charge", "k", 9),
        step("inspect", "k"),
        step("inspect", "\ud800"),
    ],
    "any key": [
        one
        for key in KEYS
        for one in (step("hit", key, 3), step("peek", key, 2), step("inspect", key))
    ]
    + [step("allow_many", KEYS, 2)]
    + [step("hit", key, 3) for key in KEYS]
    + [step("reset", key) for key in KEYS]
    + [step("peek_each", key, 0) for key in KEYS],
    "same keys": [
        one
        for first, second in SAME_KEYS
        for one in _each_on_its_own(first, step("hit", first, 3), step("hit", second, 2))
    ],
    "allow_many": [
        step("allow_many", []),
        step("allow_many", ["a", "b", "a"], 2),
        step("allow_many", ("a", "b", "c"), 3),
        step("allow_many", {"d": 1, b"e": 2}),
        step("allow_many", Made(lambda: (name for name in "dde")), 2),
        step("allow_many", Made(_breaks)),
        step("allow_many", [str(i % 40) for i in range(200)], 1),
        step("allow_many", "abc"),
        step("allow_many", b"abc"),
        step("allow_many", Text("abc")),
        step("allow_many", 5),
        step("allow_many", None),
        step("allow_many", bytearray(b"abc")),
        step("allow_many", ["f", "g"], 0),
        step("allow_many", ["f", "g"], 99),
        *(step("peek", name, 0) for name in "abcdefg"),
    ],
    "acquire": [
        step("acquire", "k", 3),
        step("acquire", "k", 0),
        step("acquire", "k", 3, 0),
        step("acquire", "k", 3, timeout=0.001),
        step("acquire", "k", 3, max_waiting=0),
        step("acquire", "k", 99),
        step("acquire", "k", timeout=-1),
        step("acquire", "k", timeout=math.nan),
        step("acquire", "k", max_waiting=-1),
        step("acquire", "k", max_waiting=1.5),
        step("reset", "k"),
        step("acquire", "k", 2, math.inf),
        _LOOK,
    ],
    "limits of a call": [
        step("hit", "k", 2, "5/day"),
        step("peek_each", "k", 0, "10/day; 3/hour"),
        step("hit", "k", limits=["5/day; window=fixed", "5/hour; window=sliding"]),
        step("hit_each", "k", (1, 2), "5/day; 3/day; window=fixed"),
        step("allow", "k", 4, "5/day"),
        step("charge", "k", 9, limits="5/day"),
        step("refund", "k", 6, "5/day"),
        step("inspect", "k", "5/day"),
        step("allow_many", ["k", "j"], 3, "5/day"),
        step("acquire", "k", 9, limits="5/day"),
        *(step("hit", "k", limits=one) for one in (5, b"5/s", "soon", {}, ["1/s"] * 5, "0/day")),
        step("hit", "k", (1,), "5/day; 3/day"),
        _LOOK,
        step("reset", "k"),
        step("peek", "k", 0, "5/day"),
    ],
    "other limits": [
        step("hit", "k", 2),
        step("with_limits", "1/second; 2/second; 3/second; 4/second"),
        step("with_limits", 5),
        step("with_limits", "nonsense"),
        step("with_limits", []),
        Step("with_limits", (Made(lambda: None),), {}),
        _LOOK,
    ],
}

HUGE: list[Step] = [
    one
    for key in HUGE_KEYS
    for one in (step("hit", key, 5), step("allow", key), step("allow_many", [key]))
] + [step("peek", key, 0) for key in (*HUGE_KEYS, HUGE_KEYS[0][:-1])]
"""Not in CASES, since each step takes a while."""


# --- Stores ---

_names = count()


@dataclass(frozen=True)
class Store:
    """A store that limiters are made on.

    Attributes:
        settings: the arguments of RateLimiter that choose it.
    """

    settings: dict[str, Any]

    @property
    def is_remote(self) -> bool:
        return "on_store_error" in self.settings

    def limiter(self, limits: Any) -> RateLimiter:
        """Return a limiter with full buckets."""
        name = {"name": f"test {next(_names)}"} if self.settings else {}
        return RateLimiter(limits, max_keys=MAX_KEYS, **name, **self.settings)


MEMORY = Store({})


def on_server(url: str) -> Store:
    return Store({"store": url, "on_store_error": "raise"})


# --- Running a case -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Raised:
    """The outcome of a step that raised."""

    kind: str
    text: str
    decision: Any = None


def wider(limits: tuple[Limit, ...]) -> list[Limit]:
    """Return limits of the same kinds with a capacity of one more."""
    return [_wider(one) for one in limits]


def _wider(one: Limit) -> Limit:
    count, denied = int(one.capacity) + 1, one.count_denied
    if not one.is_window:
        return Limit(one.capacity + 1, one.refill_rate, count_denied=denied)
    if one.unit is not None:
        return Limit.calendar_window(count, one.unit, one.tz, count_denied=denied)
    assert one.window_s is not None
    if one.algorithm == "sliding_window":
        return Limit.sliding_window(count, one.window_s, count_denied=denied)
    return Limit.fixed_window(count, one.window_s, start=one.start, count_denied=denied)


class Caller:
    """Call the methods of a limiter, blocking or awaited in one event loop."""

    def __init__(self, *, is_async: bool) -> None:
        self._loop = asyncio.new_event_loop() if is_async else None

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()

    def face(self, limiter: RateLimiter) -> Any:
        """Return what the methods are called on."""
        return limiter if self._loop is None else AsyncRateLimiter.of(limiter)

    def call(self, face: Any, method: str, *args: Any, **settings: Any) -> Any:
        if self._loop is None:
            return getattr(face, method)(*args, **settings)

        async def run() -> Any:
            answer = getattr(face, method)(*args, **settings)
            return await answer if inspect.isawaitable(answer) else answer

        return self._loop.run_until_complete(run())

    def run(self, limiter: RateLimiter, steps: list[Step]) -> list[Any]:
        """Return the outcome of each step, and then the counts of stats()."""
        face = self.face(limiter)
        outcomes = [self._outcome(face, one) for one in steps]
        stats = self.call(face, "stats")
        return [*outcomes, {name: stats[name] for name in ("allowed", "denied")}]

    def _outcome(self, face: Any, one: Step) -> Any:
        args = [each.make() if isinstance(each, Made) else each for each in one.args]
        try:
            return plain(self.call(face, one.method, *args, **one.settings))
        except RateLimitExceeded as error:
            return Raised("RateLimitExceeded", repr(error.key), plain(error.decision))
        except Exception as error:
            text = re.sub(r"0x[0-9a-f]+", "0x", str(error)) if one.words else ""
            return Raised(type(error).__name__, text)


def plain(answer: Any) -> Any:
    """Return an answer without what differs between stores on purpose."""
    if isinstance(answer, Decision):
        return {
            name: getattr(answer, name)
            for name in ("allowed", "limit", "remaining", "retry_after", "reset_after")
        }
    if isinstance(answer, BucketInfo):  # its key is that in the store, and expires there
        return replace(answer, key="", expires_after_s=None).__dict__
    if isinstance(answer, (tuple, list)):
        return type(answer)(map(plain, answer))
    return answer


def differences(
    steps: list[Step], expected: list[Any], got: list[Any], elapsed_s: float
) -> list[str]:
    """Return a line for each step whose outcomes differ by more than the time between them."""
    return [
        f"{one}:\n    expected {a!r}\n    got      {b!r}"
        for one, a, b in zip([*steps, "stats()"], expected, got, strict=True)
        if not _is_same(a, b, elapsed_s)
    ]


def _is_same(a: Any, b: Any, tolerance: float) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Raised):
        alike = (a.kind, a.text) == (b.kind, b.text)
        return alike and _is_same(a.decision, b.decision, tolerance)
    if isinstance(a, dict):
        # No limit refills more than one token in a thousand seconds.
        parts = {"remaining": tolerance / 1000, "tokens": tolerance / 1000}
        return a.keys() == b.keys() and all(
            _is_same(a[name], b[name], parts.get(name, tolerance)) for name in a
        )
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_is_same, a, b, [tolerance] * len(a)))
    if isinstance(a, float) and math.isfinite(a) and math.isfinite(b):
        # Zero stands for "now" and for "nothing", so it is exact.
        return (a == 0) == (b == 0) and abs(a - b) <= tolerance
    return bool(a == b)


def compare(store: Store, caller: Caller, limits: str, cases: dict[str, list[Step]]) -> list[str]:
    """Return a line for each step whose outcome is not that of memory."""
    in_memory = Caller(is_async=False)
    found: list[str] = []
    for name, steps in cases.items():
        began_s = time.monotonic()
        expected = in_memory.run(MEMORY.limiter(LIMITS[limits]), steps)
        limiter = store.limiter(LIMITS[limits])
        before = health_of(limiter)["errors"] if store.is_remote else {}
        got = caller.run(limiter, steps)
        elapsed_s = time.monotonic() - began_s
        found += [f"{name}: {one}" for one in differences(steps, expected, got, elapsed_s)]
        if store.is_remote and (errors := health_of(limiter)["errors"]) != before:
            found.append(f"{name}: the store gave errors: {errors}")
    return found


def health_of(limiter: Any) -> dict[str, Any]:
    """Return the health of the store of a limiter on a server."""
    health: dict[str, Any] = limiter.store.health()
    return health
