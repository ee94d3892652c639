"""Drive a headless Chromium through its DevTools protocol, over a websocket."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

START_TIMEOUT_S = 60
WAIT_TIMEOUT_S = 60
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-sync", "--disable-component-update"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0"),
    # Nothing but this host can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """A page of a browser.

    Attributes:
        messages: texts of the console, of exceptions and of violations of its policy.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last_id = 0
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters}
        self._socket.send(json.dumps(command))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_TIMEOUT_S))
            if message.get("id") == self._last_id:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Log.entryAdded":
            self.messages.append(given["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(given["exceptionDetails"]))
        elif message.get("method") == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(given["args"]))

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, awaited if it is a promise."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Return the value of an expression once it is true.

        Raises:
            AssertionError: it is not within a minute.
        """
        ends_s = time.monotonic() + WAIT_TIMEOUT_S
        while time.monotonic() < ends_s:
            with contextlib.suppress(AssertionError):  # the page changes
                if found := self.value(expression):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"not true: {expression}; {self.messages}; {self.text('body')}")

    def text(self, selector: str) -> str:
        """Return the text that an element shows."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def cells(self, selector: str) -> list[list[str]]:
        """Return the texts of the cells of a table's rows."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        rows: list[list[str]] = self.value(
            f"{found}.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
        )
        return rows

    def fill(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self.value(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click an element."""
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, code: int) -> None:
        """Press a key, such as Tab (9) or Enter (13)."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            given = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", **given, **({"text": text} if text else {}))

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, **features: str) -> None:
        """Set preferences such as ``color_scheme="dark"``."""
        given = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=given)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, or of what the window shows of it."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    """Start a Chromium; yield its page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = Path(profile) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["chromium", *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
                stdout=output,
                stderr=output,
            )
        try:
            with connect(_address(Path(profile), log), max_size=None, compression=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(60)


def _address(profile: Path, log: Path) -> str:
    """Return the address of the page of a Chromium, once it has written its port."""
    import httpx

    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s:
        with contextlib.suppress(OSError, ValueError, LookupError, httpx.HTTPError, StopIteration):
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            found = next(one for one in targets if one["type"] == "page")
            return str(found["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise RuntimeError(f"Chromium does not start: {log.read_text(errors='replace')}")
