"""ChannelData and messages on a stream (RFC 8656 Section 12)."""

from __future__ import annotations

import pytest

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import Message, MessageClass, Method, Username, XorPeerAddress, encode
from knothole.wire.turn import StreamFramer, decode_channel_data, encode_channel_data

ID = bytes(12)
REQUEST = encode(Message(MessageClass.REQUEST, Method.BINDING, ID, (Username("abcde"),)))
INDICATION = encode(
    Message(MessageClass.INDICATION, Method.SEND, ID, (XorPeerAddress(Address("192.0.2.1", 1)),))
)


def test_behind_a_connection_bind_nothing_is_cut_until_it_is_wanted() -> None:
    bind = encode(Message(MessageClass.REQUEST, Method.CONNECTION_BIND, ID))
    framer = StreamFramer(stops_at_bind=True)
    assert framer.feed(REQUEST + bind + b"raw bytes") == [REQUEST, bind]
    assert framer.has_stopped
    assert framer.rest() == b"raw bytes"
    assert framer.rest() == b""
    assert framer.feed(bind + REQUEST) == [bind]
    assert framer.feed(b"") == [REQUEST]
    assert not framer.has_stopped
    plain = StreamFramer()
    assert plain.feed(bind + REQUEST) == [bind, REQUEST]


def test_channel_data_has_number_length_and_payload() -> None:
    assert encode_channel_data(0x4001, b"abcde", padded=False) == b"\x40\x01\0\x05abcde"
    assert encode_channel_data(0x4001, b"abcde", padded=True) == b"\x40\x01\0\x05abcde\0\0\0"
    assert encode_channel_data(0x4FFF, b"", padded=True) == b"\x4f\xff\0\0"


@pytest.mark.parametrize("payload", [b"", b"a", b"abc", b"abcd", bytes(65535)])
@pytest.mark.parametrize("padded", [True, False])
def test_channel_data_comes_back_padded_or_not(payload: bytes, padded: bool) -> None:
    data = encode_channel_data(0x4000, payload, padded)
    assert decode_channel_data(data) == (0x4000, payload)


@pytest.mark.parametrize("number", [0, 0x3FFF, 0x5000, 0x10000])
def test_number_that_no_channel_has_is_the_callers_error(number: int) -> None:
    with pytest.raises(ValueError):
        encode_channel_data(number, b"", padded=False)


def test_payload_over_64_kib_is_the_callers_error() -> None:
    with pytest.raises(ValueError):
        encode_channel_data(0x4000, bytes(65536), padded=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40\0\0",
        b"\x40\0\0\x01",
        b"\x40\0\0\0" + bytes(4),
        b"\x3f\xff\0\0",
        b"\x50\0\0\0",
        b"\x7f\xff\0\0",
    ],
)
def test_what_is_no_channel_data_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_channel_data(data)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 19, 1000])
def test_stream_is_cut_the_same_however_it_arrives(step: int) -> None:
    stream = (
        REQUEST
        + encode_channel_data(0x4000, b"abcde", padded=True)
        + INDICATION
        + encode_channel_data(0x4001, b"", padded=True)
        + encode_channel_data(0x4002, bytes(3000), padded=True)
    )
    framer = StreamFramer()
    messages = []
    for at in range(0, len(stream), step):
        messages += framer.feed(stream[at : at + step])
    assert messages == [
        REQUEST,
        encode_channel_data(0x4000, b"abcde", padded=False),
        INDICATION,
        encode_channel_data(0x4001, b"", padded=False),
        encode_channel_data(0x4002, bytes(3000), padded=False),
    ]


@pytest.mark.parametrize(
    "noise",
    [
        b"\x20POST / HTTP/1.1",
        b"\x16\x03\x01\x02",
        b"\x80\0\0\0",
        b"\0\x01\0\x01",
        REQUEST[:4] + b"x",
    ],
)
def test_stream_of_something_else_is_refused_then_and_ever_after(noise: bytes) -> None:
    framer = StreamFramer()
    with pytest.raises(MalformedMessage):
        framer.feed(noise)
    with pytest.raises(MalformedMessage):
        framer.feed(REQUEST)


def test_channel_data_of_rfc_5766_is_cut_out_of_a_stream_like_any_other() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\x7f\xff\0\x01a\0\0\0" + REQUEST) == [b"\x7f\xff\0\x01a", REQUEST]


def test_unfinished_message_waits() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\0\x01\0") == []
    assert framer.feed(REQUEST[3:-1]) == []
    assert framer.feed(REQUEST[-1:] + REQUEST) == [REQUEST, REQUEST]
