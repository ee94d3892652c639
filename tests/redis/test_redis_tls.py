"""TLS to a Redis that is far away, and certificates that change on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import RateLimiter, StoreError
from support.fake_redis import FakeConnection, fake_redis
from support.far_away import far_away
from support.redis_asking import is_back, limiter_on
from support.redis_servers import RedisServer, TlsFiles, make_tls, redis_server, wait_until
from support.servers import free_port


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls(tmp_path_factory.mktemp("tls"))


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def sentinel_naming(port: int) -> Callable[[FakeConnection], None]:
    """Return a handler of a sentinel that names the master at a port."""

    def handle(connection: FakeConnection) -> None:
        words = connection.shake_hands()
        while True:
            if words[0] == b"SENTINEL":
                connection.send(b"*2\r\n" + bulk("127.0.0.1") + bulk(str(port)))
            else:
                connection.send(b"*3\r\n" + bulk("subscribe") + bulk("+switch-master") + b":1\r\n")
            words = connection.read_command()

    return handle


def is_up(limiter: RateLimiter) -> bool:
    with contextlib.suppress(StoreError):
        return limiter.allow("k")
    return False


def test_threads_are_back_from_an_outage_far_away(tls: TlsFiles, tmp_path: Path) -> None:
    """A handshake takes several round trips, and a probe has time for one of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose handshake takes two round trips
    context.load_cert_chain(tls.certificate("server"), tls.key("server"))
    master_port, sentinel_port = free_port(), free_port()
    sentinel_handler = sentinel_naming(master_port)
    query = f"ssl_ca_certs={tls.ca}&timeout=0.3&connect_timeout=3"
    limiter = limiter_on(f"rediss+sentinel://127.0.0.1:{sentinel_port}/mymaster?{query}")
    started_s = time.monotonic()
    while time.monotonic() - started_s < 2:  # until the pauses between probes are the longest
        assert not is_up(limiter)
        time.sleep(0.01)
    with (
        redis_server(tmp_path, tls=tls) as master,
        fake_redis(sentinel_handler, context) as sentinel,
        far_away(master_port, master.port, 0.2),
        far_away(sentinel_port, sentinel.port, 0.2),
    ):
        wait_until(lambda: is_up(limiter), "it is back", 60)


# --- Certificates and keys ---


@pytest.fixture(scope="module")
def strict(tls: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a server that demands certificates of its clients."""
    folder = tmp_path_factory.mktemp("strict")
    with redis_server(folder, "--tls-auth-clients", "yes", tls=tls) as server:
        yield server


def test_certificates_are_read_again(
    tls: TlsFiles, strict: RedisServer, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"
    tls.make("lapsed", "DNS:client", days=-1)
    shutil.copy(tls.certificate("lapsed"), certificate)
    shutil.copy(tls.key("lapsed"), key)
    limiter = limiter_on(f"{strict.url}&ssl_certfile={certificate}&ssl_keyfile={key}")
    assert isinstance(ask(limiter)[0], StoreError)
    # The two do not belong together until both are replaced.
    for path, new in ((certificate, tls.certificate("client")), (key, tls.key("client"))):
        assert isinstance(ask(limiter)[0], StoreError)
        os.replace(shutil.copy(new, tmp_path / "new"), path)
    is_back(limiter, ask)
    certificate.write_text("half a certi")
    with contextlib.closing(strict.admin()) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    is_back(limiter, ask)


def test_an_encrypted_key(tls: TlsFiles, strict: RedisServer) -> None:
    key = tls.encrypt_key("client", "p&ss")
    files = f"&ssl_certfile={tls.certificate('client')}&ssl_keyfile={key}"
    with pytest.raises(ValueError, match=r"encrypted.key': it is encrypted: give ssl_password"):
        limiter_on(strict.url + files)
    with pytest.raises(ValueError, match=r"encrypted, and ssl_password does not open it"):
        limiter_on(f"{strict.url}{files}&ssl_password=other")
    limiter = limiter_on(f"{strict.url}{files}&ssl_password=p%26ss")
    assert limiter.allow("k")
    assert "p%26ss" not in repr(limiter.store)
