"""A reliable byte stream of a line, used like asyncio's reader and writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from knothole.peer.errors import LineClosed

if TYPE_CHECKING:
    from knothole.peer.line import Line

HIGH_WATER: Final = 1024 * 1024  # bytes unsent before drain() waits: ours, a few ms at 1.5 Gbit/s
LOW_WATER: Final = HIGH_WATER // 4
READ_SIZE: Final = 256 * 1024


class Stream:
    """Bytes in order both ways; each way ends by itself (:meth:`write_eof`).

    Made by :meth:`Line.open_stream` and :meth:`Line.accept_stream`, never directly.
    """

    def __init__(self, line: Line, stream_id: int) -> None:
        self._line = line
        self.stream_id = stream_id
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._read_error: Exception | None = None
        self._write_error: Exception | None = None
        self._read_waiter: asyncio.Future[None] | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._eof_written = False

    @property
    def line(self) -> Line:
        """The line that this stream belongs to."""
        return self._line

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue ``data``; follow by :meth:`drain`, or memory has no bound.

        Raises LineClosed when the line is over or the other end reads no more, RuntimeError after
        :meth:`write_eof`.
        """
        if self._eof_written:
            raise RuntimeError("write after write_eof")
        self._require_writable()
        if data:
            self._line._write(self.stream_id, bytes(data), end=False)

    def write_eof(self) -> None:
        """Say that nothing more is written; the other end still may. Idempotent."""
        if not self._eof_written and not self._line.closed:
            self._line._write(self.stream_id, b"", end=True)
        self._eof_written = True

    async def drain(self) -> None:
        """Wait until little enough is unsent to go on writing. Raises LineClosed."""
        self._require_writable()
        if self._line._backlog(self.stream_id) <= HIGH_WATER:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drain_waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._drain_waiters:
                self._drain_waiters.remove(waiter)

    async def read(self, n: int = -1) -> bytes:
        """At most ``n`` bytes as soon as there are some; ``b""`` at the end of the stream.

        With ``n`` negative everything up to the end. Raises LineClosed when the line ends before
        the stream does, once all that came is read.
        """
        if n == 0:
            return b""
        if n < 0:
            return b"".join([chunk async for chunk in self])
        await self._readable()
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        if len(chunk) > n:
            self._chunks.appendleft(chunk[n:])
            chunk = chunk[:n]
        self._line._consumed(self.stream_id, len(chunk))
        return chunk

    async def readexactly(self, n: int) -> bytes:
        """Exactly ``n`` bytes. Raises asyncio.IncompleteReadError when the stream ends before."""
        parts: list[bytes] = []
        missing = n
        while missing:
            part = await self.read(missing)
            if not part:
                raise asyncio.IncompleteReadError(b"".join(parts), n)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(READ_SIZE):
            yield chunk

    def close(self) -> None:
        """Both ways are over for us: what is queued is still sent, what comes is dropped."""
        self.write_eof()
        if not self._ended:
            self._line._stop_reading(self.stream_id)
            self._ended = True
        unread = sum(map(len, self._chunks))
        self._chunks.clear()
        if unread:
            self._line._consumed(self.stream_id, unread)
        self._line._stream_done(self)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    # called by the line

    def _feed(self, data: bytes, end: bool) -> None:
        if self._ended:
            if data:
                self._line._consumed(self.stream_id, len(data))
            return
        if data:
            self._chunks.append(data)
        self._ended = self._ended or end
        self._wake_reader()

    def _fail_reading(self, error: Exception) -> None:
        if self._read_error is None:
            self._read_error = error
        self._wake_reader()

    def _fail_writing(self, error: Exception) -> None:
        if self._write_error is None:
            self._write_error = error
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._drain_waiters.clear()

    def _progress(self) -> None:
        """Wake who waits in drain() when enough was sent."""
        if self._drain_waiters and self._line._backlog(self.stream_id) <= LOW_WATER:
            for waiter in self._drain_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._drain_waiters.clear()

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)

    async def _readable(self) -> None:
        while not self._chunks and not self._ended:
            if self._read_error is not None:
                raise self._read_error
            if self._read_waiter is not None:
                raise RuntimeError("two tasks read the same stream")
            self._read_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._read_waiter
            finally:
                self._read_waiter = None

    def _require_writable(self) -> None:
        if self._write_error is not None:
            raise self._write_error
        if self._line.closed:
            raise LineClosed(self._line.close_reason)
