"""Call all of rate_limiter._core with arguments that misbehave, at random but reproducibly.

    PYTHONPATH=tests python -m fuzz.fuzz_binding --seed 7 --seconds 30
    PYTHONPATH=tests python -m fuzz.fuzz_binding --seed 7 --case 123     one case again

Types, methods and parameters are found in the module itself. A case is a World: some objects, and
some calls of their methods, with arguments whose conversions call back into the World: they
re-enter, initialise again, close, raise, fork, collect garbage. Cases run in worker processes. One
that dies, hangs, or gets a SystemError (an error that is no exception, or a result with one) has
found a fault; its seed is printed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fuzz.world import World
from support.fake_redis import FakeConnection, FakeRedis, fake_redis
from support.redis_servers import redis_server

HANGS_S = 60.0
REPLIES = (
    b"*2\r\n:1\r\n:1000\r\n",
    b"*2\r\n:0\r\n:9223372036854775807\r\n",
    b"*2\r\n:1\r\n:-1\r\n",
    b"*5\r\n:1\r\n:0\r\n:9223372036854775807\r\n:1\r\n:2\r\n",
    b"*4\r\n:1\r\n:0\r\n:2\r\n:1\r\n",
    b"*1\r\n*1\r\n$-1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
    b"$5\r\nhello\r\n",
    b":7\r\n",
    b"+OK\r\n",
    b"-ERR \xff\r\n",
    b"-NOSCRIPT no\r\n",
    b"-TRYAGAIN no\r\n",
    b"nonsense\r\n",
)


# --- A worker: cases, one after the other ---


def run_case(seed: str, servers: list[str], folder: Path, counts: collections.Counter[str]) -> None:
    """Run one case; exit where it, or a child that it has forked, has found a fault."""
    world = World(random.Random(seed), servers, folder)
    fault = world.run()
    counts.update(world.succeeded)
    if world.is_child:
        os._exit(1 if fault else 0)
    if fault:
        print(fault, file=sys.stderr, flush=True)
        sys.exit(1)


def work(options: argparse.Namespace) -> None:
    # A table in a file is as large as it is asked to be.
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    counts: collections.Counter[str] = collections.Counter()
    until_s = time.monotonic() + options.seconds
    last = sys.maxsize if options.cases is None else options.cases - 1

    def is_next(number: int) -> bool:
        if options.case is not None:
            return bool(number == options.case)
        return number <= last and time.monotonic() < until_s

    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some arguments are names of files
        number = options.worker
        while is_next(number):
            print(f"case {number}", flush=True)
            place = Path(folder, str(number))
            place.mkdir()
            run_case(f"{options.seed}:{number}", options.servers.split(","), place, counts)
            gc.collect()
            number += options.jobs
    print("counts", json.dumps(counts), flush=True)


# --- The driver: servers, and workers that are watched ---


class Fault(Exception):
    """A worker died or hangs; the text names the case and shows its output."""


def answer_anything(connection: FakeConnection) -> None:
    """Answer a command with a reply that depends on nothing but its words."""
    words = connection.shake_hands()
    while True:
        connection.send(random.Random(b" ".join(words)).choice(REPLIES))
        words = connection.read_command()


def never_answer(connection: FakeConnection) -> None:
    connection.shake_hands()
    while True:
        connection.read_command()


@contextlib.contextmanager
def servers_of(folder: Path) -> Iterator[list[str]]:
    """Run a Redis, one that answers anything, and one that never answers; yield addresses."""
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(redis_server(folder))
        fakes: list[FakeRedis] = [
            stack.enter_context(fake_redis(handler)) for handler in (answer_anything, never_answer)
        ]
        yield [
            good.address + "?timeout=2",
            *(fake.address + "?timeout=0.05&connect_timeout=0.2" for fake in fakes),
            "redis+cluster://" + f"127.0.0.1:{good.port}",
            "redis://127.0.0.1:1",
        ]


def watch(
    worker: subprocess.Popen[str], log: Path, again: str, hangs_s: float = HANGS_S
) -> dict[str, int]:
    """Wait for a worker; return how often each operation has succeeded.

    Raises:
        Fault: it died, or did nothing for too long.
    """
    assert worker.stdout is not None
    case, counts = "none", None
    while True:
        ready = select.select([worker.stdout], [], [], hangs_s)[0]
        line = worker.stdout.readline() if ready else ""
        if line.startswith("case "):
            case = line.split()[1]
        elif line.startswith("counts "):
            counts = json.loads(line.removeprefix("counts "))
        elif not line:
            break
    if not ready:
        worker.kill()
    code = worker.wait()
    if ready and code == 0 and counts is not None:
        return counts
    what = f"ended with {code}" if ready else f"did nothing for {hangs_s:g} s"
    output = log.read_text(encoding="utf-8", errors="replace")
    raise Fault(f"{output}\nA worker {what} in case {case}. Again:\n    {again} --case {case}")


def drive(options: argparse.Namespace) -> dict[str, int]:
    """Run workers until the time is over; return how often each operation has succeeded.

    Raises:
        Fault: one has found a fault.
    """
    total: collections.Counter[str] = collections.Counter()
    jobs = 1 if options.case is not None else options.jobs
    with tempfile.TemporaryDirectory() as folder, servers_of(Path(folder)) as servers:
        started = []
        for i in range(jobs):
            first = options.case if options.case is not None else i
            command = [sys.executable, "-X", "faulthandler", "-m", "fuzz.fuzz_binding"]
            command += ["--seed", options.seed, "--seconds", str(options.seconds)]
            command += ["--jobs", str(jobs), "--worker", str(first), "--servers", ",".join(servers)]
            for name in ("case", "cases"):
                if getattr(options, name) is not None:
                    command += [f"--{name}", str(getattr(options, name))]
            log = Path(folder, f"log{i}")
            with log.open("w") as file:
                worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
            started.append((worker, log))
        try:
            for worker, log in started:
                again = f"python -m fuzz.fuzz_binding --seed {options.seed}"
                total.update(watch(worker, log, again))
        finally:
            for worker, _ in started:
                worker.kill()
                worker.communicate()
    return dict(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cases", type=int, help="run so many at most")
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--counts", action="store_true", help="print what was called, as JSON")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--servers", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    try:
        counts = drive(options)
    except Fault as fault:
        sys.exit(str(fault))
    if options.counts:
        print(json.dumps(counts))
    else:
        calls = sum(counts.values())
        print(f"fuzz_binding: {calls} calls of {len(counts)} operations, seed {options.seed}")


if __name__ == "__main__":
    main()
