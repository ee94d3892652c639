"""Requests to an ASGI application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx

CLIENT = "192.0.2.1"


def get(app: Any, *paths: str, **headers: str) -> list[httpx.Response]:
    """Send requests of CLIENT, one after the other, in one event loop."""
    return asyncio.run(_get(app, paths, headers, at_once=False))


def get_at_once(app: Any, *paths: str, **headers: str) -> list[httpx.Response]:
    """Send requests of CLIENT at the same time."""
    return asyncio.run(_get(app, paths, headers, at_once=True))


async def _get(
    app: Any, paths: Iterable[str], headers: dict[str, str], *, at_once: bool
) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app, client=(CLIENT, 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as session:
        requests = (session.get(path, headers=headers) for path in paths)
        return await asyncio.gather(*requests) if at_once else [await one for one in requests]
