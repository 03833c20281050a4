"""A stream transport, as much of TCP and TLS as a relay over them needs to be tried out.

What an engine sends with a stream transport opens a connection by itself: one round trip for TCP,
one more for TLS, then whole payloads arrive once each and in order, repeated on the lossy line
below until they do. There is no congestion control, and a connection ends by a reset or for want of
an answer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram
from knothole.lab.sim.fabric import Appointment, Clock
from knothole.lab.sim.packet import Packet, Segment, SegmentKind
from knothole.wire.address import Address, Transport

INITIAL_RTO_SECONDS: Final = 1.0  # RFC 6298 Section 2.1
RTO_MARGIN_SECONDS: Final = 0.2  # ours, as Linux: above the round trip time once that is known
MAX_ATTEMPTS: Final = 7  # ours: about two minutes


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A connection is over; what is sent from now on opens another one."""

    local: Address
    remote: Address
    transport: Transport
    reason: str


class _State(enum.Enum):
    CONNECTING = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()


class _Stream:
    def __init__(self, local: Address, remote: Address, transport: Transport) -> None:
        self.local, self.remote, self.transport = local, remote, transport
        self.state = _State.OPEN
        self.unacknowledged: dict[int, bytes] = {}
        self.next_number = 0
        self.expected = 0
        self.early: dict[int, bytes] = {}
        self.rto_seconds = INITIAL_RTO_SECONDS
        self.attempts = 0
        self.asked_at: float | None = None
        self.acknowledged = 0
        self.repeated_early = -1
        self.alarm: Appointment | None = None


