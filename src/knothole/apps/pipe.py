"""stdin and stdout of two programs, joined by one stream of a line (docs/protocol/pipe.md)."""

from __future__ import annotations

import asyncio
from typing import Final

from knothole.apps.blocking import open_reader, open_writer
from knothole.peer.errors import KnotholeError
from knothole.peer.line import Line
from knothole.peer.stream import Stream

APP: Final = "pipe"
PREFACE: Final = b"\x01"  # the version; it also tells the callee that there is a stream
GOODBYE_SECONDS: Final = 10.0  # the callee waits so long for the caller to close: ours


class WrongPipe(KnotholeError):
    """The other end speaks another version of the pipe protocol."""


async def join(line: Line, source: int, sink: int) -> None:
    """Join a line's one stream to two descriptors, as netcat joins a connection to its own.

    Each direction ends by itself: the end of ``source`` is told to the other side, and what that
    still sends is written. Returns when both directions have ended and everything has arrived.
    Raises LineClosed when the line breaks before, OSError when a descriptor does, WrongPipe.
    """
    if line.incoming:
        stream = await line.accept_stream()
        try:
            preface = await stream.readexactly(len(PREFACE))
        except asyncio.IncompleteReadError:
            preface = b""
        if preface != PREFACE:
            line.close("another version of the pipe protocol")
            raise WrongPipe(f"{line.peer_name} has another version of knothole's pipe: update.")
    else:
        stream = await line.open_stream()
        stream.write(PREFACE)
    sending = asyncio.create_task(_send(stream, source))
    receiving = asyncio.create_task(_receive(stream, sink))
    try:
        done, _ = await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except BrokenPipeError:
        line.close("its output is closed")
        raise
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
    reader = open_reader(source)
    try:
        while chunk := await reader.read():
            stream.write(chunk)
            await stream.drain()
    finally:
        reader.close()
    stream.write_eof()


async def _receive(stream: Stream, sink: int) -> None:
    writer = open_writer(sink)
    try:
        async for chunk in stream:
            await writer.write(chunk)
    finally:
        writer.close()
