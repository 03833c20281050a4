"""Where the C library puts large blocks, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from knothole.server.heap import map_large_blocks

PROGRAM = """
import sys
from knothole.server.heap import LARGE_BLOCK, map_large_blocks

told = sys.argv[1] == "told" and map_large_blocks()
for _ in range(3):  # each is freed at once
    bytes(4 * LARGE_BLOCK)
block = bytes(2 * LARGE_BLOCK)
heap = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
first, last = (int(end, 16) for end in heap.split()[0].split("-"))
print(told, first <= id(block) < last)
"""


@pytest.fixture(scope="module")
def can_be_told() -> bool:
    """Whether this is glibc; asked elsewhere, since it is for good."""
    code = "from knothole.server.heap import map_large_blocks; print(map_large_blocks())"
    return _said(code) == "True"


def _said(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_large_blocks_leave_no_holes_in_the_heap(can_be_told: bool) -> None:
    if not can_be_told:
        pytest.skip("not glibc")
    assert _said(PROGRAM, "told") == "True False"


def test_without_being_told_glibc_puts_them_there(can_be_told: bool) -> None:
    """What it is for; when this fails glibc has changed, and heap.py may go."""
    if not can_be_told:
        pytest.skip("not glibc")
    assert _said(PROGRAM, "not told") == "False True"


def test_elsewhere_nothing_comes_of_it(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert map_large_blocks() is False
