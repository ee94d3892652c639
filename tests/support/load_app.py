"""An application for the tests of the load tool: it counts requests and shows them at /seen."""

import asyncio
import json
from collections import Counter
from typing import Any

KEYS: Counter[str] = Counter()
"""Requests by API key."""
REQUESTS: Counter[str] = Counter()
"""Requests by method and path."""
LIMIT = 10


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/seen":
        counts = json.dumps({"keys": KEYS, "requests": REQUESTS})
        await _answer(send, 200, counts.encode())
        return
    key = dict(scope["headers"]).get(b"x-api-key", b"").decode()
    KEYS[key] += 1
    REQUESTS[f"{scope['method']} {path}"] += 1
    if path == "/limited" and KEYS[key] > LIMIT:
        await _answer(send, 429, b"no", (b"retry-after", b"%d" % (KEYS[key] % 3 + 1)))
    elif path == "/broken":
        await _answer(send, 503, b"broken")
    elif path == "/redirect":
        await _answer(send, 302, b"", (b"location", b"/elsewhere"))
    elif path == "/never":
        # Until the client has left, or the server could not stop.
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        if path == "/slow":
            await asyncio.sleep(0.05)
        await _answer(send, 200, b"ok")


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    every = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
