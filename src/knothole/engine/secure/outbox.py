"""What a channel wants to send, and how much of it the QUIC library is given at a time."""

from __future__ import annotations

from collections import deque
from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library
from knothole.engine.secure.control import CONTROL_STREAM, ControlMessage
from knothole.engine.secure.events import DatagramTooLarge
from knothole.engine.secure.streams import Streams

MAX_DATAGRAM_SIZE: Final = 1160
"""Largest unreliable datagram in bytes: what fits into a packet of 1200 with the longest header."""

# Ours: stream bytes handed over ahead of sending. What the library has is copied and no longer
# ours to reorder, and the less it is, the better it stays in the processor's cache.
HANDED_OVER: Final = 256 * 1024
# Ours: what may leave before the handshake is confirmed, about two packets. With more in flight
# than the congestion window (which shrinks when handshake packets are lost) the library sends
# nothing at all any more, not even the handshake packets that would free it: one connection in
# 300 was dead at 5 % loss.
EARLY_BYTES: Final = 2200
# Ours: unreliable datagrams waiting for their turn; older ones are worth less and go first.
DATAGRAMS_QUEUED: Final = 256
# RFC 9001 Section 6.6: AES-GCM keys protect at most 2^23 packets; ours change four times as often.
PACKETS_PER_KEY: Final = 1 << 21


class Outbox:
    """Control messages first, then unreliable datagrams, then streams in turn."""

    def __init__(self, quic: QuicConnection, streams: Streams) -> None:
        self._quic = quic
        self._streams = streams
        self._control = bytearray()
        self._datagrams: deque[bytes] = deque(maxlen=DATAGRAMS_QUEUED)
        self._early_left = EARLY_BYTES
        self._took_datagram = False
        self._packets_left = PACKETS_PER_KEY

    @property
    def is_flushed(self) -> bool:
        """Nothing waits, here or in the library, and everything sent has been acknowledged."""
        return not (
            self._control
            or self._datagrams
            or self._streams.has_queued
            or self._quic.get_send_buffer_size()
            or library.bytes_in_flight(self._quic)
            or library.is_paced(self._quic)  # an end without bytes is counted nowhere else
        )

    def put_control(self, message: ControlMessage) -> None:
        self._control += message.encode()

    def put_datagram(self, data: bytes) -> None:
        """Queue it; the oldest is dropped when too many wait. Raises DatagramTooLarge."""
        if len(data) > MAX_DATAGRAM_SIZE:
            raise DatagramTooLarge(
                f"a datagram of {len(data)} bytes does not fit; at most {MAX_DATAGRAM_SIZE} do"
            )
        self._datagrams.append(bytes(data))

    def took_datagram(self) -> bool:
        """Whether a datagram was handed over since the last time this was asked."""
        took, self._took_datagram = self._took_datagram, False
        return took

    def count_sent(self, packets: int) -> None:
        """So many left; the keys are changed in time."""
        self._packets_left -= packets
        if self._packets_left <= 0 and library.change_keys(self._quic):
            self._packets_left = PACKETS_PER_KEY

    def hand_over(self) -> None:
        """Give the library what it may send now."""
        early = not library.is_confirmed(self._quic)
        if self._control:
            self._quic.send_stream_data(CONTROL_STREAM, bytes(self._control))
            self._early_left -= len(self._control)
            self._control.clear()
        while self._datagrams and not library.is_congested(self._quic):
            if early and len(self._datagrams[0]) > self._early_left:
                break
            data = self._datagrams.popleft()
            self._early_left -= len(data)
            self._quic.send_datagram_frame(data)
            self._took_datagram = True
        room = HANDED_OVER - self._quic.get_send_buffer_size()
        if early:
            room = min(room, self._early_left)
        self._early_left -= self._streams.hand_over(room)
