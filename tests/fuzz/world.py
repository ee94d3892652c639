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
from functools import cache, partial
from pathlib import Path
from typing import Any

from fuzz.arguments import ARGUMENTS, loop_of, server_of
from rate_limiter import _core
from rate_limiter.stores.connection import scripts
from support import hostile
from support.hostile import Hook, Interrupt

CALLS_PER_CASE = 30
DEPTH_MAX = 4

TYPES = {name: one for name, one in vars(_core).items() if isinstance(one, type)}
FUNCTIONS = [
    name for name, one in vars(_core).items() if callable(one) and not isinstance(one, type)
]
# Of what has no signature, or one that says nothing.
PARAMETERS = {
    ("AsgiMiddleware", "__call__"): ("scope", "receive", "send"),
    ("AsgiRecorder", "__call__"): ("scope", "receive", "send"),
    ("AsyncMethod", "__call__"): ("async_limiter", "key", "cost"),
    ("AsyncMethod", "__get__"): ("async_limiter",),
    ("AsyncMethod", "__new__"): ("function",),  # inspect follows __wrapped__ of the type
    ("Sender", "__call__"): ("message",),
    ("StartResponse", "__call__"): ("status", "headers", "error"),
    ("StoreError", "__new__"): ("key",),
    ("WsgiRecorder", "__call__"): ("environ", "start_response"),
    ("_restore_decision", ""): (
        *("allowed", "limit", "remaining", "retry_after_ns", "reset_after_ns"),
    ),
}
NOT_CALLED = {"__new__", "__doc__", "__module__", "__weaklistoffset__", "__getattribute__"}
NOT_CALLED |= {"__annotations__"}  # of the type, not of its objects
NOT_CALLED |= {"_read_limits", "_limiter_for"}  # a Limiter refuses: subclasses have them


class Gate(_core.AsgiMiddleware):
    """A gate with the methods that the C half calls."""

    hook: Hook

    def _deny(self, *_: Any) -> Any:
        self.hook.maybe()

    def _forward(self, *_: Any) -> Any:
        self.hook.maybe()

    def _resolve(self, scope: Any, receive: Any, send: Any, check: Any) -> Any:
        self.hook.maybe()
        return check

    def _status(self, *_: Any) -> Any:
        self.hook.maybe()

    def _watch(self, *_: Any) -> Any:
        self.hook.maybe()

    def _fail(self, *_: Any) -> Any:
        self.hook.maybe()

    def _probe(self, *_: Any) -> Any:
        self.hook.maybe()
        return self.hook.rng.random() < 0.5


class Live(_core.Policy):
    """A policy with the methods that the C half calls."""

    hook: Hook

    def _refresh(self) -> None:
        self.hook.maybe()

    def _conclude_now(self, environ: Any, outcome: Any, has_more: bool) -> Any:
        self.hook.maybe()
        return outcome

    def _fail(self, environ: Any, error: BaseException) -> None:
        self.hook.maybe()


class Half(_core.Limiter):
    """A limiter with the methods that the C half calls."""

    hook: Hook

    def _read_limits(self, limits: Any) -> Any:
        self.hook.maybe()
        return self.hook.rng.choice((GIVEN, GIVEN_WINDOWS, GIVEN_WINDOWS, limits))

    def _limiter_for(self, given: Any) -> Any:
        self.hook.maybe()
        return self.hook.rng.choice((_core.Limiter(given), _core.Limiter(given), None, self))


GIVEN = _core.GivenLimits((("text", (5.0, 1.0), 5.0, 0),))  # type: ignore[arg-type]
GIVEN_WINDOWS = _core.GivenLimits((("text", (5, 60, True), 60.0, 60),))  # type: ignore[arg-type]

KINDS: dict[str, Any] = {"AsgiMiddleware": Gate, "Limiter": Half, "Policy": Live}
# A check, a gate or an AsyncMethod makes them.
NOT_MADE = ("AsyncCall", "Check", "RateLimitRecord", "Sender", "Verdict")


@cache
def operations(name: str) -> tuple[str, ...]:
    """Return what can be done with an object of a type: its methods, slots and attributes."""
    if issubclass(TYPES[name], BaseException):
        return ("__str__",)
    return tuple(sorted(set(vars(TYPES[name])) - NOT_CALLED))


