"""What packets are called, and how a capture becomes the article's steps."""

from __future__ import annotations

import pytest

from knothole.lab.ladder import Column, Outcome, Tone
from knothole.lab.netns.journey import Fate, Journey
from knothole.lab.netns.packet import Packet, Sighting
from knothole.lab.netns.picture import Cast, arrows_of, label_of
from knothole.lab.story import tell
from knothole.wire import stun
from knothole.wire.address import Address

ALICE, BOB = Address("1.1.1.1", 1414), Address("2.2.2.2", 2828)
ALICE_INSIDE, BOB_INSIDE = Address("192.168.1.10", 1414), Address("10.0.2.10", 2828)
SERVER = Address("3.3.3.3", 3478)
RELAYED = Address("3.3.3.3", 50000)
SERVERS = frozenset({"3.3.3.3"})
QUIC = b"\x45" + bytes(40)
SYN, ACK, PSH = 0x02, 0x10, 0x18

CAST = Cast(
    tuple(Column(name) for name in ("Alice", "Alice's NAT", "Server", "Bob's NAT", "Bob")),
    {
        ("alice-nat", "lan"): 0,
        ("alice-nat", "wan"): 1,
        ("server", "eth0"): 2,
        ("bob-nat", "wan"): 3,
        ("bob-nat", "lan"): 4,
    },
    {"1.1.1.1": 0, "2.2.2.2": 4, "3.3.3.3": 2},
    SERVERS,
)


def packet(
    payload: bytes,
    source: Address = ALICE,
    destination: Address = BOB,
    *,
    protocol: str = "udp",
    flags: int = 0,
    seen: Sighting = Sighting(0.0, "alice-nat", "wan", True),  # noqa: B008
) -> Packet:
    return Packet(seen, protocol, source, destination, payload, payload, flags)


def check(kind: stun.MessageClass = stun.MessageClass.REQUEST) -> bytes:
    return stun.encode(stun.Message(kind, stun.Method.BINDING, bytes(12)))


def channel_data(payload: bytes) -> bytes:
    return b"\x40\x01" + len(payload).to_bytes(2, "big") + payload


@pytest.mark.parametrize(
    ("seen", "label", "tone"),
    [
        (packet(check()), "check", Tone.CHECK),
        (packet(check(stun.MessageClass.SUCCESS)), "check answered", Tone.CHECK),
        (packet(check(stun.MessageClass.INDICATION)), "keepalive", Tone.CHECK),
        (packet(check(), ALICE, SERVER), "Binding", Tone.SERVER),
        (packet(check(), ALICE, RELAYED), "relayed check", Tone.RELAYED),
        (packet(QUIC), "QUIC 41 B", Tone.PAYLOAD),
        (packet(b"\xc3" + bytes(1199)), "QUIC handshake 1200 B", Tone.PAYLOAD),
        (packet(channel_data(QUIC), ALICE, SERVER), "relayed QUIC 41 B", Tone.RELAYED),
        (packet(channel_data(check()), SERVER, ALICE), "relayed check", Tone.RELAYED),
        (packet(QUIC, RELAYED, BOB), "relayed QUIC 41 B", Tone.RELAYED),
        (packet(b"hello"), "data 5 B", Tone.STRANGER),
        (packet(b"\x00\x01 no stun at all"), "data 17 B", Tone.STRANGER),
        (packet(b""), "empty", Tone.STRANGER),
        (packet(b"", protocol="tcp", flags=SYN), "TCP connect", Tone.SIGNALLING),
        (packet(b"x", ALICE, SERVER, protocol="tcp", flags=PSH), "TLS", Tone.SIGNALLING),
    ],
)
def test_a_packet_is_called_by_what_it_carries(seen: Packet, label: str, tone: Tone) -> None:
    assert label_of(seen, SERVERS) == (label, tone)


