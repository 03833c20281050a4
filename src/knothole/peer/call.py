"""Calls that ring: ours until they are answered, and others' until we answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from knothole.peer.errors import KnotholeError, NoAnswer
from knothole.peer.line import Line


class OutgoingRing:
    """A call of ours on its way: :meth:`answered` waits, :meth:`cancel` takes it back."""

    def __init__(self, name: str, cancel: Callable[[], None]) -> None:
        self.name = name
        self._cancel = cancel
        self._line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._ringing = asyncio.Event()
        self.has_rung = False
        """Whether the other side's person is or was being asked."""

    async def ringing(self) -> None:
        """Wait until the other side's person is being asked, or it is answered at once."""
        await self._ringing.wait()

    async def answered(self) -> Line:
        """The line. Raises CallDeclined, PeerBusy, NoAnswer, PeerOffline, UnknownName,
        PeerKeyChanged."""
        return await asyncio.shield(self._line)

    @property
    def is_over(self) -> bool:
        """Whether it was answered or came to nothing."""
        return self._line.done()

    def cancel(self) -> None:
        """Take the call back, unless it was answered. Idempotent."""
        if not self._line.done():
            self._cancel()
            self._line.cancel()
            self._ringing.set()

    def abandon(self) -> None:
        """Take the call back, and close the line if it was answered in this very moment."""
        self.cancel()
        if not self._line.cancelled() and self._line.exception() is None:
            self._line.result().close()

    # called by the peer

    def _set_ringing(self) -> None:
        self.has_rung = True
        self._ringing.set()

    def _set_line(self, line: Line) -> bool:
        if self._line.done():
            return False
        self._line.set_result(line)
        self._ringing.set()
        return True

    def _fail(self, error: KnotholeError) -> None:
        self._ringing.set()
        if not self._line.done():
            self._line.set_exception(error)
            self._line.exception()  # asked for or not: it was told


class Ring:
    """Somebody calls and a person shall answer.

    Attributes:
        peer_name: who calls.
        peer_key: the caller's Ed25519 key.
        first_seen: True when the key is not remembered yet.
        app: what the call is for.
        why_over: in words, once it is over without having been answered here.
    """

    def __init__(
        self,
        peer_name: str,
        peer_key: bytes,
        first_seen: bool,
        app: str,
        accept: Callable[[], None],
        decline: Callable[[str], None],
    ) -> None:
        self.peer_name = peer_name
        self.peer_key = peer_key
        self.first_seen = first_seen
        self.app = app
        self.why_over = ""
        self._accept = accept
        self._decline = decline
        self._line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()

    async def accept(self) -> Line:
        """Answer; the line. Raises NoAnswer when the caller gave up meanwhile."""
        if not self._line.done():
            self._accept()
        return await asyncio.shield(self._line)

    def decline(self, *, busy: bool = False) -> None:
        """Do not answer. ``busy`` says that we are in another call: other devices ring on."""
        if not self._line.done():
            self._decline("busy" if busy else "declined")

    async def wait_over(self) -> None:
        """Wait until the caller gave up, or it was answered here."""
        await asyncio.wait([self._line])

    @property
    def is_over(self) -> bool:
        """Whether the caller gave up, or it was answered."""
        return self._line.done()

    # called by the peer

    def _set_line(self, line: Line) -> None:
        if not self._line.done():
            self._line.set_result(line)

    def _set_over(self, text: str) -> None:
        if not self._line.done():
            self.why_over = text
            self._line.set_exception(NoAnswer(text))
            self._line.exception()


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """Somebody called with another key than the remembered one, and was not put through.

    ``text`` says so to a person, with both keys and what to do.
    """

    peer_name: str
    peer_key: bytes
    text: str
