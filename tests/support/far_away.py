"""A server far away: a proxy that delays bytes in both directions."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

# When to deliver bytes, and the bytes; none: the end.
_Way: TypeAlias = "queue.SimpleQueue[tuple[float, bytes]]"


class _Proxy:
    def __init__(self, port: int, backend_port: int, round_trip_s: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._backend_port = backend_port
        self._delay_s = round_trip_s / 2
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._backend_port))
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    way: _Way = queue.SimpleQueue()
                    self._start(self._take, source, way)
                    self._start(self._deliver, way, target)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _take(self, source: socket.socket, way: _Way) -> None:
        data = b"-"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = source.recv(65536)
            way.put((time.monotonic() + self._delay_s, data))

    def _deliver(self, way: _Way, target: socket.socket) -> None:
        data = b"-"
        while data:
            due_s, data = way.get()
            time.sleep(max(0.0, due_s - time.monotonic()))
            with contextlib.suppress(OSError):
                target.sendall(data) if data else target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for each in self._sockets:
            each.close()


@contextlib.contextmanager
def far_away(port: int, backend_port: int, round_trip_s: float) -> Iterator[None]:
    """Let a port lead to another one, so far away, until the block ends."""
    proxy = _Proxy(port, backend_port, round_trip_s)
    try:
        yield
    finally:
        proxy.close()
