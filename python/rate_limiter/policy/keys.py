"""Who a request is from: keys, tiers and bypasses, compiled from configured words.

    key="ip"                                    the client's address
    key="header:X-API-Key"                      a header
    key=["header:X-API-Key", "jwt:sub", "ip"]   the first one present
    tier="jwt:plan"                             a claim, a header, a look-up
    bypass=["ip:10.0.0.0/8", "jwt:role=admin"]  clients that are not limited

Everything works on an ASGI scope and returns an awaitable only if something has to be awaited.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from rate_limiter.checks.arguments import checked_several
from rate_limiter.checks.redaction import shown
from rate_limiter.policy.client_address import Address, ClientAddress, is_in, parse_network
from rate_limiter.policy.request_fields import Framework, header_values

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

KeySpec: TypeAlias = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]
"""A source, or several: the first one present wins."""
TierSpec: TypeAlias = str | Callable[..., Any]
BypassSpec: TypeAlias = str | Callable[..., Any] | Iterable[str | Callable[..., Any]]

Source: TypeAlias = Callable[[Any], Any]
"""Read a value from a scope: return the value, None if it has none, or an awaitable of these."""

ANY_FRAMEWORK = Framework()
_LONGEST = 128  # characters; a longer value is replaced by its digest
_KINDS = "'ip', 'all', 'user', 'header:NAME', 'cookie:NAME' or 'jwt:CLAIM'"


class Identities:
    """Turn configured words into functions of a scope.

    Args:
        address: finds a client's address.
        jwt: verifies tokens; needed for ``jwt:``.
        blocking: there is no event loop, so fetching the keys of tokens blocks.
        framework: reads requests as the application does.
    """

    def __init__(
        self,
        address: ClientAddress | None = None,
        jwt: Jwt | None = None,
        *,
        blocking: bool = False,
        framework: Framework = ANY_FRAMEWORK,
    ) -> None:
        self._blocking = blocking
        self.framework = framework
        self.address = address if address is not None else ClientAddress()
        self.jwt = jwt

    # --- Keys ---

    def key(self, spec: KeySpec) -> Source:
        """Return the source of a request's key; it falls back to the client's address.

        The key begins with where its value came from (``header:x-api-key:abc``), except for an
        ``ip`` or ``all`` that stands alone.

        Raises:
            TypeError, ValueError: `spec` is invalid; the message names the part.
        """
        if isinstance(spec, str) or callable(spec):
            if spec in ("ip", "all"):
                return self._source(spec, "key")
            return first_of((self._part(spec), self._named("ip", self.client)))
        parts = list(spec) if isinstance(spec, Sequence) else None
        if not parts:
            raise TypeError(
                f"key must be {_KINDS}, a callable, or several of them, got {shown(spec)}"
            )
        chain = [self._part(one) for one in parts]
        if parts[-1] != "ip":
            chain.append(self._named("ip", self.client))
        return first_of(chain)

    def _part(self, spec: str | Callable[..., Any]) -> Source:
        if callable(spec):
            return spec
        source = self._source(spec, "key")
        return self._named(label_of(spec), source)

    def client(self, scope: Any) -> str:
        """Return the key of a client's address."""
        return self.address.key_of_scope(scope)

    def client_address(self, scope: Any) -> Address | None:
        """Return a client's address; None if it has none or its header is malformed."""
        return self.address.address(*self._seen(scope), strict=True)

    def _seen(self, scope: Any) -> tuple[str | None, Iterator[str]]:
        client = scope.get("client")
        wanted = self.address.header.encode()
        values = (
            value.decode("latin-1") for name, value in scope.get("headers", ()) if name == wanted
        )
        return (client[0] if client else None), values

    def _source(self, spec: object, what: str) -> Source:
        if not isinstance(spec, str):
            raise TypeError(f"{what} must be {_KINDS}, or a callable, got {shown(spec)}")
        kind, colon, name = spec.partition(":")
        kind = kind.strip().lower()
        name = name.strip()
        if kind == "ip" and not colon:
            return self.client
        if kind == "all" and not colon:
            return lambda scope: "all"
        if kind == "user" and not colon:
            return user_of
        if kind == "header" and name:
            return header_source(name, self.framework)
        if kind == "cookie" and name:
            framework = self.framework
            return lambda scope: framework.cookie(scope, name)
        if kind == "jwt" and name:
            return self._claim(name, what)
        raise ValueError(f"{what} must be {_KINDS}, or a callable, got {shown(spec)}")

    def _claim(self, name: str, what: str) -> Source:
        from rate_limiter.jwt import claim_texts

        if self.jwt is None:
            raise ValueError(f"{what}: 'jwt:{name}' needs jwt=Jwt(...), which verifies tokens")
        verifier = self.jwt

        async def later(claims: Awaitable[Any]) -> list[str] | None:
            return claim_texts(await claims, name) or None

        def source(scope: Any) -> Any:
            claims = verifier.claims_of(scope, blocking=self._blocking)
            if inspect.isawaitable(claims):
                return later(claims)
            return claim_texts(claims, name) or None

        return source

    def _named(self, label: str, source: Source) -> Source:
        """Return a source whose values are prefixed with `label`."""

        def name(value: Any) -> str | None:
            if isinstance(value, list):
                value = value[0] if len(value) == 1 else None
            if not value:
                return None
            return f"{label}:{shortened(str(value))}"

        async def later(value: Awaitable[Any]) -> str | None:
            return name(await value)

        def named(scope: Any) -> Any:
            value = source(scope)
            return later(value) if inspect.isawaitable(value) else name(value)

        return named

    # --- Tiers ---

    def tier(self, spec: TierSpec) -> Source:
        """Return the source of a request's tiers, a list of texts or None.

        Raises:
            TypeError, ValueError: `spec` is invalid.
        """
        source = spec if callable(spec) else self._source(spec, "tier")

        async def later(value: Awaitable[Any]) -> list[str] | None:
            return _texts(await value)

        def tiers(scope: Any) -> Any:
            value = source(scope)
            return later(value) if inspect.isawaitable(value) else _texts(value)

        return tiers

    # --- Bypasses ---

    def bypass(self, spec: BypassSpec) -> Source | None:
        """Return a source that is True for requests without limits; None if there are none.

        ``ip:NETWORK`` matches a client's address, ``header:NAME=VALUE`` a secret (compared in
        constant time), ``jwt:CLAIM=VALUE`` one of a claim's values. A callable gets the scope.

        Raises:
            TypeError, ValueError: `spec` is invalid; the message names the part.
        """
        is_one = isinstance(spec, str) or callable(spec)
        parts = [spec] if is_one else checked_several("bypass", spec, "texts", "ip:10.0.0.0/8")
        tests = [
            one if callable(one) else self._bypass(one, place) for place, one in enumerate(parts, 1)
        ]
        return any_of(tests) if tests else None

    def _bypass(self, text: object, place: int) -> Source:
        # The text may be a secret, so the message does not show it.
        wrong = (
            "bypass must be 'ip:NETWORK', 'header:NAME=VALUE', 'jwt:CLAIM=VALUE' or a callable; "
            f"number {place} is none of these"
        )
        if not isinstance(text, str):
            is_plain = isinstance(text, (int, float))
            raise TypeError(f"{wrong}, got {text if is_plain else type(text).__name__}")
        kind, _, rest = text.partition(":")
        if kind == "ip" and rest:
            try:
                networks = (parse_network(rest),)
            except ValueError as error:
                raise ValueError(f"bypass: {error}") from None

            def is_within(scope: Any) -> bool:
                address = self.client_address(scope)
                return address is not None and is_in(address, networks)

            return is_within
        name, equals, wanted = rest.partition("=")
        name = name.strip()
        if kind not in ("header", "jwt") or not name or not equals or not wanted:
            raise ValueError(wrong)
        source = _secret_source(name) if kind == "header" else self._claim(name, "bypass")
        secret = wanted.encode()
        charset = "latin-1" if kind == "header" else "utf-8"  # the charset it was decoded from

        def matches(value: Any) -> bool:
            values = value if isinstance(value, list) else [value]
            return any(
                isinstance(one, str) and hmac.compare_digest(one.encode(charset), secret)
                for one in values
            )

        async def later(value: Awaitable[Any]) -> bool:
            return matches(await value)

        def test(scope: Any) -> Any:
            value = source(scope)
            return later(value) if inspect.isawaitable(value) else matches(value)

        return test