class Streams:
    """The streams of one host."""

    def __init__(
        self,
        clock: Clock,
        transmit: Callable[[Packet], None],
        deliver: Callable[[Datagram], None],
        closed: Callable[[StreamClosed], None],
    ) -> None:
        self._clock = clock
        self._transmit, self._deliver, self._closed = transmit, deliver, closed
        self._streams: dict[tuple[Address, Address], _Stream] = {}

    def send(self, datagram: Datagram, *, may_open: bool) -> bool:
        """Send one payload, opening a connection if that is allowed; False if there is none."""
        ends = (datagram.source, datagram.destination)
        stream = self._streams.get(ends)
        if stream is None:
            if not may_open:
                return False
            stream = self._streams[ends] = _Stream(*ends, datagram.transport)
            stream.state = _State.CONNECTING
            self._ask(stream, SegmentKind.SYN)
        number = stream.next_number
        stream.unacknowledged[number] = datagram.payload
        stream.next_number += 1
        if stream.state is _State.OPEN:
            self._segment(stream, SegmentKind.DATA, number, datagram.payload)
            self._watch(stream)
        return True

    def receive(self, packet: Packet, *, listening: bool) -> None:
        """Take a segment; ``listening`` says whether a new connection may begin here."""
        assert packet.segment is not None
        kind, number = packet.segment.kind, packet.segment.number
        ends = (packet.destination, packet.source)
        stream = self._streams.get(ends)
        if kind is SegmentKind.SYN and listening:
            if stream is not None and stream.expected:
                self._fail(stream, "opened again by the other end")
            if ends not in self._streams:
                self._streams[ends] = _Stream(*ends, packet.transport)
                self._streams[ends].asked_at = self._clock.now
            self._segment(self._streams[ends], SegmentKind.SYN_ACK)
        elif stream is None:
            if kind is not SegmentKind.RESET:
                refused = _Stream(*ends, packet.transport)
                self._segment(refused, SegmentKind.RESET)
        else:
            self._progress(stream, kind, number, packet.payload)

    def abandon(self, local: Address) -> None:
        """End the streams of a socket that is closed, as a kernel does for a program that died."""
        for ends in [ends for ends in self._streams if ends[0] == local]:
            self.close(*ends)

    def close(self, local: Address, remote: Address) -> None:
        """End one stream; the other end is told, this one is not."""
        stream = self._streams.pop((local, remote), None)
        if stream is None:
            return
        if stream.alarm is not None:
            stream.alarm.cancel()
        self._segment(stream, SegmentKind.RESET)

    def _progress(self, stream: _Stream, kind: SegmentKind, number: int, payload: bytes) -> None:
        match kind, stream.state:
            case SegmentKind.SYN_ACK, _State.CONNECTING:
                self._answered(stream)
                if stream.transport is Transport.TLS:
                    stream.state = _State.GREETING
                    self._ask(stream, SegmentKind.HELLO)
                else:
                    self._opened(stream)
            case SegmentKind.HELLO, _State.OPEN:
                self._measure(stream)
                self._segment(stream, SegmentKind.HELLO_ACK)
            case SegmentKind.HELLO_ACK, _State.GREETING:
                self._answered(stream)
                self._opened(stream)
            case SegmentKind.DATA, _State.OPEN:
                self._accept(stream, number, payload)
            case SegmentKind.ACK, _State.OPEN:
                self._acknowledged(stream, number)
            case SegmentKind.RESET, _:
                self._fail(stream, "reset by the other end")
            case _:
                return  # a duplicate of what is already done

    def _opened(self, stream: _Stream) -> None:
        stream.state = _State.OPEN
        self._repeat(stream)

    def _acknowledged(self, stream: _Stream, number: int) -> None:
        for acknowledged in [n for n in stream.unacknowledged if n < number]:
            del stream.unacknowledged[acknowledged]
            self._answered(stream)
        again = number == stream.acknowledged and number in stream.unacknowledged
        if again and stream.repeated_early < number:
            # Something later has come through: do not wait, but only once (RFC 5681 Section 3.2).
            stream.repeated_early = number
            self._segment(stream, SegmentKind.DATA, number, stream.unacknowledged[number])
        stream.acknowledged = max(stream.acknowledged, number)
        if stream.unacknowledged:
            self._watch(stream)

    def _accept(self, stream: _Stream, number: int, payload: bytes) -> None:
        if number >= stream.expected:
            stream.early[number] = payload
        ready = []
        while stream.expected in stream.early:
            ready.append(stream.early.pop(stream.expected))
            stream.expected += 1
        self._segment(stream, SegmentKind.ACK, stream.expected)
        for data in ready:
            self._deliver(Datagram(stream.remote, stream.local, data, transport=stream.transport))

    def _ask(self, stream: _Stream, kind: SegmentKind) -> None:
        self._segment(stream, kind)
        self._watch(stream)

    def _repeat(self, stream: _Stream) -> None:
        match stream.state:
            case _State.CONNECTING:
                self._ask(stream, SegmentKind.SYN)
            case _State.GREETING:
                self._ask(stream, SegmentKind.HELLO)
            case _State.OPEN:
                for number, payload in stream.unacknowledged.items():
                    self._segment(stream, SegmentKind.DATA, number, payload)
                if stream.unacknowledged:
                    self._watch(stream)

    def _watch(self, stream: _Stream) -> None:
        """Repeat what is not answered in time."""
        if stream.alarm is not None:
            return
        if stream.attempts == 0:
            stream.asked_at = self._clock.now
        due = self._clock.now + stream.rto_seconds * 2**stream.attempts
        stream.alarm = self._clock.at(due, lambda: self._late(stream))

    def _measure(self, stream: _Stream) -> None:
        if stream.asked_at is not None and stream.attempts == 0:
            stream.rto_seconds = self._clock.now - stream.asked_at + RTO_MARGIN_SECONDS
        stream.attempts, stream.asked_at = 0, None

    def _answered(self, stream: _Stream) -> None:
        self._measure(stream)
        if stream.alarm is not None:
            stream.alarm.cancel()
            stream.alarm = None

    def _late(self, stream: _Stream) -> None:
        stream.alarm, stream.asked_at = None, None
        stream.attempts += 1
        if stream.attempts >= MAX_ATTEMPTS:
            self._fail(stream, "no answer")
        else:
            self._repeat(stream)

    def _fail(self, stream: _Stream, reason: str) -> None:
        if stream.alarm is not None:
            stream.alarm.cancel()
        self._streams.pop((stream.local, stream.remote), None)
        self._closed(StreamClosed(stream.local, stream.remote, stream.transport, reason))

    def _segment(
        self, stream: _Stream, kind: SegmentKind, number: int = 0, payload: bytes = b""
    ) -> None:
        segment = Segment(kind, number)
        packet = Packet(stream.local, stream.remote, payload, stream.transport, segment)
        self._transmit(packet)
