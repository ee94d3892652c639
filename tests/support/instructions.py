"""Calls of the engine between marks, for callgrind: `instructions.py EXTENSION FILE`.

It loads the extension alone, since imports are slow under valgrind. FILE becomes a table in shared
memory. A call of os.getppid marks the begin and the end of each case.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from itertools import repeat
from typing import Any

CALLS = 500
WARM_UP = 100
"""Calls before the first mark, after which the interpreter has specialised the loop."""
CASES = ("empty", "allow", "hit", "allow_many", "two limits", "shared", "await allow")
KEY = "192.0.2.1"
LOOP = """
{kind} loop(call, argument):
    for _ in repeat(None, WARM_UP): {body}
    os.getppid()
    for _ in repeat(None, CALLS): {body}
    os.getppid()
"""


def load(extension: str) -> Any:
    """Return the extension module in this file."""
    spec = spec_from_file_location(
        "_core", extension, loader=ExtensionFileLoader("_core", extension)
    )
    assert spec is not None
    assert spec.loader is not None
    core = module_from_spec(spec)
    spec.loader.exec_module(core)
    return core


def loop(kind: str, body: str, **names: Any) -> Any:
    """Return a new function: the interpreter specialises its bytecode for one case."""
    names |= {"os": os, "repeat": repeat, "CALLS": CALLS, "WARM_UP": WARM_UP}
    exec(LOOP.format(kind=kind, body=body), names)
    return names["loop"]


def run(call: Any) -> None:
    loop("def", "call(argument)")(call, KEY)


def run_async(call: Any, argument: Any, body: str = "await call(argument)", **names: Any) -> None:
    try:
        loop("async def", body, **names)(call, argument).send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def run_many(call: Any) -> None:
    keys = [KEY] * CALLS
    call(keys)
    os.getppid()
    call(keys)
    os.getppid()


def main(extension: str, file: str) -> None:
    core = load(extension)
    limit = (1e9, 1e9)
    limiter = core.Limiter([limit])

    class Limiter(core.AsyncLimiter):
        @core.AsyncMethod
        async def allow(self, key: str) -> None: ...

    waiting = Limiter()
    waiting._engine = limiter
    run(gc.is_tracked)
    run(limiter.allow)
    run(limiter.hit)
    run_many(limiter.allow_many)
    run(core.Limiter([limit, limit]).allow)
    run(core.Limiter([limit], max_keys=1000, path=file).allow)
    run_async(waiting.allow, KEY)


if __name__ == "__main__":
    main(*sys.argv[1:])
