"""The relay process, on a link whose other end is the test."""

from __future__ import annotations

import sys

import pytest

from knothole.server import relay_process
from knothole.server.link import Link, Message, RelayFailed, RelaySettings, RelayStart, link_pair
from knothole.server.relay_process import RelayProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")

START = RelayStart(
    hosts=[],
    port=3478,
    discovery_port=0,
    partners={},
    relay_hosts={},
    machine=[],
    realm="knothole",
    relay_ports=(49_152, 65_535),
    settings=RelaySettings(
        secrets=["a secret"],
        revoked=[],
        allow_peers=[],
        deny_peers=[],
        allocations=1,
        allocations_per_user=1,
        chain="/a.pem",
        key="/a.key",
    ),
)


async def test_a_relay_that_cannot_start_for_whatever_reason_says_so(monkeypatch, until) -> None:
    def refuse(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(relay_process, "Relay", refuse)
    heard: list[Message] = []
    ours, theirs = link_pair()
    link = Link(ours, lambda message, _: heard.append(message), lambda: None)
    process = RelayProcess(theirs)
    try:
        link.send(START)
        await until(lambda: bool(heard))
        assert heard == [RelayFailed("KeyError: 'a defect'")]
    finally:
        await process.close()
        link.close()
