"""A sliding or fixed window in a real Redis whose scripts read a simulated clock."""

from __future__ import annotations

import redis
from rate_limiter import Limit, _core
from rate_limiter.stores.connection import connect, scripts
from support.redis_servers import RedisServer

# Each decision moves the clock by one step.
_TIME = b"""(function()
  local now = redis.call('INCRBY', 'now', redis.call('GET', 'step'))
  return {math.floor(now / 1000000), now % 1000000}
end)()"""


class SimulatedRedis:
    """Decide about one client at simulated times.

    Args:
        server: the Redis.
        client: a client of it.
        limit: a window.
        now_us: the time before the first decision.
    """

    def __init__(self, server: RedisServer, client: redis.Redis, limit: Limit, now_us: int) -> None:
        self._admin = client
        self._connection = connect(server.url)
        self.client = self._connection.client
        sources = tuple(
            source.replace(b"call('TIME')", _TIME) for source in scripts(with_windows=True)
        )
        self.buckets = _core.RedisBuckets(
            self.client, (limit.for_engine,), sources, b"", (b"",), False
        )
        self.set_us(now_us)

    def set_us(self, now_us: int, step_us: int = 0) -> None:
        """Set the clock and how far each decision moves it."""
        self._admin.mset({"now": now_us, "step": step_us})

    def admitted(self, tries: int, cost: int = 1) -> int:
        """Return how many of so many requests in sequence pass."""
        return sum(
            sum(self.client.allow_many(self.buckets, ("k",) * min(1000, tries - done), cost))
            for done in range(0, tries, 1000)
        )
