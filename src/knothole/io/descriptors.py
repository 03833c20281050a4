"""stdin and stdout in the event loop itself, where the system lets them be waited for.

A thread for each would work everywhere, but to hand a chunk to another thread and back costs more
than to encrypt it, above all in virtual machines. So pipes, sockets and terminals are waited for
like any socket, and files, which never make anybody wait for long, are read and written at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import sys
from typing import Final

CHUNK: Final = 256 * 1024  # bytes read at once: ours
PIPE_BYTES: Final = 1024 * 1024  # what Linux lets everybody ask for: fewer, larger pieces


class PolledReader:
    """Reads a descriptor that can be waited for, or that never blocks. One read at a time."""

    def __init__(self, descriptor: int) -> None:
        """Raises NotImplementedError for what only a thread can read."""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        if sys.platform != "linux":  # elsewhere a terminal cannot be waited for
            raise NotImplementedError("a thread has to read")
        _widen(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._waiting: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """The next bytes, ``b""`` at the end. Raises OSError."""
        while not self._poll.poll(0):  # a file is always ready
            self._waiting = self._loop.create_future()
            self._loop.add_reader(self._descriptor, _wake, self._waiting)
            try:
                await self._waiting
            finally:
                self._loop.remove_reader(self._descriptor)
        return os.read(self._descriptor, CHUNK)

    def close(self) -> None:
        """Wait no more; the descriptor stays open."""
        if self._waiting is not None:
            self._waiting.cancel()


class PolledWriter:
    """Writes to a file, or without blocking to a pipe or terminal. One write at a time."""

    def __init__(self, descriptor: int) -> None:
        """Raises NotImplementedError for what only a thread can write."""
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._own: int | None = None
        _widen(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._descriptor = descriptor
        else:
            self._descriptor = self._own = _reopen_unblocking(descriptor)

    async def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                self._waiting = self._loop.create_future()
                self._loop.add_writer(self._descriptor, _wake, self._waiting)
                try:
                    await self._waiting
                finally:
                    self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        """Wait no more; the descriptor that was given stays open."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._own is not None:
            os.close(self._own)
            self._own = None


def _reopen_unblocking(descriptor: int) -> int:
    """The same pipe or terminal as a new open file, so that O_NONBLOCK is ours alone.

    Set on the descriptor itself it would hold for every program that shares it, the shell included.
    """
    mode = os.fstat(descriptor).st_mode
    if sys.platform != "linux" or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        raise NotImplementedError("cannot be opened again")
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise NotImplementedError("cannot be opened again") from error


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _widen(descriptor: int) -> None:
    """Let a pipe hold more at once, where the system can (Linux)."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
