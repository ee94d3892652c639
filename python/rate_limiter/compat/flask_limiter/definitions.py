"""Limits as a program writes them, and as a request meets them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from rate_limiter._core import Decision
from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.limits import RateLimitItem, WindowStats
from rate_limiter.compat.limits.storage import Counter
from rate_limiter.compat.limits.strategies import Hit
from rate_limiter.compat.limits.strategies import RateLimiter as Strategy
from rate_limiter.compat.limits.util import known_items

with extra_named():
    from flask import request
    from flask.wrappers import Response

KeyFunc: TypeAlias = Callable[[], str]
Provider: TypeAlias = str | Callable[[], str]
Cost: TypeAlias = int | Callable[[], int]
Scope: TypeAlias = str | Callable[[str], str]
Condition: TypeAlias = Callable[[], bool]
DeductWhen: TypeAlias = Callable[[Response], bool]
OnBreach: TypeAlias = "Callable[[RequestLimit], Response | None]"
Decorated = TypeVar("Decorated", bound=Any)


class Extension(Protocol):
    """What a Limiter is to its limits."""

    key_func: KeyFunc
    enabled: bool
    logger: logging.Logger

    def decorate(self, obj: Decorated, limit: RouteLimit) -> Decorated: ...

    def check_block(self, limit: RouteLimit) -> None: ...


class RuntimeLimit:
    """One limit of a request, from the text of its definition."""

    __slots__ = ("_counter", "_strategy", "definition", "key_func", "limit")

    def __init__(self, limit: RateLimitItem, definition: Limit, key_func: KeyFunc) -> None:
        self.limit, self.definition, self.key_func = limit, definition, key_func
        self._strategy: Strategy | None = None

    def counter_of(self, strategy: Strategy) -> Counter:
        """Return what counts under this limit; the last one is kept."""
        if self._strategy is not strategy:
            self._counter, self._strategy = strategy.counter_of(self.limit), strategy
        return self._counter

    @property
    def meta_limits(self) -> list[RuntimeLimit]:
        return [limit for meta in self.definition.bound_meta_limits() for limit in meta.resolve()]

    @property
    def scope(self) -> Scope | None:
        return self.definition.scope

    @property
    def shared(self) -> bool:
        return self.definition.shared

    @property
    def error_message(self) -> str | Callable[[], str] | None:
        return self.definition.error_message

    @property
    def override_defaults(self) -> bool:
        return self.definition.override_defaults

    @property
    def deduct_when(self) -> DeductWhen | None:
        return self.definition.deduct_when

    @property
    def on_breach(self) -> OnBreach | None:
        return self.definition.on_breach

    @property
    def is_exempt(self) -> bool:
        """Whether `exempt_when` exempts this request."""
        exempt_when = self.definition.exempt_when
        return exempt_when is not None and bool(exempt_when())

    @property
    def method_exempt(self) -> bool:
        """Whether the limit is for other methods than this request's."""
        return self.definition.is_for_other_methods()

    @property
    def deduction_amount(self) -> int:
        """The cost of this request."""
        cost = self.definition.cost
        return cost() if callable(cost) else cost or 1

    def scope_for(self, endpoint: str) -> str:
        """Return what the count is for, besides the key: an endpoint, a scope, a method."""
        definition = self.definition
        given = definition.scope
        scope = given(request.endpoint or "") if callable(given) else given
        if not scope:
            scope = endpoint
        elif not definition.shared:
            scope = f"{endpoint}:{scope}"
        return f"{scope}:{request.method.upper()}" if definition.per_method else scope


class RequestLimit(Hit):
    """A limit that a request was counted against.

    Attributes:
        limit: the parsed limit.
        request_args: what names the count: a prefix if there is one, the key, and the scope.
        key: the key of the count.
        cost: what the request takes.
        breached: whether the request exceeded it.
        shared: whether several endpoints share the count.
    """

    __slots__ = (
        *("_decided_at", "_decision", "_strategy", "limit", "request_args", "runtime_limit"),
    )

    _decision: Decision
    _decided_at: float

    def __init__(self, strategy: Strategy, limit: RuntimeLimit, names: list[str]) -> None:
        item = limit.limit
        cost = limit.definition.cost
        self.limit: RateLimitItem = item
        self.request_args = names
        self.runtime_limit = limit
        self._strategy = strategy
        self.counter = limit.counter_of(strategy)
        self.key = item.key_for(*names)
        self.cost = cost() if callable(cost) else cost or 1

    def note(self, decision: Decision) -> None:
        """Note what was decided just now."""
        self._decision, self._decided_at = decision, time.time()

    @property
    def breached(self) -> bool:
        return not self._decision.allowed

    @property
    def shared(self) -> bool:
        return self.runtime_limit.definition.shared

    @property
    def window(self) -> WindowStats:
        """When the window ends, and what was left of it after this request."""
        return self._strategy.stats_of(self.limit, self._decision, self._decided_at)

    @property
    def reset_at(self) -> int:
        """When the window ends, in whole seconds since the epoch, rounded up."""
        return int(self.window.reset_time + 1)

    @property
    def remaining(self) -> int:
        """What is left of the limit after this request."""
        return self.window.remaining

    def give_back(self) -> None:
        """Return what the request has taken."""
        super().give_back()
        self.note(self.peek(0))


