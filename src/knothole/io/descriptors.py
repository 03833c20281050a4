"""Blocking descriptors (stdin, stdout: pipes, files, terminals) in threads of their own.

A pipe and a terminal may block for ever and a file cannot be polled, so each gets a daemon thread
with a few chunks of read-ahead: one that hangs in a read must not keep the program alive.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from typing import Final

CHUNK: Final = 256 * 1024  # bytes read and written at once: ours
READ_AHEAD: Final = 8  # chunks
_LARGE_PIPE: Final = 1024 * 1024
_F_SETPIPE_SZ: Final = 1031  # <fcntl.h> of Linux


class DescriptorReader:
    """Reads ``descriptor`` ahead. One task may wait in :meth:`read`."""

    def __init__(self, descriptor: int) -> None:
        _enlarge_pipe(descriptor)
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._room = threading.Semaphore(READ_AHEAD)
        self._ready: deque[bytes | OSError] = deque()
        self._news = asyncio.Event()
        self._closed = False
        threading.Thread(target=self._run, name="descriptor-reader", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, ``b""`` at the end. Raises OSError."""
        while not self._ready:
            self._news.clear()
            await self._news.wait()
        data = self._ready.popleft()
        self._room.release()
        if isinstance(data, OSError):
            raise data
        return data

    def close(self) -> None:
        """Read no more; a read that hangs is left to itself."""
        self._closed = True
        self._room.release()

    def _run(self) -> None:
        while True:
            self._room.acquire()
            if self._closed:
                return
            try:
                data: bytes | OSError = os.read(self._descriptor, CHUNK)
            except OSError as error:
                data = error
            self._ready.append(data)
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            if not data or isinstance(data, OSError):
                return


class DescriptorWriter:
    """Writes to ``descriptor`` behind; :meth:`write` waits while too much is unwritten."""

    def __init__(self, descriptor: int) -> None:
        _enlarge_pipe(descriptor)
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unwritten = 0
        self._progress = asyncio.Event()
        self._error: OSError | None = None
        threading.Thread(target=self._run, name="descriptor-writer", daemon=True).start()

    async def write(self, data: bytes) -> None:
        """Queue ``data``. Raises the OSError of an earlier write."""
        await self._wait_below(READ_AHEAD)
        self._unwritten += 1
        self._queue.put(data)

    async def flush(self) -> None:
        """Wait until everything is written. Raises OSError."""
        await self._wait_below(1)

    def close(self) -> None:
        """Write nothing more after what is queued."""
        self._queue.put(None)

    async def _wait_below(self, count: int) -> None:
        while self._error is None and self._unwritten >= count:
            self._progress.clear()
            await self._progress.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            error: OSError | None = None
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError as failure:
                error = failure
            try:
                self._loop.call_soon_threadsafe(self._written, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            if error is not None:
                return

    def _written(self, error: OSError | None) -> None:
        self._unwritten -= 1
        self._error = error
        self._progress.set()


def _enlarge_pipe(descriptor: int) -> None:
    """A pipe of Linux holds 64 KiB unless asked; fewer and longer turns at 1 MiB."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _LARGE_PIPE)
    except (ImportError, OSError):  # not Linux, or not a pipe
        return
