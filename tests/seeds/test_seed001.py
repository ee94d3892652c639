"""The pluggable limiter: its classes on memory stores and on users' own stores."""

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, is_dataclass

import pytest
from rate_limiter import (
    AsyncTokenBucketRateLimiter,
    Limit,
    RateLimitConfig,
    TokenBucketRateLimiter,
)
from rate_limiter.config import RateLimitConfig as ConfigOfModule
from rate_limiter.interfaces import (
    BucketState,
    IAsyncRateLimitStore,
    IRateLimiter,
    IRateLimitStore,
)
from rate_limiter.memory_store import InMemoryStore
from rate_limiter.memory_store_async import AsyncInMemoryStore
from rate_limiter.token_bucket import TokenBucketRateLimiter as LimiterOfModule


class DictStore:
    """A user's store, as short as it can be; reading is slow, so that races would show."""

    def __init__(self) -> None:
        self.states: dict[str, tuple[float | None, float]] = {}
        self.writes = 0
        self.inside = 0

    def get_state(self, key: str) -> BucketState:
        self.inside += 1
        assert self.inside == 1
        time.sleep(0.001)
        self.inside -= 1
        tokens, last_refill = self.states.get(key, (None, 0.0))
        return {"tokens": tokens, "last_refill": last_refill}

    def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        self.writes += 1
        self.states[key] = (tokens, last_refill)


class AsyncDictStore(IAsyncRateLimitStore):
    """The same, awaited."""

    def __init__(self) -> None:
        self.states: dict[str, BucketState] = {}

    async def get_state(self, key: str) -> BucketState:
        await asyncio.sleep(0.001)
        return self.states.get(key, {"tokens": None, "last_refill": 0.0})

    async def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        await asyncio.sleep(0)
        self.states[key] = {"tokens": tokens, "last_refill": last_refill}


STORES = [InMemoryStore, DictStore]
ASYNC_STORES = [AsyncInMemoryStore, AsyncDictStore]
NEVER = RateLimitConfig(capacity=5, refill_rate=0)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> IRateLimitStore:
    made: IRateLimitStore = request.param()
    return made


@pytest.fixture(params=ASYNC_STORES)
def async_store(request: pytest.FixtureRequest) -> IAsyncRateLimitStore:
    made: IAsyncRateLimitStore = request.param()
    return made


# --- the limiter -----------------------------------------------------------------------------


def test_names_are_where_programs_import_them_from() -> None:
    assert ConfigOfModule is RateLimitConfig
    assert LimiterOfModule is TokenBucketRateLimiter
    assert issubclass(TokenBucketRateLimiter, IRateLimiter)
    assert issubclass(InMemoryStore, IRateLimitStore)
    assert issubclass(AsyncInMemoryStore, IAsyncRateLimitStore)


def test_five_pass_then_none(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(NEVER, store)
    assert limiter.get_remaining_tokens("k") == 5.0
    assert [limiter.allow_request("k") for _ in range(6)] == [True] * 5 + [False]
    assert limiter.get_remaining_tokens("k") == 0.0
    assert limiter.allow_request("other")


async def test_five_pass_then_none_async(async_store: IAsyncRateLimitStore) -> None:
    limiter = AsyncTokenBucketRateLimiter(NEVER, async_store)
    assert await limiter.get_remaining_tokens("k") == 5.0
    assert [await limiter.allow_request("k") for _ in range(6)] == [True] * 5 + [False]
    assert await limiter.get_remaining_tokens("k") == 0.0
    assert await limiter.allow_request("other")


def test_tokens_come_back(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(2, 5.0), store)
    assert limiter.allow_request("k", 2)
    assert not limiter.allow_request("k", 2)
    time.sleep(0.4)
    assert limiter.allow_request("k", 2)


def test_weights(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(NEVER, store)
    assert limiter.allow_request("k", weight=3.0)
    assert not limiter.allow_request("k", 3.0)
    assert limiter.allow_request("k", 1.5)
    assert limiter.get_remaining_tokens("k") == 0.5
    assert not limiter.allow_request("fresh", 5.1)
    assert limiter.allow_request("fresh", 5)


def test_tokens_per_request_is_the_default_weight(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 0, tokens_per_request=2.0), store)
    assert [limiter.allow_request("k") for _ in range(3)] == [True, True, False]
    assert limiter.allow_request("k", 1.0)


async def test_tokens_per_request_is_the_default_weight_async(
    async_store: IAsyncRateLimitStore,
) -> None:
    limiter = AsyncTokenBucketRateLimiter(RateLimitConfig(5, 0, 2.0), async_store)
    assert [await limiter.allow_request("k") for _ in range(3)] == [True, True, False]
    assert await limiter.allow_request("k", 1.0)


def test_headers_take_nothing(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 0.001), store)
    full = {
        "X-RateLimit-Limit": "5",
        "X-RateLimit-Remaining": "5",
        "X-RateLimit-Reset": "0.00",
    }
    assert limiter.get_headers("k") == limiter.get_headers("k") == full
    limiter.allow_request("k", 2.25)
    headers = limiter.get_headers("k")
    assert headers["X-RateLimit-Remaining"] == "2.75"
    assert 2240 < float(headers["X-RateLimit-Reset"]) <= 2250
    assert len(headers["X-RateLimit-Reset"].partition(".")[2]) == 2


