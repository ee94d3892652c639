"""An application for test_servers.py, served by a real uvicorn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from rate_limiter.fastapi import RateLimit
from rate_limiter.middleware import RateLimitMiddleware


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    print("started", flush=True)
    yield
    print("stopped", flush=True)


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    RateLimitMiddleware,
    limits="3/hour",
    key=lambda scope: dict(scope["headers"]).get(b"x-api-key"),
)


@app.get("/slow-stream")
async def slow_stream() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await asyncio.sleep(0.4)  # far more than a busy machine takes to read a chunk

    return StreamingResponse(chunks())


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


@app.websocket("/own-limit", dependencies=[Depends(RateLimit("1/hour"))])
async def own_limit(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"plain"})


outermost = RateLimitMiddleware(plain, limits="1/hour")
