"""How a process is."""

from __future__ import annotations

import asyncio
import gc
import mmap
import socket
import sys
import time

import pytest

from knothole.server import vitals
from knothole.server.vitals import VitalSigns, memory_bytes, open_descriptors


async def test_a_loop_that_was_held_up_is_told(monkeypatch) -> None:
    monkeypatch.setattr(vitals, "LOOK_SECONDS", 0.02)
    signs = VitalSigns()
    time.sleep(0.1)  # noqa: ASYNC251 - what nobody may do in a loop
    overdue = signs.read()
    assert overdue.loop_lag_seconds >= 0.05
    await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert signs.read().loop_lag_seconds >= 0.05, "the worst is told for a while"
    assert signs.read().uptime_seconds > overdue.uptime_seconds
    signs.stop()


def test_memory_is_that_of_this_process() -> None:
    before = memory_bytes()
    with mmap.mmap(-1, 50_000_000) as held:  # malloc may have as much that is resident already
        held.write(b"x" * len(held))
        assert memory_bytes() - before > 30_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_descriptors_are_those_of_this_process() -> None:
    gc.collect()  # what tests before have left must not go meanwhile
    before = open_descriptors()
    with socket.socket(), socket.socket():
        assert open_descriptors() == before + 2
    assert open_descriptors() == before


async def test_tasks_are_those_that_are_not_done() -> None:
    signs = VitalSigns()
    before = signs.read().tasks
    sleeper = asyncio.create_task(asyncio.sleep(3600))
    assert signs.read().tasks == before + 1
    sleeper.cancel()
    await asyncio.wait([sleeper])
    assert signs.read().tasks == before
    signs.stop()
