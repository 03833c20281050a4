"""The rendezvous process's side of the relay: a process of its own, or the same one.

On Linux the relay is another process, so that a busy relay never delays a ring. Where packets with
descriptors cannot cross a socket pair it runs in the same loop; everything else is the same.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Protocol

from knothole.server.link import (
    Link,
    Message,
    RelayFailed,
    RelayReady,
    RelayStart,
    TakeTurn,
    link_pair,
)

Tell = Callable[[Message, socket.socket | None], object]


class RelayGone(Exception):
    """The relay could not start or has ended; the text says why."""


class RelayLink(Protocol):
    """What the server needs of its relay."""

    async def start(self, start: RelayStart) -> None:
        """Start it. Raises RelayGone."""

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        """Hand over a TCP connection."""

    async def wait_gone(self) -> None:
        """Return when the relay has ended by itself."""

    async def stop(self) -> None: ...


def make_relay_link(tell: Tell) -> RelayLink:
    """The best kind for this system; ``tell`` gets what the relay reports."""
    return ProcessRelay(tell) if sys.platform == "linux" else LoopRelay(tell)


class ProcessRelay:
    """The relay in a process of its own."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()

    async def start(self, start: RelayStart) -> None:
        ours, theirs = link_pair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "knothole.server.relay_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise RelayGone(f"the relay process cannot be started: {error}") from error
        finally:
            theirs.close()
        self._ready = asyncio.get_running_loop().create_future()
        self._link = Link(ours, self._message, self._closed)
        self._link.send(start)
        await self._ready

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if self._link is None:
            sock.close()
        else:
            self._link.send(TakeTurn(remote), sock)

    async def wait_gone(self) -> None:
        await self._gone.wait()

    async def stop(self) -> None:
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, 3.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)

    def _message(self, message: Message, handed: socket.socket | None) -> None:
        assert self._ready is not None
        match message:
            case RelayReady():
                if not self._ready.done():
                    self._ready.set_result(None)
            case RelayFailed(reason):
                if not self._ready.done():
                    self._ready.set_exception(RelayGone(reason))
            case _:
                self._tell(message, handed)

    def _closed(self) -> None:
        self._gone.set()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(RelayGone("the relay process ended while starting"))


class LoopRelay:
    """The relay in the same event loop."""

    def __init__(self, tell: Tell) -> None:
        from knothole.server.relay import Relay

        self._make = Relay
        self._tell = tell
        self._relay: Relay | None = None

    async def start(self, start: RelayStart) -> None:
        try:
            self._relay = self._make(start, self._tell)
        except OSError as error:
            raise RelayGone(error.strerror or str(error)) from error

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if self._relay is None:
            sock.close()
        else:
            self._relay.take(sock, remote)

    async def wait_gone(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        if self._relay is not None:
            self._relay.close()
