"""Who a request is from: keys, tiers and bypasses, compiled from configured words.

    key="ip"                                    the client's address
    key="header:X-API-Key"                      a header
    key=["header:X-API-Key", "jwt:sub", "ip"]   the first one present
    tier="jwt:plan"                             a claim, a header, a look-up
    bypass=["ip:10.0.0.0/8", "jwt:role=admin"]  clients that are not limited

The engine reads requests by these descriptions: see csrc/python/sources.c. It calls Python only for
callables, tokens and values in an unusual spelling.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rate_limiter.checks.arguments import checked_several, is_token
from rate_limiter.checks.redaction import shown
from rate_limiter.policy.client_address import ClientAddress, parse_network, without_zone
from rate_limiter.policy.request_fields import Framework

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

KeySpec: TypeAlias = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]
"""A source, or several: the first one present wins."""
TierSpec: TypeAlias = str | Callable[..., Any]
BypassSpec: TypeAlias = str | Callable[..., Any] | Iterable[str | Callable[..., Any]]


class Source(NamedTuple):
    """Where the engine reads a value.

    Attributes:
        kind: ``"ip"``, ``"all"``, ``"header"``, ``"cookie"``, ``"call"``, ``"network"`` or
            ``"secret"``.
        label: the prefix of its keys, with a colon; None: values are used as they are.
        name: of the header or cookie (bytes), the network (str), or name and secret.
        call: reads unusual values of the request, or all values of ``"call"``. It may return an
            awaitable.
        of_subject: `call` is the user's function and gets the object that stands for a request.
    """

    kind: str
    label: str | None = None
    name: Any = None
    call: Callable[[Any], Any] | None = None
    of_subject: bool = False


ANY_FRAMEWORK = Framework()
_LONGEST = 128  # characters; a longer value is replaced by its digest
_KINDS = "'ip', 'all', 'user', 'header:NAME', 'cookie:NAME' or 'jwt:CLAIM'"


class Identities:
    """Turn configured words into sources of values.

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

    def key(self, spec: KeySpec) -> tuple[Source, ...]:
        """Return the sources of a request's key; the last one is the client's address.

        The key begins with where its value came from (``header:x-api-key:abc``), except for an
        ``ip`` or ``all`` that stands alone.

        Raises:
            TypeError, ValueError: `spec` is invalid; the message names the part.
        """
        if spec in ("ip", "all"):
            return (Source(str(spec)),)
        is_one = isinstance(spec, str) or callable(spec)
        parts = [spec] if is_one else list(spec) if isinstance(spec, Sequence) else []
        if not parts:
            raise TypeError(
                f"key must be {_KINDS}, a callable, or several of them, got {shown(spec)}"
            )
        chain = [self._source(one, "key", label_of(one)) for one in parts]
        return (*chain, *([] if parts[-1] == "ip" else [Source("ip", "ip:")]))

    def tier(self, spec: TierSpec) -> tuple[Source, ...]:
        """Return the source of a request's tiers.

        Raises:
            TypeError, ValueError: `spec` is invalid.
        """
        return (self._source(spec, "tier", None),)

    def bypass(self, spec: BypassSpec) -> tuple[Source, ...]:
        """Return sources that are true for requests without limits.

        ``ip:NETWORK`` matches a client's address, ``header:NAME=VALUE`` a secret (compared in
        constant time), ``jwt:CLAIM=VALUE`` one of a claim's values. A callable decides itself.

        Raises:
            TypeError, ValueError: `spec` is invalid; the message names the part.
        """
        is_one = isinstance(spec, str) or callable(spec)
        parts = [spec] if is_one else checked_several("bypass", spec, "texts", "ip:10.0.0.0/8")
        return tuple(
            Source("call", call=one, of_subject=True) if callable(one) else self._bypass(one, place)
            for place, one in enumerate(parts, 1)
        )

    def _source(self, spec: object, what: str, label: str | None) -> Source:
        if callable(spec):
            return Source("call", call=spec, of_subject=True)
        if not isinstance(spec, str):
            raise TypeError(f"{what} must be {_KINDS}, or a callable, got {shown(spec)}")
        kind, colon, name = spec.partition(":")
        kind = kind.strip().lower()
        name = name.strip()
        if kind in ("ip", "all") and not colon:
            return Source(kind, label)
        if kind == "user" and not colon:
            return Source("call", label, call=user_of)
        if kind == "header" and name:
            if not is_token(name):
                raise ValueError(f"{what}: no header can have the name {name!r}")
            return self._header(name, label)
        if kind == "cookie" and name:
            cookie = self.framework.cookie
            return Source(kind, label, name.encode(), lambda request: cookie(request, name))
        if kind == "jwt" and name:
            return Source("call", label, call=self._claim(name, what))
        raise ValueError(f"{what} must be {_KINDS}, or a callable, got {shown(spec)}")

    def _header(self, name: str, label: str | None) -> Source:
        wanted = name.lower().encode("latin-1")
        header = self.framework.header
        return Source("header", label, wanted, lambda request: header(request, wanted))

    def _claim(self, name: str, what: str) -> Callable[[Any], Any]:
        """Return the function that returns the texts of a verified token's claim."""
        from rate_limiter.jwt import claim_texts

        if self.jwt is None:
            raise ValueError(f"{what}: 'jwt:{name}' needs jwt=Jwt(...), which verifies tokens")
        verifier = self.jwt

        async def later(claims: Awaitable[Any]) -> list[str] | None:
            return claim_texts(await claims, name) or None

        def texts(request: Any) -> Any:
            scope = self.framework.scope(request)
            claims = verifier.claims_of(scope, blocking=self._blocking)
            if inspect.isawaitable(claims):
                return later(claims)
            return claim_texts(claims, name) or None

        return texts

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
                return Source("network", name=without_zone(parse_network(rest)))
            except ValueError as error:
                raise ValueError(f"bypass: {error}") from None
        name, equals, wanted = rest.partition("=")
        name = name.strip()
        if kind not in ("header", "jwt") or not name or not equals or not wanted:
            raise ValueError(wrong)
        if kind == "header":
            if not is_token(name):
                raise ValueError(wrong)
            secret = (name.lower().encode("latin-1"), wanted.encode())
            return Source("secret", name=secret)
        return Source("call", call=_matches(self._claim(name, "bypass"), wanted.encode()))


