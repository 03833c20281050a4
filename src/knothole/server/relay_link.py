"""The rendezvous process's side of the relay: a process of its own, or the same one.

On Linux the relay is another process, so that a busy relay never delays a ring. Where packets with
descriptors cannot cross a socket pair it runs in the same loop; everything else is the same.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from typing import Final, Protocol

from knothole.server.link import (
    IGNORED_SIGNALS,
    Answer,
    Answered,
    Ask,
    Link,
    Message,
    Order,
    RelayFailed,
    RelayReady,
    RelayStart,
    TakeTurn,
    Tell,
    TooLarge,
    link_pair,
)

STOP_SECONDS: Final = 3.0  # ours: then the relay process is killed


class RelayGone(Exception):
    """The relay could not start or has ended; the text says why."""


class RelayLink(Protocol):
    """What the server needs of its relay, which is ``processes`` processes."""

    processes: int

    def spawn(self) -> None:
        """Begin: it gets ready for :meth:`start` while other things are done. Raises RelayGone."""

    async def start(self, start: RelayStart) -> None:
        """Have it serve. Raises RelayGone."""

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        """Hand over a TCP connection."""

    async def ask(self, order: Order, seconds: float) -> list[Answer]:
        """Have every relay process do this; their answers.

        Raises TimeoutError, TooLarge.
        """

    async def wait_gone(self) -> str:
        """Return when the relay has ended by itself, with how it ended."""

    async def stop(self) -> None: ...


def make_relay_link(tell: Tell) -> RelayLink:
    """The best kind for this system; ``tell`` gets what the relay reports."""
    return ProcessRelay(tell) if sys.platform == "linux" else LoopRelay(tell)


class ProcessRelay:
    """The relay in a process of its own."""

    processes = 1

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0

    def spawn(self) -> None:
        ours, theirs = link_pair()
        # It inherits that they are blocked, until it has said that it ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
        try:
            self._process = subprocess.Popen(
                # -P: nothing that lies in the working directory is imported.
                [sys.executable, "-P", "-m", "knothole.server.relay_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise RelayGone(f"the relay process cannot be started: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._link = Link(ours, self._message, self._closed)

    async def start(self, start: RelayStart) -> None:
        assert self._link is not None
        try:
            self._link.send(start)
        except TooLarge as error:
            raise RelayGone(str(error)) from error
        if not await self._ready:
            raise RelayGone(f"the relay process {await self._end()} while starting")

    def give(self, message: Message, sock: socket.socket) -> None:
        """Before the start: a socket that it needs. Raises RelayGone."""
        if self._link is None or not self._link.send(message, sock):
            raise RelayGone("the relay process does not take its sockets")

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if self._link is None:
            sock.close()
        else:
            self._link.send(TakeTurn(remote), sock)

    async def ask(self, order: Order, seconds: float) -> list[Answer]:
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(seconds):
                if self._link is not None:
                    self._link.send(Ask(number, order))
                return [await answer]
        finally:
            del self._asked[number]

    async def wait_gone(self) -> str:
        await self._gone.wait()
        return f"the relay process {await self._end()}"

    async def stop(self) -> None:
        if self._link is not None:
            self._link.close()
        await self._end()

    async def _end(self) -> str:
        """Wait for the process to end; how it did. It ends because its link has."""
        process = self._process
        if process is None:
            return "was not there"
        try:
            code = await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"has ended with exit code {code}"

    def _message(self, message: Message, handed: socket.socket | None) -> None:
        match message:
            case RelayReady():
                if not self._ready.done():
                    self._ready.set_result(True)
            case RelayFailed(reason):
                if not self._ready.done():
                    self._ready.set_exception(RelayGone(reason))
            case Answered(number, answer):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(answer)
            case _:
                self._tell(message, handed)

    def _closed(self) -> None:
        self._gone.set()
        if not self._ready.done():
            self._ready.set_result(False)


class LoopRelay:
    """The relay in the same event loop."""

    processes = 1

    def __init__(self, tell: Tell) -> None:
        from knothole.server.relay import Relay

        self._make = Relay
        self._tell = tell
        self._relay: Relay | None = None

    def spawn(self) -> None:
        pass

    async def start(self, start: RelayStart) -> None:
        try:
            self._relay = self._make(start, self._tell)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise RelayGone(reason or str(error)) from error

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if self._relay is None:
            sock.close()
        else:
            self._relay.take(sock, remote)

    async def ask(self, order: Order, seconds: float) -> list[Answer]:
        return [] if self._relay is None else [self._relay.obey(order)]

    async def wait_gone(self) -> str:
        return str(await asyncio.Event().wait())

    async def stop(self) -> None:
        if self._relay is not None:
            self._relay.close()
            await asyncio.sleep(0)
