"""Jwt: the claims of a bearer token whose signature is verified.

PyJWT verifies tokens (``pip install 'rate_limiter[jwt]'``). A token that is missing, malformed,
expired, or signed with another key or algorithm has no claims, so it gives neither an identity nor
a tier.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import urllib.request
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from jwt.exceptions import InvalidTokenError, PyJWTError

from rate_limiter.checks.arguments import check_arguments, checked_several
from rate_limiter.checks.members import header_pairs
from rate_limiter.checks.redaction import redacted, shown

logger = logging.getLogger("rate_limiter")

SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Minimum length of a secret: that of the hash (RFC 7518, section 3.2)."""
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512"}
    | {"EdDSA"}
)
_TOKEN_MAX = 8192  # characters; longer tokens are ignored
_JWKS_MAX = 1 << 20  # bytes
_CLAIMS = "rate_limiter.claims"

Claims = Mapping[str, Any]


class Jwt:
    """Verify the bearer token of a request.

    Give one of `secret`, `public_key` and `jwks`.

    Args:
        secret: secret of the HMAC algorithms, at least as long as the hash.
        public_key: public key in PEM form.
        jwks: a JSON Web Key Set (RFC 7517): a file, or a URL with https (http on this host). It
            is read on first use, again after `refresh_s`, and when a token names a key that it
            does not contain, but then at most every `retry_s`.
        algorithms: accepted algorithms. They are never taken from the token.
        audience: required ``aud``, or several of which one is required; None accepts any.
        issuer: required ``iss``; None accepts any.
        leeway_s: seconds by which clocks may differ.
        header: header with the token after ``Bearer``.
        refresh_s: seconds after which `jwks` is read again.
        retry_s: minimum seconds between two reads of `jwks`.
        timeout_s: maximum seconds for a read of `jwks`.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: the key set's file cannot be read.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | None = None,
        public_key: str | bytes | None = None,
        jwks: str | Path | None = None,
        algorithms: Iterable[str],
        audience: str | Iterable[str] | None = None,
        issuer: str | None = None,
        leeway_s: float = 0,
        header: str = "authorization",
        refresh_s: float = 300,
        retry_s: float = 10,
        timeout_s: float = 2,
    ) -> None:
        check_arguments(Jwt.__init__, dict(locals()))
        given = [one for one in (secret, public_key, jwks) if one is not None]
        if len(given) != 1:
            raise TypeError("give one of secret, public_key and jwks")
        self.algorithms = _checked_algorithms(algorithms, secret)
        self._keys: _Keys | None = None
        self._key: Any = secret if secret is not None else public_key
        if jwks is not None:
            self._keys = _Keys(jwks, refresh_s, retry_s, timeout_s)
        elif public_key is not None:
            self._key = _checked_public_key(public_key, self.algorithms)
        self._options: dict[str, Any] = {
            "audience": audience
            if audience is None or isinstance(audience, str)
            else checked_several("audience", audience, "names", "api"),
            "issuer": issuer,
            "leeway": leeway_s,
            "options": {"require": ["exp"], "verify_aud": audience is not None},
        }
        self._header = header.lower().encode("latin-1")

    def claims_of(
        self, scope: Any, *, blocking: bool = False
    ) -> Claims | Awaitable[Claims | None] | None:
        """Return the claims of a request's token, None for none; awaitable while keys are fetched.

        Args:
            scope: the ASGI scope, which caches the claims.
            blocking: wait for keys, for callers without an event loop.
        """
        known: dict[Jwt, Claims | None] = scope.setdefault(_CLAIMS, {})
        if self in known:
            return known[self]
        token = self._token_in(scope)
        keys = None if blocking else self._keys
        if token is not None and keys is not None and keys.must_fetch(_kid(token)):
            return self._claims_later(scope, token)
        claims = known[self] = None if token is None else self.verify(token)
        return claims

    async def _claims_later(self, scope: Any, token: str) -> Claims | None:
        claims = scope[_CLAIMS][self] = await asyncio.to_thread(self.verify, token)
        return claims

    def _token_in(self, scope: Any) -> str | None:
        values = [value for name, value in header_pairs(scope) if name == self._header]
        if len(values) != 1 or len(values[0]) > _TOKEN_MAX:
            return None  # with two tokens, the application may use the other one
        scheme, _, token = values[0].decode("latin-1").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    def verify(self, token: str) -> Claims | None:
        """Return the claims of a token, None if it is invalid. May fetch the key set."""
        try:
            key = self._key if self._keys is None else self._keys.get(_kid(token))
            if key is None:
                return None
            claims: Claims = jwt.decode(token, key, algorithms=self.algorithms, **self._options)
        except (PyJWTError, ValueError, TypeError, RecursionError) as error:
            logger.debug("a token was not accepted: %s", error)
            return None
        return claims


def claim_texts(claims: Claims | None, name: str) -> list[str]:
    """Return the values of a claim as texts: those of a list, and the words of a scope.

    A dotted name (``realm_access.roles``) is a path through objects. Values other than texts,
    numbers and lists of them are ignored.
    """
    value: Any = claims
    if isinstance(claims, Mapping) and name in claims:
        value = claims[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str) and name in ("scope", "scp"):
        value = value.split()
    values = value if isinstance(value, (list, tuple)) else [value]
    return [
        str(one)
        for one in values
        if isinstance(one, (str, int)) and not isinstance(one, bool) and one != ""
    ]


# --- Checks --------------------------------------------------------------------------------------


def _checked_algorithms(algorithms: Iterable[str], secret: str | bytes | None) -> list[str]:
    example = "RS256" if secret is None else "HS256"
    names = checked_several("algorithms", algorithms, "names", example)
    known = SECRET_BYTES.keys() if secret is not None else ASYMMETRIC
    if not names:
        raise ValueError("algorithms must name at least one")
    for name in names:
        if name not in known:
            what = "a secret" if secret is not None else "a public key or a key set"
            raise ValueError(
                f"algorithms: {name!r} is none for {what}; expected {', '.join(sorted(known))}"
            )
    if secret is not None:
        size = len(secret.encode() if isinstance(secret, str) else secret)
        least = max(SECRET_BYTES[name] for name in names)
        if size < least:
            raise ValueError(f"secret must have at least {least} bytes, got {size}")
    return names


def _checked_public_key(public_key: str | bytes, algorithms: list[str]) -> Any:
    text = public_key.decode() if isinstance(public_key, bytes) else public_key
    try:
        keys = [jwt.get_algorithm_by_name(name).prepare_key(text) for name in algorithms]
    except (PyJWTError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"public_key does not fit {', '.join(algorithms)}: {error}") from None
    if any(hasattr(key, "private_numbers") or hasattr(key, "private_bytes") for key in keys):
        raise ValueError("public_key is a private key; give its public half")
    return text


def _kid(token: str) -> str | None:
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (InvalidTokenError, ValueError, RecursionError):
        return None
    return kid if isinstance(kid, str) else None


# --- Key sets ------------------------------------------------------------------------------------


class _Keys:
    """A key set from a file or a URL, fetched when due."""

    def __init__(
        self, source: str | Path, refresh_s: float, retry_s: float, timeout_s: float
    ) -> None:
        self._source = source
        self._is_url = isinstance(source, str) and "://" in source
        self._refresh_s, self._retry_s, self._timeout_s = refresh_s, retry_s, timeout_s
        self._lock = threading.Lock()  # guards everything below
        self._by_kid: dict[str | None, Any] = {}
        self._fetched_s = self._tried_s = float("-inf")
        self._failing = False
        if self._is_url:
            _check_url(str(source))
        else:
            try:
                self._fetch(time.monotonic())
            except OSError as error:
                raise type(error)(error.errno, error.strerror, redacted(str(source))) from None
            except (PyJWTError, ValueError) as error:
                raise ValueError(f"jwks: {redacted(str(source))}: {error}") from None

    def must_fetch(self, kid: str | None) -> bool:
        """Return True if get() would wait for the source."""
        return self._is_due(kid, time.monotonic())

    def get(self, kid: str | None) -> Any:
        """Return the key with an id, None if there is none."""
        # With a timeout: a forked child may have inherited a lock that is never released.
        if not self._lock.acquire(timeout=2 * self._timeout_s):
            return self._found(kid)
        try:
            now_s = time.monotonic()
            if self._is_due(kid, now_s):
                try:
                    self._fetch(now_s)
                    self._failing = False
                except (OSError, ValueError, PyJWTError) as error:
                    if not self._failing:
                        source = redacted(str(self._source))
                        logger.error("the key set %s cannot be read: %s", source, error)
                    self._failing = True
            return self._found(kid)
        finally:
            self._lock.release()

    def _found(self, kid: str | None) -> Any:
        if kid is None and len(self._by_kid) == 1:
            return next(iter(self._by_kid.values()))
        return self._by_kid.get(kid)

    def _is_due(self, kid: str | None, now_s: float) -> bool:
        if now_s - self._tried_s < self._retry_s:
            return False
        return now_s - self._fetched_s >= self._refresh_s or self._found(kid) is None

    def _fetch(self, now_s: float) -> None:
        self._tried_s = now_s
        if self._is_url:
            request = urllib.request.Request(str(self._source))
            with _OPENER.open(request, timeout=self._timeout_s) as response:
                text = response.read(_JWKS_MAX + 1)
        else:
            text = Path(self._source).read_bytes()
        if len(text) > _JWKS_MAX:
            raise ValueError(f"it is larger than {_JWKS_MAX} bytes")
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("keys"), list):
            raise ValueError("it is no JSON Web Key Set")
        keys = jwt.PyJWKSet.from_dict(data).keys
        # A symmetric key in a public set is not secret.
        self._by_kid = {key.key_id: key for key in keys if key.key_type != "oct"}
        self._fetched_s = now_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError(f"jwks must be a file or a URL of https, got {shown(url)}")
