"""`await limiter.allow(key)` in memory: an object made in C, which serves as a coroutine does."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from rate_limiter import AsyncRateLimiter, Decision, ManualClock, RateLimiter, _core
from rate_limiter._core import AsyncCall, AsyncMethod

METHODS = ("allow", "hit", "peek")


@pytest.fixture
def limiter() -> AsyncRateLimiter:
    return AsyncRateLimiter("5/hour", clock=ManualClock())


async def remaining(limiter: AsyncRateLimiter) -> float:
    return (await limiter.peek("k")).remaining


@pytest.mark.parametrize("name", METHODS)
async def test_it_is_what_asyncio_calls_a_coroutine(limiter: AsyncRateLimiter, name: str) -> None:
    call = getattr(limiter, name)("k")
    assert type(call) is AsyncCall
    assert isinstance(call, collections.abc.Coroutine)
    assert asyncio.iscoroutine(call)
    assert inspect.isawaitable(call)
    assert repr(call).startswith(f"<call of AsyncRateLimiter.{name} at ")
    call.close()


async def test_every_way_of_awaiting(limiter: AsyncRateLimiter) -> None:
    assert await limiter.allow("k") is True
    assert await asyncio.create_task(limiter.allow("k")) is True
    assert await asyncio.wait_for(limiter.allow("k"), 60) is True
    first, second = await asyncio.gather(limiter.hit("k"), limiter.hit("k", cost=2))
    assert (first.remaining, second.allowed) == (1, False)
    assert await asyncio.ensure_future(limiter.peek("k")) == Decision(
        True, 1, limit=5, reset_after=2880
    )


async def test_from_another_thread(limiter: AsyncRateLimiter) -> None:
    loop = asyncio.get_running_loop()
    submitted = asyncio.run_coroutine_threadsafe(limiter.allow("k"), loop)
    assert await asyncio.wrap_future(submitted) is True


def test_runs_by_itself(limiter: AsyncRateLimiter) -> None:
    assert asyncio.run(limiter.allow("k")) is True  # type: ignore[arg-type]
    call = limiter.hit("k").__await__()
    with pytest.raises(StopIteration) as done:
        next(call)
    assert done.value.value.remaining == 3


async def test_in_a_generator(limiter: AsyncRateLimiter) -> None:
    class Asked:
        def __await__(self) -> Any:
            return (yield from limiter.allow("k").__await__())

    assert await Asked() is True


async def test_decides_when_it_is_awaited(limiter: AsyncRateLimiter) -> None:
    late = limiter.allow("k", 5)
    assert await limiter.allow("k")
    assert await late is False


async def test_decides_once(limiter: AsyncRateLimiter) -> None:
    call = limiter.allow("k")
    assert await call
    with pytest.raises(RuntimeError, match="cannot reuse already awaited allow"):
        await call
    with pytest.raises(RuntimeError, match="cannot reuse already awaited allow"):
        call.throw(ValueError)
    call.close()
    assert await remaining(limiter) == 4


async def test_never_awaited_decides_nothing(limiter: AsyncRateLimiter) -> None:
    with pytest.warns(RuntimeWarning, match=r"'AsyncRateLimiter\.allow' was never awaited"):
        limiter.allow("k")
    assert await remaining(limiter) == 5


async def test_cancelled_before_it_runs_decides_nothing(limiter: AsyncRateLimiter) -> None:
    task = asyncio.create_task(limiter.allow("k"))
    assert "AsyncRateLimiter.allow()" in repr(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await remaining(limiter) == 5


@pytest.mark.parametrize("thrown", [(ValueError,), (ValueError("k"),), (ValueError, "k")])
async def test_throw_and_close(limiter: AsyncRateLimiter, thrown: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"^k?$"):
        limiter.allow("k").throw(*thrown)
    with pytest.raises(TypeError, match="exceptions must be"):
        limiter.allow("k").throw(5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        limiter.allow("k").throw(StopIteration(True))
    call = limiter.allow("k")
    with pytest.raises(TypeError, match="non-None"):
        call.send(1)  # type: ignore[arg-type]
    call.close()
    call.close()
    with pytest.raises(RuntimeError):
        await call
    assert await remaining(limiter) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.allow(), "missing required argument 'key'"),
        (lambda one: one.allow("k", 1, None, 2), "4 positional arguments were given"),
        (lambda one: one.allow("k", price=1), "unexpected keyword argument 'price'"),
        (lambda one: AsyncRateLimiter.allow(), "missing 2 required positional arguments"),
    ],
)
def test_wrong_arguments_fail_at_once(
    limiter: AsyncRateLimiter, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        call(limiter)


async def test_limits_come_with_a_call(limiter: AsyncRateLimiter) -> None:
    assert (await limiter.hit("k", limits="2/minute")).limit == 2
    assert await limiter.allow("k", 1, "2/minute")
    assert not await limiter.allow("k", cost=1, limits="2/minute")
    assert (await limiter.peek("k", limits="2/minute")).remaining == 0
    assert await remaining(limiter) == 5
    call = limiter.allow("k", limits="a lot")
    with pytest.raises(ValueError, match="a lot"):
        await call


async def test_bad_keys_fail_when_awaited(limiter: AsyncRateLimiter) -> None:
    call = limiter.allow(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be str or bytes"):
        await call


@pytest.mark.parametrize("name", METHODS)
def test_inspect_takes_the_method_for_an_async_function(
    limiter: AsyncRateLimiter, name: str
) -> None:
    of_class, bound = getattr(AsyncRateLimiter, name), getattr(limiter, name)
    assert type(of_class) is AsyncMethod
    assert repr(of_class) == f"<async method {name}>"
    for one in (of_class, bound):
        assert inspect.iscoroutinefunction(one)
        assert one.__name__ == name
        assert one.__qualname__ == f"AsyncRateLimiter.{name}"
        assert one.__module__ == AsyncRateLimiter.__module__
        assert "See RateLimiter" in one.__doc__ or "hit()" in one.__doc__
    assert list(inspect.signature(of_class).parameters) == ["self", "key", "cost", "limits"]
    assert list(inspect.signature(bound).parameters) == ["key", "cost", "limits"]
    assert not hasattr(of_class, "no_such_attribute")


async def test_mocks_have_async_methods(limiter: AsyncRateLimiter) -> None:
    for made in (mock.create_autospec(AsyncRateLimiter), mock.Mock(spec=limiter)):
        made.allow.return_value = False
        assert await made.allow("k") is False


async def test_methods_that_are_replaced_are_called(
    limiter: AsyncRateLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(RateLimiter):
        def allow(self, key: str | bytes, cost: Any = 1) -> bool:
            return False

    class Polite(AsyncRateLimiter):
        async def hit(self, key: str | bytes, cost: Any = 1) -> Decision:  # type: ignore[override]
            return await super().hit(b"all", cost)

    assert not await AsyncRateLimiter.of(Strict("5/hour")).allow("k")
    polite = Polite("5/hour", clock=ManualClock())
    await polite.hit("a")
    assert (await polite.hit("b")).remaining == 3
    monkeypatch.setattr(RateLimiter, "allow", lambda *_: "patched")
    assert await limiter.allow("k") == "patched"  # type: ignore[comparison-overlap]


async def test_attributes_of_a_limiter_are_called(limiter: AsyncRateLimiter) -> None:
    class Open(RateLimiter):
        """Its instances have a dict."""

    class Dynamic(RateLimiter):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            return (lambda *_: "found") if name == "allow" else super().__getattribute__(name)

    assert await AsyncRateLimiter.of(Dynamic("5/hour")).allow("k") == "found"  # type: ignore[comparison-overlap]
    opened = Open("5/hour")
    of_opened = AsyncRateLimiter.of(opened)
    assert (await of_opened.hit("k")).remaining == 4
    opened.hit = lambda *_: "replaced"  # type: ignore[assignment, method-assign]
    assert await of_opened.hit("k") == "replaced"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("name", METHODS)
async def test_methods_of_limiters_refuse_other_objects(
    limiter: AsyncRateLimiter, name: str
) -> None:
    class Other:
        __slots__ = ()
        allow, hit, peek = _core.Limiter.allow, _core.Limiter.hit, _core.Limiter.peek

    limiter._engine = Other()
    with pytest.raises(TypeError, match="doesn't apply to a 'Other' object"):
        await getattr(limiter, name)("k")
    limiter._engine = _core.Limiter.__new__(_core.Limiter)
    with pytest.raises(RuntimeError, match="was not initialised"):
        await getattr(limiter, name)("k")


async def test_calls_that_use_the_memory_of_others_are_new(limiter: AsyncRateLimiter) -> None:
    for cost in (1, 2):
        assert await limiter.allow("k", cost)
        assert await limiter.allow("other", limits="2/minute")
        limiter.hit("k", cost).close()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        limiter.hit("k", 2)
    several = [limiter.hit("k", 0.5) for _ in range(3)]
    assert [(await call).remaining for call in several] == [1.5, 1, 0.5]


async def test_a_clock_that_raises_stop_iteration_returns_nothing() -> None:
    is_over = False

    def clock() -> float:
        if is_over:
            raise StopIteration
        return 1.0

    limiter = AsyncRateLimiter("5/hour", clock=clock)
    is_over = True
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        await limiter.allow("k")


def test_calls_are_freed(limiter: AsyncRateLimiter) -> None:
    class Key(str):
        __slots__ = ("__weakref__",)

    key = Key("k")
    gone = weakref.ref(key)
    before = sys.getrefcount(limiter)
    for _ in range(3):
        asyncio.run(limiter.allow(key))  # type: ignore[arg-type]
        limiter.hit(key, 1.5).close()
    del key
    gc.collect()
    assert gone() is None
    assert sys.getrefcount(limiter) == before
