"""A proxy in front of a server that can be cut, stalled, and pointed at another server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any


class CuttingProxy:
    """Forward connections from a port to `target`, a port that may change.

    Args:
        port: where it listens.
        target: the port that new connections lead to. Those that exist stay where they are.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._flows: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._run(self._listen())

    def cut(self) -> None:
        """Close all connections at once."""
        self._run(self._cut())

    def stall(self, *, stalled: bool) -> None:
        """Let nothing pass, with the connections open, or let it pass again."""
        self._loop.call_soon_threadsafe(self._open.clear if stalled else self._open.set)

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._server.close()
        self.stall(stalled=False)
        self.cut()
        self._run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        for writer in tuple(self._flows):
            writer.transport.abort()

    async def _end_tasks(self) -> None:
        tasks = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._flows.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self._end(writer)
            return
        self._flows.add(far_writer)
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        finally:
            self._end(writer)
            self._end(far_writer)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._open.wait()
                target.write(data)
                await target.drain()
        self._end(target)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._flows.discard(writer)
        writer.transport.abort()


@contextlib.contextmanager
def cutting_proxy(port: int, target: int) -> Iterator[CuttingProxy]:
    """Run a proxy until the block ends."""
    proxy = CuttingProxy(port, target)
    try:
        yield proxy
    finally:
        proxy.close()
