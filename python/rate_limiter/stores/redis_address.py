"""Read the address of its server from a redis-py client.

This module does not import redis-py: it recognizes clients by their attributes.
"""

from __future__ import annotations

import inspect
import os
import ssl
import sys
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

_Words: TypeAlias = dict[str, str | bytes]

_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_TLS_KNOWN = {*_TLS_FILES, "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"}
# Advice for settings that an address cannot express.
_ADVICE = {
    "ssl_ca_data": "write the certificates to a file and give ssl_ca_certs",
    "ssl_cert_reqs": "expected 'required', 'optional', 'none' or one of ssl.CERT_*",
    "ssl_min_version": "give ssl.TLSVersion.TLSv1_2, or leave it out, which means the same",
    "credential_provider": "it needs a get_credentials that is not a coroutine",
    "sentinel_kwargs": "the sentinels must have the same TLS settings as the master",
    "address_remap": "give a client that reaches the nodes where the cluster says they are",
}


@dataclass(frozen=True)
class _Link:
    """The class of a client's connections to one server, and their settings."""

    connection: Any
    settings: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, pool: Any) -> _Link:
        return cls(pool.connection_class, pool.connection_kwargs)

    def is_a(self, name: str) -> bool:
        return any(each.__name__ == name for each in getattr(self.connection, "__mro__", ()))

    @property
    def is_tls(self) -> bool:
        return self.is_a("SSLConnection")

    @property
    def is_unix(self) -> bool:
        return self.is_a("UnixDomainSocketConnection")

    @property
    def is_real(self) -> bool:
        # Connections of fakeredis are derived from the real ones, and have a host.
        classes = getattr(self.connection, "__mro__", ())
        fake = any(each.__module__.partition(".")[0] == "fakeredis" for each in classes)
        known = self.is_unix or self.is_tls or self.is_a("Connection")
        return known and not fake and "server" not in self.settings


def redis_address(client_or_url: object) -> str:
    """Return the address of the server of a redis-py client.

    Args:
        client_or_url: a client of redis-py, sync or asyncio: plain, with TLS, over a unix socket,
            managed by Sentinel, or of a cluster. A str is returned as it is.

    Returns:
        An address as in docs/stores.md. Timeouts are not taken over. A credential provider is
        called once, now: later changes have no effect.

    Raises:
        TypeError: the argument is something else, or a client without a server.
        ValueError: the client has a setting that an address cannot express.
    """
    if isinstance(client_or_url, str):
        return client_or_url
    client: Any = client_or_url
    pool = getattr(client, "connection_pool", None)
    nodes = getattr(client, "nodes_manager", None)
    is_cluster = isinstance(getattr(nodes, "startup_nodes", None), dict)
    is_client = is_cluster or isinstance(getattr(pool, "connection_kwargs", None), dict)
    if not is_client or hasattr(client, "execute"):  # only pipelines have it
        raise _no_client(client)
    link = _cluster_link(nodes) if is_cluster else _Link.of(pool)
    if not link.is_real:
        raise _no_client(client)
    if is_cluster:
        return _cluster_address(link, nodes)
    return _sentinel_address(link, pool) if hasattr(pool, "sentinel_manager") else _plain(link)


def _no_client(client: object) -> TypeError:
    return TypeError(
        "expected the address of a Redis (str) or a redis-py client that has a server behind it, "
        f"got an object of {type(client).__module__}.{type(client).__qualname__}"
    )


def _not_taken(name: str) -> ValueError:
    advice = _ADVICE.get(name, "give a client without it, or an address")
    return ValueError(f"the client's {name} cannot be taken over: {advice}")


def _plain(link: _Link) -> str:
    settings = link.settings
    database = str(settings.get("db") or 0)
    if link.is_unix:
        return _address("unix", link, quote(os.fsencode(settings["path"])), {"db": database})
    return _address("redis", link, f"{_host(settings)}/{database}")


