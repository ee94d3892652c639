"""From redis-py clients to addresses, and addresses that are wrong."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from rate_limiter import RateLimiter, _core
from rate_limiter.redis_address import redis_address

KINDS = [redis, redis.asyncio]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"host": "10.0.0.1", "port": 7, "db": 3}, "redis://10.0.0.1:7/3"),
        ({"host": "::1"}, "redis://[::1]:6379/0"),
        ({"password": "p@:/?#%"}, "redis://:p%40%3A%2F%3F%23%25@localhost:6379/0"),
        ({"username": "ü", "password": "x"}, "redis://%C3%BC:x@localhost:6379/0"),
        ({"client_name": "a b"}, "redis://localhost:6379/0?client_name=a%20b"),
        ({"unix_socket_path": "/run/r s.sock", "db": 2}, "unix:///run/r%20s.sock?db=2"),
        (
            {"ssl": True, "ssl_ca_certs": "/ca", "ssl_certfile": "/c", "ssl_keyfile": "/k"},
            "rediss://localhost:6379/0?ssl_ca_certs=%2Fca&ssl_certfile=%2Fc&ssl_keyfile=%2Fk",
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
    _core.RedisClient(made.replace("%2Fca", "").replace("%2Fc&", "&").partition("?")[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", ["redis://u:p@h:1/2", "rediss://h:1/0", "unix:///s?db=1"])
def test_client_from_url(kind: Any, url: str) -> None:
    assert redis_address(kind.Redis.from_url(url)).startswith(url.replace("unix:///s", "unix:///s"))


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_client_of_sentinel(module: Any) -> None:
    sentinel = module.Sentinel(
        [("s1", 1), ("s2", 2)], sentinel_kwargs={"password": "sp"}, password="p", db=4
    )
    assert redis_address(sentinel.master_for("my/master")) == (
        "redis+sentinel://:p@s1:1,s2:2/my%2Fmaster/4?sentinel_password=sp"
    )
    with pytest.raises(ValueError, match="made by master_for, not slave_for"):
        redis_address(sentinel.slave_for("mymaster"))


def test_client_of_cluster() -> None:
    nodes = [redis.asyncio.cluster.ClusterNode("a", 1), redis.asyncio.cluster.ClusterNode("b", 2)]
    client = redis.asyncio.RedisCluster(startup_nodes=nodes, password="p")
    assert redis_address(client) == "redis+cluster://:p@a:1,b:2"


def test_credential_provider() -> None:
    provider = redis.UsernamePasswordCredentialProvider("me", "secret")
    assert redis_address(redis.Redis(credential_provider=provider)) == (
        "redis://me:secret@localhost:6379/0"
    )


class FakeConnection:
    """As fakeredis has it: no host, no path."""


@pytest.mark.parametrize(
    "client",
    [
        None,
        5,
        b"redis://localhost",
        object(),
        Mock(),
        redis.Redis().pipeline(),
        redis.Redis(connection_pool=redis.ConnectionPool(connection_class=FakeConnection)),
    ],
)
def test_no_client(client: object) -> None:
    with pytest.raises(TypeError, match=r"expected the address of a Redis \(str\) or a redis-py"):
        redis_address(client)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ssl_ca_data": "PEM"}, "ssl_ca_data cannot be taken over: write the certificates"),
        ({"ssl_password": "secret"}, "ssl_password cannot be taken over"),
        ({"ssl_cert_reqs": "optional"}, "ssl_cert_reqs 'optional' cannot be taken over"),
    ],
)
def test_settings_without_words(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        redis_address(redis.Redis(ssl=True, **settings))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:6379", "store must be 'memory://' or the address of a Redis"),
        ("http://localhost", "the scheme must be redis, rediss, unix, .* got 'http'"),
        ("redis://h:0", "the port must be a number from 1 to 65535, got '0'"),
        ("redis://h:65536", "the port must be a number from 1 to 65535, got '65536'"),
        ("redis://h:6379x", "the port must be .* got '6379x'"),
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
