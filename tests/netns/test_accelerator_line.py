"""knothole's own lines by an accelerated relay: real programs, behind NATs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.lab.recovery import Town
from knothole.lab.stage import START_SECONDS

from .bpf_packets import may_use_bpf
from .relay_place import kernel_counts

pytestmark = pytest.mark.netns

PINGS = 20


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Town]:
    if not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    with Town(tmp_path) as built:
        yield built


def relay_process(server: int) -> int:
    """The process that the server has started."""
    [children] = Path(f"/proc/{server}/task/{server}/children").read_text().splitlines()
    [relay] = children.split()
    return int(relay)


def test_a_relayed_line_between_two_knotholes_goes_by_the_kernel(stage) -> None:
    pings = stage.start("alice", "ping", "bob", "--relay-only", "-i", "0.1")
    for _ in range(PINGS):
        pings.expect("pong", timeout=START_SECONDS)
    count = kernel_counts(relay_process(stage._server.process.pid))
    assert count.packets >= PINGS, "nearly all of it, there and back"
