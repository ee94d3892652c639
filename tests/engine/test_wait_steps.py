"""The state machine of `acquire` under 10,000 random interleavings, with a clock set by hand.

In half of them it is a ManualClock, which wakes those who wait when it is moved. In the others it
stands for the clock of the system, whose time passes without that.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace

import pytest
from rate_limiter import ManualClock, RateLimiter, RateLimitExceeded, _core
from rate_limiter.limiting import clocks, waiting
from rate_limiter.limiting.waiting import Ask, Patience, Sleep, Step, Waiter, wait_steps

CAPACITY = 4
RATE = 2.0  # tokens per second
LIMITS = f"2/second; burst={CAPACITY}"
KEYS = (b"a", b"b")


@dataclass(eq=False)
class Loop:
    """An event loop whose tasks run only while it does."""

    is_running: bool = True
    is_closed: bool = False


class Caller(Waiter):
    """A caller of `acquire` that does one step at a time."""

    blocks_thread = False  # as a task; the one that forks is a thread

    def __init__(
        self, world: World, loop: Loop, number: int, key: bytes, cost: float, patience: Patience
    ) -> None:
        super().__init__(world.limiter, key, cost)
        self.thread = -number
        self.world = world
        self.loop = loop
        self.number = number
        self.patience = patience
        self.is_woken = False
        self.until_s = 0.0
        self.step: Step | None = None
        self.steps = wait_steps(self, key, patience)
        self.is_over = False
        self.has_passed = False
        self.proceed(None)

    def can_run(self) -> bool:
        return self.loop.is_running

    def wake(self) -> None:
        if not self.loop.is_closed:
            self.is_woken = True

    def is_ready(self) -> bool:
        if self.is_over or not self.loop.is_running:
            return False
        return not isinstance(self.step, Sleep) or self.is_woken or self.is_due()

    def is_due(self) -> bool:
        return self.until_s <= self.world.now_s()

    def run(self) -> None:
        """Do the step, and look at the state at once, as without a trip to a store."""
        if isinstance(self.step, Sleep):
            self.is_woken = False
            self.proceed(None)
        elif isinstance(self.step, Ask):
            self.proceed(getattr(self.limiter, self.step.method)(self.key, self.step.cost))

    def proceed(self, answer: object) -> None:
        took = isinstance(self.step, Ask) and self.step.method == "_take" and bool(answer)
        if took:
            self.world.tokens[self.key] -= self.cost
        is_first = isinstance(self.step, Ask) and self.step.method == "_take"
        ahead = [] if is_first else self.world.ahead_of(self)
        try:
            self.step = self.steps.send(answer)
        except StopIteration as done:
            self.end(has_passed=took and done.value.allowed)
            assert self.has_passed
        except RateLimitExceeded as refused:
            self.world.check_refusal(self, refused, ahead)
            self.end()
        else:
            if isinstance(self.step, Sleep):
                assert self.step.seconds <= waiting.LONGEST_SLEEP_S
                self.until_s = self.world.now_s() + self.step.seconds
            elif self.step.method == "_peek_each":
                self.run()
            else:
                self.world.check_turn(self)

    def cancel(self) -> None:
        self.steps.close()
        self.end()

    def end(self, *, has_passed: bool = False) -> None:
        self.is_over = True
        self.has_passed = has_passed


class World:
    """A limiter, its callers, and what the buckets must contain."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = random.choice((ManualClock, _core.ManualClock))(10**9)
        self.limiter = RateLimiter.in_memory(LIMITS, 10, self.clock)
        self.loops = [Loop(), Loop()]
        self.callers: list[Caller] = []
        self.tokens = dict.fromkeys(KEYS, float(CAPACITY))

    def now_s(self) -> float:
        return self.clock.now_ns / 1e9

    # --- What happens ---

    def join(self) -> None:
        timeout = self.random.choice((None, None, 0.0, 0.5, 1.0, 3.0))
        patience = Patience(timeout, self.random.choice((None, None, 0, 1, 2)))
        key, cost = self.random.choice(KEYS), self.random.choice((0.0, 1.0, 2.0, 4.0))
        loop = self.random.choice(self.loops)
        if not loop.is_running:
            return
        made = Caller.__new__(Caller)
        self.callers.append(made)
        made.__init__(self, loop, len(self.callers), key, cost, patience)  # type: ignore[misc]

    def run(self) -> None:
        ready = [one for one in self.waiting() if one.is_ready()]
        if ready:
            self.random.choice(ready).run()

    def cancel(self) -> None:
        running = [one for one in self.waiting() if one.loop.is_running]
        if running:
            self.random.choice(running).cancel()

    def advance(self) -> None:
        step_s = self.random.choice((0.25, 0.5, 1.0))
        self.clock.advance(step_s)
        for key, tokens in self.tokens.items():
            self.tokens[key] = min(CAPACITY, tokens + RATE * step_s)

    def refund(self) -> None:
        key = self.random.choice(KEYS)
        self.limiter.refund(key)
        self.tokens[key] = min(CAPACITY, self.tokens[key] + 1)

    def reset(self) -> None:
        key = self.random.choice(KEYS)
        self.limiter.reset(key)
        self.tokens[key] = CAPACITY

    def stop_or_continue(self) -> None:
        loop = self.random.choice(self.loops)
        loop.is_running = not loop.is_running and not loop.is_closed

    def close(self) -> None:
        loop = self.random.choice(self.loops)
        loop.is_running, loop.is_closed = False, True
        self.loops[self.loops.index(loop)] = Loop()

    def collect(self) -> None:
        """Free the tasks of closed loops, as the garbage collector does at any time."""
        for one in self.waiting():
            if one.loop.is_closed:
                one.cancel()

    def fork(self) -> None:
        """Continue in a child, where one of the callers may be the thread that forked."""
        here = self.waiting()
        kept = self.random.choice(here) if here and self.random.random() < 0.5 else None
        if kept is not None:
            kept.thread, kept.blocks_thread = threading.get_ident(), True
        waiting._after_fork_in_child()
        self.callers = [one for one in self.callers if one.is_over or one is kept]

    def with_limits(self) -> None:
        self.limiter = self.limiter.with_limits(LIMITS)

    OPERATIONS = (
        *(join,) * 6,
        *(run,) * 8,
        *(advance,) * 4,
        *(cancel, refund) * 2,
        *(reset, stop_or_continue, close, collect, fork, with_limits),
    )

    def finish(self) -> None:
        """Let all callers run that can, for as long as it takes."""
        for loop in self.loops:
            loop.is_running = True
        for _ in range(1000):
            while any(one.is_ready() for one in self.waiting()):
                self.run()
                self.check()
            if not any(one.loop.is_running for one in self.waiting()):
                break
            self.advance()
        self.collect()

    # --- What must hold ---

    def waiting(self) -> list[Caller]:
        return [one for one in self.callers if not one.is_over]

    def line(self, key: bytes) -> list[Waiter]:
        return list(self.limiter._lines._lines.get(key, ()))

    def ahead_of(self, caller: Caller) -> list[float]:
        line = self.line(caller.key)
        ahead = line[: line.index(caller)] if caller in line else line
        return [one.cost for one in ahead if one.can_run()]

    def check_turn(self, caller: Caller) -> None:
        """Check that there are tokens for all who came earlier."""
        if ahead := self.ahead_of(caller):
            assert sum(ahead) + caller.cost <= self.tokens[caller.key] + 1e-6

    def check_refusal(self, caller: Caller, refused: RateLimitExceeded, ahead: list[float]) -> None:
        decision = refused.decision
        assert decision is not None
        assert not decision.allowed
        missing = sum(ahead) + caller.cost - self.tokens[caller.key]
        assert abs(decision.retry_after - missing / RATE) < 1e-6
        patience = caller.patience
        is_full = patience.max_waiting is not None and len(ahead) >= patience.max_waiting
        assert is_full or patience.timeout is not None

    def check(self) -> None:
        known = self.limiter._lines._lines
        assert all(known.values())  # no empty lines
        for key in KEYS:
            line = self.line(key)
            assert len(set(line)) == len(line)
            assert all(isinstance(one, Caller) and not one.is_over for one in line)
            assert abs(self.limiter.peek(key, 0).remaining - self.tokens[key]) < 1e-6
            if line and line[0].can_run():
                self.check_first(line[0])

    def check_first(self, first: Waiter) -> None:
        """Check that the first does not sleep while it could pass."""
        assert isinstance(first, Caller)
        if isinstance(first.step, Sleep) and not first.is_ready():
            assert not self.limiter.peek(first.key, first.cost)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the deadlines; `monotonic` is replaced for each world."""
    fake = SimpleNamespace(monotonic=None)
    monkeypatch.setattr(clocks, "time", fake)
    return fake


def test_random_interleavings(clock: SimpleNamespace) -> None:
    passed = refused = 0
    for seed in range(10_000):
        world = World(Random(seed))
        clock.monotonic = world.now_s
        for _ in range(world.random.randrange(6, 18)):
            world.random.choice(World.OPERATIONS)(world)
            world.check()
        world.finish()
        assert world.limiter._lines._lines == {}, seed
        assert world.waiting() == [], seed
        passed += sum(one.has_passed for one in world.callers)
        refused += sum(not one.has_passed for one in world.callers)
    assert min(passed, refused) > 1000