def journey(
    at: float, payload: bytes, *places: str, fate: Fate = Fate.ARRIVED, protocol: str = "udp"
) -> Journey:
    """One packet by way of ``places`` (``alice alice-nat bob-nat bob server``), 10 ms a line."""
    ends = {"alice": ALICE, "bob": BOB, "server": SERVER}
    source = ends[places[0]]
    destination = ends[places[-1].removesuffix("-nat")]
    sightings = []
    for place in places:
        inside = place in ("alice", "bob")
        name, interface = (f"{place}-nat", "lan") if inside else (place, "wan")
        if place == "server":
            interface = "eth0"
        outgoing = len(sightings) < len(places) / 2 and not (inside and not sightings)
        seen = Sighting(at, name, interface, outgoing)
        sightings.append(
            packet(payload, source, destination, protocol=protocol, flags=PSH, seen=seen)
        )
        at += 0.010 if len(sightings) < len(places) and not _at_home(places, len(sightings)) else 0
    return Journey(sightings, fate)


def _at_home(places: tuple[str, ...], number: int) -> bool:
    """Whether the leg before place ``number`` is one inside somebody's LAN."""
    return bool({"alice", "bob"} & {places[number - 1], places[number]})


THERE = ("alice", "alice-nat", "bob-nat", "bob")
BACK = THERE[::-1]

CALL = [
    journey(1.000, bytes(1448), "alice", "alice-nat", "server", protocol="tcp"),
    journey(1.0001, bytes(1448), "alice", "alice-nat", "server", protocol="tcp"),
    journey(1.011, bytes(2000), "server", "bob-nat", "bob", protocol="tcp"),
    journey(1.025, check(), *BACK[:3], fate=Fate.DISCARDED),
    journey(1.030, check(), *THERE),
    journey(1.060, QUIC, *BACK),
    *[journey(1.080 + n * 0.02, QUIC, *THERE) for n in range(100)],
]


def test_segments_of_one_message_become_one_arrow_with_their_sum() -> None:
    arrows = arrows_of(CALL[:3], CAST)
    assert [(arrow.label, arrow.towards) for arrow in arrows] == [
        ("TLS 2896 B", 2),
        ("TLS 2000 B", 4),
    ]


def test_what_a_client_asks_its_own_router_for_is_not_drawn() -> None:
    seen = Sighting(1.0, "bob-nat", "lan", False)
    asked = packet(b"\x00\x00", BOB, Address("10.0.2.1", 5351), seen=seen)
    assert arrows_of([Journey([asked], Fate.DISCARDED)], CAST) == []


def test_the_steps_are_found_in_what_was_captured() -> None:
    story = tell(CALL, CAST, "a call")
    assert [
        section.title.split(" · ")[0] for section in sorted_sections(story.ladder.sections)
    ] == [
        "Step 1",
        "Step 2",
        "Step 3",
        "They talk, directly",
    ]
    texts = [step.text for step in story.steps]
    assert "switchboard" in texts[0]
    assert "Alice's NAT discards it" in texts[1]
    assert texts[2:] == [
        "Alice's packet has come through the hole to Bob",
        "payload flows directly",
    ]
    assert [round(step.after_seconds, 3) for step in story.steps] == [0.021, 0.025, 0.040, 0.060]


def sorted_sections(sections: list) -> list:  # type: ignore[type-arg]
    return sorted(sections, key=lambda section: section.start)


def test_the_discarded_packet_is_marked_and_the_talk_is_counted() -> None:
    ladder = tell(CALL, CAST, "a call").ladder
    [marked] = [arrow for arrow in ladder.arrows if arrow.outcome is Outcome.DISCARDED]
    assert marked.way[-1][0] == 1, "at Alice's NAT"
    assert sum(arrow.repeats for arrow in ladder.arrows if arrow.tone is Tone.PAYLOAD) == 98
    assert ladder.origin == 1.0


def test_a_relayed_call_is_told_as_one() -> None:
    relayed = [
        *CALL[:4],
        journey(1.050, channel_data(QUIC), "alice", "alice-nat", "server"),
        journey(1.061, channel_data(QUIC), "server", "bob-nat", "bob"),
    ]
    story = tell(relayed, CAST, "a call")
    assert story.steps[-1].text == "payload flows by way of the relay"


def test_without_a_call_there_is_no_story() -> None:
    with pytest.raises(ValueError, match="no call"):
        tell(CALL[3:], CAST, "a call")