@pytest.mark.parametrize("weight", [0.1, 0.3, 0.4, 0.6, 0.9, 1.1, 4.71, 4.9])
def test_headers_show_no_trace_of_rounding(store: IRateLimitStore, weight: float) -> None:
    limiter = TokenBucketRateLimiter(NEVER, store)
    limiter.allow_request("k", weight)
    remaining = limiter.get_headers("k")["X-RateLimit-Remaining"]
    assert remaining == f"{5 - weight:.2f}".rstrip("0")


async def test_headers_of_a_bucket_that_is_never_refilled(
    async_store: IAsyncRateLimitStore,
) -> None:
    limiter = AsyncTokenBucketRateLimiter(RateLimitConfig(1000000, 0), async_store)
    assert (await limiter.get_headers("k"))["X-RateLimit-Reset"] == "0.00"
    await limiter.allow_request("k", 0.5)
    assert await limiter.get_headers("k") == {
        "X-RateLimit-Limit": "1000000",
        "X-RateLimit-Remaining": "999999.5",
        "X-RateLimit-Reset": "0.00",
    }


# --- many at once ----------------------------------------------------------------------------


def test_eight_threads_get_exactly_five(store: IRateLimitStore) -> None:
    limiter = TokenBucketRateLimiter(NEVER, store)
    barrier = threading.Barrier(8)

    def several(_: int) -> int:
        barrier.wait()
        return sum(limiter.allow_request("k") for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(several, range(8))) == 5


async def test_fifty_tasks_get_exactly_five(async_store: IAsyncRateLimitStore) -> None:
    limiter = AsyncTokenBucketRateLimiter(NEVER, async_store)
    assert sum(await asyncio.gather(*(limiter.allow_request("k") for _ in range(50)))) == 5


def test_event_loops_in_several_threads_get_exactly_five(async_store: IAsyncRateLimitStore) -> None:
    limiter = AsyncTokenBucketRateLimiter(NEVER, async_store)

    async def several() -> int:
        return sum(await asyncio.gather(*(limiter.allow_request("k") for _ in range(10))))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: asyncio.run(several()), range(4))) == 5


