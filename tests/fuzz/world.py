"""One case of the fuzz program of the C binding: objects, and random calls of their methods."""

from __future__ import annotations

import collections
import contextlib
import gc
import inspect
import os
import random
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rate_limiter import Limit, _core
from rate_limiter.stores.connection import scripts
from support import hostile
from support.hostile import Callback, Hook, Interrupt, Number, Sequence

CALLS_PER_CASE = 30
DEPTH_MAX = 4

TYPES = {name: one for name, one in vars(_core).items() if isinstance(one, type)}
FUNCTIONS = [
    name for name, one in vars(_core).items() if callable(one) and not isinstance(one, type)
]
# Of what has no signature, or one that says nothing.
PARAMETERS = {
    ("AsgiMiddleware", "__call__"): ("scope", "receive", "send"),
    ("Sender", "__call__"): ("message",),
    ("StoreError", "__new__"): ("key",),
    ("_restore_decision", ""): (
        *("allowed", "limit", "remaining", "retry_after_ns", "reset_after_ns"),
    ),
}
NOT_CALLED = {"__new__", "__doc__", "__module__", "__weaklistoffset__", "__getattribute__"}


class Gate(_core.AsgiMiddleware):
    """A gate with the methods that the C half calls."""

    hook: Hook

    def _deny(self, *_: Any) -> Any:
        self.hook.maybe()

    def _forward(self, *_: Any) -> Any:
        self.hook.maybe()

    def _resolve(self, scope: Any, receive: Any, send: Any, key: Any, cost: Any) -> Any:
        self.hook.maybe()
        return self._decide(scope, receive, send, key, cost)

    def _probe(self, *_: Any) -> Any:
        self.hook.maybe()
        return self.hook.rng.random() < 0.5


class Keeping(Callback):
    """An application that keeps the senders which it is given."""

    def __init__(self, world: World) -> None:
        super().__init__(world.hook)
        self.world = world

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for each in args:
            self.world.keep(each)
        return super().__call__(*args, **kwargs)


@cache
def operations(name: str) -> tuple[str, ...]:
    """Return what can be done with an object of a type: its methods, slots and attributes."""
    if issubclass(TYPES[name], BaseException):
        return ("__str__",)
    return tuple(sorted(set(vars(TYPES[name])) - NOT_CALLED))


def all_operations() -> set[str]:
    """Return all that a run should have called, as the keys of World.succeeded."""
    made = {f"{name}.__new__" for name in TYPES if name != "Sender"}  # only a gate makes one
    return {*FUNCTIONS, *made, *(f"{name}.{one}" for name in TYPES for one in operations(name))}