def _matches(texts: Callable[[Any], Any], secret: bytes) -> Callable[[Any], Any]:
    """Return the function that is true if one of the texts is the secret."""

    def matches(values: list[str] | None) -> bool:
        return any(hmac.compare_digest(one.encode(), secret) for one in values or ())

    async def later(values: Awaitable[list[str] | None]) -> bool:
        return matches(await values)

    def test(request: Any) -> Any:
        values = texts(request)
        return later(values) if inspect.isawaitable(values) else matches(values)

    return test


def shortened(text: str) -> str:
    """Return a text, or its digest if it is too long for a key."""
    if len(text) <= _LONGEST:
        return text
    return "sha256:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def label_of(spec: object) -> str | None:
    """Return the prefix of the keys from a source, with header names in lower case."""
    if not isinstance(spec, str):
        return None
    kind, _, name = spec.partition(":")
    kind, name = kind.strip().lower(), name.strip()
    label = f"{kind}:{name.lower() if kind == 'header' else name}" if name else kind
    return f"{label}:"


def header_source(name: str, framework: Framework = ANY_FRAMEWORK) -> Callable[[Any], str | None]:
    """Return the function that reads a header; None if it is empty, missing or ambiguous."""
    wanted = name.lower().encode("latin-1")
    return lambda request: framework.header(request, wanted)


def user_of(scope: Any) -> str | None:
    """Return the user that Starlette's AuthenticationMiddleware has set, else None."""
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        return str(user.identity)
    except NotImplementedError:  # Starlette's own SimpleUser has a name only
        return str(user.display_name)
