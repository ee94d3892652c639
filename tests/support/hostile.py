"""Arguments that misbehave: for the fuzz program of the C binding.

Everything that C code may ask of an argument (a number, a path, a hash, an iteration, a call) can
call back into a World, which then does what its random numbers say.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from support.plain_loop import PlainFuture, PlainLoop, PlainTimer

INTS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 5e-324, 1e-9, 2.0**53, 2.0**63, 1e308, math.nan, math.inf)
TEXTS = ("", "k", "\0", "é", "\ud800", "日本", "x" * 300, "{}%", "2001:db8::1", "::ffff:1.2.3.4")
EXCEPTIONS = (ValueError, TypeError, OverflowError, KeyError, MemoryError, OSError, StopIteration)


class Interrupt(BaseException):
    """Like KeyboardInterrupt, but raised only here."""


class Hook:
    """Lets all values that belong to it call back."""

    def __init__(self, rng: random.Random, mischief: Callable[[], object]) -> None:
        self.rng = rng
        self.mischief = mischief

    def maybe(self, chance: float = 0.4) -> None:
        if self.rng.random() < chance:
            self.mischief()


class Number:
    """A number whose conversions call back, and may give something else."""

    def __init__(self, hook: Hook, value: Any) -> None:
        self.hook = hook
        self.value = value

    def _converted(self, to: Callable[[Any], Any]) -> Any:
        self.hook.maybe()
        return to(self.value) if self.hook.rng.random() < 0.9 else "nothing"

    def __float__(self) -> float:
        return self._converted(float)

    def __index__(self) -> int:
        return self._converted(int)

    def __bool__(self) -> bool:
        return self._converted(bool)

    def __repr__(self) -> str:
        return self._converted(str)


class Float(float):
    hook: Hook

    def __float__(self) -> float:
        self.hook.maybe()
        return 3.0

    def __repr__(self) -> str:
        self.hook.maybe()
        return "Float"


class Int(int):
    hook: Hook

    def __index__(self) -> int:
        self.hook.maybe()
        return 3

    def __float__(self) -> float:
        self.hook.maybe()
        return 3.0

    def __bool__(self) -> bool:
        self.hook.maybe()
        return True


class Text(str):
    hook: Hook

    def __hash__(self) -> int:
        self.hook.maybe()
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        self.hook.maybe()
        return str.__eq__(self, other)

    def __str__(self) -> str:
        self.hook.maybe()
        return "text"


class Bytes(bytes):
    hook: Hook

    def __hash__(self) -> int:
        self.hook.maybe()
        return bytes.__hash__(self)

    def __eq__(self, other: object) -> bool:
        self.hook.maybe()
        return bytes.__eq__(self, other)


class Sequence:
    """An iterable, and a sequence, that calls back at every step."""

    def __init__(self, hook: Hook, items: list[Any]) -> None:
        self.hook = hook
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.hook.maybe()
            yield item

    def __len__(self) -> int:
        self.hook.maybe()
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.hook.maybe()
        return self.items[i]


class Path:
    def __init__(self, hook: Hook, path: Any) -> None:
        self.hook = hook
        self.path = path

    def __fspath__(self) -> str:
        self.hook.maybe()
        return self.path


class Callback:
    """A callable that calls back, and returns what it was made with."""

    def __init__(self, hook: Hook, result: Any = None) -> None:
        self.hook = hook
        self.result = result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.hook.maybe()
        return self.result

    def __del__(self) -> None:
        self.hook.maybe(0.1)


class Future(PlainFuture):
    def __init__(self, hook: Hook) -> None:
        super().__init__()
        self.hook = hook

    def done(self) -> bool:
        self.hook.maybe(0.1)
        return super().done()

    def set_result(self, result: object) -> None:
        super().set_result(result)
        self.hook.maybe()

    def set_exception(self, error: BaseException) -> None:
        super().set_exception(error)
        self.hook.maybe()

    def __del__(self) -> None:
        self.hook.maybe(0.1)


class Timer(PlainTimer):
    hook: Hook

    def cancel(self) -> None:
        self.hook.maybe(0.2)
        super().cancel()


class Loop(PlainLoop):
    """An event loop whose every method calls back before and after it does its work."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        super().__init__()

    def _around(self, method: Callable[..., Any], *args: Any) -> Any:
        self.hook.maybe(0.1)
        result = method(*args)
        self.hook.maybe(0.1)
        return result

    def create_future(self) -> Any:
        self.hook.maybe(0.1)
        return Future(self.hook) if self.hook.rng.random() < 0.95 else None

    def call_soon(self, callback: Any) -> Any:
        return self._around(super().call_soon, callback)

    def call_later(self, delay_s: float, callback: Any) -> Any:
        self.hook.maybe(0.1)
        timer = Timer(time.monotonic() + delay_s, callback)
        timer.hook = self.hook
        self.timers.append(timer)
        return timer

    def add_reader(self, *args: Any) -> Any:
        return self._around(super().add_reader, *args)

    def add_writer(self, *args: Any) -> Any:
        return self._around(super().add_writer, *args)

    def remove_reader(self, *args: Any) -> Any:
        return self._around(super().remove_reader, *args)

    def remove_writer(self, *args: Any) -> Any:
        return self._around(super().remove_writer, *args)


def with_hook(hook: Hook, kind: type, *args: Any) -> Any:
    """Return a value of a type whose hook is an attribute."""
    value = kind(*args)
    value.hook = hook
    return value


def number(hook: Hook) -> Any:
    """Return some number, or what passes for one."""
    rng = hook.rng
    value = rng.choice(INTS + FLOATS)
    return rng.choice(
        (
            lambda: value,
            lambda: Number(hook, rng.choice((1, 2.5, 7))),
            lambda: with_hook(hook, Int, rng.choice(INTS)),
            lambda: with_hook(hook, Float, rng.choice(FLOATS)),
            lambda: rng.random() < 0.5,
        )
    )()


def text(hook: Hook) -> Any:
    """Return some key, or what passes for one."""
    rng = hook.rng
    value = rng.choice(TEXTS)
    return rng.choice(
        (
            lambda: value,
            lambda: value.encode("utf-8", "surrogatepass"),
            lambda: with_hook(hook, Text, value),
            lambda: with_hook(hook, Bytes, b"bytes"),
            lambda: "k" * rng.choice((10, 1000, 1_000_000)),
        )
    )()


def anything(hook: Hook) -> Any:
    """Return something that is hardly ever expected."""
    rng = hook.rng
    return rng.choice(
        (
            lambda: None,
            lambda: number(hook),
            lambda: text(hook),
            lambda: bytearray(b"bytearray"),
            lambda: memoryview(b"memoryview"),
            lambda: Sequence(hook, [text(hook), number(hook)]),
            lambda: (item for item in Sequence(hook, [number(hook)] * 10)),
            lambda: (number(hook),) * rng.choice((1, 2, 3, 9)),
            list,
            lambda: {text(hook): number(hook)},
            lambda: Callback(hook),
            lambda: Path(hook, "/nowhere/at/all"),
            lambda: object(),
            lambda: type,
        )
    )()
