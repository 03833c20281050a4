"""All streams of one channel between the application and the QUIC library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from qh3.quic.connection import QuicConnection

from knothole.engine.secure.control import CONTROL_STREAM, Credit
from knothole.engine.secure.credit import ReceiveBudget, ReceivingHalf, SendingHalf
from knothole.engine.secure.events import (
    ChannelEvent,
    StopSending,
    StreamData,
    StreamNotWritable,
    StreamOpened,
    StreamReset,
    TooManyStreams,
)
from knothole.engine.secure.recovery import Mark, Recovery

# The library's fixed initial_max_streams_bidi (RFC 9000 Section 18.2), the control stream included.
CONCURRENT_STREAMS: Final = 100
_PIECE: Final = 64 * 1024  # ours: what one stream hands over before the next has its turn


Payload: TypeAlias = bytes | bytearray | memoryview


class PeerViolation(Exception):
    """The peer broke a rule of the channel; the text says which."""


class Streams:
    """Bidirectional streams with credit per stream; stream 0 belongs to the channel itself.

    RFC 9000 Section 2.1: ids of the client's streams are 0, 4, 8, ..., of the server's 1, 5, 9, ...
    Nothing reaches the library before :meth:`hand_over`.
    """

    def __init__(self, quic: QuicConnection, is_client: bool) -> None:
        self._quic = quic
        self._parity = 0 if is_client else 1
        self._next_id = CONTROL_STREAM + 4 if is_client else 1
        self._budget = ReceiveBudget()
        self._sending: dict[int, SendingHalf] = {}
        self._receiving: dict[int, ReceivingHalf] = {}
        self._ready: dict[int, None] = {}  # in order of their turn
        self._lone_ends: dict[int, Mark | None] = {}  # None: new
        self._resets: dict[int, int] = {}
        self._stops: dict[int, int] = {}
        self._stopped: set[int] = set()  # by the peer: writes are dropped
        self._unwanted: set[int] = set()  # stopped by us: data is dropped

    # ------------------------------------------------------------------- the application's side

    @property
    def can_open(self) -> bool:
        allowed = max(self._quic.max_concurrent_bidi_streams, CONCURRENT_STREAMS)
        return self._next_id // 4 < allowed

    def open(self) -> int:
        if not self.can_open:
            raise TooManyStreams("as many streams are in use as the peer allows")
        stream_id, self._next_id = self._next_id, self._next_id + 4
        self._add(stream_id)
        return stream_id

    def write(self, stream_id: int, data: Payload, end: bool) -> None:
        half = self._sending.get(stream_id)
        if half is None or half.has_ended:
            raise StreamNotWritable(f"stream {stream_id} is unknown or has ended at this end")
        if stream_id not in self._stopped:
            half.write(data, end)
            self._ready[stream_id] = None
        elif end:
            self._abandon(stream_id, half)

    def backlog(self, stream_id: int) -> int:
        half = self._sending.get(stream_id)
        return (half.backlog if half else 0) + self._quic.get_send_buffer_size(stream_id)

    @property
    def has_queued(self) -> bool:
        """Something is to be handed over, now or when the peer gives credit."""
        return bool(self._ready or self._lone_ends) or any(
            half.backlog for half in self._sending.values()
        )

    @property
    def has_work(self) -> bool:
        """Something is to be handed over now."""
        return bool(self._ready or self._lone_ends or self._resets or self._stops)

    def consumed(self, stream_id: int, size: int) -> Credit | None:
        half = self._receiving.get(stream_id)
        limit = None if half is None else half.consumed(size)
        return None if limit is None else Credit(stream_id, limit)

    def reset(self, stream_id: int, code: int) -> None:
        half = self._sending.get(stream_id)
        if half is None or half.is_done:
            return
        if stream_id not in self._stopped:
            self._resets[stream_id] = code
        self._abandon(stream_id, half)

    def stop(self, stream_id: int, code: int) -> None:
        half = self._receiving.get(stream_id)
        if half is not None and not half.is_done:
            self._unwanted.add(stream_id)
            self._stops[stream_id] = code

    # ----------------------------------------------------------------------- the library's side

    def hand_over(self, room: int) -> int:
        """Give the library at most ``room`` bytes, the streams taking turns; how many it got."""
        for stream_id, code in self._resets.items():
            self._quic.reset_stream(stream_id, code)
        self._resets.clear()
        for stream_id, code in self._stops.items():
            if self._is_ours(stream_id) and not self._sending[stream_id].has_begun:
                self._quic.send_stream_data(stream_id, b"")  # so that the library knows it
            self._quic.stop_stream(stream_id, code)
        self._stops.clear()
        given = 0
        while self._ready and given < room:
            stream_id = next(iter(self._ready))
            del self._ready[stream_id]
            if self._goes_alone(stream_id):
                self._lone_ends.setdefault(stream_id)
                continue
            piece = self._sending[stream_id].next_piece(min(room - given, _PIECE))
            if piece is None:  # out of credit, or of bytes
                continue
            data, end = piece
            self._quic.send_stream_data(stream_id, data, end)
            given += len(data)
            if end:
                self._forget_if_over(stream_id)
            else:
                self._ready[stream_id] = None
        return given

    def end_alone(self, recovery: Recovery) -> bool:
        """Give the library the ends without bytes whose bytes have arrived; whether there were any.

        An end by itself that is lost while bytes before it are unacknowledged is never sent again
        by the library, and one that is acknowledged before them never makes room for another
        stream (qh3 2.1.0).
        """
        given = False
        for stream_id, mark in list(self._lone_ends.items()):
            left = recovery.since(mark or recovery.mark())
            if left is not None:
                self._lone_ends[stream_id] = left
                continue
            del self._lone_ends[stream_id]
            self._sending[stream_id].next_piece(0)
            self._quic.send_stream_data(stream_id, b"", True)
            self._forget_if_over(stream_id)
            given = True
        return given

    def allow(self, credit: Credit) -> None:
        """The peer's reader has made room."""
        half = self._sending.get(credit.stream_id)
        if half is not None and not half.is_done:
            half.allow(credit.limit)
            self._ready[credit.stream_id] = None

    def received(self, stream_id: int, data: bytes, end: bool) -> Iterator[ChannelEvent]:
        """What the application hears of bytes that came. Raises :class:`PeerViolation`."""
        yield from self._opened(stream_id)
        half = self._receiving.get(stream_id)
        if half is None or half.is_done:
            return
        if not half.received(len(data)):
            raise PeerViolation(f"more bytes on stream {stream_id} than were allowed")
        if end:
            self._finish(stream_id, half)
        if stream_id not in self._unwanted:
            yield StreamData(stream_id, data, end)
        self._forget_if_over(stream_id)

    def peer_reset(self, stream_id: int, code: int) -> Iterator[ChannelEvent]:
        yield from self._opened(stream_id)
        half = self._receiving.get(stream_id)
        if half is None or half.is_done:
            return
        self._finish(stream_id, half)
        if stream_id not in self._unwanted:
            yield StreamReset(stream_id, code)
        self._forget_if_over(stream_id)

    def peer_stopped(self, stream_id: int, code: int) -> Iterator[ChannelEvent]:
        yield from self._opened(stream_id)
        self._resets.pop(stream_id, None)
        half = self._sending.get(stream_id)
        if half is None or half.is_done:
            return
        # The library has reset the stream already (RFC 9000 Section 3.5). Its id stays known
        # until the application ends or resets it too, so that a write meanwhile is no error.
        self._stopped.add(stream_id)
        half.drop()
        yield StopSending(stream_id, code)
        if half.has_ended:
            self._abandon(stream_id, half)

    # ------------------------------------------------------------------------------------ inside

    def _opened(self, stream_id: int) -> Iterator[ChannelEvent]:
        if stream_id == CONTROL_STREAM:
            raise PeerViolation("the control stream must not end")
        if stream_id & 2:
            raise PeerViolation("a unidirectional stream, which this protocol has not")
        if not self._is_ours(stream_id) and stream_id not in self._sending:
            self._add(stream_id)
            yield StreamOpened(stream_id)

    def _add(self, stream_id: int) -> None:
        self._sending[stream_id] = SendingHalf()
        self._receiving[stream_id] = ReceivingHalf(self._budget)

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id & 1 == self._parity

    def _goes_alone(self, stream_id: int) -> bool:
        """Whether the end would leave in a frame without bytes, after some that have left."""
        half = self._sending[stream_id]
        return half.ends_alone and not self._quic.get_send_buffer_size(stream_id)

    def _finish(self, stream_id: int, half: ReceivingHalf) -> None:
        half.finish()
        self._stops.pop(stream_id, None)

    def _abandon(self, stream_id: int, half: SendingHalf) -> None:
        self._lone_ends.pop(stream_id, None)
        half.abandon()
        self._forget_if_over(stream_id)

    def _forget_if_over(self, stream_id: int) -> None:
        sending, receiving = self._sending.get(stream_id), self._receiving.get(stream_id)
        if sending is None or receiving is None or not (sending.is_done and receiving.is_done):
            return
        del self._sending[stream_id], self._receiving[stream_id]
        self._ready.pop(stream_id, None)
        self._stopped.discard(stream_id)
        self._unwanted.discard(stream_id)
