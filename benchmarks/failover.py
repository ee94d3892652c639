"""Measure how long decisions fall back when the Redis master dies: `python benchmarks/failover.py`.

    python benchmarks/failover.py --rounds 5
    python benchmarks/failover.py --url http://127.0.0.1:8000     # a running stack: one round

It uses the stack of deploy/start.sh sentinel: two workers, two replicas, and three sentinels that
consider a master down after 1 s of silence. A client sends requests without pause, each with a new
API key. The master is killed with SIGKILL; the figure is the time until the first request that is
counted in the new master. Statuses and the slowest response are of that period. It needs the
packages of the tests: make .venv/test.stamp.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
HERE = str(Path(__file__).parent)
sys.path = [str(ROOT / "tests"), *(path for path in sys.path if path not in ("", HERE))]

import httpx  # noqa: E402
import redis  # noqa: E402

GIVE_UP_S = 60


@dataclass
class Outcome:
    """The responses to a client during a failover."""

    recovery_s: float
    statuses: Counter[int]
    slowest_s: float


def members_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the port and the process id of each server of a running stack, by its name."""
    rows = (line.split() for line in (folder / "pids").read_text().splitlines())
    return {name: (int(port), int(pid)) for pid, name, port in rows}


def folder_of(url: str) -> Path:
    """Return the folder of the stack that serves a URL.

    Raises:
        SystemExit: deploy/start.sh sentinel did not start one there.
    """
    state = ROOT / "build" / "stack" / str(urlsplit(url).port)
    if not state.is_file():
        sys.exit(f"failover: {url} is not a stack of deploy/start.sh sentinel")
    folder = Path(state.read_text().split(maxsplit=1)[1].strip())
    if "sentinel-1" not in members_of(folder):
        sys.exit(f"failover: the stack at {url} has no sentinels")
    return folder


def master_port(members: dict[str, tuple[int, int]]) -> int:
    """Return the port of the current master, from a sentinel."""
    with contextlib.closing(redis.Redis("127.0.0.1", members["sentinel-1"][0])) as sentinel:
        return int(sentinel.sentinel_get_master_addr_by_name("mymaster")[1])


def counted_in(port: int, key: str) -> bool:
    """Return whether a Redis holds a window of an API key."""
    with (
        contextlib.suppress(redis.RedisError),
        contextlib.closing(redis.Redis("127.0.0.1", port, socket_timeout=2)) as client,
    ):
        return bool(client.keys(f"rate:user:{key}:*"))
    return False


def measure(url: str, folder: Path) -> Outcome:
    """Kill the master of a stack; send requests until decisions come from Redis again."""
    members = members_of(folder)
    old = master_port(members)
    process = next(pid for port, pid in members.values() if port == old)
    others = [
        port for name, (port, _) in members.items() if name.startswith("redis") and port != old
    ]
    statuses: Counter[int] = Counter()
    slowest_s = 0.0
    # A connection per request, so that both workers get requests.
    with httpx.Client(base_url=url, timeout=10, headers={"Connection": "close"}) as client:
        os.kill(process, signal.SIGKILL)
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < GIVE_UP_S:
            key = f"failover-{uuid.uuid4()}"
            asked_s = time.monotonic()
            statuses[client.post("/api/resource", headers={"X-API-Key": key}).status_code] += 1
            answered_s = time.monotonic()
            slowest_s = max(slowest_s, answered_s - asked_s)
            if any(counted_in(port, key) for port in others):
                return Outcome(answered_s - begin_s, statuses, slowest_s)
    sys.exit(f"failover: no decision was from Redis within {GIVE_UP_S} s")


def show(outcome: Outcome) -> None:
    """Print a line about a round."""
    seen = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.statuses.items()))
    print(
        f"from Redis again after {outcome.recovery_s:.2f} s; responses: {seen}; "
        f"the slowest took {outcome.slowest_s * 1000:.0f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time a failover of Redis.")
    parser.add_argument("--rounds", type=int, default=3, help="new stacks to measure")
    parser.add_argument("--url", help="a running stack instead")
    given = parser.parse_args()
    if given.url:
        show(measure(given.url, folder_of(given.url)))
        return
    from stacks import running_stack

    found = []
    for _ in range(given.rounds):
        with (
            tempfile.TemporaryDirectory() as logs,
            running_stack(Path(logs) / "log", "sentinel") as stack,
        ):
            found.append(measure(stack.url, stack.folder))
        show(found[-1])
    times_s = [outcome.recovery_s for outcome in found]
    print(
        f"median {statistics.median(times_s):.2f} s of {len(found)}, from {min(times_s):.2f} to "
        f"{max(times_s):.2f} s; CPython {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
