from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import (
    EndPacket,
    EndReason,
    MediaPacket,
    ReportPacket,
    decode_voice,
    encode_voice,
    opus_samples,
)

SPEECH = bytes([15 << 3]) + b"twenty milliseconds, hybrid"
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)

packets = st.one_of(
    st.builds(MediaPacket, U16, U32, st.sampled_from([b"", SPEECH])),
    st.builds(
        ReportPacket,
        level=st.integers(0, 127),
        fraction_lost=st.integers(0, 255),
        highest_sequence=U32,
        lost=U32,
        jitter=U32,
        sent_at=U32,
        echo=st.none() | U32,
        held=U32,
        playout_delay=U16,
    ),
    st.builds(EndPacket, st.sampled_from(EndReason), U32, st.booleans()),
)


@given(packets)
def test_a_packet_survives_its_encoding(packet: MediaPacket | ReportPacket | EndPacket) -> None:
    assert decode_voice(encode_voice(packet)) == packet


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda rest: b"\x10" + rest))
def test_any_bytes_are_a_packet_or_the_one_error(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        decode_voice(data)


def test_the_bytes_are_those_of_the_document() -> None:
    assert encode_voice(MediaPacket(0x0102, 0x03040506, SPEECH)) == (
        bytes.fromhex("10 00 0102 03040506") + SPEECH
    )
    assert encode_voice(MediaPacket(1, 960, b"")) == bytes.fromhex("10 01 0001 000003c0")
    assert encode_voice(EndPacket(EndReason.SOURCE_ENDED, 960, True)) == bytes.fromhex(
        "12 01 01 00 000003c0"
    )
    report = ReportPacket(
        level=30,
        fraction_lost=13,
        highest_sequence=0x10002,
        lost=3,
        jitter=48,
        sent_at=1_000_000,
        echo=900_000,
        held=50_000,
        playout_delay=40,
    )
    assert encode_voice(report) == bytes.fromhex(
        "11 01 1e 0d 00010002 00000003 00000030 000f4240 000dbba0 0000c350 0028"
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\x20" + bytes(20), "version 2"),
        (b"\x1f" + bytes(20), "unknown kind 15"),
        (b"\x10\x00\x00", "only 3 bytes"),
        (b"\x10" + bytes(7), "not 20 ms"),
        (b"\x10" + bytes(7) + bytes([16 << 3]), "not 20 ms"),
        (b"\x11" + bytes(20), "only 21 bytes"),
        (b"\x12\x00", "only 2 bytes"),
    ],
)
def test_what_is_no_packet_of_version_1_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        decode_voice(data)


def test_an_unknown_reason_is_a_hang_up_and_further_bytes_are_left_alone() -> None:
    assert decode_voice(bytes.fromhex("12 00 63 00 000003c0 ffff")) == EndPacket(
        EndReason.HUNG_UP, 960
    )


@pytest.mark.parametrize(
    ("payload", "samples"),
    [
        (b"", 0),
        (bytes([0 << 3]), 480),  # SILK, 10 ms
        (bytes([9 << 3]), 960),  # SILK, 20 ms
        (bytes([11 << 3]), 2880),
        (bytes([12 << 3 | 1, 0]), 960),  # hybrid, two of 10 ms
        (bytes([16 << 3]), 120),  # CELT, 2.5 ms
        (bytes([31 << 3]), 960),
        (bytes([16 << 3 | 3, 8]), 960),
        (bytes([16 << 3 | 3]), 0),
    ],
)
def test_the_length_of_an_opus_packet_stands_in_its_first_byte(
    payload: bytes, samples: int
) -> None:
    assert opus_samples(payload) == samples
