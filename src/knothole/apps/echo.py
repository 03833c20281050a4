"""Everything back to where it came from: for tests, and to try a line out."""

from __future__ import annotations

import asyncio

from knothole.apps import pipe
from knothole.peer.errors import LineClosed
from knothole.peer.line import Line
from knothole.peer.stream import Stream


async def echo(line: Line) -> None:
    """Send back datagrams and streams until the line is over.

    A pipe gets back what was put into it, without its preface.
    """
    preface = len(pipe.PREFACE) if line.app == pipe.APP else 0
    datagrams = asyncio.create_task(_echo_datagrams(line))
    streams: set[asyncio.Task[None]] = set()
    try:
        async for stream in line.streams():
            task = asyncio.create_task(_echo_stream(stream, preface))
            streams.add(task)
            task.add_done_callback(streams.discard)
    finally:
        for task in (datagrams, *streams):
            task.cancel()
        await asyncio.gather(datagrams, *streams, return_exceptions=True)


async def _echo_datagrams(line: Line) -> None:
    try:
        while True:
            line.send_datagram(await line.receive_datagram())
    except LineClosed:
        return


async def _echo_stream(stream: Stream, preface: int) -> None:
    try:
        await stream.readexactly(preface)
        async for chunk in stream:
            stream.write(chunk)
            await stream.drain()
    except (LineClosed, asyncio.IncompleteReadError):
        return
    finally:
        stream.close()
