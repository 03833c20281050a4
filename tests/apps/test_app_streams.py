"""Echo, pipe and chat over a line in memory: what docs/protocol promises of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.apps import chat, pipe
from knothole.apps.chat import MAX_CHARACTERS, MessageSplitter, WrongChat, start_chat
from knothole.apps.echo import echo
from knothole.apps.pipe import WrongPipe, join
from knothole.peer.errors import LineClosed


class Half:
    """One direction of a stream."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.broken: Exception | None = None
        self.news = asyncio.Condition()

    async def change(self, data: bytes = b"", *, end: bool = False) -> None:
        async with self.news:
            self.data += data
            self.ended = self.ended or end
            self.news.notify_all()

    async def read(self, n: int) -> bytes:
        async with self.news:
            await self.news.wait_for(lambda: self.data or self.ended or self.broken)
        if not self.data and not self.ended and self.broken:
            raise self.broken
        taken = bytes(self.data[:n])
        del self.data[:n]
        return taken


class MemoryStream:
    """One end of a stream whose two halves are in memory."""

    def __init__(self, here: Half, there: Half) -> None:
        self._here = here
        self._there = there

    def write(self, data: bytes) -> None:
        self._there.data += data

    def write_eof(self) -> None:
        self._there.ended = True

    async def drain(self) -> None:
        await self._there.change()

    async def read(self, n: int) -> bytes:
        await self._there.change()
        return await self._here.read(n)

    async def readexactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = await self.read(n - len(data))
            if not part:
                raise asyncio.IncompleteReadError(data, n)
            data += part
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(65536):
            yield chunk

    def close(self) -> None:
        self.write_eof()


class MemoryLine:
    """One end of a line; ``other`` is the other."""

    def __init__(self, app: str, *, incoming: bool) -> None:
        self.app = app
        self.incoming = incoming
        self.peer_name = "bob"
        self.other: MemoryLine = self
        self.arrived: asyncio.Queue[MemoryStream] = asyncio.Queue()
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.close_reason = ""
        self.flushes = 0

    async def open_stream(self) -> MemoryStream:
        one, two = Half(), Half()
        self.other.arrived.put_nowait(MemoryStream(two, one))
        return MemoryStream(one, two)

    async def accept_stream(self) -> MemoryStream:
        return await self.arrived.get()

    async def streams(self) -> AsyncIterator[MemoryStream]:
        while not self.ended.is_set():
            yield await self.arrived.get()

    def send_datagram(self, data: bytes) -> None:
        self.other.datagrams.put_nowait(data)

    async def receive_datagram(self) -> bytes:
        return await self.datagrams.get()

    async def flushed(self) -> None:
        self.flushes += 1

    async def wait_closed(self) -> str:
        await self.ended.wait()
        return self.close_reason

    def close(self, reason: str = "") -> None:
        for end in (self, self.other):
            end.close_reason = reason
            end.ended.set()


def lines(app: str) -> tuple[MemoryLine, MemoryLine]:
    """The caller's end and the callee's."""
    caller, callee = MemoryLine(app, incoming=False), MemoryLine(app, incoming=True)
    caller.other, callee.other = callee, caller
    return caller, callee


class Files:
    """Descriptors with something to read, and to write to."""

    def __init__(self, folder: Path, name: str, content: bytes) -> None:
        (folder / f"{name}-in").write_bytes(content)
        self.source = os.open(folder / f"{name}-in", os.O_RDONLY)
        self._path = folder / f"{name}-out"
        self.sink = os.open(self._path, os.O_WRONLY | os.O_CREAT)

    @property
    def written(self) -> bytes:
        return self._path.read_bytes()

    def close(self) -> None:
        os.close(self.source)
        os.close(self.sink)


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path, "alice", b"from alice" * 100_000)
    yield files
    files.close()


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path, "bob", b"from bob")
    yield files
    files.close()


# -------------------------------------------------------------------------------------- pipe


async def test_a_pipe_carries_both_ways_and_the_caller_closes(alice: Files, bob: Files) -> None:
    caller, callee = lines(pipe.APP)

    async def call() -> None:
        await join(caller, alice.source, alice.sink)
        assert caller.flushes == 1
        caller.close()

    await asyncio.gather(call(), join(callee, bob.source, bob.sink))
    assert bob.written == b"from alice" * 100_000
    assert alice.written == b"from bob"
    assert callee.flushes == 0  # it waited for the caller


async def test_a_callee_does_not_wait_for_ever_for_the_caller_to_close(
    alice: Files, bob: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "GOODBYE_SECONDS", 0.01)
    caller, callee = lines(pipe.APP)
    await asyncio.gather(join(caller, alice.source, alice.sink), join(callee, bob.source, bob.sink))
    assert callee.flushes == 1


