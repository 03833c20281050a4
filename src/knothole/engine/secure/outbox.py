"""What a channel wants to send, and how much of it the QUIC library is given at a time."""

from __future__ import annotations

from collections import deque
from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library
from knothole.engine.secure.control import CONTROL_STREAM, ControlMessage
from knothole.engine.secure.events import DatagramTooLarge
from knothole.engine.secure.streams import Streams
from knothole.engine.secure.timers import ChannelTimers

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
DATAGRAMS_IN_LIBRARY: Final = 8  # ours: of these, waiting where they cannot be dropped any more
# RFC 9001 Section 6.6: AES-GCM keys protect at most 2^23 packets; ours change four times as often.
PACKETS_PER_KEY: Final = 1 << 21


class Outbox:
    """Control messages first, then unreliable datagrams, then streams in turn."""

    def __init__(self, quic: QuicConnection, streams: Streams, timers: ChannelTimers) -> None:
        self._quic = quic
        self._streams = streams
        self._timers = timers
        self._control = bytearray()
        self._datagrams: deque[bytes] = deque(maxlen=DATAGRAMS_QUEUED)
        self._early_left = EARLY_BYTES
        self._asked = False
        self._in_library = 0
        self._packets_left = PACKETS_PER_KEY

    @property
    def is_flushed(self) -> bool:
        """Nothing waits, here or in the library, and everything sent has been acknowledged."""
        return self._timers.recovery.has_all_arrived and not (
            self._control
            or self._datagrams
            or self._streams.has_queued
            or self._quic.get_send_buffer_size()
        )

    @property
    def is_idle(self) -> bool:
        """Nothing that the application or this channel said is to be sent now."""
        return not (
            self._asked
            or self._control
            or self._datagrams
            or self._streams.has_work
            or self._quic.get_send_buffer_size()
        )

    def ping(self, uid: int) -> None:
        """Ask the peer for an acknowledgement."""
        self._quic.send_ping(uid)
        self._asked = True

    def put_control(self, message: ControlMessage) -> None:
        self._control += message.encode()

    def put_datagram(self, data: bytes) -> None:
        """Queue it; the oldest is dropped when too many wait. Raises DatagramTooLarge."""
        if len(data) > MAX_DATAGRAM_SIZE:
            raise DatagramTooLarge(
                f"a datagram of {len(data)} bytes does not fit; at most {MAX_DATAGRAM_SIZE} do"
            )
        self._datagrams.append(bytes(data))

    def take(self, now: float, inner_now: float, most: int, may_send: bool) -> list[bytes]:
        """At most ``most`` datagrams to send now; nothing of ours in them unless we ``may_send``.

        ``inner_now`` is the library's time. Raises LibraryFault.
        """
        was_idle = self.is_idle
        if was_idle and self._timers.holds_back(now):
            return []
        sent_datagram = self._hand_over() if may_send else False
        burst = self._ask(inner_now, most)
        if may_send and self._streams.end_alone(self._timers.recovery):
            burst += self._ask(inner_now, most - len(burst))
        if not library.is_congested(self._quic):
            self._in_library = 0
        if burst:
            self._timers.sent()
        if burst and was_idle and library.is_confirmed(self._quic):
            self._timers.acknowledged(now)
        if burst and sent_datagram:
            self._timers.datagram_sent(now)
        self._packets_left -= len(burst)
        if self._packets_left <= 0 and library.change_keys(self._quic):
            self._packets_left = PACKETS_PER_KEY
        return burst

    def _ask(self, inner_now: float, most: int) -> list[bytes]:
        burst = library.take_datagrams(self._quic, inner_now, most)
        if len(burst) < most:
            self._timers.recovery.asked()
        return burst

    def _hand_over(self) -> bool:
        """Give the library what it may send now; whether a datagram was among it."""
        self._asked = sent_datagram = False
        early = not library.is_confirmed(self._quic)
        if self._control:
            self._quic.send_stream_data(CONTROL_STREAM, bytes(self._control))
            self._early_left -= len(self._control)
            self._control.clear()
        while self._datagrams and self._library_takes_datagrams():
            if early and len(self._datagrams[0]) > self._early_left:
                break
            data = self._datagrams.popleft()
            self._early_left -= len(data)
            self._quic.send_datagram_frame(data)
            self._in_library += 1
            sent_datagram = True
        room = HANDED_OVER - self._quic.get_send_buffer_size()
        if early:
            room = min(room, self._early_left)
        self._early_left -= self._streams.hand_over(room)
        return sent_datagram

    def _library_takes_datagrams(self) -> bool:
        """A few may wait in it, where they go before the streams; more would only grow stale."""
        return self._in_library < DATAGRAMS_IN_LIBRARY or not library.is_congested(self._quic)
