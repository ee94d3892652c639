"""From redis-py clients to addresses, and addresses that are wrong."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec, patch

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from rate_limiter import RateLimiter, _core
from rate_limiter.stores.redis_address import redis_address

KINDS = [redis, redis.asyncio]
# Said by every TLS client here: its default is another one in version 5.
CHECKED = {"ssl": True, "ssl_check_hostname": True}


def cluster(kind: Any, **settings: Any) -> Any:
    """Make a client of a cluster that has not looked for its nodes."""

    def initialize(nodes: Any, *_: object, **__: object) -> None:
        nodes.default_node = next(iter(nodes.startup_nodes.values()))

    with (
        patch.object(redis.cluster.NodesManager, "initialize", initialize),
        patch.object(redis.cluster, "CommandsParser"),
    ):
        if "url" in settings:
            return kind.RedisCluster.from_url(**settings)
        nodes = [kind.cluster.ClusterNode("a", 1), kind.cluster.ClusterNode("::2", 2)]
        return kind.RedisCluster(startup_nodes=nodes, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"host": "10.0.0.1", "port": 7, "db": 3}, "redis://10.0.0.1:7/3"),
        ({"db": None}, "redis://localhost:6379/0"),
        ({"host": "::1"}, "redis://[::1]:6379/0"),
        ({"password": "p@:/?#%"}, "redis://:p%40%3A%2F%3F%23%25@localhost:6379/0"),
        ({"username": "ü", "password": "x"}, "redis://%C3%BC:x@localhost:6379/0"),
        ({"username": "u"}, "redis://u:@localhost:6379/0"),
        ({"password": b"\xff"}, "redis://:%FF@localhost:6379/0"),
        ({"client_name": "a b"}, "redis://localhost:6379/0?client_name=a%20b"),
        ({"client_name": b"a"}, "redis://localhost:6379/0?client_name=a"),
        ({"socket_timeout": 9, "socket_connect_timeout": 9}, "redis://localhost:6379/0"),
        ({"unix_socket_path": "/run/r s@.sock", "db": 2}, "unix:///run/r%20s%40.sock?db=2"),
        (
            {"unix_socket_path": Path("/s"), "username": "u", "password": "p", "client_name": "c"},
            "unix://u:p@/s?db=0&client_name=c",
        ),
        (CHECKED, "rediss://localhost:6379/0"),
        ({**CHECKED, "ssl_cert_reqs": "required"}, "rediss://localhost:6379/0"),
        ({**CHECKED, "ssl_cert_reqs": ssl.CERT_REQUIRED}, "rediss://localhost:6379/0"),
        ({**CHECKED, "ssl_cert_reqs": "optional"}, "rediss://localhost:6379/0"),
        ({**CHECKED, "ssl_min_version": ssl.TLSVersion.TLSv1_2}, "rediss://localhost:6379/0"),
        ({**CHECKED, "ssl_cert_reqs": None}, "rediss://localhost:6379/0?ssl_cert_reqs=none"),
        (
            {"ssl": True, "ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False},
            "rediss://localhost:6379/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        ),
        (
            {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False},
            "rediss://localhost:6379/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        ),
    ],
)
def test_client(kind: Any, decode: bool, settings: dict[str, Any], address: str) -> None:
    made = redis_address(kind.Redis(decode_responses=decode, **settings))
    assert made == address
    _core.RedisClient(made)


@pytest.mark.parametrize("kind", KINDS)
def test_client_with_files(kind: Any) -> None:
    files = {"ssl_ca_certs": "/c a", "ssl_certfile": "/c", "ssl_keyfile": "/k"}
    files |= {"ssl_password": "p&"}
    assert redis_address(kind.Redis(**CHECKED, **files)) == (
        "rediss://localhost:6379/0?ssl_ca_certs=%2Fc%20a&ssl_certfile=%2Fc&ssl_keyfile=%2Fk"
        "&ssl_password=p%26"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["ConnectionPool", "BlockingConnectionPool"])
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis:///2", "redis://localhost:6379/2"),
        ("redis://u:p%40@h:1/2?socket_timeout=3&max_connections=5", "redis://u:p%40@h:1/2"),
        ("redis://[::1]:1", "redis://[::1]:1/0"),
        ("rediss://h:1?ssl_check_hostname=true", "rediss://h:1/0"),
        ("rediss://h?ssl_check_hostname=no", "rediss://h:6379/0?ssl_check_hostname=false"),
        ("unix://:p@/s?db=1", "unix://:p@/s?db=1"),
    ],
)
def test_client_from_url(kind: Any, pool: str, url: str, address: str) -> None:
    if pool == "ConnectionPool":
        assert redis_address(kind.Redis.from_url(url)) == address
    made = getattr(kind, pool).from_url(url)
    assert redis_address(kind.Redis(connection_pool=made)) == address


@pytest.mark.parametrize("kind", KINDS)
def test_client_checks_names_as_its_version_does(kind: Any) -> None:
    checks = redis.SSLConnection().check_hostname
    expected = "rediss://{}" + ("" if checks else "?ssl_check_hostname=false")
    assert redis_address(kind.Redis(ssl=True)) == expected.format("localhost:6379/0")
    assert redis_address(kind.Redis.from_url("rediss://h")) == expected.format("h:6379/0")
    assert redis_address(cluster(kind, ssl=True)) == (
        expected.replace("rediss", "rediss+cluster").format("a:1,[::2]:2")
    )


def test_address_is_returned_as_it_is() -> None:
    assert redis_address("anything: it is read elsewhere") == "anything: it is read elsewhere"


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_client_of_sentinel(module: Any) -> None:
    sentinel = module.Sentinel(
        [("s1", 1), ("::2", 2)],
        sentinel_kwargs={"username": "su", "password": "s p"},
        password="p",
        db=4,
    )
    made = redis_address(sentinel.master_for("my/master", client_name="c"))
    assert made == (
        "redis+sentinel://:p@s1:1,[::2]:2/my%2Fmaster/4"
        "?sentinel_username=su&sentinel_password=s%20p&client_name=c"
    )
    _core.RedisClient(made)
    with pytest.raises(ValueError, match="made by master_for, not slave_for"):
        redis_address(sentinel.slave_for("mymaster"))


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_client_of_sentinel_with_tls(module: Any) -> None:
    settings = {"ssl_check_hostname": False, "ssl_ca_certs": "/ca", "ssl": True}
    sentinel = module.Sentinel([("s", 1)], sentinel_kwargs=settings, **settings)
    assert redis_address(sentinel.master_for("m")) == (
        "rediss+sentinel://s:1/m/0?ssl_ca_certs=%2Fca&ssl_check_hostname=false"
    )
    for others in ({}, CHECKED):
        mixed = module.Sentinel([("s", 1)], sentinel_kwargs=others, **settings)
        with pytest.raises(ValueError, match=r"sentinel_kwargs .*: .* same TLS"):
            redis_address(mixed.master_for("m"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "redis+cluster://a:1,[::2]:2"),
        ({"username": "u", "password": "p/"}, "redis+cluster://u:p%2F@a:1,[::2]:2"),
        ({"url": "redis://u:p@h:7"}, "redis+cluster://u:p@h:7"),
        (
            {"ssl": True, "ssl_check_hostname": False, "ssl_cert_reqs": "none"},
            "rediss+cluster://a:1,[::2]:2?ssl_cert_reqs=none&ssl_check_hostname=false",
        ),
        (
            {"url": "rediss://h:7?ssl_cert_reqs=none&ssl_check_hostname=false"},
            "rediss+cluster://h:7?ssl_cert_reqs=none&ssl_check_hostname=false",
        ),
    ],
)
def test_client_of_cluster(kind: Any, settings: dict[str, Any], address: str) -> None:
    made = redis_address(cluster(kind, **settings))
    assert made == address
    _core.RedisClient(made)


@pytest.mark.parametrize("kind", KINDS)
def test_client_of_cluster_behind_other_addresses(kind: Any) -> None:
    with pytest.raises(ValueError, match="address_remap cannot be taken over"):
        redis_address(cluster(kind, address_remap=lambda address: address))


class ForAsyncio(redis.CredentialProvider):
    """A provider that only an asyncio client can ask."""

    async def get_credentials_async(self) -> tuple[str]:
        return ("secret",)


class WithoutBase:
    """Another one."""

    async def get_credentials(self) -> tuple[str]:
        return ("secret",)


@pytest.mark.parametrize("kind", KINDS)
def test_credential_provider(kind: Any) -> None:
    for words, who in [(("me", "se:cret"), "me:se%3Acret"), (("", "secret"), ":secret")]:
        provider = redis.UsernamePasswordCredentialProvider(*words)
        assert redis_address(kind.Redis(credential_provider=provider)) == (
            f"redis://{who}@localhost:6379/0"
        )
    for other in (ForAsyncio(), WithoutBase(), object()):
        with pytest.raises(ValueError, match="credential_provider cannot be taken over"):
            redis_address(kind.Redis(credential_provider=other))


class NoConnection:
    """Of no kind that redis-py has."""


class FakeConnection(redis.Connection):
    """As that of fakeredis: derived from the real one."""

    __module__ = "fakeredis._connection"

    def __init__(self, server: object = None, **settings: Any) -> None:
        super().__init__(**settings)


class WithServer(redis.Connection):
    """In a module of another name."""


def with_connection(kind: type, **settings: Any) -> redis.Redis:
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **settings))


@pytest.mark.parametrize(
    "client",
    [
        None,
        5,
        b"redis://localhost",
        object(),
        Mock(),
        create_autospec(redis.Redis, instance=True),
        redis.Redis,
        redis.Redis().pipeline(),
        redis.asyncio.Redis().pipeline(),
        cluster(redis).pipeline(),
        cluster(redis.asyncio).pipeline(),
        redis.sentinel.Sentinel([("s", 1)]),
        with_connection(NoConnection),
        with_connection(FakeConnection, host="h"),
        with_connection(WithServer, host="h", server=object()),
    ],
)
def test_no_client(client: object) -> None:
    with pytest.raises(TypeError, match=r"expected the address of a Redis \(str\) or") as caught:
        redis_address(client)
    assert str(caught.value).endswith(f".{type(client).__qualname__}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ssl_ca_data": "PEM"}, "ssl_ca_data cannot be taken over: write the certificates"),
        ({"ssl_ciphers": "AES"}, "ssl_ciphers cannot be taken over: give a client without it"),
        ({"ssl_min_version": ssl.TLSVersion.TLSv1_3}, "ssl_min_version cannot be taken over"),
        ({"ssl_validate_ocsp": True}, "ssl_validate_ocsp cannot be taken over"),
        ({"ssl_cert_reqs": "maybe"}, "ssl_cert_reqs cannot be taken over: expected 'required'"),
    ],
)
def test_settings_without_words(settings: dict[str, Any], message: str) -> None:
    client = redis.Redis(ssl=True, password="secret", **settings)
    with pytest.raises(ValueError, match=message) as caught:
        redis_address(client)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:6379", "store must be 'memory://' or the address of a Redis"),
        ("http://localhost", "the scheme must be redis, rediss, unix, .* got 'http'"),
        ("redis://h:0", "the port must be a number from 1 to 65535, got '0'"),
        ("redis://h:65536", "the port must be a number from 1 to 65535, got '65536'"),
        ("redis://h:6379x", "the port must be .* after a password, '@' and the host follow"),
        ("redis://h/x", "the database must be a whole number from 0, got 'x'"),
        ("redis://h/-1", "the database must be a whole number from 0, got '-1'"),
        ("redis://a,b", "several hosts need redis"),
        ("redis://h_!", "the host must be a name or an address"),
        ("redis://[::1", "must be an address in brackets"),
        ("redis://:p%zz@h", "the password has a '%' that two hexadecimal digits"),
        ("redis://:secret@x@h", "'@' must be written %40"),
        ("redis://:sec/ret@h", "'/' %2F"),
        ("redis://h/0?db=1&db=2", "the option db is there twice"),
        ("redis://h?timeout=0", "timeout must be seconds above 0 and at most 3600, got '0'"),
        ("redis://h?timeout=soon", "timeout must be seconds above 0 .* got 'soon'"),
        ("redis://h?tiemout=1", "there is no option 'tiemout'; known are db"),
        ("redis://h?ssl_certfile=/c", "ssl_certfile needs TLS, which rediss:// asks for"),
        ("rediss://h?ssl_check_hostname=maybe", "must be true or false, got 'maybe'"),
        ("rediss://h?ssl_cert_reqs=optional", "must be required or none, got 'optional'"),
        ("rediss://h?ssl_ca_certs=/no/such", "no certificate authorities in '/no/such'"),
        ("rediss://h?ssl_certfile=/no/such", "no client certificate in '/no/such'"),
        ("redis+sentinel://h", "the name of the master is missing"),
        ("redis+cluster://h/1", "the database of a cluster is 0, got '1'"),
        ("unix://", "the path of the socket is missing"),
        ("unix://tmp/x.sock", "the path of a socket begins with '/'"),
        ("redis://h h", "no spaces or control characters, got one at place 10"),
        ("redis://h#f", "a '#' in an address must be written '%23'"),
    ],
)
def test_wrong_address(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RateLimiter("1/s", store=address)
    assert "sec" not in str(caught.value).replace("seconds", "")