@dataclass(eq=False)
class Limit:
    """A default limit with separate options, for `default_limits` of Limiter.

    Args:
        limit_provider: a text such as ``"10/minute"`` or ``"1/second;100/hour"``, or a callable
            without arguments that returns one; it is called for every request.
        key_function: returns who the request counts for; by default `key_func` of the Limiter.
        scope: a further name of the count, or a callable that gets the endpoint.
        cost: what a request takes: a number, or a callable without arguments.
        shared: whether endpoints with the same scope share the count.
        methods: the methods that are limited; all by default.
        per_method: whether each method has its own count.
        error_message: the description of the RateLimitExceeded, or a callable that returns it.
        meta_limits: limits on how often this limit may be exceeded.
        exempt_when: returns True for requests that are not limited.
        deduct_when: gets the response and returns whether the request counts.
        on_breach: called with a RequestLimit when this limit is exceeded; a Response that it
            returns is sent.
    """

    limit_provider: Provider
    key_function: KeyFunc | None = None
    scope: Scope | None = None
    cost: Cost | None = None
    shared: bool = False
    methods: Sequence[str] | None = None
    per_method: bool = False
    error_message: str | Callable[[], str] | None = None
    meta_limits: Iterable[Provider | MetaLimit] | None = None
    exempt_when: Condition | None = None
    deduct_when: DeductWhen | None = None
    on_breach: OnBreach | None = None
    override_defaults: bool = field(default=False, init=False)
    _limiter: Extension | None = field(default=None, init=False, repr=False)
    _bound_meta: tuple[MetaLimit, ...] | None = field(default=None, init=False, repr=False)
    _resolved: tuple[str, tuple[RuntimeLimit, ...]] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not callable(self.limit_provider) and not isinstance(self.limit_provider, str):
            raise TypeError(
                f"a limit must be a text or a callable that returns one, "
                f"got {self.limit_provider!r}"
            )
        if self.methods is not None:
            self.methods = tuple(method.upper() for method in self.methods)
        if self.meta_limits is not None:
            self.meta_limits = tuple(self.meta_limits)

    def __str__(self) -> str:
        return self.limit_provider if isinstance(self.limit_provider, str) else "(a callable)"

    def bound(self: Decorated, limiter: Extension) -> Decorated:
        """Return a copy that belongs to a limiter, so that two limiters can use one definition."""
        copy = replace(self)
        copy._limiter = limiter
        return copy

    def bound_meta_limits(self) -> tuple[MetaLimit, ...]:
        """Return the meta limits of this limit, which count by its key by default."""
        if self._bound_meta is None:
            assert self._limiter is not None
            metas: list[MetaLimit] = []
            for one in self.meta_limits or ():
                meta = one if isinstance(one, MetaLimit) else MetaLimit(one)
                key = meta.key_function or self.key_function
                metas.append(replace(meta, key_function=key).bound(self._limiter))
            self._bound_meta = tuple(metas)
        return self._bound_meta

    def is_for_other_methods(self) -> bool:
        return bool(self.methods) and request.method.upper() not in (self.methods or ())

    def resolve(self) -> tuple[RuntimeLimit, ...]:
        """Return the limits that apply now.

        Raises:
            ValueError: the text is malformed.
        """
        provider = self.limit_provider
        text = provider() if callable(provider) else provider
        resolved = self._resolved
        if resolved is None or resolved[0] != text:
            resolved = self._resolved = (text, self._parsed(text))
        return resolved[1]

    def _parsed(self, text: str) -> tuple[RuntimeLimit, ...]:
        if not text:
            return ()
        key = self._key()
        return tuple(RuntimeLimit(item, self, key) for item in known_items(text))

    def _key(self) -> KeyFunc:
        if self.key_function is not None:
            return self.key_function
        if self._limiter is None:
            raise RuntimeError(f"{self!r} does not belong to a Limiter")
        return self._limiter.key_func


@dataclass(eq=False)
class ApplicationLimit(Limit):
    """A limit over all endpoints together, for `application_limits` of Limiter."""

    scope: Scope | None = field(default="global", kw_only=True)
    shared: bool = field(default=True, init=False)


@dataclass(eq=False)
class MetaLimit(Limit):
    """A limit on how often other limits may be exceeded, for `meta_limits`."""

    scope: Scope | None = field(default="meta", kw_only=True)
    shared: bool = field(default=True, init=False)
    meta_limits: Iterable[Provider | MetaLimit] | None = field(default=None, init=False)
    deduct_when: DeductWhen | None = field(default=None, init=False)


@dataclass(eq=False, kw_only=True)
class RouteLimit(Limit):
    """A limit of a view, a function, a blueprint or a block of code: what `Limiter.limit` returns.

    Use it as a decorator below the route, call it with a blueprint, or enter it with ``with``.
    """

    limiter: InitVar[Extension]
    override_defaults: bool = False

    def __post_init__(self, limiter: Extension) -> None:
        super().__post_init__()
        self._limiter = limiter

    def __call__(self, obj: Decorated) -> Decorated:
        assert self._limiter is not None
        return self._limiter.decorate(obj, self)

    def __enter__(self) -> None:
        assert self._limiter is not None
        self._limiter.check_block(self)

    def __exit__(self, *error: object) -> None:
        pass