def shortened(text: str) -> str:
    """Return a text, or its digest if it is too long for a key."""
    if len(text) <= _LONGEST:
        return text
    return "sha256:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- Sources -------------------------------------------------------------------------------------


def label_of(spec: str) -> str:
    """Return the prefix of the keys from a source, with header names in lower case."""
    kind, _, name = spec.partition(":")
    kind, name = kind.strip().lower(), name.strip()
    return f"{kind}:{name.lower() if kind == 'header' else name}" if name else kind


def header_source(name: str, framework: Framework = ANY_FRAMEWORK) -> Source:
    """Return a source of a header's value; None if it is empty, missing or ambiguous."""
    wanted = name.lower().encode("latin-1")
    return lambda scope: framework.header(scope, wanted)


def _secret_source(name: str) -> Source:
    """Return a source of a header's unchanged value; None if it is missing or repeated."""
    wanted = name.lower().encode("latin-1")

    def source(scope: Any) -> str | None:
        values = header_values(scope, wanted)
        return values[0].strip() if len(values) == 1 else None

    return source


def user_of(scope: Any) -> str | None:
    """Return the user that Starlette's AuthenticationMiddleware has set, else None."""
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        return str(user.identity)
    except NotImplementedError:  # Starlette's own SimpleUser has a name only
        return str(user.display_name)


def _texts(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [str(one) for one in value] if isinstance(value, (list, tuple, set)) else [str(value)]


def first_of(sources: Sequence[Source]) -> Source:
    """Return a source of the first value that is not None among several sources."""

    async def later(scope: Any, value: Any, rest: Sequence[Source]) -> Any:
        found = await value
        for source in rest:
            if found is not None:
                return found
            found = source(scope)
            if inspect.isawaitable(found):
                found = await found
        return found

    def chain(scope: Any) -> Any:
        for i, source in enumerate(sources, 1):
            value = source(scope)
            if inspect.isawaitable(value):
                return later(scope, value, sources[i:])
            if value is not None:
                return value
        return None

    return chain


def any_of(tests: Sequence[Source]) -> Source:
    """Return a source that is True if any of several sources is true."""
    chain = first_of([_true_or_none(test) for test in tests])

    async def later(value: Any) -> bool:
        return await value is True

    def test(scope: Any) -> Any:
        value = chain(scope)
        return later(value) if inspect.isawaitable(value) else value is True

    return test


def _true_or_none(test: Source) -> Source:
    async def later(value: Any) -> bool | None:
        return True if await value else None

    def source(scope: Any) -> Any:
        value = test(scope)
        if inspect.isawaitable(value):
            return later(value)
        return True if value else None

    return source
