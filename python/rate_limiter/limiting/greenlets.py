"""Let greenlets of gevent and eventlet wait for Redis without stopping the others of their thread.

The engine has its own sockets, which monkey patching does not reach. Where the library has
patched `socket`, its hub therefore sends and reads a decision: it gets the few methods
of an event loop that a RedisLoop needs, and the greenlet waits for a future. Other threads and
programs wait in the engine.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

Callback = Callable[..., object]


class HubFuture:
    """A result that a greenlet waits for.

    Args:
        ready, resolve, reject, wait: the methods of the library's event.
    """

    def __init__(self, ready: Callback, resolve: Callback, reject: Callback, wait: Callback):
        self.done = ready
        self.wait = wait
        self._resolve = resolve
        self._reject = reject
        self._late: Callback | None = None

    def set_result(self, result: object) -> None:
        self._resolve(result)
        if self._late is not None:
            self._late(result)

    def set_exception(self, error: BaseException) -> None:
        self._reject(error)
        if self._late is not None:
            self._late(None)

    def then(self, callback: Callback) -> None:
        """Call back with the result, which is not there yet; with None if there is an error."""
        self._late = callback


class HubLoop(Protocol):
    """A hub as an event loop."""

    def create_future(self) -> HubFuture: ...
    def call_soon(self, callback: Callback) -> object: ...
    def call_soon_threadsafe(self, callback: Callback) -> object: ...
    def call_later(self, delay_s: float, callback: Callback) -> Any: ...
    def add_reader(self, fd: int, callback: Callback, *args: Any) -> None: ...
    def add_writer(self, fd: int, callback: Callback, *args: Any) -> None: ...
    def remove_reader(self, fd: int) -> bool: ...
    def remove_writer(self, fd: int) -> bool: ...
    def is_closed(self) -> bool: ...
    def after_fork_in_child(self) -> None: ...


# --- gevent --------------------------------------------------------------------------------------

_READ, _WRITE = 1, 2  # of gevent's watchers


class _GeventTimer:
    def __init__(self, watcher: Any, callback: Callback) -> None:
        self._watcher = watcher
        self._callback = callback
        watcher.start(self._fire, update=True)

    def _fire(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        self._watcher.stop()
        self._watcher.close()


class GeventLoop:
    """The hub of gevent in one thread."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._watchers: dict[tuple[int, int], Any] = {}

    def create_future(self) -> HubFuture:
        event = sys.modules["gevent.event"].AsyncResult()
        return HubFuture(event.ready, event.set, event.set_exception, event.get)

    def call_soon(self, callback: Callback) -> object:
        return self._hub.loop.run_callback(callback)

    def call_soon_threadsafe(self, callback: Callback) -> object:
        return self._hub.loop.run_callback_threadsafe(callback)

    def call_later(self, delay_s: float, callback: Callback) -> _GeventTimer:
        return _GeventTimer(self._hub.loop.timer(delay_s), callback)

    def add_reader(self, fd: int, callback: Callback, *args: Any) -> None:
        self._add(fd, _READ, callback, args)

    def add_writer(self, fd: int, callback: Callback, *args: Any) -> None:
        self._add(fd, _WRITE, callback, args)

    def remove_reader(self, fd: int) -> bool:
        return self._remove(fd, _READ)

    def remove_writer(self, fd: int) -> bool:
        return self._remove(fd, _WRITE)

    def is_closed(self) -> bool:
        return self._hub.loop is None or self._hub.dead

    def after_fork_in_child(self) -> None:
        """Forget the descriptors: they are those of the parent."""
        for fd, way in tuple(self._watchers):
            self._remove(fd, way)

    def _add(self, fd: int, way: int, callback: Callback, args: tuple[Any, ...]) -> None:
        self._remove(fd, way)
        watcher = self._watchers[fd, way] = self._hub.loop.io(fd, way)
        watcher.start(callback, *args)

    def _remove(self, fd: int, way: int) -> bool:
        watcher = self._watchers.pop((fd, way), None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
        return watcher is not None


def _gevent_hub() -> Any:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return None
    # Without a hub there are no other greenlets in this thread.
    hub = sys.modules["gevent._hub_local"].get_hub_if_exists()
    is_here = hub is not None and hub.loop is not None
    return hub if is_here and sys.modules["greenlet"].getcurrent() is not hub else None


# --- eventlet ------------------------------------------------------------------------------------


class EventletLoop:
    """The hub of eventlet in one thread."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._listeners: dict[tuple[int, str], Any] = {}

    def create_future(self) -> HubFuture:
        event = sys.modules["eventlet.event"].Event()
        return HubFuture(event.ready, event.send, event.send_exception, event.wait)

    def call_soon(self, callback: Callback) -> object:
        return self._hub.schedule_call_global(0, callback)

    call_soon_threadsafe = call_soon  # its hub has nothing better

    def call_later(self, delay_s: float, callback: Callback) -> Any:
        return self._hub.schedule_call_global(delay_s, callback)

    def add_reader(self, fd: int, callback: Callback, *args: Any) -> None:
        self._add(fd, self._hub.READ, callback, args)

    def add_writer(self, fd: int, callback: Callback, *args: Any) -> None:
        self._add(fd, self._hub.WRITE, callback, args)

    def remove_reader(self, fd: int) -> bool:
        return self._remove(fd, self._hub.READ)

    def remove_writer(self, fd: int) -> bool:
        return self._remove(fd, self._hub.WRITE)

    def is_closed(self) -> bool:
        return False

    def after_fork_in_child(self) -> None:
        """Forget the descriptors. The selector is the parent's: a child needs its own hub."""
        self._listeners.clear()

    def _add(self, fd: int, way: str, callback: Callback, args: tuple[Any, ...]) -> None:
        self._remove(fd, way)
        listener = self._hub.add(
            way, fd, lambda fd: callback(*args), lambda *error: None, lambda: None
        )
        self._listeners[fd, way] = listener

    def _remove(self, fd: int, way: str) -> bool:
        listener = self._listeners.pop((fd, way), None)
        if listener is not None:
            self._hub.remove(listener)
        return listener is not None


def _eventlet_hub() -> Any:
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is None or not patcher.is_monkey_patched("socket"):
        return None
    hub = getattr(sys.modules["eventlet.hubs"]._threadlocal, "hub", None)
    is_here = hub is not None and sys.modules["greenlet"].getcurrent() is not hub.greenlet
    return hub if is_here else None


# --- Which one -----------------------------------------------------------------------------------

_known: weakref.WeakKeyDictionary[Any, HubLoop] = weakref.WeakKeyDictionary()


def current_hub() -> HubLoop | None:
    """Return the hub that runs the greenlets of this thread; None if the thread may just wait."""
    if "greenlet" not in sys.modules:
        return None
    kind: Callable[[Any], HubLoop]
    hub, kind = _gevent_hub(), GeventLoop
    if hub is None:
        hub, kind = _eventlet_hub(), EventletLoop
    if hub is None:
        return None
    loop = _known.get(hub)
    if loop is None:
        loop = _known[hub] = kind(hub)
    return loop
