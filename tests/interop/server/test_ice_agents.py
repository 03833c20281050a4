"""aioice and libnice relayed by our server: two of a kind, each with a relayed address only."""

from __future__ import annotations

import asyncio
import ssl

import aioice
import pytest

from ..ice.conftest import LibniceAgent
from .conftest import HOSTS, PATIENCE, Relay, documented

pytestmark = pytest.mark.interop

HOST = HOSTS[0]


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
async def test_two_aioice_agents_talk_through_our_server(relay: Relay, monkeypatch, way) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [HOST])
    context = ssl.create_default_context(cafile=relay.authority)
    agents = [
        aioice.Connection(
            ice_controlling=controlling,
            turn_server=(HOST, relay.port),
            turn_username=relay.username,
            turn_password=relay.password,
            turn_ssl=context if way == "tls" else False,
            turn_transport="udp" if way == "udp" else "tcp",
            transport_policy=aioice.TransportPolicy.RELAY,
        )
        for controlling in (True, False)
    ]
    async with asyncio.timeout(PATIENCE):
        for each in agents:
            await each.gather_candidates()
            assert {candidate.type for candidate in each.local_candidates} == {"relay"}
        for ours, theirs in (agents, agents[::-1]):
            for candidate in theirs.local_candidates:
                await ours.add_remote_candidate(candidate)
            await ours.add_remote_candidate(None)
            ours.remote_username = theirs.local_username
            ours.remote_password = theirs.local_password
        await asyncio.gather(*(each.connect() for each in agents))
        for ours, theirs in (agents, agents[::-1]):
            await ours.send(b"a word")
            assert await theirs.recv() == b"a word"
        await asyncio.gather(*(each.close() for each in agents))


@pytest.mark.parametrize("way", ["udp", "tcp"])
async def test_two_libnice_agents_talk_through_our_server(relay: Relay, way) -> None:
    [agent] = documented("tests/interop/ice/libnice_agent.py")
    agents = []
    try:
        for role in ("controlling", "controlled"):
            variables = {**relay.variables, "ROLE": role, "TRANSPORT": way}
            agents.append(await LibniceAgent.run(agent.argv, **agent.options(variables)))
        for ours, theirs in (agents, agents[::-1]):
            assert all(" typ relay " in line for line in theirs.candidates)
            lines = [line.removeprefix("a=") for line in theirs.candidates]
            ours.tell(ufrag=theirs.ufrag, password=theirs.password, candidates=lines)
        for each in agents:
            for line in (await each.hear("selected"))["selected"]:
                assert " typ relay " in line
            await each.hear("state", "ready")
        for ours, theirs in (agents, agents[::-1]):
            ours.tell(send="a word")
            assert (await theirs.hear("received"))["received"] == "a word"
    finally:
        for each in agents:
            await each.close()
