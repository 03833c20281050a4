"""From packets at single interfaces to the way each went: across NATs, or up to one and no further.

The judgement is made from outside: a packet that came to a NAT and for which none left on its
other side was discarded, whatever anybody says.
"""

from __future__ import annotations

import enum
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from knothole.lab.netns.packet import Packet

# The kernel forwards at once, unless the machine is busy; nobody repeats a packet sooner than that.
_ACROSS_ROUTER_SECONDS: Final = 0.05
_ACROSS_LINE_SECONDS: Final = 2.0


class Fate(enum.Enum):
    """How a packet's journey ended, as far as it was seen."""

    ARRIVED = "arrived"
    DISCARDED = "discarded"
    LOST = "lost"


@dataclass(slots=True)
class Journey:
    """The sightings of one packet, in order of time, and its end."""

    sightings: list[Packet]
    fate: Fate = Fate.ARRIVED

    @property
    def first(self) -> Packet:
        return self.sightings[0]

    @property
    def last(self) -> Packet:
        return self.sightings[-1]

    @property
    def places(self) -> list[str]:
        """Where it was seen, each place once."""
        return list(dict.fromkeys(packet.seen.place for packet in self.sightings))


@dataclass(frozen=True, slots=True)
class Points:
    """What was captured where: routers (their ``wan`` and ``lan``), and public addresses.

    A packet to an address that is not among ``addresses`` goes out of sight on the internet and
    counts as arrived.
    """

    routers: frozenset[str]
    addresses: frozenset[str]


def follow(packets: Iterable[Packet], points: Points, until: float) -> list[Journey]:
    """Every packet's journey, in order of its first sighting.

    Needs both sides of each router, and the interface of each host with a public address of its
    own. ``until`` is when the capture ended (seconds): what was under way just then has arrived.
    """
    follower = _Follower(points)
    for packet in sorted(packets, key=lambda packet: packet.seconds):
        follower.see(packet)
    return follower.finish(until)


class _Waiting:
    """Journeys whose next sighting is due within ``limit`` seconds, and their fate without it."""

    def __init__(self, limit: float, fate: Fate) -> None:
        self._limit = limit
        self._fate = fate
        self._queues: dict[Hashable, deque[Journey]] = defaultdict(deque)

    def add(self, key: Hashable, journey: Journey) -> None:
        self._queues[key].append(journey)

    def take(self, key: Hashable, now: float) -> Journey | None:
        queue = self._queues[key]
        while queue:
            journey = queue.popleft()
            if now - journey.last.seconds <= self._limit:
                return journey
            journey.fate = self._fate
        return None

    def give_up(self, until: float) -> None:
        for queue in self._queues.values():
            for journey in queue:
                if until - journey.last.seconds > self._limit:
                    journey.fate = self._fate


class _Follower:
    def __init__(self, points: Points) -> None:
        self._points = points
        self._journeys: list[Journey] = []
        self._in_routers = _Waiting(_ACROSS_ROUTER_SECONDS, Fate.DISCARDED)
        self._on_lines = _Waiting(_ACROSS_LINE_SECONDS, Fate.LOST)

    def see(self, packet: Packet) -> None:
        """Join the packet to the journey that waits for it, or begin one; and wait again."""
        place, interface, outgoing = packet.seen.place, packet.seen.interface, packet.seen.outgoing
        is_router = place in self._points.routers
        inside = is_router and interface == "lan"
        inward = inside == outgoing
        far = packet.source if inward else packet.destination
        across = (place, inward, packet.protocol, far, packet.fingerprint)
        line = (packet.protocol, packet.source, packet.destination, packet.fingerprint)
        journey = None
        if is_router and outgoing:
            journey = self._in_routers.take(across, packet.seconds)
        elif not inside and not outgoing:
            journey = self._on_lines.take(line, packet.seconds)
        if journey is None:
            journey = Journey([])
            self._journeys.append(journey)
        journey.sightings.append(packet)
        if is_router and not outgoing:
            self._in_routers.add(across, journey)
        elif not inside and outgoing and packet.destination.host in self._points.addresses:
            self._on_lines.add(line, journey)

    def finish(self, until: float) -> list[Journey]:
        self._in_routers.give_up(until)
        self._on_lines.give_up(until)
        return sorted(self._journeys, key=lambda journey: journey.first.seconds)
