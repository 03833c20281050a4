"""Channels on the server's side (RFC 8656 Section 12)."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram
from knothole.engine.turn.burst import MAX_BURST, MAX_SEGMENTS, unwrap_burst, wrap_bursts
from knothole.wire.address import Address, Transport
from knothole.wire.stun import ChannelNumber, Lifetime, Method, XorPeerAddress, looks_like_stun
from knothole.wire.turn import decode_channel_data, encode_channel_data

PEER = Address("2.2.2.2", 2000)
SAME_HOST = Address("2.2.2.2", 2001)
OTHER = Address("3.3.3.3", 3000)
NUMBER = 0x4000


def bind(raw, number: int = NUMBER, peer: Address = PEER) -> int:
    return raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer))


def permit(raw, peer: Address = PEER) -> None:
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(peer)) == 0


@pytest.fixture
def bound(raw):
    """A raw client with an allocation for an hour and NUMBER bound to PEER."""
    raw.relayed = raw.allocate(Lifetime(3600))
    assert bind(raw) == 0
    return raw


def from_peer(raw, peer: Address = PEER, payload: bytes = b"pong", segment_size: int = 0) -> list:
    world = raw.world
    world.server.receive_from_peer(raw.relayed, peer, payload, world.now, segment_size)
    raw.send(b"")
    return raw.replies


def sent_to_peer(raw, message: bytes, segment_size: int = 0) -> list[Datagram]:
    raw.world.to_peers.clear()
    raw.world.server.receive(raw.five_tuple, message, raw.world.now, segment_size)
    raw.send(b"")
    return [datagram for _, datagram in raw.world.to_peers]


def test_channel_data_passes_both_ways(bound) -> None:
    message = encode_channel_data(NUMBER, b"ping", False)
    assert sent_to_peer(bound, message) == [Datagram(bound.relayed, PEER, b"ping")]
    assert from_peer(bound) == [encode_channel_data(NUMBER, b"pong", False)]


def test_a_channel_is_for_one_port_and_its_permission_for_the_host(bound) -> None:
    (reply,) = from_peer(bound, SAME_HOST)
    assert looks_like_stun(reply)


def test_send_indications_pass_beside_a_channel(bound) -> None:
    bound.indicate(PEER, b"ping")
    assert [datagram.payload for _, datagram in bound.world.to_peers] == [b"ping"]


@pytest.mark.parametrize("payload", [b"", b"1", b"12", b"123", b"1234"])
def test_padding_over_udp_is_tolerated_and_on_streams_it_is_made(new_raw, payload) -> None:
    stream = new_raw(transport=Transport.TCP)
    stream.relayed = stream.allocate()
    assert bind(stream) == 0
    padded = encode_channel_data(NUMBER, payload, True)
    assert sent_to_peer(stream, padded)[0].payload == payload
    assert sent_to_peer(stream, encode_channel_data(NUMBER, payload, False))[0].payload == payload
    assert from_peer(stream, payload=payload) == [padded]


@pytest.mark.parametrize(
    "message",
    [
        b"\x40",
        b"\x40\x00\x00",
        b"\x40\x00\x00\x05ping",
        b"\x40\x01\x00\x04ping",
        b"\x4f\xff\x00\x04ping",
        b"\x50\x00\x00\x04ping",
        b"\x7f\xff\x00\x04ping",
        b"\x80\x00\x00\x04ping",
    ],
)
def test_channel_data_that_is_short_or_on_no_channel_is_dropped(bound, message) -> None:
    assert sent_to_peer(bound, message) == [] and bound.replies == []


@pytest.mark.parametrize("number", [0, 0x3FFF, 0x8000, 0xFFFF])
def test_numbers_outside_the_range_are_bad(raw, number) -> None:
    raw.allocate()
    assert bind(raw, number) == 400


@pytest.mark.parametrize("number", [0x4000, 0x4FFF])
def test_numbers_at_its_ends_are_good(raw, number) -> None:
    raw.allocate()
    assert bind(raw, number) == 0


@pytest.mark.parametrize("number", [0x5000, 0x7FFF])
def test_channel_numbers_of_rfc_5766_work_like_those_of_rfc_8656(new_raw, number) -> None:
    """In both directions, one by one, in bursts, and on a stream."""
    prefix = number.to_bytes(2, "big")
    message = prefix + b"\x00\x04ping"
    client = new_raw()
    client.relayed = client.allocate()
    assert bind(client, number) == 0
    assert sent_to_peer(client, message) == [Datagram(client.relayed, PEER, b"ping")]
    burst = Datagram(client.relayed, PEER, b"pingping", 4)
    assert sent_to_peer(client, message * 2, len(message)) == [burst]
    assert from_peer(client) == [prefix + b"\x00\x04pong"]
    stream = new_raw(transport=Transport.TCP)
    stream.relayed = stream.allocate()
    assert bind(stream, number) == 0
    assert sent_to_peer(stream, message)[0].payload == b"ping"
    assert from_peer(stream, payload=b"pongs") == [prefix + b"\x00\x05pongs\0\0\0"]


def test_half_a_request_is_bad(raw) -> None:
    raw.allocate()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(NUMBER)) == 400
    assert raw.code(Method.CHANNEL_BIND, XorPeerAddress(PEER)) == 400
    assert bind(raw, peer=Address(PEER.host, 0)) == 400


def test_number_and_peer_belong_to_each_other(bound) -> None:
    assert bind(bound, NUMBER, OTHER) == 400
    assert bind(bound, NUMBER + 1, PEER) == 400
    assert bind(bound, NUMBER, PEER) == 0
    assert bind(bound, NUMBER + 1, SAME_HOST) == 0


def test_the_peer_must_be_of_the_allocations_family(bound) -> None:
    assert bind(bound, NUMBER + 1, Address("2a00::2", 2000)) == 443


def test_a_channel_lasts_600_seconds_and_its_permission_300(bound) -> None:
    message = encode_channel_data(NUMBER, b"ping", False)
    bound.world.now = 299.999
    assert sent_to_peer(bound, message) and from_peer(bound)
    bound.world.now = 300.0
    assert not sent_to_peer(bound, message) and not from_peer(bound)
    permit(bound)
    assert sent_to_peer(bound, message) and from_peer(bound)
    bound.world.now = 599.999
    assert sent_to_peer(bound, message) and not looks_like_stun(from_peer(bound)[0])
    bound.world.now = 600.0
    permit(bound)
    assert not sent_to_peer(bound, message)
    assert looks_like_stun(from_peer(bound)[0])


def test_binding_again_refreshes_both_and_data_neither(bound) -> None:
    message = encode_channel_data(NUMBER, b"ping", False)
    bound.world.now = 250.0
    assert sent_to_peer(bound, message) and from_peer(bound)
    assert bind(bound) == 0
    bound.world.now = 549.999
    assert sent_to_peer(bound, message)
    bound.world.now = 550.0
    assert not sent_to_peer(bound, message)
    permit(bound)
    bound.world.now = 849.999
    assert sent_to_peer(bound, message)


def test_an_expired_channel_is_in_quarantine_for_five_minutes(bound) -> None:
    bound.world.now = 899.999
    assert bind(bound, NUMBER, OTHER) == 400
    assert bind(bound, NUMBER + 1, PEER) == 400
    bound.world.now = 900.0
    assert bind(bound, NUMBER, OTHER) == 0
    assert bind(bound, NUMBER + 1, PEER) == 0
    assert decode_channel_data(from_peer(bound)[0])[0] == NUMBER + 1


def test_number_and_peer_may_meet_again_within_the_quarantine(bound) -> None:
    bound.world.now = 700.0
    assert bind(bound) == 0
    assert decode_channel_data(from_peer(bound)[0])[0] == NUMBER
    bound.world.now = 1599.999
    assert bind(bound, NUMBER, OTHER) == 400


def test_a_refused_request_changes_nothing(bound) -> None:
    assert bind(bound, NUMBER, OTHER) == 400
    message = encode_channel_data(NUMBER, b"ping", False)
    assert sent_to_peer(bound, message)[0].destination == PEER
    assert from_peer(bound, OTHER) == []


def test_channels_of_one_allocation_are_not_anothers(bound, new_raw) -> None:
    other = new_raw(client=Address("1.1.1.1", 4001))
    other.relayed = other.allocate()
    assert bind(other, NUMBER, OTHER) == 0
    message = encode_channel_data(NUMBER, b"ping", False)
    assert sent_to_peer(bound, message)[0].destination == PEER
    assert sent_to_peer(other, message)[0].destination == OTHER


class TestBursts:
    """Bursts as UDP_GRO receives them and UDP_SEGMENT sends them."""

    def test_a_burst_from_the_client_goes_on_as_one(self, bound) -> None:
        (burst,) = wrap_bursts(b"\x40\x00", b"a" * 100 + b"b" * 100 + b"c" * 7, 100)
        (datagram,) = sent_to_peer(bound, burst, 104)
        assert datagram == Datagram(bound.relayed, PEER, b"a" * 100 + b"b" * 100 + b"c" * 7, 100)

    def test_a_burst_from_the_peer_goes_on_as_one(self, bound) -> None:
        (reply,) = from_peer(bound, payload=b"a" * 100 + b"b" * 50, segment_size=100)
        assert unwrap_burst(reply, 104) == (NUMBER, b"a" * 100 + b"b" * 50, 100)

    def test_a_burst_of_different_things_is_taken_apart(self, bound) -> None:
        assert bind(bound, NUMBER + 1, OTHER) == 0
        parts = [
            encode_channel_data(NUMBER, b"one!", False),
            encode_channel_data(NUMBER + 1, b"two!", False),
            encode_channel_data(NUMBER, b"3", True),
        ]
        sent = sent_to_peer(bound, b"".join(parts), 8)
        assert [(each.destination, each.payload) for each in sent] == [
            (PEER, b"one!"),
            (OTHER, b"two!"),
            (PEER, b"3"),
        ]

    def test_without_a_channel_each_datagram_has_its_own_indication(self, bound) -> None:
        assert len(from_peer(bound, SAME_HOST, b"aabbc", segment_size=2)) == 3

    def test_on_a_stream_each_datagram_is_its_own_message(self, new_raw) -> None:
        stream = new_raw(transport=Transport.TCP)
        stream.relayed = stream.allocate()
        assert bind(stream) == 0
        replies = from_peer(stream, payload=b"aabbc", segment_size=2)
        assert [decode_channel_data(each)[1] for each in replies] == [b"aa", b"bb", b"c"]

    def test_a_burst_on_an_expired_channel_is_dropped_whole(self, bound) -> None:
        (burst,) = wrap_bursts(b"\x40\x00", b"aabb", 2)
        bound.world.now = 600.0
        permit(bound)
        assert sent_to_peer(bound, burst, 6) == []

    def test_a_burst_without_permission_is_dropped_whole(self, bound) -> None:
        (burst,) = wrap_bursts(b"\x40\x00", b"aabb", 2)
        bound.world.now = 300.0
        assert sent_to_peer(bound, burst, 6) == []
        assert from_peer(bound, payload=b"aabb", segment_size=2) == []

    @pytest.mark.parametrize("segment_size", [1, 2, 100, 1200, 1472])
    @pytest.mark.parametrize("size", [3, 1201, 60_000, 65_000])
    def test_headers_never_make_a_burst_too_large(self, segment_size, size) -> None:
        payload = bytes(i & 0xFF for i in range(size))
        bursts = list(wrap_bursts(b"\x41\x23", payload, segment_size))
        unwrapped = b""
        for burst in bursts:
            assert len(burst) <= MAX_BURST
            assert len(burst) <= MAX_SEGMENTS * (segment_size + 4)
            for start in range(0, len(burst), segment_size + 4):
                number, data = decode_channel_data(burst[start : start + segment_size + 4])
                assert number == 0x4123
                unwrapped += data
        assert unwrapped == payload
