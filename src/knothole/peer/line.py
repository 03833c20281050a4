"""A line to one peer: datagrams and streams, encrypted end to end, over the best path there is."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from knothole.engine.connection import PathInfo
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.secure.events import (
    ChannelClosed,
    ChannelEvent,
    DatagramReceived,
    PingAnswered,
    StopSending,
    StreamData,
    StreamOpened,
    StreamReset,
)
from knothole.engine.secure.quic import MAX_DATAGRAM_SIZE
from knothole.peer.errors import LineClosed
from knothole.peer.explanation import Explanation, explain
from knothole.peer.news import News
from knothole.peer.path import Path as Path
from knothole.peer.path import PathLog, path_of
from knothole.peer.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from knothole.engine.connection import Connection

DATAGRAMS_KEPT: Final = 1024  # received and not yet asked for; the oldest go first: ours
PING_AGAIN_SECONDS: Final = 0.5  # ours: QUIC does not send a lost PING again
PING_SOON_SECONDS: Final = 0.2  # ours: or after 4 round trips, where those are known and longer
STREAMS_KEPT: Final = 128  # opened by the other end and not yet asked for; more are refused: ours

FLUSH_SECONDS: Final = 2.0
"""Ours: how long the end of an ``async with`` waits for the other end to have everything."""


class Line:
    """An authenticated, encrypted line. Made by :class:`knothole.Peer`.

    ``async with`` closes it at the end of the block, once the other end has acknowledged what was
    written, but after :data:`FLUSH_SECONDS` at the latest; after an exception at once.

    Attributes:
        peer_name: the name of the other end on the switchboard.
        peer_key: its Ed25519 key, proven in the handshake.
        first_seen: True when this key was remembered just now, for the first time.
        words: four words that are the same at both ends unless somebody stands in between; empty
            until both keys are proven, see :meth:`secured`.
        app: what the caller says the line is for ("" for a plain line).
        incoming: True when the other end called.
        silent: True while nothing is heard of the other end, not even answers to consent checks,
            for 10 s or more: it, or the network, is gone. The line lives on: it ends by itself
            after 40 s, and goes on if the other end is heard before that.
        close_reason: once the line is over, who ended it and why, in words.
    """

    def __init__(
        self,
        connection: Connection,
        flush: Callable[[], None],
        hang_up: Callable[[str], None],
        send_ping: Callable[[], int],
        history: Callable[[], CallHistory | None],
        *,
        call_id: bytes,
        peer_name: str,
        peer_key: bytes,
        first_seen: bool,
        app: str,
        incoming: bool,
    ) -> None:
        self.peer_name = peer_name
        self.peer_key = peer_key
        self.words: tuple[str, ...] = ()
        self.first_seen = first_seen
        self.app = app
        self.incoming = incoming
        self.call_id = call_id
        self.close_reason = "the line is over"
        self.silent = False
        self._connection = connection
        self._flush = flush
        self._hang_up = hang_up
        self._send_ping = send_ping
        self._current_history = history
        self._history = CallHistory(peer_name, incoming, app, 0.0, False, ())
        self._closed = asyncio.Event()
        self._streams: dict[int, Stream] = {}
        self._arrived: deque[Stream] = deque()
        self._datagrams: deque[bytes] = deque(maxlen=DATAGRAMS_KEPT)
        self._receiver: Callable[[bytes], None] | None = None
        self._pings: dict[int, asyncio.Future[float]] = {}
        self._paths = PathLog()
        self._flushing = 0
        self._openers = 0
        self._news = News()

    # ---------------------------------------------------------------------------- facts

    @property
    def path(self) -> Path:
        """Where payload travels now."""
        return path_of(self._connection.path)

    @property
    def max_datagram_size(self) -> int:
        """The largest payload of :meth:`send_datagram` in bytes, the same on every path."""
        return MAX_DATAGRAM_SIZE

    @property
    def closed(self) -> bool:
        """Whether the line is over, by either end."""
        return self._closed.is_set()

    def explain(self) -> Explanation:
        """Why payload travels the way it does, what was tried, and what would make it direct."""
        current = None if self.closed else self._current_history()
        return explain(current or self._history)

    async def secured(self) -> tuple[str, ...]:
        """Wait until both keys are proven; the words to compare. Raises LineClosed."""
        while not self.words:
            self._require_open()
            await self._news.next()
        return self.words

    async def wait_closed(self) -> str:
        """Wait until the line is over; the reason, in words."""
        await self._closed.wait()
        return self.close_reason

    async def silence_changes(self) -> AsyncIterator[bool]:
        """:attr:`silent`, whenever it has become another, until the line is over."""
        told = False
        while not self.closed:
            if self.silent == told:
                await self._news.next()
            else:
                told = self.silent
                yield told

    async def path_changes(self) -> AsyncIterator[Path]:
        """The path now, then each one that payload moves to, until the line is over."""
        seen = self._paths.count
        yield self.path
        while self._paths.count > seen or not self.closed:
            if self._paths.count == seen:
                await self._news.next()
                continue
            missed, seen = self._paths.since(seen), self._paths.count
            for path in missed:
                yield path

    # ------------------------------------------------------------------------ datagrams

    def send_datagram(self, data: bytes) -> None:
        """Send at most :attr:`max_datagram_size` bytes, unreliably.

        Raises ValueError for more, LineClosed when the line is over.
        """
        self._require_open()
        try:
            self._connection.channel.send_datagram(data)
        except ChannelClosed as error:
            raise self._is_over() from error
        self._flush()

    async def receive_datagram(self) -> bytes:
        """The next datagram from the other end. Raises LineClosed when none will come."""
        while not self._datagrams:
            self._require_open()
            await self._news.next()
        return self._datagrams.popleft()

    def deliver_to(self, receiver: Callable[[bytes], None] | None) -> None:
        """Hand each datagram to ``receiver`` as it comes, those that wait at once; None: keep them
        for :meth:`receive_datagram` again. ``receiver`` must not raise."""
        self._receiver = receiver
        while receiver is not None and self._datagrams:
            receiver(self._datagrams.popleft())

    # -------------------------------------------------------------------------- streams

    async def open_stream(self) -> Stream:
        """A new stream; waits while 100 of ours are in use. Raises LineClosed."""
        while True:
            self._require_open()
            if self._connection.channel.can_open_stream:
                stream = Stream(self, self._connection.channel.open_stream())
                self._streams[stream.stream_id] = stream
                return stream
            self._openers += 1
            try:
                await self._news.next()
            finally:
                self._openers -= 1

    async def accept_stream(self) -> Stream:
        """The next stream that the other end opens. Raises LineClosed when none will come."""
        while not self._arrived:
            self._require_open()
            await self._news.next()
        return self._arrived.popleft()

    async def streams(self) -> AsyncIterator[Stream]:
        """The streams that the other end opens, until the line is over."""
        while True:
            try:
                stream = await self.accept_stream()
            except LineClosed:
                return
            yield stream

    # --------------------------------------------------------------------------- others

    async def ping(self, timeout: float = 5.0) -> float:
        """The round trip to the other end in seconds, measured now; asked again when unanswered.

        Raises TimeoutError after ``timeout`` seconds, LineClosed.
        """
        async with asyncio.timeout(timeout):
            while True:
                try:
                    rtt_seconds = self.path.rtt_seconds
                    patience = (
                        PING_AGAIN_SECONDS
                        if rtt_seconds is None
                        else max(PING_SOON_SECONDS, 4 * rtt_seconds)
                    )
                    return await self.probe(patience)
                except TimeoutError:
                    continue

    async def probe(self, timeout: float) -> float:
        """Like :meth:`ping`, asked once: a lost question or answer is a TimeoutError."""
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._require_open()
        try:
            number = self._send_ping()
        except ChannelClosed as error:
            raise self._is_over() from error
        self._pings[number] = answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._pings.pop(number, None)

    async def flushed(self) -> None:
        """Wait until everything written so far is acknowledged. Raises LineClosed."""
        self._flushing += 1
        try:
            while not self._connection.channel.is_flushed:
                self._require_open()
                await self._news.next()
        finally:
            self._flushing -= 1

    def close(self, reason: str = "") -> None:
        """End the line at once; the other end learns ``reason``. Idempotent.

        What is written and not acknowledged may be lost: wait for :meth:`flushed` before.
        """
        if not self.closed:
            self._hang_up(reason)
            self._ended("closed here" if not reason else f"closed here: {reason}")

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self.closed:
                with contextlib.suppress(TimeoutError, LineClosed):
                    async with asyncio.timeout(FLUSH_SECONDS):
                        await self.flushed()
        finally:
            self.close()

    # --------------------------------------------------------------- called by the peer

    def _event(self, event: ChannelEvent) -> None:
        match event:
            case DatagramReceived(data):
                if self._receiver is not None:
                    self._receiver(data)
                    return
                self._datagrams.append(data)
            case StreamOpened(stream_id):
                self._stream_opened(stream_id)
            case StreamData(stream_id, data, end):
                if (known := self._streams.get(stream_id)) is not None:
                    known._feed(data, end)
                elif data:
                    self._consumed(stream_id, len(data))
            case StreamReset(stream_id):
                if (known := self._streams.get(stream_id)) is not None:
                    self._stream_given_up(known)
            case StopSending(stream_id):
                if (known := self._streams.get(stream_id)) is not None:
                    known._fail_writing(LineClosed("the other end reads no more of this stream"))
            case PingAnswered(number, rtt_seconds):
                waiter = self._pings.pop(number, None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(rtt_seconds)
            case _:
                return
        self._news.tell()

    def _path_changed(self, info: PathInfo | None) -> None:
        self._paths.add(path_of(info))
        self._news.tell()

    def _history_changed(self, history: CallHistory) -> None:
        self._history = history

    def _silence_changed(self, silent: bool) -> None:
        self.silent = silent
        self._news.tell()

    def _secured(self, words: tuple[str, ...]) -> None:
        self.words = words
        self._news.tell()

    def _progress(self) -> None:
        for stream in list(self._streams.values()):
            stream._progress()
        channel = self._connection.channel
        if (self._openers and channel.can_open_stream) or (self._flushing and channel.is_flushed):
            self._news.tell()

    def _ended(self, reason: str) -> None:
        if self.closed:
            return
        self.close_reason = reason
        self._closed.set()
        failure = LineClosed(reason)
        for stream in self._streams.values():
            stream._fail_reading(failure)
            stream._fail_writing(failure)
        for waiter in self._pings.values():
            if not waiter.done():
                waiter.set_exception(failure)
        self._pings.clear()
        self._news.tell()

    # -------------------------------------------------------------- called by streams

    def _write(self, stream_id: int, data: bytes, end: bool) -> None:
        self._require_open()
        try:
            self._connection.channel.write(stream_id, data, end)
        except ChannelClosed as error:
            raise self._is_over() from error
        self._flush()

    def _backlog(self, stream_id: int) -> int:
        return 0 if self.closed else self._connection.channel.send_backlog(stream_id)

    def _consumed(self, stream_id: int, count: int) -> None:
        if not self.closed and self._connection.channel.consumed(stream_id, count):
            self._flush()

    def _stop_reading(self, stream_id: int) -> None:
        if not self.closed:
            self._connection.channel.stop(stream_id, 0)
            self._flush()

    def _stream_opened(self, stream_id: int) -> None:
        stream = self._streams[stream_id] = Stream(self, stream_id)
        if len(self._arrived) < STREAMS_KEPT:
            self._arrived.append(stream)
        else:
            stream.close()

    def _stream_given_up(self, stream: Stream) -> None:
        stream._fail_reading(LineClosed("the other end gave this stream up"))
        if stream in self._arrived:  # before anybody has asked for it
            self._arrived.remove(stream)
            stream.close()

    def _stream_done(self, stream: Stream) -> None:
        self._streams.pop(stream.stream_id, None)

    # ------------------------------------------------------------------------- inside

    def _require_open(self) -> None:
        if self.closed:
            raise LineClosed(self.close_reason)

    def _is_over(self) -> LineClosed:  # in this very turn
        return LineClosed(f"the line with {self.peer_name} is over")
