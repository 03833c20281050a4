"""Our ICE agent against libnice (Debian's libnice10), both roles, both kinds of nomination."""

from __future__ import annotations

import pytest

from knothole.engine.ice import IceFailed, RoleChanged
from knothole.wire.candidate import decode_candidate

pytestmark = pytest.mark.interop


async def payload_flows_both_ways(ours, theirs):
    ours.send(b"from knothole")
    assert (await theirs.hear("received"))["received"] == "from knothole"
    theirs.tell(send="from libnice")
    assert await ours.received.get() == b"from libnice"


@pytest.mark.parametrize("nomination", ["regular", "aggressive"])
@pytest.mark.parametrize("role", ["controlling", "controlled"])
async def test_libnice_and_knothole_select_one_pair_and_talk(interop, role, nomination):
    ours = interop.knothole(controlling=role == "controlled")
    base = await ours.add_host()
    theirs = await interop.libnice(role, nomination)
    theirs.meet(ours)
    ours.meet(theirs.ufrag, theirs.password, theirs.candidates)
    await ours.nominated()
    _, remote = (await theirs.hear("selected"))["selected"]
    assert decode_candidate(remote).address == base
    await theirs.hear("state", "ready")
    await payload_flows_both_ways(ours, theirs)
    assert not ours.of(RoleChanged)


@pytest.mark.parametrize("role", ["controlling", "controlled"])
async def test_a_role_conflict_with_libnice_is_repaired(interop, role):
    ours = interop.knothole(controlling=role == "controlling")
    await ours.add_host()
    theirs = await interop.libnice(role, "regular")
    theirs.meet(ours)
    ours.meet(theirs.ufrag, theirs.password, theirs.candidates)
    await ours.nominated()
    await theirs.hear("state", "ready")
    await payload_flows_both_ways(ours, theirs)


async def test_libnice_learns_us_by_our_checks_alone(interop):
    """It is told none of our candidates: we are peer-reflexive there."""
    ours = interop.knothole(controlling=True)
    await ours.add_host()
    theirs = await interop.libnice("controlled", "regular")
    theirs.meet(ours, candidates=[])
    ours.meet(theirs.ufrag, theirs.password, theirs.candidates)
    await ours.nominated()
    await theirs.hear("state", "ready")
    await payload_flows_both_ways(ours, theirs)


async def test_we_learn_libnice_by_its_checks_before_its_credentials(interop):
    """Its checks come first, are answered, and count once the credentials are there."""
    ours = interop.knothole(controlling=False)
    await ours.add_host()
    theirs = await interop.libnice("controlling", "regular")
    theirs.meet(ours)
    await theirs.hear("state", "connected")
    ours.meet(theirs.ufrag, theirs.password, candidates=[])
    await ours.nominated()
    await payload_flows_both_ways(ours, theirs)
    assert not ours.of(IceFailed)
