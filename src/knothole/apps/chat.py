"""Lines of text over a line (docs/protocol/chat.md).

What comes out of here is text as somebody else has written it: whoever puts it on a terminal
has to take the control characters out of it.
"""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from knothole.peer.errors import KnotholeError
from knothole.peer.line import Line
from knothole.peer.stream import Stream

APP: Final = "chat"
PREFACE: Final = b"\x01"  # the version; it also tells the callee that there is a stream
MAX_CHARACTERS: Final = 4000  # ours: a longer message comes in pieces, so that memory has a bound
READ_SIZE: Final = 4096


class WrongChat(KnotholeError):
    """The other end speaks another version of the chat protocol."""


class Chat:
    """One conversation; see :func:`start_chat`."""

    def __init__(self, line: Line, stream: Stream) -> None:
        self._line = line
        self._stream = stream

    async def say(self, text: str) -> None:
        """Send one message; a line break in it makes it several. Raises LineClosed."""
        for message in text.split("\n"):
            self._stream.write(message.encode("utf-8", errors="replace") + b"\n")
        await self._stream.drain()

    async def messages(self) -> AsyncIterator[str]:
        """What the other side says, message by message, until it leaves.

        Raises LineClosed when the line ends before.
        """
        lines = MessageSplitter()
        while data := await self._stream.read(READ_SIZE):
            for message in lines.feed(data):
                yield message
        for message in lines.end():
            yield message

    async def leave(self) -> None:
        """Say that nothing more is said, and wait until all of it has arrived there."""
        self._stream.write_eof()
        await self._line.flushed()


async def start_chat(line: Line) -> Chat:
    """Begin to chat over ``line``, at whichever end of it. Raises LineClosed, WrongChat."""
    if not line.incoming:
        stream = await line.open_stream()
        stream.write(PREFACE)
        return Chat(line, stream)
    stream = await line.accept_stream()
    try:
        preface = await stream.readexactly(len(PREFACE))
    except asyncio.IncompleteReadError:
        preface = b""
    if preface != PREFACE:
        line.close("another version of the chat protocol")
        raise WrongChat(f"{line.peer_name} has another version of knothole's chat: update.")
    return Chat(line, stream)


class MessageSplitter:
    """From bytes in any pieces to messages. What is no UTF-8 comes out as U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unfinished = ""

    def feed(self, data: bytes) -> deque[str]:
        """The messages that are complete with ``data``."""
        *complete, self._unfinished = (self._unfinished + self._decoder.decode(data)).split("\n")
        messages = deque(piece for line in complete for piece in _pieces(line))
        while len(self._unfinished) > MAX_CHARACTERS:
            messages.append(self._unfinished[:MAX_CHARACTERS])
            self._unfinished = self._unfinished[MAX_CHARACTERS:]
        return messages

    def end(self) -> list[str]:
        """The last message when it lacks its line break."""
        rest = self._unfinished + self._decoder.decode(b"", final=True)
        self._unfinished = ""
        return _pieces(rest) if rest else []


def _pieces(line: str) -> list[str]:
    line = line.removesuffix("\r")
    starts = range(0, max(1, len(line)), MAX_CHARACTERS)
    return [line[start : start + MAX_CHARACTERS] for start in starts]
