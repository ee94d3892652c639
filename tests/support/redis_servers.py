"""Real Redis servers for tests: alone, watched by sentinels, as a cluster, and with TLS.

Each is a context manager that gives a server which answers, on free loopback ports, and stops it
by process id. They run redis-server, or the program in RATE_LIMITER_TEST_SERVER, such as Valkey's
or an older one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from support.servers import free_port

PROGRAM = os.environ.get("RATE_LIMITER_TEST_SERVER", "redis-server")
READY_TIMEOUT_S = 120.0
# Limiters give a decision 0.1 s, which is not enough on a busy machine. redis-py reads this too.
PATIENT = "socket_timeout=30&socket_connect_timeout=30"


def wait_until(true: Callable[[], object], what: str, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Poll until a condition holds.

    Raises:
        TimeoutError: it does not, in that time.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if true():
                return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {timeout_s} s in vain until {what}")
        time.sleep(0.01)


@dataclass
class RedisServer:
    """A redis-server process that can be killed, stopped and started again on the same port."""

    folder: Path
    port: int
    options: list[str] = field(default_factory=list)
    password: str | None = None
    tls: TlsFiles | None = None
    program: str = PROGRAM
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return the address, for limiters with the usual deadline."""
        who = f":{self.password}@" if self.password else ""
        if self.tls is not None:
            return f"rediss://{who}127.0.0.1:{self.port}/0?ssl_ca_certs={self.tls.ca}"
        return f"redis://{who}127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        """Return the address, for limiters that wait for an answer however busy the machine is."""
        return f"{self.address}{'&' if '?' in self.address else '?'}{PATIENT}"

    @property
    def socket_path(self) -> Path:
        return self.folder / f"{self.port}.sock"

    def admin(self, **settings: Any) -> redis.Redis:
        """Return a redis-py client, to look at the server from outside."""
        if self.tls is not None:
            settings |= {
                "ssl": True,
                "ssl_ca_certs": str(self.tls.ca),
                "ssl_certfile": str(self.tls.certificate("client")),
                "ssl_keyfile": str(self.tls.key("client")),
            }
        settings = {"protocol": 2, **settings}  # which servers before Redis 6 have too
        return redis.Redis(
            "127.0.0.1", self.port, password=self.password, socket_timeout=5, **settings
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where = ["--tls-port", str(self.port), "--port", "0"] if self.tls is not None else []
        where = where or ["--port", str(self.port)]
        command = [self.program, *where, "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--unixsocket", str(self.socket_path)]
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command + self.options, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, f"the redis-server on port {self.port} answers")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            log = (self.folder / f"{self.port}.log").read_text(errors="replace")
            raise RuntimeError(f"redis-server ended:\n{log}")
        with contextlib.closing(self.admin()) as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                pass
            except redis.ResponseError as error:
                return "NOAUTH" in str(error)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def pause(self) -> None:
        """Make it silent: connections stay, nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, **settings: Any) -> Iterator[RedisServer]:
    """Run one redis-server until the block ends, with options such as ``"--maxclients", "5"``."""
    server = RedisServer(folder, free_port(), list(options), **settings)
    if server.password:
        server.options += ["--requirepass", server.password]
    if server.tls is not None:
        server.options = server.tls.server_options() + server.options
    try:
        server.start()
        yield server
    finally:
        server.kill()


# --- TLS ---


