"""From a redis-py client to the address of the server that it talks to.

redis-py is not needed to import this: clients are known by what they look like.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote, urlencode

_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
# What an address has no words for, and what to do about it.
_UNSUPPORTED = {
    "ssl_ca_data": "write the certificates to a file and give ssl_ca_certs",
    "ssl_password": "give a key file without a password",
}


def redis_address(client_or_url: object) -> str:
    """Return the address of the server that a redis-py client talks to.

    Args:
        client_or_url: a client of redis-py, sync or asyncio: plain, with TLS, over a unix socket,
            managed by Sentinel, or of a cluster. A str is returned as it is.

    Returns:
        An address as in docs/stores.md. Timeouts are not taken over. A credential provider is
        asked once, now.

    Raises:
        TypeError: it is something else, or a client without a server behind it.
        ValueError: the client has a setting that an address cannot express.
    """
    if isinstance(client_or_url, str):
        return client_or_url
    nodes = _cluster_nodes(client_or_url)
    if nodes is not None:
        settings, hosts = nodes
        return _address("redis+cluster", settings, hosts, "")
    pool = getattr(client_or_url, "connection_pool", None)
    given = getattr(pool, "connection_kwargs", None)
    if pool is None or not isinstance(given, dict) or hasattr(client_or_url, "execute"):
        raise _no_client(client_or_url)
    settings = given
    manager = getattr(pool, "sentinel_manager", None)
    if manager is not None:
        return _sentinel_address(pool, manager, settings)
    if type(client_or_url).__module__.startswith("fakeredis") or not (
        "host" in settings or "path" in settings
    ):
        raise _no_client(client_or_url)
    settings = {**settings, "_tls": _is_tls(pool)}
    database = str(settings.get("db") or 0)
    if "path" in settings:
        return _address("unix", settings, [], quote(str(settings["path"])), {"db": database})
    return _address("redis", settings, [(settings["host"], settings.get("port", 6379))], database)


def _no_client(client: object) -> TypeError:
    return TypeError(
        "expected the address of a Redis (str) or a redis-py client that has a server behind it, "
        f"got an object of {type(client).__module__}.{type(client).__qualname__}"
    )


def _is_tls(pool: Any) -> bool:
    names = [each.__name__ for each in getattr(pool.connection_class, "__mro__", ())]
    return any("SSL" in name for name in names)


def _cluster_nodes(client: Any) -> tuple[dict[str, Any], list[tuple[str, int]]] | None:
    manager = getattr(client, "nodes_manager", None)
    nodes = getattr(manager, "startup_nodes", None)
    if not isinstance(nodes, dict):
        return None
    given = getattr(manager, "connection_kwargs", None) or getattr(client, "connection_kwargs", {})
    kind = getattr(given.get("connection_class"), "__name__", "")
    settings = {**given, "_tls": bool(given.get("ssl")) or "SSL" in kind}
    return settings, [(node.host, node.port) for node in nodes.values()]


def _sentinel_address(pool: Any, manager: Any, settings: dict[str, Any]) -> str:
    if not pool.is_master:
        raise ValueError("a limiter writes: give a client made by master_for, not slave_for")
    hosts: list[tuple[str, int]] = []
    words: dict[str, str] = {}
    for sentinel in manager.sentinels:
        known = sentinel.connection_pool.connection_kwargs
        hosts.append((known["host"], known.get("port", 26379)))
        if known.get("username"):
            words["sentinel_username"] = str(known["username"])
        if known.get("password"):
            words["sentinel_password"] = str(known["password"])
    settings = {**settings, "_tls": _is_tls(pool)}
    path = f"{quote(str(pool.service_name), safe='')}/{settings.get('db') or 0}"
    return _address("redis+sentinel", settings, hosts, path, words)


def _address(
    scheme: str,
    settings: dict[str, Any],
    hosts: list[tuple[str, int]],
    path: str,
    words: dict[str, str] | None = None,
) -> str:
    words = dict(words or {})
    for name, advice in _UNSUPPORTED.items():
        if settings.get(name):
            raise ValueError(f"the client's {name} cannot be taken over: {advice}")
    if settings["_tls"]:
        scheme = scheme.replace("redis", "rediss", 1)
        words |= _tls_words(settings)
    if settings.get("client_name"):
        words["client_name"] = str(settings["client_name"])
    where = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts
    )
    separator = "" if scheme == "unix" or not path else "/"
    query = "?" + urlencode(words, quote_via=quote) if words else ""
    return f"{scheme}://{_credentials(settings)}{where}{separator}{path}{query}"


def _credentials(settings: dict[str, Any]) -> str:
    user, password = settings.get("username"), settings.get("password")
    provider = settings.get("credential_provider")
    if provider is not None:
        given = provider.get_credentials()
        user, password = given if len(given) == 2 else (None, given[0])
    if not user and not password:
        return ""
    return f"{_quoted(user)}:{_quoted(password)}@"


def _quoted(text: object) -> str:
    return quote(text if isinstance(text, bytes) else str(text or ""), safe="")


def _tls_words(settings: dict[str, Any]) -> dict[str, str]:
    words = {name: str(settings[name]) for name in _TLS_FILES if settings.get(name)}
    checks = settings.get("ssl_cert_reqs", "required")
    if checks in (None, "none", ssl.CERT_NONE):
        words["ssl_cert_reqs"] = "none"
    elif checks in ("optional", ssl.CERT_OPTIONAL):
        raise ValueError(
            "the client's ssl_cert_reqs 'optional' cannot be taken over: use 'required'"
        )
    if not settings.get("ssl_check_hostname", True):
        words["ssl_check_hostname"] = "false"
    return words
