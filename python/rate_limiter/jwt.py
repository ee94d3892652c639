"""Jwt: the claims of a bearer token whose signature is verified.

PyJWT verifies tokens (``pip install 'rate-limiter-c[jwt]'``). A token that is missing, malformed,
expired, or signed with another key or algorithm has no claims, so it gives neither an identity nor
a tier.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rate_limiter.checks.arguments import check_arguments, checked_several
from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.members import header_pairs
from rate_limiter.checks.redaction import redacted, shown

with extra_named():
    import jwt
    from jwt.exceptions import InvalidTokenError, PyJWTError

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
            does not contain, but then at most every `retry_s`. A thread reads it; tokens whose key
            is known do not wait.
        algorithms: accepted algorithms. They are never taken from the token.
        audience: required ``aud``, or several of which one is required; None accepts any.
        issuer: required ``iss``; None accepts any.
        leeway_s: seconds by which clocks may differ.
        header: header with the token after ``Bearer``.
        refresh_s: seconds after which `jwks` is read again.
        retry_s: minimum seconds between two reads of `jwks`.
        timeout_s: maximum seconds that requests wait for a read of `jwks`.

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
        self.algorithms: list[str] = _checked_algorithms(algorithms, secret)
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
        """Return the claims of a request's token, None for none.

        They are awaitable if the token's key is unknown and the key set is being read.

        Args:
            scope: the ASGI scope, which caches the claims.
            blocking: wait for the key set instead, for callers without an event loop.
        """
        known: dict[Jwt, Claims | None] = scope.setdefault(_CLAIMS, {})
        if self in known:
            return known[self]
        token = self._token_in(scope)
        if token is None:
            claims = known[self] = None
            return claims
        reading = None if self._keys is None else self._keys.awaited_reading(_kid(token))
        if reading is not None and not blocking:
            return self._claims_later(scope, token, reading)
        claims = known[self] = self.verify(token)
        return claims

    async def _claims_later(self, scope: Any, token: str, reading: Future[None]) -> Claims | None:
        assert self._keys is not None
        await asyncio.wait([asyncio.wrap_future(reading)], timeout=self._keys.wait_s())
        claims = scope[_CLAIMS][self] = self._verified(token)
        return claims

    def _token_in(self, scope: Any) -> str | None:
        values = [value for name, value in header_pairs(scope) if name == self._header]
        if len(values) != 1 or len(values[0]) > _TOKEN_MAX:
            return None  # with two tokens, the application may use the other one
        scheme, _, token = values[0].decode("latin-1").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    def verify(self, token: str) -> Claims | None:
        """Return the claims of a token, None if it is invalid. May wait for the key set."""
        reading = None if self._keys is None else self._keys.awaited_reading(_kid(token))
        if reading is not None and self._keys is not None:
            wait([reading], self._keys.wait_s())
        return self._verified(token)

    def _verified(self, token: str) -> Claims | None:
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
    """A key set from a file or a URL. A thread reads it when it is due; known keys stay in use."""

    def __init__(
        self, source: str | Path, refresh_s: float, retry_s: float, timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._source = source
        self._is_url = isinstance(source, str) and "://" in source
        self._refresh_s, self._retry_s = refresh_s, retry_s
        # The reading by process: a thread does not survive a fork. At most one item is in use.
        self._readings: dict[int, Future[None]] = {}
        self._waited_until_s = float("-inf")
        # Below: changed only by the thread that reads.
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

    def awaited_reading(self, kid: str | None) -> Future[None] | None:
        """Start to read the source if it is due. Return the reading if get(kid) needs it."""
        reading = self._readings.get(os.getpid())
        if reading is None and self._is_due(kid):
            reading = self._started(kid)
        return reading if self.get(kid) is None else None

    def wait_s(self) -> float:
        """Return how long to wait for the reading, so that a source that hangs delays few."""
        return max(0.0, self._waited_until_s - time.monotonic())

    def _started(self, kid: str | None) -> Future[None]:
        mine: Future[None] = Future()
        mine.set_running_or_notify_cancel()  # so that a cancelled task does not cancel it
        reading = self._readings.setdefault(os.getpid(), mine)
        if reading is mine:
            self._waited_until_s = time.monotonic() + self._timeout_s
            thread = threading.Thread(
                target=self._run, args=(kid, mine), name="rate_limiter keys", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # there are too many, or the interpreter ends
                self._end(mine)
        return reading

    def _run(self, kid: str | None, reading: Future[None]) -> None:
        try:
            if self._is_due(kid):  # else another thread has just read it
                self._fetch(time.monotonic())
                self._failing = False
        except Exception as error:
            if not self._failing:
                source = redacted(str(self._source))
                logger.error("the key set %s cannot be read: %s", source, error)
            self._failing = True
        finally:
            self._end(reading)

    def _end(self, reading: Future[None]) -> None:
        del self._readings[os.getpid()]
        reading.set_result(None)

    def get(self, kid: str | None) -> Any:
        """Return the key with an id, None if it is unknown."""
        if kid is None and len(self._by_kid) == 1:
            return next(iter(self._by_kid.values()))
        return self._by_kid.get(kid)

    def _is_due(self, kid: str | None) -> bool:
        now_s = time.monotonic()
        if now_s - self._tried_s < self._retry_s:
            return False
        return now_s - self._fetched_s >= self._refresh_s or self.get(kid) is None

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
            raise ValueError("it is not a JSON Web Key Set")
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
