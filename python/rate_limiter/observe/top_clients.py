"""The clients with the most decisions in the last minutes, of all workers of a host.

    app.add_middleware(RateLimitMiddleware, limits="100/minute", metrics="api", top=100)
    top_clients(10, denied=True)

    limiter ── decisions ──> Meter ──> ClientSketch (C) ──> top_clients()

Metrics contain no client keys, because each key would be a series. The clients are kept apart, in
bounded memory (see csrc/engine/top.h), and shown only by top_clients(). A rule has one sketch, in a
file of the metrics folder, or in the memory of the process if there is no folder.

A file contains what ``top_keys=`` leaves of a key, and a tag: the hash of the key under a random
secret. The secret is in another file of the folder, so a client has the same tag in all processes
and under all rules. Both files are readable by their owner alone.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import quote, unquote

from rate_limiter._core import SKETCH_LAYOUT, ClientSketch, Meter, client_secret
from rate_limiter.checks.arguments import checked_whole
from rate_limiter.checks.words import TopKeys
from rate_limiter.observe.dimension import Dimension
from rate_limiter.observe.metrics_folder import reported, shared_folder

_ENDING = f".rate_limiter_top_{SKETCH_LAYOUT}"  # another version has its own files
_SHADOW = "shadow"
_SECRET = "clients.rate_limiter_secret"


@dataclass(frozen=True, slots=True)
class TopClient:
    """A client with many decisions.

    Attributes:
        meter: the name given to ``metrics=``.
        rule: the rule that decided; "" if there are no rules.
        key: the client's key, as ``top_keys=`` says. At most 270 characters, which may be markup
            or control characters: escape them for the place where you show them.
        denied: the decisions denied requests; False: they allowed them.
        count: decisions in the last minutes. It halves every minute, so a client with `r` decisions
            per second has a count of about ``87 * r``.
        error: `count` is at most this much too high.
        shadow: a rule in shadow mode decided, so denied requests passed nevertheless.
    """

    meter: str
    rule: str
    key: str
    denied: bool
    count: int
    error: int
    shadow: bool = False


def top_clients(count: int = 20, *, denied: bool | None = None) -> list[TopClient]:
    """Return the clients with the most decisions on this host, those with the highest count first.

    Processes share the counts through the folder of metrics, see docs/metrics.md; without it they
    are those of this process.

    Args:
        count: how many to return at most.
        denied: only denied requests (True), only allowed ones (False), or both.

    Raises:
        TypeError, ValueError: `count` is not a whole number >= 0.
    """
    if checked_whole("count", count) < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    results = (True, False) if denied is None else (denied,)
    found = (
        client
        for sketched in _all_sketches()
        for result in results
        for client in _clients_of(sketched, count, denied=result)
    )
    return heapq.nlargest(count, found, key=_count_of)


def count_clients(meter: Meter, dimension: Dimension, *, shadow: bool) -> None:
    """Let a meter count the clients of a dimension whose `top` is set, from now on.

    Raises:
        ValueError: it counts them already, with another `top` or `top_keys`.
    """
    assert dimension.top is not None
    sketched = _Sketched(dimension, shadow)
    try:
        meter.count_clients(_sketch(sketched))
    except ValueError:
        raise ValueError(
            f"the clients of metrics={dimension.meter!r} are counted already, with another top or "
            f"top_keys than top={dimension.top} and top_keys={dimension.top_keys!r}"
        ) from None


class _Sketched(NamedTuple):
    """What a sketch counts: the clients of a dimension, apart from or by shadow rules."""

    dimension: Dimension
    is_shadow: bool

    @property
    def file_name(self) -> str:
        dimension = self.dimension
        parts = [dimension.meter, dimension.rule, _SHADOW if self.is_shadow else ""]
        name = "@".join(quote(part, safe="") for part in parts)
        return f"{name}{_ENDING}_{dimension.top_keys}_{dimension.top}"

    @classmethod
    def of_file(cls, file: Path) -> _Sketched:
        name, _, ending = file.name.rpartition(f"{_ENDING}_")
        meter, rule, shadow = map(unquote, name.split("@"))
        top_keys, _, top = ending.partition("_")
        dimension = Dimension(meter, rule, int(top), cast(TopKeys, top_keys))
        return cls(dimension, shadow == _SHADOW)


_sketches: dict[_Sketched, ClientSketch] = {}


def _sketch(sketched: _Sketched) -> ClientSketch:
    """Return a sketch, which is made on first use."""
    found = _sketches.get(sketched)
    return found or _sketches.setdefault(sketched, _made_sketch(sketched))


def _made_sketch(sketched: _Sketched) -> ClientSketch:
    top, top_keys = cast(int, sketched.dimension.top), sketched.dimension.top_keys
    folder = shared_folder()
    if folder is not None:
        with reported(folder):
            secret = client_secret(folder / _SECRET)
            return ClientSketch(secret, top, top_keys, folder / sketched.file_name)
    return ClientSketch(_own_secret(), top, top_keys)


@lru_cache(maxsize=1)
def _own_secret() -> bytes:
    return os.urandom(16)


def _all_sketches() -> list[_Sketched]:
    folder = shared_folder()
    if folder is not None:
        with reported(folder):
            for file in folder.glob(f"*{_ENDING}_*"):
                with reported(folder):
                    _sketch(_Sketched.of_file(file))
    return list(_sketches)


def _clients_of(sketched: _Sketched, count: int, *, denied: bool) -> Iterator[TopClient]:
    dimension = sketched.dimension
    read = _sketches[sketched].read(not denied)
    shown = min(count, cast(int, dimension.top))
    for tag, text, is_cut, decisions, error in heapq.nlargest(shown, read, key=lambda one: one[3]):
        if round(decisions) > 0:
            yield TopClient(
                meter=dimension.meter,
                rule=dimension.rule,
                key=_key(dimension.top_keys, tag, text, is_cut=is_cut),
                denied=denied,
                count=round(decisions),
                error=math.ceil(error),
                shadow=sketched.is_shadow,
            )


def _key(top_keys: TopKeys, tag: int, text: bytes, *, is_cut: bool) -> str:
    """Return what is shown of a key: always valid text, and another one for each client."""
    if top_keys == "hashed":
        return f"{tag:016x}"
    shown = text.decode("utf-8", "backslashreplace")
    return f"{shown}…{tag >> 32:08x}" if is_cut or top_keys == "masked" else shown


def _count_of(client: TopClient) -> int:
    return client.count