def _sentinel_address(link: _Link, pool: Any) -> str:
    if not pool.is_master:
        raise ValueError("a limiter writes: give a client made by master_for, not slave_for")
    sentinels = [_Link.of(each.connection_pool) for each in pool.sentinel_manager.sentinels]
    words: _Words = {}
    for each in sentinels:
        if each.is_tls != link.is_tls or _tls_words(each) != _tls_words(link):
            raise _not_taken("sentinel_kwargs")
        user, password = _credentials(each)
        words |= {"sentinel_username": user} if user else {}
        words |= {"sentinel_password": password} if password else {}
    hosts = ",".join(_host(each.settings) for each in sentinels)
    master = quote(pool.service_name, safe="")
    database = link.settings.get("db") or 0
    return _address("redis+sentinel", link, f"{hosts}/{master}/{database}", words)


def _cluster_link(nodes: Any) -> _Link:
    settings = nodes.connection_kwargs
    # In a sync client, the clients of its nodes choose the class.
    library = sys.modules.get(type(nodes).__module__.partition(".")[0])
    kind = "SSLConnection" if settings.get("ssl") else "Connection"
    return _Link(settings.get("connection_class") or getattr(library, kind, None), settings)


def _cluster_address(link: _Link, nodes: Any) -> str:
    if getattr(nodes, "address_remap", None) is not None:
        raise _not_taken("address_remap")
    hosts = (_host({"host": each.host, "port": each.port}) for each in nodes.startup_nodes.values())
    return _address("redis+cluster", link, ",".join(hosts))


def _host(settings: dict[str, Any]) -> str:
    host, port = settings.get("host", "localhost"), settings.get("port", 6379)
    return f"[{host}]:{port}" if ":" in host else f"{quote(host, safe='')}:{port}"


def _address(scheme: str, link: _Link, place: str, more: _Words | None = None) -> str:
    words = {**(more or {}), **_tls_words(link)}
    if link.is_tls:
        scheme = scheme.replace("redis", "rediss", 1)
    if link.settings.get("client_name"):
        words["client_name"] = _bytes(link.settings["client_name"])
    user, password = (quote(each, safe="") for each in _credentials(link))
    who = f"{user}:{password}@" if user or password else ""
    query = "?" + urlencode(words, quote_via=quote, safe="") if words else ""
    return f"{scheme}://{who}{place}{query}"


def _credentials(link: _Link) -> tuple[bytes, bytes]:
    user, password = link.settings.get("username"), link.settings.get("password")
    provider = link.settings.get("credential_provider")
    if provider is not None:
        get = getattr(provider, "get_credentials", None)
        if get is None or inspect.iscoroutinefunction(get):
            raise _not_taken("credential_provider")
        try:
            given = get()
        except NotImplementedError:  # the provider supports only asyncio
            raise _not_taken("credential_provider") from None
        user, password = given if len(given) == 2 else (None, given[0])
    return _bytes(user), _bytes(password)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


def _tls_words(link: _Link) -> _Words:
    if not link.is_tls:
        return {}
    settings = link.settings
    for name, value in settings.items():
        as_ever = (name, value) == ("ssl_min_version", ssl.TLSVersion.TLSv1_2)
        if name.startswith("ssl_") and name not in _TLS_KNOWN and value and not as_ever:
            raise _not_taken(name)
    words: _Words = {name: os.fsdecode(settings[name]) for name in _TLS_FILES if settings.get(name)}
    if settings.get("ssl_password"):
        words["ssl_password"] = settings["ssl_password"]
    checks = _effective(link, "ssl_cert_reqs", "required")
    if checks in (None, "none", ssl.CERT_NONE):
        words["ssl_cert_reqs"] = "none"
    # 'optional' has a meaning for servers only: such a client requires a certificate too.
    elif checks not in ("required", "optional", ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL):
        raise _not_taken("ssl_cert_reqs")
    if not _effective(link, "ssl_check_hostname", True):
        words["ssl_check_hostname"] = "false"
    return words


def _effective(link: _Link, name: str, otherwise: object) -> object:
    """Return a setting, or the default of the connection's class, which depends on its version."""
    if name in link.settings:
        return link.settings[name]
    for each in link.connection.__mro__:
        parameter = inspect.signature(each.__init__).parameters.get(name)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return otherwise
