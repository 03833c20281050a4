"""stdin and stdout in the event loop: pipes, files, terminals, and what only a thread can do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.io.descriptors import PolledReader, PolledWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads do it")
MEGABYTE = 1024 * 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


async def read_all(reader: PolledReader) -> bytes:
    parts = []
    while part := await reader.read():
        parts.append(part)
    return b"".join(parts)


async def test_what_is_written_to_a_pipe_is_read_whole_and_both_wait_for_each_other(pipe) -> None:
    source, sink = pipe
    data = os.urandom(5 * MEGABYTE)
    reader, writer = PolledReader(source), PolledWriter(sink)

    async def write() -> None:
        await writer.write(data)
        writer.close()
        os.close(sink)

    async with asyncio.timeout(40):
        received, _ = await asyncio.gather(read_all(reader), write())
    assert received == data


async def test_a_pipe_that_nobody_empties_does_not_hold_up_the_loop(pipe) -> None:
    _, sink = pipe
    writer = PolledWriter(sink)
    writing = asyncio.create_task(writer.write(bytes(5 * MEGABYTE)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not writing.done()
    writer.close()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_a_silent_pipe_is_waited_for_until_the_reader_is_closed(pipe) -> None:
    source, sink = pipe
    reader = PolledReader(source)
    reading = asyncio.create_task(reader.read())
    await asyncio.sleep(0.01)
    assert not reading.done()
    os.write(sink, b"word")
    assert await reading == b"word"
    reading = asyncio.create_task(reader.read())
    await asyncio.sleep(0.01)
    reader.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_descriptor_of_others_stays_as_it_was(pipe) -> None:
    source, sink = pipe
    PolledReader(source).close()
    PolledWriter(sink).close()
    assert os.get_blocking(source)
    assert os.get_blocking(sink)
    os.write(sink, b"still open")


async def test_a_pipe_whose_reader_has_gone_is_broken(pipe) -> None:
    source, sink = pipe
    writer = PolledWriter(sink)
    os.close(source)
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()


async def test_files_are_read_and_written_at_once(tmp_path: Path) -> None:
    data = os.urandom(MEGABYTE)
    path = tmp_path / "file"
    with path.open("wb") as file:
        writer = PolledWriter(file.fileno())
        await writer.write(data)
        writer.close()
    with path.open("rb") as file:
        assert await read_all(PolledReader(file.fileno())) == data


async def test_the_null_device_is_empty_and_takes_everything() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    assert await read_all(PolledReader(null)) == b""
    writer = PolledWriter(null)
    await writer.write(bytes(MEGABYTE))
    writer.close()
    os.close(null)


async def test_a_terminal_is_read_line_by_line_and_written() -> None:
    ours, theirs = pty.openpty()
    try:
        reader, writer = PolledReader(theirs), PolledWriter(theirs)
        os.write(ours, b"hello\n")
        assert await reader.read() == b"hello\n"
        await writer.write(b"answer")
        shown = b""
        while b"answer" not in shown:  # the echo of what was typed comes before
            shown += os.read(ours, 100)
        writer.close()
        assert os.get_blocking(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_what_cannot_be_opened_again_is_left_to_a_thread() -> None:
    here, there = socket.socketpair()
    with here, there, pytest.raises(NotImplementedError):
        PolledWriter(here.fileno())


async def test_elsewhere_than_on_linux_a_thread_does_it(pipe, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    source, sink = pipe
    with pytest.raises(NotImplementedError):
        PolledReader(source)
    with pytest.raises(NotImplementedError):
        PolledWriter(sink)
