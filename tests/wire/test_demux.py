"""The first byte says which protocol (RFC 7983, RFC 9443 Section 3)."""

from __future__ import annotations

from knothole.wire.demux import CHANNEL_DATA, OTHER, QUIC, STUN, classify


def test_first_byte_says_the_protocol() -> None:
    ranges = {
        range(0, 4): STUN,
        range(4, 64): OTHER,  # ZRTP, DTLS
        range(64, 80): CHANNEL_DATA,
        range(80, 128): QUIC,
        range(128, 192): OTHER,  # RTP, RTCP
        range(192, 256): QUIC,
    }
    for first_bytes, protocol in ranges.items():
        assert {classify(first) for first in first_bytes} == {protocol}


def test_only_a_turn_server_sends_channel_data() -> None:
    for first in range(256):
        expected = classify(first)
        if expected is CHANNEL_DATA:
            expected = QUIC
        assert classify(first, from_turn_server=False) is expected