async def test_cancelled_request_lets_the_others_pass() -> None:
    limiter = AsyncTokenBucketRateLimiter(NEVER, AsyncDictStore())
    tasks = [asyncio.create_task(limiter.allow_request("k")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[1].cancel()
    assert await asyncio.wait_for(tasks[2], 60)
    assert await limiter.get_remaining_tokens("k") == 4


# --- memory stores used by hand --------------------------------------------------------------


def test_state_set_by_hand_is_given_back() -> None:
    store = InMemoryStore()
    unknown = store.get_state("k")
    assert unknown["tokens"] is None
    assert abs(unknown["last_refill"] - time.time()) < 5
    store.set_state("k", 2.5, 1000.0)
    assert store.get_state("k") == {"tokens": 2.5, "last_refill": 1000.0}


async def test_state_set_by_hand_counts_for_a_limiter() -> None:
    store = AsyncInMemoryStore()
    limiter = AsyncTokenBucketRateLimiter(NEVER, store)
    await store.set_state("k", 1.0, time.time())
    assert await limiter.allow_request("k")
    assert not await limiter.allow_request("k")
    assert (await store.get_state("k"))["tokens"] == 0
    await store.set_state("k", -3, time.time())
    assert await limiter.get_remaining_tokens("k") == 0


def test_state_set_by_hand_is_refilled_since_then() -> None:
    store = InMemoryStore()
    limiter = TokenBucketRateLimiter(RateLimitConfig(100, 1.0), store)
    store.set_state("k", 10, time.time() - 60)
    assert 70 <= limiter.get_remaining_tokens("k") < 75
    store.set_state("k", 10, time.time() + 3600)
    assert 10 <= limiter.get_remaining_tokens("k") < 15
    state = store.get_state("k")
    assert state["tokens"] is not None
    assert 10 <= state["tokens"] < 20


def test_state_set_by_hand_counts_though_a_request_comes_between() -> None:
    store = InMemoryStore()
    limiter = TokenBucketRateLimiter(NEVER, store)
    engine = store.engine(Limit(NEVER.capacity, NEVER.refill_rate))

    class Interrupted:
        """The engine, with a request of another thread right after the first reset."""

        resets = 0

        def reset(self, key: str) -> None:
            engine.reset(key)
            if self.resets == 0:
                assert engine.allow(key)
            self.resets += 1

        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

    (limit,) = store._engines
    store._engines[limit] = Interrupted()  # type: ignore[assignment]
    store.set_state("k", 0, time.time())
    assert limiter.get_remaining_tokens("k") == 0
    store.set_state("k", 0, time.time())
    assert not limiter.allow_request("k")


def test_request_waits_until_a_state_set_by_hand_counts() -> None:
    store = InMemoryStore()
    limiter = TokenBucketRateLimiter(NEVER, store)
    engine = store.engine(Limit(NEVER.capacity, NEVER.refill_rate))
    second: list[bool] = []
    thread = threading.Thread(target=lambda: second.append(limiter.allow_request("k")))

    class Slow:
        """The engine, as another request comes while the bucket is full for a moment."""

        def reset(self, key: str) -> None:
            engine.reset(key)
            thread.start()
            thread.join(0.1)

        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

    (limit,) = store._engines
    store._engines[limit] = Slow()  # type: ignore[assignment]
    store.set_state("k", 0, time.time())
    assert not limiter.allow_request("k")
    thread.join(60)
    assert second == [False]


def test_no_tokens_by_hand_make_a_bucket_fresh() -> None:
    store = InMemoryStore()
    limiter = TokenBucketRateLimiter(NEVER, store)
    assert limiter.allow_request("k", 5)
    store.set_state("k", None, time.time())
    assert store.get_state("k")["tokens"] is None
    assert limiter.get_remaining_tokens("k") == 5
    store.set_state("k", 0, time.time())
    store.set_state("k", None, time.time())
    assert limiter.get_remaining_tokens("k") == 5


def test_limiters_on_one_store_share_buckets_of_the_same_kind() -> None:
    store = InMemoryStore()
    one, two = (TokenBucketRateLimiter(NEVER, store) for _ in range(2))
    other = TokenBucketRateLimiter(RateLimitConfig(7, 0), store)
    assert one.allow_request("k", 5)
    assert not two.allow_request("k")
    assert other.get_remaining_tokens("k") == 7


# --- users' stores ---------------------------------------------------------------------------


def test_denied_request_writes_nothing() -> None:
    store = DictStore()
    limiter = TokenBucketRateLimiter(NEVER, store)  # type: ignore[arg-type]
    limiter.allow_request("k", 5)
    limiter.allow_request("k")
    limiter.get_remaining_tokens("k")
    assert store.writes == 1


def test_memory_store_with_overridden_methods_is_called() -> None:
    class Counting(InMemoryStore):
        calls = 0

        def get_state(self, key: str) -> BucketState:
            self.calls += 1
            return super().get_state(key)

    store = Counting()
    limiter = TokenBucketRateLimiter(NEVER, store)
    assert [limiter.allow_request("k") for _ in range(6)] == [True] * 5 + [False]
    assert store.calls == 6


async def test_memory_store_with_overridden_methods_is_called_async() -> None:
    class Counting(AsyncInMemoryStore):
        calls = 0

        async def get_state(self, key: str) -> BucketState:
            self.calls += 1
            return await super().get_state(key)

    store = Counting()
    limiter = AsyncTokenBucketRateLimiter(NEVER, store)
    assert [await limiter.allow_request("k") for _ in range(6)] == [True] * 5 + [False]
    assert store.calls == 6


def test_key_without_tokens_is_fresh_whatever_its_time() -> None:
    class Timeless(DictStore):
        def get_state(self, key: str) -> BucketState:
            return {"tokens": None, "last_refill": None}  # type: ignore[typeddict-item]

    limiter = TokenBucketRateLimiter(NEVER, Timeless())  # type: ignore[arg-type]
    assert limiter.get_remaining_tokens("k") == 5


def test_clock_that_steps_back_frees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 1.0), DictStore())  # type: ignore[arg-type]
    now_s = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now_s)
    assert limiter.allow_request("k", 4)
    now_s -= 100
    assert limiter.get_remaining_tokens("k") == 1
    assert limiter.allow_request("k")
    now_s += 100
    assert not limiter.allow_request("k")
    now_s += 1
    assert limiter.allow_request("k")


