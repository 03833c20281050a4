"""stdin and stdout of two programs, joined by one stream of a line (docs/protocol/pipe.md)."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Final

from knothole.peer.errors import KnotholeError
from knothole.peer.line import Line
from knothole.peer.stream import Stream

PREFACE: Final = b"\x01"  # the version; it also tells the callee that there is a stream
CHUNK: Final = 256 * 1024  # bytes read and written at once: ours
GOODBYE_SECONDS: Final = 10.0  # the callee waits so long for the caller to close: ours


class WrongPipe(KnotholeError):
    """The other end speaks another version of the pipe protocol."""


async def join_stdio(line: Line) -> None:
    """Join our stdin and stdout to the other side's by one stream.

    Each direction ends by itself, as with netcat: the end of stdin is told to the other side, and
    what that still sends is written. Returns when both directions have ended and everything has
    arrived. Raises LineClosed when the line breaks before, OSError when stdin or stdout does.
    """
    await join(line, sys.stdin.fileno(), sys.stdout.fileno())


async def join(line: Line, source: int, sink: int) -> None:
    """Join a line's pipe stream to two descriptors; see :func:`join_stdio`."""
    if line.incoming:
        stream = await line.accept_stream()
        if await stream.readexactly(len(PREFACE)) != PREFACE:
            raise WrongPipe(f"{line.peer_name} uses another version of knothole's pipe: update.")
    else:
        stream = await line.open_stream()
        stream.write(PREFACE)
    sending = asyncio.create_task(_send(stream, source))
    receiving = asyncio.create_task(_receive(stream, sink))
    try:
        done, _ = await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in (sending, receiving):
            task.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)
    await _part(line)


async def _part(line: Line) -> None:
    """Nobody closes the line while the other still receives: the caller does, once acknowledged."""
    if not line.incoming:
        await line.flushed()
        return
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            await line.wait_closed()
    except TimeoutError:
        await line.flushed()


async def _send(stream: Stream, source: int) -> None:
    reader = _Reader(source)
    try:
        while chunk := await reader.read():
            stream.write(chunk)
            await stream.drain()
    finally:
        reader.close()
    stream.write_eof()


async def _receive(stream: Stream, sink: int) -> None:
    loop = asyncio.get_running_loop()
    async for chunk in stream:
        view = memoryview(chunk)
        while view:
            # A thread, because stdout may be a slow terminal or a full pipe.
            view = view[await loop.run_in_executor(None, os.write, sink, view) :]


class _Reader:
    """Blocking reads of any descriptor (pipe, file, terminal) in a thread of its own.

    A daemon thread: one that hangs in a read of a silent stdin must not keep the program alive.
    """

    def __init__(self, source: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._wanted = threading.Semaphore(0)
        self._closed = False
        self._waiting: asyncio.Future[bytes] | None = None
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, ``b""`` at the end. Raises OSError."""
        self._waiting = self._loop.create_future()
        self._wanted.release()
        return await self._waiting

    def close(self) -> None:
        self._closed = True
        self._wanted.release()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            try:
                data: bytes | OSError = os.read(self._source, CHUNK)
            except OSError as error:
                data = error
            try:
                self._loop.call_soon_threadsafe(self._tell, data)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _tell(self, data: bytes | OSError) -> None:
        if self._waiting is None or self._waiting.done():
            return
        if isinstance(data, OSError):
            self._waiting.set_exception(data)
        else:
            self._waiting.set_result(data)
