"""Reading and writing of any descriptor (pipe, file, terminal) without waiting in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Final

from knothole.io.descriptors import PolledReader, PolledWriter

CHUNK: Final = 256 * 1024  # bytes read and written at once: ours
PIPE_BYTES: Final = 1024 * 1024  # what Linux lets everybody ask for: fewer, larger pieces


class BlockingThread:
    """A thread for calls that may block for ever.

    It is a daemon: one that hangs in a read of a silent stdin, or in a write to a pipe that
    nobody empties, must not keep the program alive, as threads of an executor would.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, do: Callable[[], bytes]) -> bytes:
        """What ``do()`` gives or raises, called in the thread, one call after the other."""
        answer: asyncio.Future[bytes] = self._loop.create_future()

        def work() -> None:
            try:
                result: bytes | OSError = do()
            except OSError as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_tell, answer, result)

        self._work.put(work)
        return await answer

    def close(self) -> None:
        """Let the thread end when its call does."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class DescriptorReader:
    """Reads a descriptor in a thread of its own."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._thread = BlockingThread("reader")
        _widen(source)

    async def read(self) -> bytes:
        """The next bytes, ``b""`` at the end. Raises OSError."""
        return await self._thread.call(lambda: os.read(self._source, CHUNK))

    def close(self) -> None:
        self._thread.close()


class DescriptorWriter:
    """Writes to a descriptor in a thread of its own."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self._thread = BlockingThread("writer")
        _widen(sink)

    async def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError."""
        await self._thread.call(lambda: self._write(data))

    def close(self) -> None:
        self._thread.close()

    def _write(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]
        return b""


def open_reader(source: int) -> DescriptorReader | PolledReader:
    """Reads ``source`` in the event loop where that can be, else in a thread."""
    try:
        return PolledReader(source)
    except NotImplementedError:
        return DescriptorReader(source)


def open_writer(sink: int) -> DescriptorWriter | PolledWriter:
    """Writes to ``sink`` in the event loop where that can be, else in a thread."""
    try:
        return PolledWriter(sink)
    except NotImplementedError:
        return DescriptorWriter(sink)


def _tell(answer: asyncio.Future[bytes], result: bytes | OSError) -> None:
    if answer.done():
        return
    if isinstance(result, OSError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _widen(descriptor: int) -> None:
    """Let a pipe hold more at once, where the system can (Linux)."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
