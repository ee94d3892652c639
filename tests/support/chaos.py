"""Break Redis at random under eight processes of threads and tasks, and check what they saw.

By hand, in the folder tests::

    python -m support.chaos --minutes 10
    python -m support.chaos --seed 1234 --stores alone,cluster

The same seed gives the same faults, in the same order and with the same pauses. These are checked:

- Clients are never granted more than the bucket and the faults allow. A bucket may grant a capacity
  and what it refills; each store that was lost or emptied, one capacity more. With
  ``on_store_error="memory"`` each process may grant the same again while Redis does not answer.
- Each call returns within its deadline and a margin.
- No exception is raised but StoreError, where the policy is ``"raise"``.
- Five seconds after a fault, each process gets decisions of Redis again for each key.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from support.chaos_stores import CAPACITY, LIMITS, RATE, STORES, TIMEOUT_S, Store
from support.chaos_worker import ACQUIRE_S
from support.redis_servers import wait_until
from support.servers import ROOT

PROCESSES = 8
CALLS_OF_ACQUIRE = 3  # it may look at its line, take, and look again
JITTER_TOKENS = 1  # refilled between the decision and the time that a caller reads


@dataclass
class Damage:
    """One fault: when the store was broken and whole again, and the tokens that it may add."""

    store: str
    fault: str
    began_s: float
    ended_s: float
    tokens: int


@dataclass
class Report:
    """What a run has found: figures, and what is wrong."""

    seed: int
    damages: list[Damage] = field(default_factory=list)
    calls: int = 0
    grants: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    worst: tuple[float, str] = (0.0, "")
    recovery: tuple[float, str] = (0.0, "")
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = Counter(f"{one.store}.{one.fault}" for one in self.damages)
        lines = [
            f"seed {self.seed}: {len(self.damages)} faults, {self.calls} calls, "
            f"{self.grants} granted",
            "faults: " + ", ".join(f"{name} {n}" for name, n in sorted(faults.items())),
            "errors: " + ", ".join(f"{name} {n}" for name, n in sorted(self.errors.items())),
            f"worst call: {self.worst[0]:.3f} s, {self.worst[1]}",
            f"longest recovery: {self.recovery[0]:.3f} s, {self.recovery[1]}",
            *(f"WRONG: {one}" for one in self.wrong),
        ]
        return "\n".join(lines)


def run(
    seed: int,
    seconds: float,
    folder: Path,
    *,
    stores: Sequence[str] = tuple(STORES),
    margin_s: float = 1.0,
    healthy_s: float = 5.0,
    quiet_s: float = 6.0,
) -> Report:
    """Break the stores for so long; return what was seen.

    Args:
        seed: of the faults and the callers.
        seconds: how long stores are broken; starting and stopping them comes on top.
        folder: for the files of servers and processes.
        stores: names in STORES.
        margin_s: time above its deadline that a call may take.
        healthy_s: time from the end of a fault until all get decisions of Redis again.
        quiet_s: time after the last fault. All must be healthy then.
    """
    report = Report(seed)
    with contextlib.ExitStack() as stack:
        made: list[Store] = []
        for name in stores:
            (folder / name).mkdir()
            made.append(stack.enter_context(STORES[name](folder / name, Random(f"{seed}:{name}"))))
        workers = stack.enter_context(_workers(seed, made, folder))
        time.sleep(2)
        ends_s = time.monotonic() + seconds
        threads = [
            threading.Thread(target=_break, args=(one, Random(f"{seed}:{one.name}:next"), ends_s,
                                                  report, workers))
            for one in made
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(quiet_s)
        results = _results(workers, report)
    _check(made, results, report, margin_s, healthy_s)
    return report


def _break(
    store: Store, random: Random, ends_s: float, report: Report, workers: dict[Path, Any]
) -> None:
    while time.monotonic() < ends_s:
        time.sleep(random.uniform(*store.pause_s))
        name = random.choice(list(store.faults))
        began_s = time.monotonic()
        try:
            tokens = store.faults[name]()
            wait_until(store.whole, f"{store.name} is whole after {name}")
        except Exception as error:
            report.wrong.append(f"{store.name} could not be mended after {name}: {error!r}")
            return
        report.damages.append(Damage(store.name, name, began_s, time.monotonic(), tokens))
        if any(one.poll() is not None for one in workers.values()):
            report.wrong.append("a process ended")
            return


# --- Processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(seed: int, stores: list[Store], folder: Path) -> Any:
    """Run the processes until the block ends: their results, and the processes."""
    known = {one.name: {"address": one.address, "keys": one.keys} for one in stores}
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for i in range(PROCESSES):
            given = {"seed": f"{seed}:{i}", "limits": LIMITS, "stores": known}
            result = folder / f"process-{i}.json"
            command = [sys.executable, "-W", "error", "-m", "support.chaos_worker"]
            with result.with_suffix(".log").open("wb") as log:
                running[result] = subprocess.Popen(
                    [*command, json.dumps(given), str(result)],
                    cwd=ROOT / "tests",
                    env=os.environ | {"PYTHONSAFEPATH": "", "PYTHONPATH": str(ROOT / "tests")},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _results(workers: dict[Path, subprocess.Popen[bytes]], report: Report) -> list[dict[str, Any]]:
    for process in workers.values():
        assert process.stdin is not None
        process.stdin.close()
    results = []
    for path, process in workers.items():
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            report.wrong.append(f"a caller hangs:\n{path.with_suffix('.log').read_text()}")
            continue
        log = path.with_suffix(".log").read_text()
        if process.returncode != 0 or log:
            report.wrong.append(f"a process ended with {process.returncode}:\n{log}")
        if path.exists():
            results.append(json.loads(path.read_text(encoding="utf-8")))
    return results


# --- Checks --------------------------------------------------------------------------------------


def _check(
    stores: list[Store],
    results: list[dict[str, Any]],
    report: Report,
    margin_s: float,
    healthy_s: float,
) -> None:
    for one in results:
        report.calls += sum(one["calls"].values())
        report.grants += sum(map(len, one["grants"].values()))
        report.errors.update(one["errors"])
        report.worst = max(report.worst, tuple(one["worst"]))
        report.wrong += one["wrong"]
        report.wrong += [f"{name} is {it}" for name, it in one["health"].items() if it != "ok"]
    longest_s = ACQUIRE_S + CALLS_OF_ACQUIRE * TIMEOUT_S + margin_s
    if report.worst[0] > longest_s:
        report.wrong.append(f"a call took longer than {longest_s} s: {report.worst}")
    for store in stores:
        damages = [one for one in report.damages if one.store == store.name]
        _check_recovery(store, damages, results, report, healthy_s)
        for key in store.keys:
            for policy in ("raise", "deny", "memory"):
                name = f"{store.name}/{key}/{policy}"
                grants = [span for one in results for span in one["grants"].get(name, ())]
                excess = excess_of(grants, damages, memories=len(results) * (policy == "memory"))
                if excess:
                    report.wrong.append(f"{name}: {excess:.1f} tokens above the bound")


def excess_of(
    grants: Sequence[Sequence[float]], damages: Sequence[Damage], *, memories: int = 0
) -> float:
    """Return the tokens by which grants exceed what the bucket and the faults allow; 0 if none.

    Args:
        grants: when each call that was granted a token began and ended.
        damages: the faults, which add tokens from their beginning on.
        memories: processes that may grant the limit again, each from a separate bucket.
    """
    buckets = 1 + memories
    longest_s = max((end - began for began, end in grants), default=0.0)
    capacity, rate = CAPACITY * buckets, RATE * buckets
    # A decision is made at any time of a call, so some may come together that did not.
    level = capacity + rate * longest_s + JITTER_TOKENS
    full, added, last_s, lowest = level, 0.0, 0.0, 0.0
    left = sorted(damages, key=lambda one: one.began_s, reverse=True)
    for _, end_s in sorted(grants, key=lambda span: span[1]):
        while left and left[-1].began_s <= end_s:
            added += left.pop().tokens
        level = min(full, level + rate * (end_s - last_s)) - 1
        last_s = end_s
        if level < 0:
            used = min(added, -level)
            added, level = added - used, level + used
            lowest = min(lowest, level)
    return -lowest


def _check_recovery(
    store: Store,
    damages: list[Damage],
    results: list[dict[str, Any]],
    report: Report,
    healthy_s: float,
) -> None:
    """Check how long errors went on after each fault, until the next one."""
    last_s = max((one.ended_s for one in damages), default=0.0)
    names = [f"{store.name}/{key}/raise" for key in store.keys]
    for name in names:
        if any(one["answered"].get(name, 0) < last_s for one in results):
            report.wrong.append(f"{name}: not answered by Redis since the last fault")
    for i, damage in enumerate(damages):
        next_s = damages[i + 1].began_s if i + 1 < len(damages) else float("inf")
        for name in names:
            for one in results:
                for began_s, *answered_s in one["outages"].get(name, ()):
                    end_s = min(next_s, *answered_s)
                    if damage.began_s <= began_s and began_s < next_s and end_s > damage.ended_s:
                        took_s = end_s - damage.ended_s
                        report.recovery = max(report.recovery, (took_s, f"{name} {damage.fault}"))
    if report.recovery[0] > healthy_s:
        report.wrong.append(f"not healthy {healthy_s} s after a fault: {report.recovery}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m support.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long stores are broken")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--stores", default=",".join(STORES), help=f"of {', '.join(STORES)}")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        stores = given.stores.split(",")
        report = run(given.seed, 60 * given.minutes, Path(folder), stores=stores)
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
