"""A scripted server that speaks the protocol of Redis as badly as a test wants it to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator

from support.redis_servers import PATIENT

Handler = Callable[["FakeConnection"], None]


class FakeConnection:
    """One client's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._file = connection.makefile("rb")

    def read_command(self) -> list[bytes]:
        """Return the next command's words.

        Raises:
            EOFError: the client has closed.
        """
        head = self._file.readline()
        if not head:
            raise EOFError
        words = []
        for _ in range(int(head[1:])):
            length = int(self._file.readline()[1:])
            words.append(self._file.read(length + 2)[:-2])
        return words

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def trickle(self, data: bytes, pause_s: float) -> None:
        """Send byte by byte, with a pause before each."""
        for i in range(len(data)):
            time.sleep(pause_s)
            self.send(data[i : i + 1])

    def reset(self) -> None:
        """Break the connection, as a host does that has lost it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def shake_hands(self) -> list[bytes]:
        """Answer what a client sends at first; return the first other command."""
        while True:
            words = self.read_command()
            if words[0] not in (b"AUTH", b"SELECT", b"CLIENT"):
                return words
            self.send(b"+OK\r\n")


class FakeRedis:
    """A server on a free port, each of whose connections is given to `handler` in a thread."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"redis://127.0.0.1:{self.port}/0"  # for the usual deadline
        self.url = f"{self.address}?{PATIENT}"
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._errors: list[BaseException] = []
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._handler(FakeConnection(connection))
        except (EOFError, OSError, ValueError):
            pass  # the client, or the test, has ended it
        except BaseException as error:
            self._errors.append(error)
        finally:
            connection.close()

    def close(self) -> None:
        """Stop; raise what went wrong in a handler."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        if self._errors:
            raise self._errors[0]


@contextlib.contextmanager
def fake_redis(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[FakeRedis]:
    """Run a scripted server until the block ends."""
    server = FakeRedis(handler, tls)
    try:
        yield server
    finally:
        server.close()


def answering(reply: bytes) -> Handler:
    """Return a handler that gives every script the same answer."""

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        while True:
            connection.send(reply)
            connection.read_command()

    return handle


def endless(begin: bytes, more: bytes) -> Handler:
    """Return a handler that answers the first script with `begin`, and `more` without end."""
    block = more * (65536 // len(more) + 1)

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(begin)
        while True:
            connection.send(block)

    return handle
