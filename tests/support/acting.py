"""Values that run a function when the C binding reads or calls them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rate_limiter import _core
from rate_limiter.stores.connection import scripts
from support.plain_loop import PlainFuture, PlainLoop, PlainTimer


def buckets_of(client: _core.RedisClient, limits: tuple[Any, ...] = ((100.0, 1.0),)) -> Any:
    """Return buckets of a client for some limits."""
    after = tuple(b"%d" % number for number in range(len(limits)))
    windows = any(len(limit) == 3 for limit in limits)
    return _core.RedisBuckets(client, limits, scripts(with_windows=windows), b"b:", after, True)


class Number:
    """A number that runs a function when it is read."""

    def __init__(self, value: float, then: Callable[[], object]) -> None:
        self.value = value
        self.then = then

    def __float__(self) -> float:
        self.then()
        return float(self.value)


class Named:
    """A path that runs a function when it is read."""

    def __init__(self, path: Path, then: Callable[[], object]) -> None:
        self.path = path
        self.then = then

    def __fspath__(self) -> str:
        self.then()
        return str(self.path)


class ActingFuture(PlainFuture):
    """Runs a function when its result is set."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self.then = then

    def set_result(self, result: object) -> None:
        super().set_result(result)
        self.then()

    def set_exception(self, error: BaseException) -> None:
        super().set_exception(error)
        self.then()


class ActingLoop(PlainLoop):
    """Runs a function within the methods that are named."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        super().__init__()
        self.acts = acts
        self.future_acts: Callable[[], object] | None = None

    def act(self, method: str) -> None:
        then = self.acts.pop(method, None)  # once
        if then is not None:
            then()

    def create_future(self) -> Any:
        self.act("create_future")
        return PlainFuture() if self.future_acts is None else ActingFuture(self.future_acts)

    def call_soon(self, callback: Any) -> object:
        self.act("call_soon")
        return super().call_soon(callback)

    def call_later(self, delay_s: float, callback: Any) -> PlainTimer:
        self.act("call_later")
        return super().call_later(delay_s, callback)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        self.act("add_reader")
        super().add_reader(fd, callback, *args)

    def add_writer(self, fd: int, callback: Any, *args: Any) -> None:
        self.act("add_writer")
        super().add_writer(fd, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        self.act("remove_reader")
        return super().remove_reader(fd)

    def remove_writer(self, fd: int) -> bool:
        self.act("remove_writer")
        return super().remove_writer(fd)