def test_store_that_fails_frees_the_lock() -> None:
    class Failing(DictStore):
        def set_state(self, key: str, tokens: float, last_refill: float) -> None:
            raise ConnectionError("gone")

    limiter = TokenBucketRateLimiter(NEVER, Failing())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(ConnectionError):
            limiter.allow_request("k")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"tokens": math.nan, "last_refill": 0.0}, ValueError),
        ({"tokens": 1.0, "last_refill": math.inf}, ValueError),
        ({"tokens": "many", "last_refill": 0.0}, TypeError),
        ({"tokens": 10**400, "last_refill": 0.0}, TypeError),
        ({"tokens": 1.0}, TypeError),
        (None, TypeError),
    ],
)
def test_bad_state(state: object, error: type[Exception]) -> None:
    class Bad(DictStore):
        def get_state(self, key: str) -> BucketState:
            return state  # type: ignore[return-value]

    with pytest.raises(error, match="a bucket's state must"):
        TokenBucketRateLimiter(NEVER, Bad()).allow_request("k")  # type: ignore[arg-type]


# --- bad input -------------------------------------------------------------------------------


def test_config_is_a_dataclass() -> None:
    config = RateLimitConfig(capacity=10, refill_rate=1.0)
    assert is_dataclass(config)
    assert asdict(config) == {"capacity": 10, "refill_rate": 1.0, "tokens_per_request": 1.0}
    assert config == RateLimitConfig(10, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 1), "capacity must be from 0"),
        ((math.nan, 1), "capacity must be from 0"),
        ((5, -1), "refill_rate must be from 0"),
        ((5, math.inf), "refill_rate must be from 0"),
        ((5, 1, 6), "tokens_per_request: cost 6 is above the capacity"),
        ((5, 1, -1), "tokens_per_request: cost must be a finite number >= 0, got -1"),
        ((5, 1, math.nan), "tokens_per_request: cost must be a finite number >= 0, got nan"),
    ],
)
def test_bad_config(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateLimitConfig(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_bad_weight(store: IRateLimitStore, weight: float) -> None:
    with pytest.raises(ValueError, match="cost must be a finite number >= 0, got"):
        TokenBucketRateLimiter(NEVER, store).allow_request("k", weight)


def test_stores_of_the_other_colour() -> None:
    with pytest.raises(TypeError, match="it is for AsyncTokenBucketRateLimiter"):
        TokenBucketRateLimiter(NEVER, AsyncDictStore())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it is for TokenBucketRateLimiter"):
        AsyncTokenBucketRateLimiter(NEVER, DictStore())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="store must have a method get_state"):
        TokenBucketRateLimiter(NEVER, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config must be a RateLimitConfig"):
        TokenBucketRateLimiter({"capacity": 5}, InMemoryStore())  # type: ignore[arg-type]