@dataclass
class TlsFiles:
    """Certificates made on the spot by openssl."""

    folder: Path
    name: str = "server"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def encrypt_key(self, name: str, password: str) -> Path:
        """Return a copy of a key that the password opens."""
        encrypted = self.folder / f"{name}.encrypted.key"
        _openssl("pkcs8", "-topk8", "-in", self.key(name), "-out", encrypted,
                 "-passout", f"pass:{password}")  # fmt: skip
        return encrypted

    def server_options(self) -> list[str]:
        """Return the arguments of redis-server."""
        return [
            *("--tls-cert-file", str(self.certificate(self.name))),
            *("--tls-key-file", str(self.key(self.name))),
            *("--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "optional"),
        ]

    def make_authority(self, name: str) -> None:
        """Make a certificate that others are signed with."""
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                 "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                 "-keyout", self.key(name), "-out", self.certificate(name))  # fmt: skip

    def make(self, name: str, alternatives: str, days: int = 2) -> None:
        """Make a certificate that is signed by the authority ``ca``."""
        request, extension = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        # All that Python 3.13 requires of a certificate (RFC 5280).
        extension.write_text(
            f"subjectAltName={alternatives}\n"
            "basicConstraints=critical,CA:FALSE\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                 "-keyout", self.key(name), "-out", request)  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key("ca"),
                 "-CAcreateserial", "-days", str(days), "-extfile", extension, "-out",
                 self.certificate(name))  # fmt: skip


def _openssl(*words: object) -> None:
    program = shutil.which("openssl")
    assert program is not None, "the openssl program is needed"
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def make_tls(folder: Path) -> TlsFiles:
    """Make two authorities and certificates: good, with a wrong name, expired, of a client."""
    files = TlsFiles(folder)
    files.make_authority("ca")
    files.make_authority("other")
    files.make("server", "DNS:localhost,IP:127.0.0.1")
    files.make("elsewhere", "DNS:elsewhere.example")
    files.make("expired", "DNS:localhost,IP:127.0.0.1", days=-1)
    files.make("client", "DNS:client")
    return files


# --- Sentinel ---


@dataclass
class SentinelGroup:
    """One master with replicas, and sentinels that watch them."""

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        """Return the address for a limiter."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster/0"

    def sees_all(self, sentinel: RedisServer) -> bool:
        """Return True if a sentinel has found the replicas and the other sentinels."""
        with contextlib.closing(sentinel.admin()) as client:
            master = client.sentinel_master("mymaster")
        found = (master["num-slaves"], master["num-other-sentinels"])
        return bool(found == (len(self.servers) - 1, len(self.sentinels) - 1))

    def master_port(self) -> int:
        """Return the port of the current master, from the first sentinel that replies."""
        for each in self.sentinels:
            with contextlib.suppress(redis.RedisError), contextlib.closing(each.admin()) as client:
                return int(client.sentinel_get_master_addr_by_name("mymaster")[1])
        raise RuntimeError("no sentinel answers")

    def master(self) -> RedisServer:
        """Return the master of now."""
        port = self.master_port()
        return next(each for each in self.servers if each.port == port)

    def fail_over(self) -> None:
        """Ask for another master, with the present one alive."""
        with contextlib.closing(self.sentinels[0].admin()) as client:
            client.execute_command("SENTINEL", "FAILOVER", "mymaster")


@contextlib.contextmanager
def sentinel_group(
    folder: Path, replicas: int = 2, sentinels_n: int = 3, program: str = PROGRAM
) -> Iterator[SentinelGroup]:
    """Run one master, its replicas and sentinels until the block ends."""
    fast = ["--repl-diskless-sync-delay", "0"]
    servers = [
        RedisServer(folder, free_port(), list(fast), program=program) for _ in range(1 + replicas)
    ]
    sentinels: list[RedisServer] = []
    try:
        servers[0].start()
        for replica in servers[1:]:
            replica.options += ["--replicaof", "127.0.0.1", str(servers[0].port)]
            replica.start()
        for _ in range(sentinels_n):
            sentinel = _sentinel(folder, servers[0].port, min(2, sentinels_n), program)
            sentinels.append(sentinel)
            sentinel.start()
        group = SentinelGroup(servers, sentinels)
        wait_until(lambda: all(map(group.sees_all, sentinels)), "the sentinels see each other")
        yield group
    finally:
        for each in servers + sentinels:
            each.kill()


class _Sentinel(RedisServer):
    def start(self) -> None:
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, str(self.folder / f"sentinel-{self.port}.conf"), "--sentinel"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, f"the sentinel on port {self.port} answers")


def _sentinel(folder: Path, master_port: int, quorum: int, program: str) -> RedisServer:
    port = free_port()
    (folder / f"sentinel-{port}.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor mymaster 127.0.0.1 {master_port} {quorum}\n"
        "sentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    return _Sentinel(folder, port, program=program)


# --- Cluster ---


@dataclass
class RedisCluster:
    """Three masters, with a replica each or with none."""

    nodes: list[RedisServer]

    @property
    def url(self) -> str:
        """Return the address for a limiter."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def command(self, node: RedisServer, *words: object) -> Any:
        """Run a command on one node."""
        with contextlib.closing(node.admin()) as client:
            return client.execute_command(*words)

    def name(self, node: RedisServer) -> str:
        """Return what the cluster calls a node."""
        return str(self.command(node, "CLUSTER MYID").decode())

    def slot(self, key: str) -> int:
        """Return the slot of a key, as a node computes it."""
        return int(self.command(self.nodes[0], "CLUSTER KEYSLOT", key))

    def master_of(self, slot: int) -> RedisServer:
        """Return the master that serves a slot, from a live node."""
        for asked in self.nodes:
            if asked.process is None:
                continue
            for entry in _slots(asked):
                if entry[0] <= slot <= entry[1]:
                    return next(node for node in self.nodes if node.port == entry[2][1])
        raise LookupError(f"no node serves slot {slot}")

    def begin_move(self, slot: int, to: RedisServer) -> RedisServer:
        """Let a slot move; return where from. Keys stay until `finish_move`."""
        source = self.master_of(slot)
        self.command(to, "CLUSTER SETSLOT", slot, "IMPORTING", self.name(source))
        self.command(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.name(to))
        return source

    def finish_move(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        """Move the keys of a slot, and assign it on all masters."""
        while keys := self.command(source, "CLUSTER GETKEYSINSLOT", slot, 100):
            words = ["MIGRATE", "127.0.0.1", to.port, "", 0, 1000, "KEYS", *keys]
            self.command(source, *words)
        for node in (to, source, *self.nodes[:3]):
            if node.process is not None:
                with contextlib.suppress(redis.ResponseError):  # a replica is not asked
                    self.command(node, "CLUSTER SETSLOT", slot, "NODE", self.name(to))


def _slots(node: RedisServer) -> list[list[Any]]:
    with contextlib.closing(node.admin()) as client:
        client.set_response_callback("CLUSTER SLOTS", lambda reply, **_: reply)
        reply: list[list[Any]] = client.execute_command("CLUSTER SLOTS")
        return reply


def _is_whole(node: RedisServer, n_nodes: int) -> bool:
    with contextlib.closing(node.admin()) as client:
        info = client.execute_command("CLUSTER INFO")
        nodes = client.execute_command("CLUSTER NODES")
    known = info["cluster_known_nodes"] if isinstance(info, dict) else "0"
    state = info["cluster_state"] if isinstance(info, dict) else ""
    replicas = sum("slave" in entry["flags"] for entry in nodes.values())
    return state == "ok" and known == str(n_nodes) and replicas == n_nodes - 3


@contextlib.contextmanager
def redis_cluster(
    folder: Path, with_replicas: bool = True, program: str = PROGRAM
) -> Iterator[RedisCluster]:
    """Run three masters and three replicas until the block ends."""
    nodes: list[RedisServer] = []
    try:
        for _ in range(6 if with_replicas else 3):
            node = RedisServer(folder, free_port(), program=program)
            node.options += ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
            node.options += ["--cluster-config-file", f"nodes-{node.port}.conf"]
            node.options += ["--repl-diskless-sync-delay", "0"]
            node.options += ["--cluster-replica-validity-factor", "0"]
            nodes.append(node)
            node.start()
        cluster = RedisCluster(nodes)
        for i, node in enumerate(nodes[:3]):
            first, last = 16384 * i // 3, 16384 * (i + 1) // 3
            cluster.command(node, "CLUSTER ADDSLOTS", *range(first, last))
            cluster.command(node, "CLUSTER SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            cluster.command(node, "CLUSTER MEET", "127.0.0.1", nodes[0].port)
        for replica, master in zip(nodes[3:], nodes, strict=False):
            name = cluster.name(master)
            wait_until(
                lambda r=replica, n=name: cluster.command(r, "CLUSTER REPLICATE", n),
                "a replica knows its master",
            )
        wait_until(
            lambda: all(_is_whole(node, len(nodes)) for node in nodes), "the cluster is whole"
        )
        yield cluster
    finally:
        for each in nodes:
            each.kill()