@pytest.mark.parametrize("preface", [b"\x02", b"", b"GET / HTTP/1.1"])
async def test_another_version_of_the_pipe_is_refused(preface: bytes, bob: Files) -> None:
    caller, callee = lines(pipe.APP)
    stream = await caller.open_stream()
    stream.write(preface)
    stream.write_eof()
    with pytest.raises(WrongPipe):
        await join(callee, bob.source, bob.sink)
    assert caller.ended.is_set()
    assert bob.written == b""


async def test_a_sink_that_nobody_reads_closes_the_line(alice: Files, bob: Files) -> None:
    caller, callee = lines(pipe.APP)
    unread, sink = os.pipe()
    os.close(unread)
    sending = asyncio.create_task(join(caller, alice.source, alice.sink))
    with pytest.raises(BrokenPipeError):
        await join(callee, bob.source, sink)
    os.close(sink)
    sending.cancel()
    assert caller.close_reason == "its output is closed"


# -------------------------------------------------------------------------------------- echo


async def test_an_echo_gives_back_streams_and_datagrams() -> None:
    caller, callee = lines("")
    echoing = asyncio.create_task(echo(callee))
    stream = await caller.open_stream()
    stream.write(b"hello")
    stream.write_eof()
    assert await stream.readexactly(5) == b"hello"
    assert await stream.read(1) == b""
    caller.send_datagram(b"datagram")
    assert await caller.receive_datagram() == b"datagram"
    echoing.cancel()
    await asyncio.gather(echoing, return_exceptions=True)


async def test_an_echo_keeps_the_preface_of_a_pipe_to_itself(alice: Files) -> None:
    caller, callee = lines(pipe.APP)
    echoing = asyncio.create_task(echo(callee))
    await join(caller, alice.source, alice.sink)
    assert alice.written == b"from alice" * 100_000
    echoing.cancel()
    await asyncio.gather(echoing, return_exceptions=True)


# -------------------------------------------------------------------------------------- chat


async def test_a_chat_carries_messages_until_one_leaves() -> None:
    caller, callee = lines(chat.APP)
    here, there = await asyncio.gather(start_chat(caller), start_chat(callee))
    await here.say("hello")
    await here.say("two\nlines")
    await here.leave()
    assert [text async for text in there.messages()] == ["hello", "two", "lines"]
    await there.say("bye")
    await there.leave()
    assert [text async for text in here.messages()] == ["bye"]
    assert (caller.flushes, callee.flushes) == (1, 1)


@pytest.mark.parametrize("preface", [b"\x02", b""])
async def test_another_version_of_the_chat_is_refused(preface: bytes) -> None:
    caller, callee = lines(chat.APP)
    stream = await caller.open_stream()
    stream.write(preface)
    stream.write_eof()
    with pytest.raises(WrongChat):
        await start_chat(callee)
    assert caller.ended.is_set()


async def test_a_chat_that_breaks_raises_what_broke_it() -> None:
    caller, callee = lines(chat.APP)
    here, there = await asyncio.gather(start_chat(caller), start_chat(callee))
    await here.say("hello")
    there._stream._here.broken = LineClosed("gone")
    heard = []
    with pytest.raises(LineClosed):
        async for text in there.messages():
            heard.append(text)  # noqa: PERF401  what came before it broke counts
    assert heard == ["hello"]


def messages(pieces: list[bytes]) -> list[str]:
    splitter = MessageSplitter()
    return [text for piece in pieces for text in splitter.feed(piece)] + splitter.end()


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b"windows\r\nunix\n", ["windows", "unix"]),
        (b"no end", ["no end"]),
        (b"", []),
        (b"bad \xff\xfe utf-8\n", ["bad \ufffd\ufffd utf-8"]),
        (b"cut off \xc3", ["cut off \ufffd"]),
        (b"a\x00\x1bb\n", ["a\x00\x1bb"]),
        (b"x" * (2 * MAX_CHARACTERS + 1) + b"\n", ["x" * MAX_CHARACTERS] * 2 + ["x"]),
    ],
)
def test_bytes_become_messages(data: bytes, heard: list[str]) -> None:
    assert messages([data]) == heard
    assert "".join(messages([bytes([byte]) for byte in data])) == "".join(heard)


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=50)), st.data())
def test_messages_survive_any_cutting_into_pieces(said: list[str], data: st.DataObject) -> None:
    whole = "".join(f"{text}\n" for text in said).encode("utf-8", errors="replace")
    pieces = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        pieces.append(whole[:size])
        whole = whole[size:]
    expected = [text.encode("utf-8", errors="replace").decode() for text in said]
    assert messages(pieces) == expected


def test_a_message_without_end_takes_no_memory_without_end() -> None:
    splitter = MessageSplitter()
    heard = sum(len(text) for _ in range(100) for text in splitter.feed(b"x" * 1000))
    assert heard > 100_000 - 2 * MAX_CHARACTERS
