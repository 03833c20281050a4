"""Protocols that share a port, told apart by the first byte (RFC 7983, RFC 9443)."""

from __future__ import annotations

import enum


class Protocol(enum.Enum):
    """What a datagram is, as far as its first byte says."""

    STUN = enum.auto()
    CHANNEL_DATA = enum.auto()
    QUIC = enum.auto()
    OTHER = enum.auto()


STUN = Protocol.STUN
CHANNEL_DATA = Protocol.CHANNEL_DATA
QUIC = Protocol.QUIC
OTHER = Protocol.OTHER


def classify(first_byte: int, *, from_turn_server: bool = True) -> Protocol:
    """What a datagram that begins with ``first_byte`` is (RFC 9443 Section 3, Figure 2).

    A QUIC short header may begin with 0x40 to 0x4F as ChannelData does. Only the source tells
    them apart: ChannelData comes from a TURN server that we have a channel on. Say
    ``from_turn_server=False`` for every other source.
    """
    return (_FROM_TURN_SERVER if from_turn_server else _FROM_ELSEWHERE)[first_byte]


def _table(channel_data: Protocol) -> tuple[Protocol, ...]:
    ranges = ((4, STUN), (64, OTHER), (80, channel_data), (128, QUIC), (192, OTHER), (256, QUIC))
    return tuple(next(kind for end, kind in ranges if byte < end) for byte in range(256))


_FROM_TURN_SERVER = _table(CHANNEL_DATA)
_FROM_ELSEWHERE = _table(QUIC)
