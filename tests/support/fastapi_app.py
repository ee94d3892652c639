"""Limits of FastAPI routes, and requests to them."""

from typing import Any

from fastapi.testclient import TestClient
from rate_limiter import ManualClock
from rate_limiter.fastapi import RateLimit


def limit(limits: str = "2/minute", **arguments: Any) -> RateLimit:
    return RateLimit(limits, **({"clock": ManualClock()} | arguments))


def statuses(client: TestClient, path: str, n: int, **arguments: Any) -> list[int]:
    return [client.get(path, **arguments).status_code for _ in range(n)]
