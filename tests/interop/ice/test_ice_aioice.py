"""Our ICE agent against aioice, both roles."""

from __future__ import annotations

import asyncio

import aioice
import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, IceFailed
from knothole.wire.candidate import CandidateKind

pytestmark = pytest.mark.interop


@pytest.fixture
async def connection(monkeypatch):
    """Makes aioice agents on loopback only, which they would leave out by themselves."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
    opened = []

    async def make(controlling):
        opened.append(aioice.Connection(ice_controlling=controlling))
        await opened[-1].gather_candidates()
        return opened[-1]

    yield make
    for each in opened:
        await each.close()


async def introduce(theirs, ours, candidates=True):
    theirs.remote_username = ours.agent.local_credentials.ufrag
    theirs.remote_password = ours.agent.local_credentials.password
    for line in ours.lines() if candidates else ():
        candidate = aioice.Candidate.from_sdp(line.removeprefix("candidate:"))
        await theirs.add_remote_candidate(candidate)
    if candidates:
        await theirs.add_remote_candidate(None)


def meet(ours, theirs):
    lines = [f"candidate:{each.to_sdp()}" for each in theirs.local_candidates]
    ours.meet(theirs.local_username, theirs.local_password, lines)


async def payload_flows_both_ways(ours, theirs):
    ours.send(b"from knothole")
    assert await theirs.recv() == b"from knothole"
    await theirs.send(b"from aioice")
    assert await ours.received.get() == b"from aioice"


@pytest.mark.parametrize("options", [STANDARD, BETWEEN_KNOTHOLES], ids=["standard", "fast"])
@pytest.mark.parametrize("controlling", [True, False], ids=["controlling", "controlled"])
async def test_aioice_and_knothole_select_one_pair_and_talk(
    interop, connection, controlling, options
):
    ours = interop.knothole(controlling, options)
    await ours.add_host()
    theirs = await connection(not controlling)
    await introduce(theirs, ours)
    meet(ours, theirs)
    async with asyncio.timeout(40):
        await asyncio.gather(theirs.connect(), ours.nominated())
        await payload_flows_both_ways(ours, theirs)
    assert ours.agent.controlling is controlling


@pytest.mark.parametrize("controlling", [True, False])
async def test_a_role_conflict_with_aioice_is_repaired(interop, connection, controlling):
    ours = interop.knothole(controlling)
    await ours.add_host()
    theirs = await connection(controlling)
    await introduce(theirs, ours)
    meet(ours, theirs)
    async with asyncio.timeout(40):
        await asyncio.gather(theirs.connect(), ours.nominated())
        await payload_flows_both_ways(ours, theirs)
    assert ours.agent.controlling is not theirs.ice_controlling


async def test_aioice_checks_us_before_we_have_its_credentials(interop, connection):
    ours = interop.knothole(controlling=False)
    await ours.add_host()
    theirs = await connection(True)
    await introduce(theirs, ours)
    connecting = asyncio.create_task(theirs.connect())
    await asyncio.sleep(0)
    async with asyncio.timeout(40):
        await connecting
        ours.meet(theirs.local_username, theirs.local_password, [])
        await ours.nominated()
        await payload_flows_both_ways(ours, theirs)
    assert ours.agent.selected_pair.remote.kind is CandidateKind.PEER_REFLEXIVE
    assert not ours.of(IceFailed)


async def test_a_candidate_trickled_to_aioice_later_is_used(interop, connection):
    ours = interop.knothole(controlling=True)
    theirs = await connection(False)
    await introduce(theirs, ours, candidates=False)
    meet(ours, theirs)
    connecting = asyncio.create_task(theirs.connect())
    await asyncio.sleep(0)
    await ours.add_host()
    await introduce(theirs, ours)
    async with asyncio.timeout(40):
        await asyncio.gather(connecting, ours.nominated())
        await payload_flows_both_ways(ours, theirs)