@cache
def parameters(name: str, operation: str) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of an operation, `self` left out; of a function, with no operation."""
    if (name, operation) in PARAMETERS:
        kind = inspect.Parameter.POSITIONAL_ONLY
        return tuple(inspect.Parameter(one, kind) for one in PARAMETERS[name, operation])
    is_method = operation not in ("", "__init__", "__new__")
    described = getattr(TYPES[name], operation) if is_method else getattr(_core, name)
    try:
        given = tuple(inspect.signature(described).parameters.values())
    except ValueError:  # it has none: it is called without arguments
        return ()
    return given[1:] if is_method else given


class World:
    """Objects of all types, and calls of them.

    Attributes:
        succeeded: how often each operation returned.
        is_child: it goes on in a forked process, which must end with it.
    """

    def __init__(self, rng: random.Random, servers: list[str], folder: Path) -> None:
        self.rng = rng
        self.servers = servers
        self.folder = folder
        self.hook = Hook(rng, self.mischief)
        self.objects: dict[str, list[Any]] = {name: [] for name in TYPES}
        self.loops: list[hostile.Loop] = []
        self.succeeded: collections.Counter[str] = collections.Counter()
        self.is_child = False
        self._fault = ""
        self._depth = 0
        self._under_call: list[tuple[str, Any]] = []
        self._children: list[int] = []
        self._may_fork = rng.random() < 0.05
        self._n_limits = 1

    def run(self) -> str:
        """Run the case; return what is wrong, or an empty text."""
        signal.signal(signal.SIGALRM, self._on_signal)
        for _ in range(self.rng.randrange(1, 2 * CALLS_PER_CASE)):
            with contextlib.suppress(Interrupt, Exception):
                self.step()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        self.hook.mischief = lambda: None
        for loop in self.objects.get("RedisLoop", ()):
            loop.close()
            if loop.pending:
                self._fault = self._fault or f"a closed RedisLoop has {loop.pending} calls"
        for child in self._children:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code != 0:
                self._fault = self._fault or f"a forked child ended with {code}"
        return self._fault

    # --- Calls ---

    def step(self) -> None:
        """Make an object, call one, call a function, or let the event loops run."""
        way = self.rng.random()
        if way < 0.15 and self.loops:
            self._spin(self.rng.choice(self.loops))
        elif way < 0.2:
            self._submit_many()
        elif way < 0.25:
            name = self.rng.choice(FUNCTIONS)
            args, _ = self._arguments(name, "")
            self._attempt(name, lambda: getattr(_core, name)(*args))
        elif way < 0.45:
            self._make(self.rng.choice(list(TYPES)))
        else:
            self.call(self.rng.choice(list(TYPES)))

    def call(self, name: str) -> None:
        """Do something with an object of a type."""
        target = self.one(name)
        if target is not None:
            operation = self.rng.choice(operations(name))
            self._operate(name, target, operation)

    def _operate(self, name: str, target: Any, operation: str) -> None:
        method = getattr(TYPES[name], operation)
        if not callable(method):
            self._attempt(f"{name}.{operation}", lambda: getattr(target, operation))
            return
        args, kwargs = self._arguments(name, operation)
        if name == "RedisClient" and self.rng.random() < 0.05:
            signal.setitimer(signal.ITIMER_REAL, self.rng.choice((0.001, 0.02)))
        self._under_call.append((name, target))
        try:
            result = self._attempt(f"{name}.{operation}", lambda: method(target, *args, **kwargs))
        finally:
            self._under_call.pop()
        if type(result) in TYPES.values():
            self.keep(result)
        if operation == "before_fork" and self.rng.random() < 0.9:
            self.call("RedisClient")
            self._attempt("RedisClient.after_fork_in_parent", target.after_fork_in_parent)

    def _attempt(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            result = call()
        except SystemError as error:
            self._fault = self._fault or f"{what}: {error!r} {error.__cause__!r}"
        except Exception:
            return None
        else:
            self.succeeded[what] += 1
            return result
        return None

    def _submit_many(self) -> None:
        """Let tasks of one turn ask a RedisLoop at the same moment."""
        if (loop := self.one("RedisLoop")) is None:
            return
        buckets = self.one("RedisBuckets")
        submit = self.rng.choice(("allow", "hit", "hit_each", "peek"))
        for i in range(self.rng.choice((2, 8, 64))):
            self._attempt(f"RedisLoop.{submit}", lambda i=i: getattr(loop, submit)(buckets, str(i)))
        for plain in self.loops[-2:]:
            self._spin(plain)

    def _make(self, name: str) -> None:
        if "__init__" not in operations(name):
            args, kwargs = self._arguments(name, "__new__") if name != "Sender" else ((), {})
            self.keep(self._attempt(f"{name}.__new__", lambda: TYPES[name](*args, **kwargs)))
            return
        kind: Any = Gate if name == "AsgiMiddleware" else TYPES[name]
        made = kind.__new__(kind)
        if kind is Gate:
            made.hook = self.hook
        self.succeeded[f"{name}.__new__"] += 1
        self.keep(made)
        if self.rng.random() < 0.95:
            self._operate(name, made, "__init__")

    def keep(self, made: Any) -> None:
        for name, kind in TYPES.items():
            if isinstance(made, kind):
                self.objects[name].append(made)

    def one(self, name: str) -> Any:
        """Return an object of a type, a recent one rather; None when there is none."""
        known = self.objects.get(name)
        if not known:
            self._make(name)
        known = self.objects.get(name)
        if not known:
            return None
        if name == "RedisClient" and self.rng.random() < 0.7:
            return known[0]  # buckets and loops of another one are refused
        return known[-1 - min(len(known) - 1, self.rng.randrange(3))]

    def _spin(self, loop: hostile.Loop) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            self._attempt("loop", lambda: loop.step(0.001))

    # --- Arguments ---

    def _arguments(self, name: str, operation: str) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in parameters(name, operation):
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += [self.argument(name, parameter.name) for _ in range(self.rng.randrange(4))]
            elif parameter.kind is parameter.KEYWORD_ONLY:
                if parameter.default is parameter.empty or self.rng.random() < 0.5:
                    kwargs[parameter.name] = self.argument(name, parameter.name)
            elif parameter.default is parameter.empty or self.rng.random() < 0.7:
                args.append(self.argument(name, parameter.name))
            else:
                break
        if self.rng.random() < 0.02:
            args.append(hostile.anything(self.hook))
        return args, kwargs

    def argument(self, of: str, name: str) -> Any:
        """Return a value for a parameter: mostly one that is meant for it."""
        maker = ARGUMENTS.get(f"{of}.{name}") or ARGUMENTS.get(name)
        if maker is None or self.rng.random() < 0.06:
            return hostile.anything(self.hook)
        return maker(self)

    # --- Mischief ---

    def mischief(self) -> None:
        """Do what Python code may do while C code waits for it."""
        if self._depth >= DEPTH_MAX:
            return
        self._depth += 1
        try:
            self.rng.choice(MISCHIEF)(self)
        finally:
            self._depth -= 1

    def call_any(self) -> None:
        self.call(self.rng.choice(list(TYPES)))

    def call_again(self) -> None:
        """Do something else with the object that is called, above all initialise it."""
        if self._under_call:
            name, target = self._under_call[-1]
            again = self.rng.random() < 0.6
            self._operate(name, target, "__init__" if again else self.rng.choice(operations(name)))

    def close_loops(self) -> None:
        for loop in list(self.objects.get("RedisLoop", ())):
            if self.rng.random() < 0.5:
                self._attempt("RedisLoop.close", loop.close)

    def spin_loops(self) -> None:
        for loop in self.loops[-2:]:
            self._spin(loop)

    def forget(self) -> None:
        for known in self.objects.values():
            del known[: self.rng.randrange(len(known) + 1)]

    def collect(self) -> None:
        if self.rng.random() < 0.3:
            gc.collect()

    def fail(self) -> None:
        if self.rng.random() < 0.1:
            raise Interrupt
        raise self.rng.choice(hostile.EXCEPTIONS)("mischief")

    def fork(self) -> None:
        """Fork as rate_limiter.connection does. The child goes on with the case, too."""
        if not self._may_fork:
            return
        self._may_fork = False
        held = [client for client in self.objects.get("RedisClient", ()) if self._holds(client)]
        child = os.fork()
        if child != 0:
            self._children.append(child)
            for client in held:
                client.after_fork_in_parent()
            return
        self._children.clear()
        self.is_child = True
        for client in held:
            client.after_fork_in_child()
        for loop in self.objects.get("RedisLoop", ()):
            loop.after_fork_in_child()

    def _holds(self, client: Any) -> bool:
        try:
            client.before_fork()
        except (RuntimeError, _core.StoreError):
            return False
        return True

    def _on_signal(self, _: int, frame: Any) -> None:
        try:
            self.mischief()
        except (Interrupt, Exception):
            # Only where it meets nothing but the C code that is called, or `_attempt`.
            if frame.f_code.co_name == "<lambda>" and frame.f_back.f_code.co_name == "_attempt":
                raise


MISCHIEF = (
    World.call_any,
    World.call_any,
    World.call_again,
    World.call_again,
    World.close_loops,
    World.spin_loops,
    World._submit_many,
    World.forget,
    World.collect,
    World.fail,
    World.fork,
)


# --- Arguments by the name of their parameter ---


def _limit(world: World) -> Any:
    rng = world.rng
    count: Any = rng.choice((1, 5, 10.0, 1e6, Number(world.hook, 5), hostile.number(world.hook)))
    other = rng.choice((0, 1, 0.1, 60, Number(world.hook, 2), 1e-9))
    if rng.random() < 0.3:
        return (count, rng.choice((1, 60, Number(world.hook, 3), hostile.number(world.hook))), True)
    return (count, other)


def _limits(world: World) -> Any:
    world._n_limits = n = world.rng.choice((1, 1, 1, 2, 8))
    limits = [_limit(world) if world.rng.random() < 0.5 else (10.0, 1.0) for _ in range(n)]
    if world._under_call and world._under_call[-1][0] == "Limiter" and world.rng.random() < 0.3:
        return Sequence(world.hook, limits * world.rng.choice((1, 1, 50)))
    return tuple(limits)


def _scripts(world: World) -> Any:
    return scripts(with_windows=world.rng.random() < 0.5)


def _key(world: World) -> Any:
    return (
        world.rng.choice(("a", "b", b"c")) if world.rng.random() < 0.7 else hostile.text(world.hook)
    )


def _keys(world: World) -> Any:
    keys = [_key(world) for _ in range(world.rng.randrange(12))]
    return world.rng.choice((keys, tuple(keys), Sequence(world.hook, keys), iter(keys)))


def _cost(world: World) -> Any:
    return world.rng.choice(
        (1, 0, 0.5, 3, Number(world.hook, 1), Number(world.hook, 2.5), hostile.number(world.hook))
    )


def _number(world: World) -> Any:
    return world.rng.choice((0, 1, 5, 1.5, Number(world.hook, 1), hostile.number(world.hook)))


def _flag(world: World) -> Any:
    return world.rng.choice((True, False, Number(world.hook, 1)))


def _path(world: World) -> Any:
    if world.rng.random() < 0.5:
        return None
    path = str(world.folder / world.rng.choice(("one", "two")))
    return world.rng.choice((path, hostile.Path(world.hook, path), "\0", "/nowhere/at/all"))


def _loop(world: World) -> Any:
    loop = hostile.Loop(world.hook)
    world.loops.append(loop)
    return loop


def _scope(world: World) -> Any:
    text = hostile.text(world.hook)
    scope: dict[Any, Any] = {}
    values = {
        "type": world.rng.choice(("http", "websocket", "lifespan", text)),
        "path": world.rng.choice(("/", "/health", "/root/x", text)),
        "root_path": world.rng.choice(("", "/root", text)),
        "client": world.rng.choice((("1.2.3.4", 5), None, Sequence(world.hook, [text, 1]), ())),
        "headers": _scope_headers(world),
    }
    for name, value in values.items():
        if world.rng.random() < 0.8:
            key = (
                name
                if world.rng.random() < 0.8
                else hostile.with_hook(world.hook, hostile.Text, name)
            )
            scope[key] = value
    return scope


def _scope_headers(world: World) -> Any:
    headers: list[Any] = [(b"x-forwarded-for", b"6.6.6.6"), [b"forwarded", b"for=1.2.3.4"]]
    odd = (None, (), (b"x-forwarded-for", hostile.text(world.hook)), (hostile.text(world.hook), 1))
    if world.rng.random() < 0.2:
        headers.append(world.rng.choice(odd))
    return world.rng.choice((headers, [], Sequence(world.hook, headers)))


def _message(world: World) -> Any:
    kinds = ("http.response.start", "websocket.accept", hostile.text(world.hook))
    headers = [(b"a", b"b"), [b"X-RateLimit-Limit", b"1"], (hostile.text(world.hook), 1), None]
    return {
        "type": world.rng.choice(kinds),
        "headers": world.rng.choice((headers, [], Sequence(world.hook, headers), None)),
    }


def _callable(world: World) -> Any:
    return Callback(world.hook, world.rng.choice((None, "k", 1, Number(world.hook, 1))))


def _optional_callable(world: World) -> Any:
    return None if world.rng.random() < 0.5 else _callable(world)


def _gate_cost(world: World) -> Any:
    return _cost(world) if world.rng.random() < 0.5 else _optional_callable(world)


def _word(world: World) -> Any:
    return world.rng.choice(("PING", "GET", "SET", "TIME", "KEYS", "*", "k", _key(world)))


def _of(name: str) -> Callable[[World], Any]:
    return lambda world: world.one(name)


def _clock(world: World) -> Any:
    return world.rng.choice(("monotonic", "coarse", world.one("ManualClock"), "wrong"))


def _address(world: World) -> Any:
    return world.rng.choice((*world.servers[:1] * 4, *world.servers, "redis://", "nonsense", "é"))


def _texts(world: World, given: tuple[Any, ...]) -> Any:
    """Return several of some texts, or what passes for it."""
    chosen = [world.rng.choice(given) for _ in range(world.rng.choice((0, 1, 3, 12)))]
    if world.rng.random() < 0.2:
        chosen.append(hostile.text(world.hook))
    return world.rng.choice((chosen, tuple(chosen), Sequence(world.hook, chosen), iter(chosen)))


def _networks(world: World) -> Any:
    return _texts(world, ("10.0.0.0/8", "::/0", "0.0.0.0/0", "1.2.3.4"))


def _header_values(world: World) -> Any:
    lines = ("1.2.3.4, 10.0.0.1", b"6.6.6.6", 'for="[::1]:80";by=x', b"for=10.0.0.1", "日本", "")
    return _texts(world, lines)


def _states(world: World) -> Any:
    parts = [
        SimpleNamespace(
            name=world.rng.choice(("n", hostile.text(world.hook))),
            decision=world.one("Decision"),
            limit=world.rng.choice((Limit(5, 1), _state_limit(world))),
        )
        for _ in range(world.rng.choice((0, 1, 2, 70)))
    ]
    return world.rng.choice((parts, Sequence(world.hook, parts)))


def _state_limit(world: World) -> Any:
    return SimpleNamespace(
        capacity=_number(world), period_s=_number(world), window_s=world.rng.choice((0, 60, -1))
    )


def _routes(world: World) -> Any:
    patterns = ("/", "/a/{id}", "/**", "/a" * 64, "/a" * 65, "/**/x", hostile.text(world.hook))
    routes = [
        (
            world.rng.choice(patterns),
            world.rng.choice((None, "GET", "HEAD", hostile.text(world.hook))),
            world.rng.choice((-1, 0, 1, Number(world.hook, 1))),
            world.rng.choice((None, "k", hostile.text(world.hook))),
            i,
        )
        for i in range(world.rng.choice((0, 1, 1, 3)))
    ]
    return world.rng.choice((routes, Sequence(world.hook, routes)))


def _request_path(world: World) -> Any:
    paths = ("/", "/a/7", "//a/../b\n", "/" + "a/" * 100, "", hostile.text(world.hook))
    return world.rng.choice(paths)


def _tiers(world: World) -> Any:
    return world.rng.choice(((), (1, 0), range(40), Sequence(world.hook, [_number(world)])))


def _client_address(world: World) -> Any:
    return world.rng.choice((None, hostile.text(world.hook)))


ARGUMENTS: dict[str, Callable[[World], Any]] = {
    "AsgiMiddleware.cost": _gate_cost,
    "AsgiMiddleware.key": _optional_callable,
    "ProxyWalk.header": lambda world: world.rng.choice(("x-forwarded-for", "forwarded", "x")),
    "RedisClient.address": _address,
    "RuleRoutes.path": _request_path,
    "address": _client_address,
    "after": lambda world: tuple(b"%d" % i for i in range(world._n_limits)),
    "allowed": _number,
    "app": lambda world: Keeping(world),
    "before": lambda world: b"fuzz:",
    "blocked": _number,
    "buckets": _of("RedisBuckets"),
    "client": _of("RedisClient"),
    "clock": _clock,
    "cost": _cost,
    "cors": _flag,
    "dated": _flag,
    "decision": _of("Decision"),
    "elapsed_ns": _number,
    "epoch": _flag,
    "exempt_paths": lambda world: frozenset(("/health", hostile.text(world.hook))),
    "fd": lambda world: world.rng.choice((*range(3, 20), hostile.number(world.hook))),
    "headers": _flag,
    "ipv6_prefix": lambda world: world.rng.choice((64, 16, 128, Number(world.hook, 56))),
    "jitter_s": _number,
    "keep": lambda world: world.one("Limiter") if world.rng.random() < 0.3 else None,
    "key": _key,
    "keys": _keys,
    "like_werkzeug": _flag,
    "limit": _number,
    "limiter": lambda world: world.one("Limiter") if world.rng.random() < 0.8 else None,
    "limits": _limits,
    "loop": _loop,
    "max_keys": lambda world: world.rng.choice((1, 10, 1000, Number(world.hook, 10))),
    "message": _message,
    "meter": _of("Meter"),
    "method": lambda world: world.rng.choice(("GET", "HEAD", "", hostile.text(world.hook))),
    "min_ttl_ms": _number,
    "networks": _networks,
    "now_ns": _number,
    "now_s": lambda world: world.rng.choice((1.7e9, 0, _number(world))),
    "path": _path,
    "peer": lambda world: world.rng.choice((None, "10.0.0.1", "::1", hostile.text(world.hook))),
    "probing": _flag,
    "receive": _callable,
    "remaining": _number,
    "remote": _flag,
    "reset_after": _number,
    "reset_after_ns": _number,
    "retry_after": _number,
    "retry_after_ms": _number,
    "retry_after_ns": _number,
    "routes": _routes,
    "scope": _scope,
    "scripts": _scripts,
    "seconds": _number,
    "send": _callable,
    "spread": lambda world: world.rng.choice((0, 0.5, 1, _number(world))),
    "states": _states,
    "step_ns": _number,
    "strict": _flag,
    "style": lambda world: world.rng.choice(("both", "ietf", "x-ratelimit", "off", "x")),
    "tagged": _flag,
    "tiers": _tiers,
    "trust_unix": _flag,
    "values": _header_values,
    "window_s": lambda world: world.rng.choice((0, 60, Number(world.hook, 5), _number(world))),
    "words": _word,
}
