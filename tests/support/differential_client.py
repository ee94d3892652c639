"""A client that sends bytes as they are, on a connection that is kept while the server keeps it."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
from dataclasses import dataclass
from typing import Any, BinaryIO

TIMEOUT_S = 30


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def seen(self) -> dict[str, Any] | None:
        """Return what the application saw; None if the server itself responded."""
        text = self.headers.get("x-seen")
        return None if text is None else json.loads(text)

    @property
    def limits(self) -> dict[int, int]:
        """Return what is left of each limit that counted, by its capacity."""
        policies = re.findall(r'"([^"]*)";q=(\d+)', self.headers.get("ratelimit-policy", ""))
        left = dict(re.findall(r'"([^"]*)";r=(\d+)', self.headers.get("ratelimit", "")))
        if not policies and "x-ratelimit-limit" in self.headers:
            policies = [("", self.headers["x-ratelimit-limit"])]
            left = {"": self.headers["x-ratelimit-remaining"]}
        return {int(capacity): int(left[name]) for name, capacity in policies}


class RawClient:
    """Send requests one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._file: BinaryIO | None = None

    def ask(self, request: bytes) -> Answer | None:
        """Return the response to a request; None where the server closes the connection."""
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # the server has closed the connection, or said more than it was asked
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")
        try:
            self._socket.sendall(request)
            answer = self._read(request.partition(b" ")[0].decode("latin-1"))
        except ConnectionError:
            answer = None
        if answer is None:
            self.close()
        return answer

    def _read(self, method: str) -> Answer | None:
        assert self._file is not None
        words = self._file.readline().split(None, 2)
        if len(words) < 2:
            return None
        answer = Answer(int(words[1]), {})
        while (line := self._file.readline()).rstrip(b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers[name.lower()] = value.strip()
        # Whether there is a body after `head` is a matter of opinion.
        if answer.status == 101 or (method.upper() == "HEAD" and method != "HEAD"):
            self.close()
        elif method != "HEAD" and answer.status not in (204, 304):
            answer.body = self._read_body(answer.headers)
        if answer.headers.get("connection", "").lower() == "close" or words[0] == b"HTTP/1.0":
            self.close()
        return answer

    def _read_body(self, headers: dict[str, str]) -> bytes:
        assert self._file is not None
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            body = self._file.read()
            self.close()
            return body
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            self._file.readline()
        while self._file.readline().rstrip(b"\r\n"):
            pass
        return body

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        for one in (self._file, self._socket):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.close()
        self._socket = self._file = None
