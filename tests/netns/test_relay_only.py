"""--relay-only, watched by capture: no packet goes between the two, and nobody is told."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.packet import Packet
from knothole.lab.programs import Program
from knothole.lab.recovery import Town
from knothole.lab.stage import START_SECONDS

pytestmark = pytest.mark.netns

HIDDEN = ("1.1.1.1", "10.0.1.2")
"""Alice's addresses: her router's and her own."""

ASKED_AND_SILENT = """
import asyncio, knothole
async def main():
    async with knothole.Peer(ask=True) as bob:
        print('{"event": "ready"}', flush=True)
        async for ring in bob.rings():
            print('{"event": "ring"}', flush=True)
asyncio.run(main())
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Town]:
    with Town(tmp_path, listen=False) as built:
        yield built


def between(packets: list[Packet], host: str) -> list[Packet]:
    """The packets that Bob's computer or router saw from, or sent to, ``host``."""
    return [
        packet
        for packet in packets
        if packet.seen.place.startswith("bob")
        and host in (packet.source.host, packet.destination.host)
    ]


def last_line(stage: Town, tmp_path: Path, name: str) -> str:
    return (tmp_path / name / "last_lines.json").read_text()


@pytest.mark.parametrize("caller", ["alice", "bob"])
def test_the_other_side_sees_no_packet_of_ours_and_knows_no_address(
    stage: Town, tmp_path: Path, caller: str
) -> None:
    if caller == "alice":
        stage.start("bob", "listen", "--echo").expect("ready", timeout=START_SECONDS)
    else:
        stage.start("alice", "listen", "--echo", "--relay-only").expect(
            "ready", timeout=START_SECONDS
        )
    with stage.lab.capture("alice", "bob") as capture:
        if caller == "alice":
            pings = stage.start("alice", "ping", "bob", "-i", "0.1", "-c", "30", "--relay-only")
        else:
            pings = stage.start("bob", "ping", "alice", "-i", "0.1", "-c", "30")
        told = pings.expect("relayed", timeout=START_SECONDS)
        assert pings.wait(START_SECONDS) == 0
        packets = capture.stop()
    assert told["cause"] == ("asked-here" if caller == "alice" else "no-address-there")
    assert packets
    assert not between(packets, "1.1.1.1")
    if caller == "bob":
        known = json.loads(last_line(stage, tmp_path, "bob"))
        assert not any(address in json.dumps(known) for address in HIDDEN)
    assert "2.2.2.2" not in {
        host
        for packet in packets
        if packet.seen.place.startswith("alice")
        for host in (packet.source.host, packet.destination.host)
    }


def test_who_asks_a_person_first_shows_nothing_before_the_answer(
    stage: Town, tmp_path: Path
) -> None:
    home = {"KNOTHOLE_HOME": str(tmp_path / "bob")}
    bob = Program(stage.lab, "bob", [sys.executable, "-c", ASKED_AND_SILENT], home)
    try:
        bob.expect("ready", timeout=START_SECONDS)
        with stage.lab.capture("alice", "bob") as capture:
            calling = stage.start("alice", "call", "bob", "--in", "null", "--out", "null")
            bob.expect("ring", timeout=START_SECONDS)
            calling.expect("ringing", timeout=START_SECONDS)
            calling.process.send_signal(signal.SIGINT)
            calling.wait(START_SECONDS)
            packets = capture.stop()
        assert packets
        assert not between(packets, "1.1.1.1")
    finally:
        bob.close()
