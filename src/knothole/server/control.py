"""The control socket in the data folder: how commands on this machine talk to a running server.

One line of JSON each way for each connection: a request, its answer. The socket is for the owner
of the server's process alone. It is no interface for other programs: the commands are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

FILE_NAME: Final = "control"
REQUEST_SECONDS: Final = 10.0  # ours: for a request to come
ANSWER_SECONDS: Final = 30.0  # ours: for its answer; the relay may be asked meanwhile
MAX_LINE: Final = 262_144


class Request(msgspec.Struct, frozen=True):
    """What to do: ``command``, and what it is about."""

    command: str
    draining: bool = True
    users: int = 0


class Reply(msgspec.Struct, frozen=True):
    """What came of it: a ``text`` for people, or why it could not be (``failed``)."""

    text: str
    failed: bool = False
    facts: dict[str, Any] = {}


class NoServer(Exception):
    """No server can be talked to; the text says what to do."""


class ControlSocket:
    """The server's end. ``carry_out`` answers requests."""

    def __init__(self, carry_out: Callable[[Request], Awaitable[Reply]]) -> None:
        self._carry_out = carry_out
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._path: Path | None = None

    async def open(self, folder: Path) -> None:
        """Listen in the data folder. Raises OSError; FileExistsError: another server does."""
        if not hasattr(socket, "AF_UNIX"):
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(folder / FILE_NAME) as path:
                _bind(sock, path)
            # Before listen(): until then nobody can connect, whatever the mode.
            (folder / FILE_NAME).chmod(0o600)
            self._server = await asyncio.start_unix_server(self._talk, sock=sock, limit=MAX_LINE)
        except BaseException:
            sock.close()
            raise
        self._path = folder / FILE_NAME

    async def close(self) -> None:
        """Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await reader.readline()
            reply = await self._carry_out(msgspec.json.decode(line, type=Request))
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # who asks has gone, or asks nonsense; or the server ends
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._serving.discard(task)


def ask(folder: Path, request: Request) -> Reply:
    """Ask the server with the data folder ``folder``. Raises NoServer."""
    if not hasattr(socket, "AF_UNIX"):
        raise NoServer("This system has no way to talk to a running server.")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_SECONDS)
            with _short(folder / FILE_NAME) as path:
                sock.connect(path)
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as answer:
                return msgspec.json.decode(answer.readline(), type=Reply)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoServer(f"No server runs with the data folder {folder}.") from error
    except TimeoutError as error:
        raise NoServer("The server does not answer.") from error
    except OSError as error:
        raise NoServer(f"The server cannot be asked: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise NoServer("The server has closed the connection: it may be ending.") from error


def _bind(sock: socket.socket, path: str) -> None:
    """Take over what a server that was killed has left; never from one that lives."""
    try:
        sock.bind(path)
        return
    except OSError:
        if not os.path.exists(path):
            raise
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(REQUEST_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError("another server uses it")
    sock.bind(path)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """``path`` in so few bytes that it is an address of a socket, where the system has a way."""
    if len(os.fsencode(path)) < 100 or not os.path.isdir("/proc/self/fd"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
