"""From journeys of packets to the arrows of a ladder: where each went, and what it carried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from knothole.lab.ladder import Arrow, Column, Outcome, Tone
from knothole.lab.netns.journey import Fate, Journey
from knothole.lab.netns.packet import Packet
from knothole.lab.netns.topology import Lab
from knothole.wire import demux, stun
from knothole.wire.malformed import MalformedMessage

_OUTCOMES: Final = {
    Fate.ARRIVED: Outcome.ARRIVED,
    Fate.DISCARDED: Outcome.DISCARDED,
    Fate.LOST: Outcome.LOST,
}
_CLASSES: Final = {
    stun.MessageClass.REQUEST: "",
    stun.MessageClass.INDICATION: "",
    stun.MessageClass.SUCCESS: " answered",
    stun.MessageClass.ERROR: " refused",
}
_CHANNEL_HEADER: Final = 4
_SERVER_PORTS: Final = frozenset({3478, 3479})  # any other port of a server is a relayed address
_PORT_MAPPING_PORTS: Final = frozenset(
    {1900, 5351}
)  # SSDP (UPnP); PCP and NAT-PMP (RFC 6887 Section 19.1)
_SMALLEST_QUIC: Final = 21  # RFC 9000 Section 10.3: shorter ones cannot be a valid packet
_ONE_MESSAGE_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class Cast:
    """Who is who: column numbers of places and of public addresses; servers' and strangers'."""

    columns: Sequence[Column]
    sides: dict[tuple[str, str], int]
    addresses: dict[str, int]
    servers: frozenset[str]
    strangers: frozenset[str] = frozenset()


def two_clients(lab: Lab, left: str, right: str, server: str, *others: str) -> Cast:
    """The five columns of a call: a client, its NAT, the server, a NAT, a client.

    ``others`` are further hosts on the internet; they share the server's column.
    """
    columns: list[Column] = []
    sides: dict[tuple[str, str], int] = {}
    addresses: dict[str, int] = {}
    for name, client, wall in ((left, 0, 1), (right, 4, 3)):
        router = lab.router(name)
        sides[router.name, "lan"] = client
        sides[router.name, "wan"] = wall
        addresses[router.public_address] = client
    for name in (server, *others):
        sides[name, lab.hosts[name].interface] = 2
        addresses.update(dict.fromkeys(lab.hosts[name].addresses, 2))
    for name in (left, right):
        own = Column(name.capitalize(), lab.hosts[name].address)
        wall_column = Column(f"{own.title}'s NAT", lab.public_address(name), is_wall=True)
        columns += [own, wall_column] if name == left else [wall_column, own]
    columns.insert(2, Column("Server", lab.hosts[server].address))
    strangers = {address for name in others for address in lab.hosts[name].addresses}
    servers = frozenset(lab.hosts[server].addresses)
    return Cast(columns, sides, addresses, servers, frozenset(strangers))


def arrows_of(journeys: Iterable[Journey], cast: Cast) -> list[Arrow]:
    """An arrow for each journey that carried something; bare acknowledgements of TCP do not.

    What a client asks its own router for is left out: it is no part of a call.
    """
    arrows: list[Arrow] = []
    stretch: Arrow | None = None  # segments of one message of a stream become one arrow
    sizes: dict[int, int] = {}
    for journey in journeys:
        is_stream = journey.first.protocol == "tcp"
        if journey.first.protocol == "icmp" or (is_stream and not _says(journey)):
            continue
        if journey.first.destination.port in _PORT_MAPPING_PORTS:
            continue
        arrow = arrow_of(journey, cast)
        if arrow.way[0][0] == arrow.towards:
            continue  # under way already when the capture began
        if is_stream and journey.first.payload:
            size = len(journey.first.payload)
            if stretch and _continues(stretch, arrow):
                sizes[id(stretch)] += size
                continue
            stretch = arrow
            sizes[id(arrow)] = size
        arrows.append(arrow)
    return [
        replace(arrow, label=f"TLS {sizes[id(arrow)]} B") if id(arrow) in sizes else arrow
        for arrow in arrows
    ]


def arrow_of(journey: Journey, cast: Cast) -> Arrow:
    """The arrow of one journey, labelled by what its payload is."""
    way = [
        (cast.sides[packet.seen.place, packet.seen.interface], packet.seconds)
        for packet in journey.sightings
    ]
    outside = next((p for p in journey.sightings if p.seen.interface != "lan"), journey.first)
    towards = cast.addresses.get(outside.destination.host, 2)
    label, tone = label_of(outside, cast.servers)
    if outside.source.host in cast.strangers:
        label, tone = "a stranger's packet", Tone.STRANGER
    outcome = _OUTCOMES[journey.fate]
    if outside.seen.outgoing and outside.destination.ip.is_private:
        outcome = Outcome.LOST  # the internet has no way to anybody's private address
    detail = f"{outside.source} → {outside.destination}"
    return Arrow(tuple(way), towards, label, detail, tone, outcome)


def label_of(packet: Packet, servers: frozenset[str]) -> tuple[str, Tone]:
    """What a packet carries, in a few words, and its colour. Foreign bytes are called data."""
    with_server = packet.source.host in servers or packet.destination.host in servers
    if packet.protocol == "tcp":
        if packet.opens_tcp:
            return "TCP connect", Tone.SIGNALLING
        if packet.ends_tcp and not packet.payload:
            return "TCP close", Tone.SIGNALLING
        return "TLS", Tone.SIGNALLING
    if not packet.payload:
        return "empty", Tone.STRANGER
    service = packet.source if packet.source.host in servers else packet.destination
    by_relayed_address = with_server and service.port not in _SERVER_PORTS
    with_service = with_server and not by_relayed_address
    kind = demux.classify(packet.payload[0], from_turn_server=with_service)
    if kind is demux.CHANNEL_DATA and len(packet.payload) > _CHANNEL_HEADER:
        return _relayed(packet.payload[_CHANNEL_HEADER:])
    if kind is demux.STUN:
        if by_relayed_address:
            return "relayed check", Tone.RELAYED
        return _stun_label(packet.payload, with_server)
    if kind is demux.QUIC and len(packet.payload) >= _SMALLEST_QUIC:
        if by_relayed_address:
            return _relayed(packet.payload)
        return _quic_label(packet.payload), Tone.PAYLOAD
    return f"data {len(packet.payload)} B", Tone.STRANGER


def _stun_label(payload: bytes, with_server: bool) -> tuple[str, Tone]:
    try:
        message = stun.decode(payload)
    except MalformedMessage:
        return f"data {len(payload)} B", Tone.STRANGER
    if message.method in (stun.Method.SEND, stun.Method.DATA):
        data = message.get(stun.Data)
        return _relayed(data.value if data else b"")
    what = _CLASSES[message.message_class]
    if message.method == stun.Method.BINDING and not with_server:
        if message.message_class is stun.MessageClass.INDICATION:
            return "keepalive", Tone.CHECK
        return f"check{what}", Tone.CHECK
    try:
        name = stun.Method(message.method).name.replace("_", " ").capitalize()
    except ValueError:
        name = "STUN"
    return f"{name}{what}", Tone.SERVER


def _relayed(payload: bytes) -> tuple[str, Tone]:
    if not payload:
        return "relayed", Tone.RELAYED
    kind = demux.classify(payload[0], from_turn_server=False)
    if kind is demux.STUN:
        label, _ = _stun_label(payload, with_server=False)
        return f"relayed {label}", Tone.RELAYED
    return f"relayed {_quic_label(payload)}", Tone.RELAYED


def _quic_label(payload: bytes) -> str:
    return f"QUIC {'handshake ' if payload[0] & 0x80 else ''}{len(payload)} B"


def _continues(before: Arrow, after: Arrow) -> bool:
    """Whether ``after`` is a further segment of the message that ``before`` began."""
    same = (before.detail, before.outcome) == (after.detail, after.outcome)
    return same and after.start - before.start < _ONE_MESSAGE_SECONDS


def _says(journey: Journey) -> bool:
    packet = journey.first
    return bool(packet.payload) or packet.opens_tcp or packet.ends_tcp
