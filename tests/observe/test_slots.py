"""Slots: who holds which, and what is left there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rate_limiter.observe.process_slots import Slot


def test_each_has_its_own(tmp_path: Path) -> None:
    one, two = Slot(), Slot()
    assert one.hold(tmp_path)
    assert two.hold(tmp_path)
    assert not one.hold(tmp_path)
    one.write("of one")
    two.write("of two")
    assert list(one.others(tmp_path)) == [("of two", True)]
    assert list(two.others(tmp_path)) == [("of one", True)]
    assert sorted(Slot().others(tmp_path)) == [("of one", True), ("of two", True)]


def test_the_next_one_finds_what_was_left(tmp_path: Path) -> None:
    one, two = Slot(), Slot()
    one.hold(tmp_path)
    assert one.left() is None
    one.write("of one")
    assert one.left() is None  # it is its own
    one.leave()
    assert list(two.others(tmp_path)) == [("of one", False)]
    assert two.hold(tmp_path)
    assert two.left() == "of one"
    assert list(two.others(tmp_path)) == []


def test_a_lock_that_is_removed(tmp_path: Path) -> None:
    """A process that lost its slot takes it again if it is free, else another one."""
    one, two = Slot(), Slot()
    one.hold(tmp_path)
    one.write("of one")
    (tmp_path / "0.rate_limiter_lock").unlink()
    assert one.hold(tmp_path)
    assert one.left() is None
    for file in tmp_path.iterdir():
        file.unlink()
    assert two.hold(tmp_path)
    two.write("of two")
    assert one.hold(tmp_path)
    one.write("of one")
    assert list(one.others(tmp_path)) == [("of two", True)]
    assert list(two.others(tmp_path)) == [("of one", True)]


def test_another_folder(tmp_path: Path) -> None:
    slot = Slot()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert slot.hold(tmp_path / name)
        assert slot.left() is None
        slot.write("the same")
    assert not slot.is_of(tmp_path / "a")
    assert list(slot.others(tmp_path / "a")) == [("the same", False)]


FORKED = """
import os, signal, sys
from rate_limiter import RateLimiter
from rate_limiter.observe.registry import publish, watch
limiter = RateLimiter("5/second")
watch(limiter, "forked")
publish()
if os.fork() == 0:
    publish()
    os.write(1, b"ready")
    os.close(1)
    os.read(0, 1)
    os._exit(0)
signal.pause()
"""


def test_a_child_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        assert parent.stdout.read(5) == b"ready"
        alive = [is_alive for _, is_alive in Slot().others(tmp_path)]
        assert alive == [True, True]
        parent.kill()
        parent.wait(30)
        alive = [is_alive for _, is_alive in Slot().others(tmp_path)]
        assert sorted(alive) == [False, True]
    finally:
        parent.kill()
        parent.stdin.close()  # which ends the child
        parent.stdout.close()
        parent.wait(30)
