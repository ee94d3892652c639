"""Values for the parameters of the C binding, by their names: mostly what they are meant for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rate_limiter import Limit, _core
from rate_limiter.checks.time_zones import zone_table
from rate_limiter.stores.connection import scripts
from support import hostile
from support.hostile import Callback, Number, Sequence

if TYPE_CHECKING:
    from fuzz.world import World


class Keeping(Callback):
    """An application that keeps the senders which it is given."""

    def __init__(self, world: World) -> None:
        super().__init__(world.hook)
        self.world = world

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for each in args:
            self.world.keep(each)
            if type(each) is dict:
                self.world.keep(each.get("rate_limiter"))
        return super().__call__(*args, **kwargs)


def _limit(world: World) -> Any:
    rng = world.rng
    count: Any = rng.choice((1, 5, 10.0, 1e6, Number(world.hook, 5), hostile.number(world.hook)))
    other = rng.choice((0, 1, 0.1, 60, Number(world.hook, 2), 1e-9))
    if rng.random() < 0.2:
        kind, unit = rng.choice(("bucket", "fixed", "first", "sliding")), ""
        if rng.random() < 0.3:
            kind, unit = "fixed", rng.choice(("day", "week", "month", "year", "eon"))
        zone = rng.choice((b"", b"x", zone_table("UTC"), zone_table("Pacific/Apia")))
        return (count, other, kind, rng.random() < 0.5, unit, zone)
    if rng.random() < 0.3:
        return (count, rng.choice((1, 60, Number(world.hook, 3), hostile.number(world.hook))), True)
    return (count, other)


def _limits(world: World) -> Any:
    world.n_limits = n = world.rng.choice((1, 1, 1, 2, 8))
    limits = [_limit(world) if world.rng.random() < 0.5 else (10.0, 1.0) for _ in range(n)]
    return tuple(limits)


def _any_limits(world: World) -> Any:
    """Return an iterable of them, which may be as long as none should be."""
    limits = _limits(world)
    return Sequence(world.hook, [*limits] * world.rng.choice((1, 1, 50)))


def _limits_of_limiter(world: World) -> Any:
    """Return limits of a new limiter, or of a call."""
    if world.rng.random() < 0.4:
        return world.rng.choice((None, world.one("GivenLimits"), "text"))
    return _limits(world) if world.rng.random() < 0.7 else _any_limits(world)


def _described_limits(world: World) -> Any:
    period_s, edge_s = world.rng.choice((60.0, _number(world))), world.rng.choice((0, 60))
    return tuple(("text", one, period_s, edge_s) for one in _limits(world))


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


def loop_of(world: World) -> Any:
    loop = hostile.Loop(world.hook)
    world.loops.append(loop)
    return loop


def _scope(world: World) -> Any:
    text = hostile.text(world.hook)
    scope: dict[Any, Any] = {}
    values = {
        "type": world.rng.choice(("http", "websocket", "lifespan", text)),
        "path": world.rng.choice(("/", "/health", "/base/x", text)),
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


def _message(world: World) -> Any:
    kinds = ("http.response.start", "websocket.accept", hostile.text(world.hook))
    headers = [(b"a", b"b"), [b"X-RateLimit-Limit", b"1"], (hostile.text(world.hook), 1), None]
    return {
        "type": world.rng.choice(kinds),
        "headers": world.rng.choice((headers, [], Sequence(world.hook, headers), None)),
    }


def _callable(world: World) -> Any:
    return Callback(world.hook, world.rng.choice((None, "k", 1, Number(world.hook, 1))))


def _async_function(world: World) -> Any:
    async def function(*_: Any) -> Any:
        world.hook.maybe()

    function.__name__ = world.rng.choice(("allow", "hit", "peek", "no_method"))
    return function


def _async_limiter(world: World) -> Any:
    made = _core.AsyncLimiter()
    sound = _core.Limiter([(2.0, 1.0)])
    odd = (None, world.one("Limiter"), world.one("Decision"))
    made._engine = world.rng.choice((*(sound,) * 4, *odd))
    return made


def _optional_callable(world: World) -> Any:
    return None if world.rng.random() < 0.5 else _callable(world)


class Later:
    """What must be awaited."""

    def __await__(self) -> Any:
        return iter(())


def _later(world: World, *values: Any) -> Any:
    """Return a function that returns one of some values, or something to be awaited."""
    return Callback(world.hook, Later() if world.rng.random() < 0.3 else world.rng.choice(values))


def _sources(world: World) -> Any:
    name = hostile.text(world.hook)
    call = _later(world, None, "k", ["k"], True, name)
    sources = (
        ("ip", None, None, None, False),
        ("all", "all:", None, None, False),
        ("header", "header:x:", b"x-forwarded-for", call, False),
        ("cookie", None, b"sid", call, False),
        ("call", "user:", None, call, False),
        ("call", None, None, call, True),
        ("network", None, "10.0.0.0/8", None, False),
        ("secret", None, (b"x", b"s3cret"), None, False),
        ("call", name, None, name, True),
    )
    return tuple(world.rng.choice(sources) for _ in range(world.rng.choice((0, 1, 1, 2))))


def _key_sources(world: World) -> Any:
    """Return the sources of a key, which end with one that every request has, or seldom not."""
    last = ("ip", None, None, None, False), ("all", "all:", None, None, False)
    found = _sources(world)
    return found if world.rng.random() < 0.1 else (*found, world.rng.choice(last))


def _tier_sources(world: World) -> Any:
    return _sources(world)[:1]


def _rule(world: World) -> Any:
    active = SimpleNamespace(rule=SimpleNamespace(name="r"))
    limiter = world.one("Limiter")
    n = world.rng.choice((1, 1, 2))
    decision = world.one("Decision")
    hit_each = _later(world, (decision,) * (n + 1), (decision,), decision)
    is_deny = world.rng.random() < 0.1
    is_local = limiter is not None and not is_deny and world.rng.random() < 0.6
    with contextlib.suppress(Exception):
        n = len(limiter._peek_each("k", 0)) - 1 if is_local else n
    return (
        active,
        limiter if is_local else None,
        hit_each,
        world.rng.choice(((), _key_sources(world))),
        world.rng.choice((None, 2, 0.5, _later(world, 1, _cost(world)))),
        () if is_deny else tuple(("limit", 10.0, 10.0, 0) for _ in range(n)),
        world.rng.random() < 0.1,
        is_deny,
        world.rng.random() < 0.2,
        _flag(world),
        world.rng.choice((None, world.one("Meter"))),
        world.rng.choice((None, None, _limits_of(world, is_deny))),
    )


def _limits_of(world: World, is_deny: bool) -> Any:
    """Return what finds the limits of a request, with the names for them."""
    given = world.one("GivenLimits")
    found = _later(world, given, None, given, "5/second")
    return None if is_deny else (found, ("name",) * world.rng.choice((9, 9, 9, 3)))


def _rules(world: World) -> Any:
    return tuple(_rule(world) for _ in range(world.rng.choice((1, 1, 2))))


def _environ(world: World) -> Any:
    text = hostile.text(world.hook)
    values = {
        "REQUEST_METHOD": world.rng.choice(("GET", "post", text)),
        "PATH_INFO": world.rng.choice(("/", "//health", "/\xc3\xa9", text)),
        "REMOTE_ADDR": world.rng.choice(("10.0.0.1", "::1", None, text)),
        "HTTP_X_FORWARDED_FOR": world.rng.choice(("6.6.6.6", text)),
        "HTTP_COOKIE": world.rng.choice(("sid=1; a=b", text)),
        "rate_limiter.settlement": "settlement",
    }
    return {name: value for name, value in values.items() if world.rng.random() < 0.8}


def _request(world: World) -> Any:
    return _scope(world) if world.rng.random() < 0.7 else _environ(world)


def _owner(world: World) -> Any:
    return SimpleNamespace(_shadowed=_callable(world))


def _word(world: World) -> Any:
    return world.rng.choice(("PING", "GET", "SET", "TIME", "KEYS", "*", "k", _key(world)))


def _of(name: str) -> Callable[[World], Any]:
    return lambda world: world.one(name)


def _seconds(world: World) -> Any:
    """Return a callable as a clock, which may do mischief or return no time."""

    def seconds() -> Any:
        world.hook.maybe()
        return world.rng.choice((1, 1.5, 1e9, world.rng.random(), -1, None, float("nan")))

    return seconds


def _clock(world: World) -> Any:
    made = (world.one("ManualClock"), _seconds(world))
    return world.rng.choice(("monotonic", "coarse", *made, "wrong"))


def server_of(world: World) -> Any:
    return world.rng.choice((*world.servers[:1] * 4, *world.servers))


def _address(world: World) -> Any:
    return server_of(world) if world.rng.random() < 0.8 else hostile.text(world.hook)


def _client_address(world: World) -> Any:
    return world.rng.choice((None, hostile.text(world.hook)))


def _scope_headers(world: World) -> Any:
    headers: list[Any] = [(b"x-forwarded-for", b"6.6.6.6"), [b"forwarded", b"for=1.2.3.4"]]
    odd = (None, (), (b"x-forwarded-for", hostile.text(world.hook)), (hostile.text(world.hook), 1))
    if world.rng.random() < 0.2:
        headers.append(world.rng.choice(odd))
    return world.rng.choice((headers, [], Sequence(world.hook, headers)))


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
            world.rng.choice((None, None, "k", hostile.text(world.hook))),
            i,
            world.rng.choice((None, None, "10.0.0.0/8", "::/0", hostile.text(world.hook))),
        )
        for i in range(world.rng.choice((0, 1, 1, 3)))
    ]
    return world.rng.choice((routes, Sequence(world.hook, routes)))


def _request_path(world: World) -> Any:
    paths = ("/", "/a/7", "//a/../b\n", "/" + "a/" * 100, "", hostile.text(world.hook))
    return world.rng.choice(paths)


def _tiers(world: World) -> Any:
    return world.rng.choice(((), (1, 0), range(40), Sequence(world.hook, [_number(world)])))


def _stored_name(world: World) -> Any:
    return world.rng.choice((b"fuzz:{k}", b"{", b"", hostile.text(world.hook)))


ARGUMENTS: dict[str, Callable[[World], Any]] = {
    "ProxyWalk.header": lambda world: world.rng.choice(("x-forwarded-for", "forwarded", "x")),
    "RuleRoutes.path": _request_path,
    "cors": _flag,
    "epoch": _flag,
    "ipv6_prefix": lambda world: world.rng.choice((64, 16, 128, Number(world.hook, 56))),
    "jitter_s": _number,
    "like_werkzeug": _flag,
    "method": lambda world: world.rng.choice(("GET", "HEAD", "", hostile.text(world.hook))),
    "networks": _networks,
    "now_s": lambda world: world.rng.choice((1.7e9, 0, _number(world))),
    "peer": lambda world: world.rng.choice((None, "10.0.0.1", "::1", hostile.text(world.hook))),
    "routes": _routes,
    "spread": lambda world: world.rng.choice((0, 0.5, 1, _number(world))),
    "states": _states,
    "strict": _flag,
    "style": lambda world: world.rng.choice(("both", "ietf", "x-ratelimit", "off", "x")),
    "tiers": _tiers,
    "trust_unix": _flag,
    "values": _header_values,
    "window_s": lambda world: world.rng.choice((0, 60, Number(world.hook, 5), _number(world))),
    "AsyncCall.traceback": lambda world: None,
    "AsyncCall.type": lambda world: world.rng.choice(
        (ValueError, ValueError("k"), StopIteration, 5)
    ),
    "AsyncCall.value": lambda world: None,
    "AsyncMethod.function": _async_function,
    "async_limiter": _async_limiter,
    "Policy.path": _request_path,
    "Policy.scope": _request,
    "PolicyVersion.key": _key_sources,
    "PolicyVersion.routes": lambda world: world.rng.choice((None, world.one("RuleRoutes"))),
    "PolicyVersion.rules": _rules,
    "PolicyVersion.style": _of("FieldStyle"),
    "StartResponse.headers": lambda world: [("X-RateLimit-Limit", "1"), ("A", "b"), (b"a", 1)],
    "StartResponse.status": lambda world: "200 OK",
    "WsgiRecorder.app": _callable,
    "WsgiRecorder.failed": _callable,
    "WsgiRecorder.settled": _callable,
    "bypass": _sources,
    "check": _of("Check"),
    "environ": _environ,
    "error": lambda world: None,
    "is_wsgi": _flag,
    "owner": _owner,
    "policy": lambda world: world.one("Policy") if world.rng.random() < 0.8 else None,
    "refreshes": _flag,
    "routes_like_werkzeug": _flag,
    "shortened": lambda world: Callback(world.hook, "short"),
    "skips_preflight": _flag,
    "start_response": _callable,
    "status_path": lambda world: world.rng.choice((None, "/status")),
    "subject": lambda world: world.rng.choice((None, "subject")),
    "tier": _tier_sources,
    "tier_ranks": lambda world: {"k": 0, "pro": 1},
    "uses_keys": _flag,
    "value": lambda world: world.rng.choice(("k", None, 1, True, (world.one("Decision"),) * 2)),
    "verdict": lambda world: world.rng.choice((None, world.one("Verdict"))),
    "version": _of("PolicyVersion"),
    "walk": _of("ProxyWalk"),
    "GivenLimits.limits": _described_limits,
    "Limiter.limits": _limits_of_limiter,
    "ClientSketch.keys": lambda world: world.rng.choice(("plain", "masked", "hashed", "bare")),
    "RedisClient.address": _address,
    "RedisClient.name": _stored_name,
    "RedisLoop.name": _stored_name,
    "address": _client_address,
    "after": lambda world: tuple(b"%d" % i for i in range(world.n_limits)),
    "allowed": _number,
    "app": lambda world: Keeping(world),
    "before": lambda world: b"fuzz:",
    "blocked": _number,
    "buckets": _of("RedisBuckets"),
    "client": _of("RedisClient"),
    "clients": lambda world: world.rng.choice((1, 10, 100, _number(world))),
    "clock": _clock,
    "cost": _cost,
    "dated": _flag,
    "decision": _of("Decision"),
    "denial": lambda world: world.rng.choice((None, world.one("Verdict"))),
    "denied": _number,
    "elapsed_ns": _number,
    "exempt_paths": lambda world: frozenset(("/health", hostile.text(world.hook))),
    "fd": lambda world: world.rng.choice((*range(3, 20), hostile.number(world.hook))),
    "headers": _flag,
    "keep": lambda world: world.one("Limiter") if world.rng.random() < 0.3 else None,
    "key": _key,
    "keys": _keys,
    "limit": _number,
    "limiter": lambda world: world.one("Limiter") if world.rng.random() < 0.8 else None,
    "limits": _limits,
    "loop": loop_of,
    "max_keys": lambda world: world.rng.choice((1, 10, 1000, Number(world.hook, 10))),
    "message": _message,
    "meter": _of("Meter"),
    "min_ttl_ms": _number,
    "now_ns": _number,
    "others": lambda world: tuple(
        world.one("RedisBuckets") for _ in range(world.rng.choice((0, 1, 1, 2)))
    ),
    "path": _path,
    "probing": _flag,
    "receive": _callable,
    "requests": lambda world: tuple(
        (world.one("Limiter"), _key(world), _cost(world)) for _ in range(world.rng.randrange(4))
    ),
    "remaining": _number,
    "reset_after": _number,
    "reset_after_ns": _number,
    "retry_after": _number,
    "retry_after_ms": _number,
    "retry_after_ns": _number,
    "scope": _scope,
    "scripts": _scripts,
    "secret": lambda world: world.rng.choice((b"s" * 16, b"", bytearray(16))),
    "seconds": _number,
    "send": _callable,
    "sketch": _of("ClientSketch"),
    "step_ns": _number,
    "tagged": _flag,
    "words": _word,
}
