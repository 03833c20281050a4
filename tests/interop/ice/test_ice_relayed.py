"""ICE over Debian's coturn: our relayed candidate, the other agent's, and both."""

from __future__ import annotations

import asyncio

import aioice
import pytest

from knothole.wire.candidate import CandidateKind

pytestmark = pytest.mark.interop

ROLES = pytest.mark.parametrize("role", ["controlling", "controlled"])
RELAYED = pytest.mark.parametrize(
    ("our_relay", "their_relay"), [(True, False), (False, True), (True, True)]
)


async def ours_with(interop, server, role, relayed):
    ours = interop.knothole(controlling=role == "controlling")
    if relayed:
        await ours.add_relayed(server)
    else:
        await ours.add_host()
    return ours


def check_kinds(ours, our_relay):
    best = ours.agent.selected_pair
    assert best.relayed
    if our_relay:
        assert best.local.kind is CandidateKind.RELAYED
        assert best.base == best.local.address


@ROLES
@RELAYED
async def test_libnice_and_knothole_talk_over_coturn(interop, role, our_relay, their_relay):
    server = await interop.coturn()
    ours = await ours_with(interop, server, role, our_relay)
    credentials = (server.address.host, str(server.address.port), "alice", "secret")
    theirs = await interop.libnice(
        "controlled" if role == "controlling" else "controlling",
        "regular",
        *(credentials if their_relay else ()),
    )
    theirs.meet(ours)
    ours.meet(theirs.ufrag, theirs.password, theirs.candidates)
    await ours.nominated()
    check_kinds(ours, our_relay)
    await theirs.hear("state", "ready")
    ours.send(b"from knothole")
    assert (await theirs.hear("received"))["received"] == "from knothole"
    theirs.tell(send="from libnice")
    assert await ours.received.get() == b"from libnice"


@ROLES
@RELAYED
async def test_aioice_and_knothole_talk_over_coturn(
    interop, monkeypatch, role, our_relay, their_relay
):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
    server = await interop.coturn()
    ours = await ours_with(interop, server, role, our_relay)
    theirs = aioice.Connection(
        ice_controlling=role == "controlled",
        turn_server=tuple(server.address) if their_relay else None,
        turn_username=server.username,
        turn_password=server.password,
        transport_policy=aioice.TransportPolicy.RELAY
        if their_relay
        else aioice.TransportPolicy.ALL,
    )
    async with asyncio.timeout(40):
        await theirs.gather_candidates()
        theirs.remote_username = ours.agent.local_credentials.ufrag
        theirs.remote_password = ours.agent.local_credentials.password
        for line in ours.lines():
            told = aioice.Candidate.from_sdp(line.removeprefix("candidate:"))
            await theirs.add_remote_candidate(told)
        await theirs.add_remote_candidate(None)
        lines = [f"candidate:{each.to_sdp()}" for each in theirs.local_candidates]
        ours.meet(theirs.local_username, theirs.local_password, lines)
        await asyncio.gather(theirs.connect(), ours.nominated())
        check_kinds(ours, our_relay)
        ours.send(b"from knothole")
        assert await theirs.recv() == b"from knothole"
        await theirs.send(b"from aioice")
        assert await ours.received.get() == b"from aioice"
        await theirs.close()