def all_operations() -> set[str]:
    """Return all that a run should have called, as the keys of World.succeeded."""
    made = {f"{name}.__new__" for name in TYPES.keys() - set(NOT_MADE)}
    called = {f"{name}.{one}" for name in TYPES for one in operations(name)}
    return {*FUNCTIONS, *made, *called} - {"AsyncCall.throw"}  # it always raises


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
        n_limits: how many the last argument `limits` had; `after` has as many.
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
        self.n_limits = 1

    def run(self) -> str:
        """Run the case; return what is wrong, or an empty text."""
        signal.signal(signal.SIGALRM, self._on_signal)
        if self.rng.random() < 0.7 and "RedisClient" in TYPES:
            with contextlib.suppress(Interrupt):
                self._start()
        if self.rng.random() < 0.7:
            with contextlib.suppress(Interrupt, Exception):
                self._start_policy()
        if self.rng.random() < 0.7:
            with contextlib.suppress(Interrupt, Exception):
                self._start_async()
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

    def _start(self) -> None:
        """Make what a decision in Redis needs."""
        client = _core.RedisClient(server_of(self))
        limits = ((100.0, 1.0),) if self.rng.random() < 0.7 else ((5, 60, True), (9.0, 1.0))
        after = tuple(b"%d" % i for i in range(len(limits)))
        texts = scripts(with_windows=len(limits) > 1)
        self.keep(client)
        buckets = _core.RedisBuckets(client, limits, texts, b"fuzz:", after, True)
        loop = _core.RedisLoop(client, loop_of(self))
        joined = buckets.join((), texts)
        self.keep(buckets)
        self.keep(joined)
        self.keep(loop)
        for kind, one in (("RedisClient", client), ("RedisLoop", loop)):
            self._attempt(f"{kind}.hit_all", partial(one.hit_all, joined, ("a",), 1))
            self._attempt(f"{kind}.peek_each", partial(one.peek_each, buckets, "a"))

    def _start_policy(self) -> None:
        """Make a policy that decides, and let it."""
        limiter = Half([(2.0, 1.0)])
        limiter.hook = self.hook
        self.keep(limiter)
        self._attempt("Limiter._prepare", lambda: limiter._prepare(GIVEN))
        self.keep(_core.ProxyWalk())
        self.keep(_core.FieldStyle("both"))
        for name in ("Limiter", "Decision"):
            self._make(name)
        sound = {"walk": self.objects["ProxyWalk"][-1], "style": self.objects["FieldStyle"][-1]}
        names = [one.name for one in parameters("PolicyVersion", "__new__")]
        given: dict[str, Any] = {name: self.argument("PolicyVersion", name) for name in names}
        rules = given["rules"] if isinstance(given["rules"], tuple) else ()
        given |= sound | {"rules": rules[:1], "routes": None}
        version = self._attempt("PolicyVersion.__new__", lambda: _core.PolicyVersion(**given))
        if version is None:
            return
        live = Live()
        live.hook = self.hook
        live._use(version, False)
        self.keep(version)
        self.keep(live)
        for _ in range(4):
            scope = self.argument("Policy", "scope")
            outcome = self._attempt("Policy._check", partial(live._check, scope, None))
            self.keep(outcome)
            if isinstance(outcome, _core.Check):
                value = self.argument("Policy", "value")
                self.keep(self._attempt("Policy._resume", partial(live._resume, outcome, value)))
            self.keep(scope.get("rate_limiter") if isinstance(scope, dict) else None)
            for name in NOT_MADE:
                self.call(name)

    def _start_async(self) -> None:
        """Make an AsyncMethod, and calls with it."""
        self._make("AsyncMethod")
        method = self.one("AsyncMethod")
        for _ in range(4 if method is not None else 0):
            self._operate("AsyncMethod", method, "__call__")
            self.call("AsyncCall")
            self.call("AsyncMethod")

    def step(self) -> None:
        """Make an object, call one, call a function, or let the event loops run."""
        way = self.rng.random()
        if way < 0.15 and self.loops:
            self._spin(self.rng.choice(self.loops))
        elif way < 0.2:
            self._submit_many()
        elif way < 0.3 and "RedisClient" in TYPES:
            self.call("RedisClient")
        elif way < 0.35:
            name = self.rng.choice(FUNCTIONS)
            args, _ = self._arguments(name, "")
            self._attempt(name, lambda: getattr(_core, name)(*args))
        elif way < 0.5:
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
        for each in args:
            if type(each) is dict:
                self.keep(each.get("rate_limiter"))
        if operation == "before_fork" and self.rng.random() < 0.9:
            self.call("RedisClient")
            after = "after_fork_in_child" if self.rng.random() < 0.3 else "after_fork_in_parent"
            self._attempt(f"RedisClient.{after}", getattr(target, after))

    def _attempt(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            result = call()
        except SystemError as error:
            self._fault = self._fault or f"{what}: {error!r} {error.__cause__!r}"
        except StopIteration:  # as an AsyncCall returns
            self.succeeded[what] += 1
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
        names = ("allow", "hit", "take", "hit_each", "peek", "peek_each", "reset", "refund")
        submit = self.rng.choice(names)
        for i in range(self.rng.choice((2, 8, 64))):
            self._attempt(f"RedisLoop.{submit}", lambda i=i: getattr(loop, submit)(buckets, str(i)))
        for plain in self.loops[-2:]:
            self._spin(plain)

    def _make(self, name: str) -> None:
        if "__init__" not in operations(name):
            kind: Any = KINDS.get(name, TYPES[name])
            args, kwargs = self._arguments(name, "__new__") if name not in NOT_MADE else ((), {})
            made = self._attempt(f"{name}.__new__", lambda: kind(*args, **kwargs))
            if made is not None and kind in KINDS.values():
                made.hook = self.hook
                self._operate(name, made, "_use")
            self.keep(made)
            return
        kind = KINDS.get(name, TYPES[name])
        made = kind.__new__(kind)
        if kind in KINDS.values():
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
        if name in ("RedisClient", "RedisBuckets") and self.rng.random() < 0.6:
            return known[0]  # buckets of another client are refused
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

    def overwrite(self) -> None:
        """Change a byte of a file that limiters and meters may have mapped."""
        for path in self.folder.iterdir():
            if (size := path.stat().st_size) > 0:
                with path.open("rb+") as file:
                    file.seek(self.rng.randrange(min(size, 1 << 14)))
                    file.write(self.rng.randbytes(1))

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
    World.overwrite,
    World.fail,
    World.fork,
)
