"""A line that exists only in memory, with delay, jitter and loss: a call without a network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from knothole.peer.errors import LineClosed
from knothole.peer.line import Path
from knothole.wire.address import Address

_PATH: Final = Path("direct", Address("192.0.2.1", 1414), Address("198.51.100.1", 1414), None)


class LossyLine:
    """One end. Its datagrams reach :attr:`other` after a while, or never.

    ``delay_seconds`` is the way there, ``jitter_seconds`` the most that is added at random
    (packets overtake each other), ``loss`` the fraction that does not arrive. All may be changed
    at any time; the other end has its own.
    """

    max_datagram_size = 1150
    path = _PATH

    def __init__(self, seed: int) -> None:
        self.other: LossyLine = self
        self.delay_seconds = 0.0
        self.jitter_seconds = 0.0
        self.loss = 0.0
        self.sent = 0
        self.dropped = 0
        self._random = random.Random(seed)  # noqa: S311 - the same loss every time
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._receiver: Callable[[bytes], None] | None = None
        self._closed = False
        self._over = asyncio.Event()

    def send_datagram(self, data: bytes) -> None:
        """Send; raises LineClosed after :meth:`close`."""
        if self._closed:
            raise LineClosed("the line is over")
        assert len(data) <= self.max_datagram_size
        self.sent += 1
        late = self._random.random() * self.jitter_seconds
        if self._random.random() < self.loss:
            self.dropped += 1
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay_seconds + late, self.other._arrive, data)

    async def receive_datagram(self) -> bytes:
        """The next datagram; raises LineClosed when either end has closed."""
        data = await self._arrived.get()
        if data is None:
            self._arrived.put_nowait(None)
            raise LineClosed("closed by the other end")
        return data

    def deliver_to(self, receiver: Callable[[bytes], None] | None) -> None:
        """Hand datagrams to ``receiver`` as they come; None: keep them again."""
        self._receiver = receiver

    async def wait_closed(self) -> str:
        """Wait until either end has closed; the reason."""
        await self._over.wait()
        return "closed by the other end"

    def close(self) -> None:
        """Both ends learn of it, after the delay."""
        self._closed = True
        self._arrive(None)
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay_seconds, self.other._arrive, None)

    def _arrive(self, data: bytes | None) -> None:
        if data is None:
            self._over.set()
        if data is None or self._receiver is None:
            self._arrived.put_nowait(data)
        else:
            self._receiver(data)


def lossy_lines(
    *,
    delay_seconds: float = 0.02,
    jitter_seconds: float = 0.0,
    loss: float = 0.0,
    seed: int = 1,
) -> tuple[LossyLine, LossyLine]:
    """Both ends of a line, the same in both directions; the same ``seed`` loses the same."""
    ends = LossyLine(seed), LossyLine(seed + 1)
    for end, other in (ends, ends[::-1]):
        end.other = other
        end.delay_seconds, end.jitter_seconds, end.loss = delay_seconds, jitter_seconds, loss
    return ends
