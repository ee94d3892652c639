"""What a flood of new keys costs: `python benchmarks/field_keys.py NAME KEYS` for one limiter.

benchmarks/field.py runs this program once per limiter, since memory is only comparable in a new
process. It ends early at MOST_BYTES, for packages that keep every key.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from field_rivals import CALLED, OURS, PER_HOUR

COUNTED = 1_000_000
"""Keys after which the memory of a key is taken: the default `max_keys` of this package."""
MOST_BYTES = 1_000_000_000
PAGE = resource.getpagesize()
LEFT_OUT = (f"{OURS}, hit", "limits, sliding window")
"""They store the same as the cases before them."""
NAMES = tuple(rival.name for rival in CALLED if rival.name not in LEFT_OUT)
FIELDS = ("bytes_per_key", "keys", "cpu_us_per_key", "resident_mb", "worst_us")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def flood(name: str, keys: int) -> dict[str, float]:
    """Decide once about each of many keys; return FIELDS.

    The worst decision is measured in CPU time: elapsed time would show the pauses of the scheduler.
    """
    (decide,) = (rival.make(PER_HOUR) for rival in CALLED if rival.name == name)
    now_ns = time.thread_time_ns
    decide("warm up")
    gc.collect()
    before = used = resident_bytes()
    bytes_per_key = total_ns = worst_ns = 0
    number = 0
    while number < keys and used < MOST_BYTES:
        for key in [f"client:{number + n}" for n in range(min(100_000, keys - number))]:
            begin_ns = now_ns()
            decide(key)
            taken_ns = now_ns() - begin_ns
            total_ns += taken_ns
            worst_ns = max(worst_ns, taken_ns)
            number += 1
        used = resident_bytes()
        if number == min(COUNTED, keys):
            bytes_per_key = (used - before) // number
    figures = (bytes_per_key, number, total_ns / number / 1e3, used / 1e6, worst_ns / 1e3)
    return dict(zip(FIELDS, figures, strict=True))


def measure(keys: int) -> list[dict[str, Any]]:
    """Return the figures of all limiters, each from one process."""
    rows = []
    for name in NAMES:
        command = [sys.executable, __file__, name, str(keys)]
        done = subprocess.run(command, capture_output=True, check=True)
        rows.append({"name": name} | json.loads(done.stdout))
    return rows


if __name__ == "__main__":
    print(json.dumps(flood(sys.argv[1], int(sys.argv[2]))))
