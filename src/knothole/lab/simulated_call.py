"""The demo's call where namespaces are not allowed: the same programs' code on computed NATs.

Runs in real time, in one process: voice is spoken and recorded at the speed of life.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from knothole.apps.call import talk
from knothole.io.audio import sink_for, source_for
from knothole.lab.ladder import Column
from knothole.lab.netns.counters import Count
from knothole.lab.netns.journey import Journey, Points, follow
from knothole.lab.netns.packet import Packet, Sighting
from knothole.lab.netns.picture import Cast
from knothole.lab.report import ALICE_PORT, BOB_PORT, STRANGER, CallReport
from knothole.lab.sim.packet import Packet as SimulatedPacket
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.lab.simulated_internet import PIN, SERVER, SimulatedInternet
from knothole.lab.story import tell
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.address import Address, Transport
from knothole.wire.server_url import ServerUrl

_ALICE: Final = Address("192.168.1.10", ALICE_PORT)
_BOB: Final = Address("10.0.2.10", BOB_PORT)
_PUBLIC: Final = {"alice": "1.1.1.1", "bob": "2.2.2.2"}
_SWITCHBOARD_PORT: Final = 443  # of the picture: the simulator's signalling has no ports
_KNOCK_SECONDS: Final = 0.1
_RING_SECONDS: Final = 20.0


async def simulate_call(
    folder: Path,
    nat: str,
    one_way_seconds: float,
    speech: Path,
    recording: Path,
    title: str,
) -> CallReport:
    """Alice calls Bob and speaks; what :meth:`knothole.lab.scene.Scene.call` does on real NATs."""
    loop = asyncio.get_running_loop()
    recording.parent.mkdir(parents=True, exist_ok=True)
    recorder = _Recorder(one_way_seconds)
    internet = SimulatedInternet(one_way_seconds, recorder.signalling)
    internet.world.trace.listeners.append(recorder.packet)
    internet.world.trace.enabled = False
    alice_host = internet.add_client("alice", nat, _PUBLIC["alice"], _ALICE.host)
    bob_host = internet.add_client("bob", nat, _PUBLIC["bob"], _BOB.host)
    stranger = internet.world.host("stranger", STRANGER)
    alice_class = internet.peer_class(alice_host, _ALICE, _PUBLIC["alice"])
    bob_class = internet.peer_class(bob_host, _BOB, _PUBLIC["bob"])
    try:
        async with bob_class(_profile(folder, "bob"), ask=True) as bob:
            answering = asyncio.create_task(_answer(bob, recording))
            knock = SimulatedPacket(
                Address(STRANGER, 53), Address(_PUBLIC["alice"], ALICE_PORT), b"hello"
            )
            internet.do(lambda: stranger._put_on_line(knock))
            await asyncio.sleep(_KNOCK_SECONDS)
            started = loop.time()
            async with alice_class(_profile(folder, "alice")) as alice:
                ring = alice.ring("bob", kind="call")
                async with asyncio.timeout(_RING_SECONDS):
                    line = await ring.answered()
                async with line:
                    await talk(line, source_for(str(speech)), sink_for("null"))
            seconds = loop.time() - started
            await answering
    finally:
        internet.close()
    journeys = recorder.journeys()
    cast = _cast()
    stranger_journey = next(each for each in journeys if each.first.source.host == STRANGER)
    direct, relayed = recorder.direct, recorder.relayed
    story = tell(journeys, cast, title)
    return CallReport(story, stranger_journey, direct, relayed, recording, seconds)


async def _answer(bob: Peer, recording: Path) -> None:
    async for ring in bob.rings():
        async with await ring.accept() as line:
            await talk(line, source_for("null"), sink_for(str(recording)))
        return


def _profile(folder: Path, name: str) -> Profile:
    url = ServerUrl(SERVER.host, SERVER.port, pin=PIN)
    profile = Profile.create(folder / name, name, url)
    profile.save()
    return profile


class _Recorder:
    """Sees what sniffers at the NATs and at the server would have seen."""

    def __init__(self, one_way_seconds: float) -> None:
        self._delay = one_way_seconds
        self._packets: list[Packet] = []
        self._messages = 0
        self.direct = self.relayed = Count()

    def signalling(self, at: float, public: str, upwards: bool, data: bytes) -> None:
        """A message with the switchboard, drawn as the TCP segment it would have been."""
        self._messages += 1
        client, server = Address(public, 50000), Address(SERVER.host, _SWITCHBOARD_PORT)
        source, destination = (client, server) if upwards else (server, client)
        router = f"{next(name for name, host in _PUBLIC.items() if host == public)}-nat"
        arrival = at + self._delay
        places = [(at, router, "lan"), (at, router, "wan"), (arrival, "server", "eth0")]
        if not upwards:
            places = [(at, "server", "eth0"), (arrival, router, "wan"), (arrival, router, "lan")]
        for number, (seconds, place, interface) in enumerate(places):
            outgoing = number == (1 if upwards else 0) or (not upwards and number == 2)
            seen = Sighting(seconds, place, interface, outgoing)
            mark = self._messages.to_bytes(8, "big") + data
            self._packets.append(Packet(seen, "tcp", source, destination, data, mark))

    def packet(self, entry: TraceEntry) -> None:
        """What a node did with a packet."""
        if entry.packet.transport is not Transport.UDP:
            return
        node, after = entry.node, entry.translated
        match entry.action:
            case Action.SEND if node in _PUBLIC:
                self._see(entry.at, f"{node}-nat", "lan", False, entry.packet)
            case Action.DELIVER if node in _PUBLIC:
                self._see(entry.at, f"{node}-nat", "lan", True, entry.packet)
                self._count(node, entry.packet)
            case Action.SEND | Action.DELIVER:
                outgoing = entry.action is Action.SEND
                self._see(entry.at, node, "eth0", outgoing, entry.packet)
            case Action.OUT if after is not None:
                self._see(entry.at, node, "wan", True, after)
            case Action.IN:
                self._see(entry.at, node, "wan", False, entry.packet)
            case Action.DROP if entry.packet.destination.host in _PUBLIC.values():
                self._see(entry.at, node, "wan", False, entry.packet)

    def journeys(self) -> list[Journey]:
        """Each packet's way, judged as those through real NATs are."""
        routers = frozenset(f"{name}-nat" for name in _PUBLIC)
        addresses = frozenset({*_PUBLIC.values(), SERVER.host})
        until = max((packet.seconds for packet in self._packets), default=0.0)
        return follow(self._packets, Points(routers, addresses), until)

    def _see(
        self, at: float, place: str, interface: str, outgoing: bool, packet: SimulatedPacket
    ) -> None:
        seen = Sighting(at, place, interface, outgoing)
        self._packets.append(
            Packet(seen, "udp", packet.source, packet.destination, packet.payload, packet.payload)
        )

    def _count(self, node: str, packet: SimulatedPacket) -> None:
        one = Count(1, len(packet.payload))
        if packet.source.host == SERVER.host:
            self.relayed += one
        else:
            self.direct += one


def _cast() -> Cast:
    columns = (
        Column("Alice", _ALICE.host),
        Column("Alice's NAT", _PUBLIC["alice"], is_wall=True),
        Column("Server", SERVER.host),
        Column("Bob's NAT", _PUBLIC["bob"], is_wall=True),
        Column("Bob", _BOB.host),
    )
    sides = {
        ("alice-nat", "lan"): 0,
        ("alice-nat", "wan"): 1,
        ("server", "eth0"): 2,
        ("stranger", "eth0"): 2,
        ("bob-nat", "wan"): 3,
        ("bob-nat", "lan"): 4,
    }
    addresses = {_PUBLIC["alice"]: 0, _PUBLIC["bob"]: 4, SERVER.host: 2}
    return Cast(columns, sides, addresses, frozenset({SERVER.host}), frozenset({STRANGER}))
