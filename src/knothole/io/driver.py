"""The one loop that runs every engine: input, drain, re-arm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from knothole.engine.core import Datagram, Engine, Transmit
from knothole.wire.address import Address, Transport

OUTPUTS_A_TURN: Final = 256  # ours: then the event loop's other work gets its turn
# uvloop counts milliseconds and rounds; to be woken just early would mean to be woken twice.
_SHORTEST_SLEEP: Final = 0.001
# Ours: with datagrams every 20 ms, as in a call, an early timer is moved once for each of them;
# with thousands a second only now and then, and never while the engine wants to be woken soon:
# each move would put it off.
_MOVED_BEFORE: Final = 0.01

OutputT = TypeVar("OutputT")
T = TypeVar("T")


class Link(Protocol):
    """Whatever carries datagrams to one or many remote addresses."""

    @property
    def is_blocked(self) -> bool:
        """More would only be queued, or lost."""

    def send(self, datagram: Datagram) -> None: ...

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the link is blocked no more."""


class Driver(Generic[OutputT]):
    """Runs one engine in the running event loop.

    A :class:`Transmit` goes to the link attached for its source address (UDP), or for both its
    addresses (streams), and is dropped when there is none; every other output goes to ``handle``.
    While a link is blocked no output is drained, so an engine that makes its datagrams as they
    are drained makes none that could not leave.
    """

    def __init__(
        self,
        engine: Engine[OutputT | Transmit],
        handle: Callable[[OutputT], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        settled: Callable[[], None] | None = None,
    ) -> None:
        """``handle`` gets every output but Transmit; ``settled`` is called after every turn."""
        self._engine = engine
        self._handle = handle
        self._clock = clock
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._links: dict[tuple[Transport, Address, Address | None], Link] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._soon: asyncio.Handle | None = None
        self._draining = False
        self._blocked_by: Link | None = None
        self._closed = False

    def attach(
        self,
        link: Link,
        source: Address,
        transport: Transport = Transport.UDP,
        destination: Address | None = None,
    ) -> None:
        """Send what leaves ``source`` (to ``destination``, with a stream) through ``link``."""
        self._links[transport, source, destination] = link

    def detach(
        self,
        source: Address,
        transport: Transport = Transport.UDP,
        destination: Address | None = None,
    ) -> None:
        """Forget a link, before its owner closes it."""
        link = self._links.pop((transport, source, destination), None)
        if link is not None and link is self._blocked_by:
            self._blocked_by = None
            self.wake()

    def receive(self, datagrams: Sequence[Datagram]) -> None:
        """Input: what came in one turn of the loop."""
        if self._closed:
            return
        for datagram in datagrams:
            self._engine.receive(datagram, self._clock())
        self._drain()

    def command(self, do: Callable[[float], T]) -> T:
        """Call ``do(now)``, which gives the engine a command, then drain."""
        try:
            return do(self._clock())
        finally:
            self.wake()

    def wake(self) -> None:
        """Drain soon: something was done to the engine behind the driver's back."""
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._on_soon)

    def close(self) -> None:
        """Stop. Links are their owners' to close."""
        self._closed = True
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None
        self._links.clear()

    # ------------------------------------------------------------------------------------ inside

    def _on_soon(self) -> None:
        self._soon = None
        self._drain()

    def _on_writable(self) -> None:
        self._blocked_by = None
        self._drain()

    def _on_timer(self) -> None:
        self._timer = None
        if self._closed:
            return
        now = self._clock()
        due = self._engine.next_timeout()
        if due is not None and due <= now:
            self._engine.handle_timeout(now)
        self._drain()

    def _drain(self) -> None:
        """Carry out what the engine wants, as far as links and fairness allow, then re-arm."""
        if self._draining or self._closed:
            return
        self._draining = True
        try:
            if self._blocked_by is None:
                self._carry_out()
        finally:
            self._draining = False
        if self._settled is not None:
            self._settled()
        self._rearm()

    def _carry_out(self) -> None:
        for count, output in enumerate(self._engine.outputs(), start=1):
            if isinstance(output, Transmit):
                link = self._link_for(output.datagram)
                if link is not None:
                    link.send(output.datagram)
                    if link.is_blocked:
                        self._blocked_by = link
                        link.when_writable(self._on_writable)
                        return
            else:
                self._handle(output)
            if count >= OUTPUTS_A_TURN or self._closed:
                self.wake()
                return

    def _link_for(self, datagram: Datagram) -> Link | None:
        link = self._links.get((datagram.transport, datagram.source, None))
        if link is None:
            link = self._links.get((datagram.transport, datagram.source, datagram.destination))
        return link

    def _rearm(self) -> None:
        """Wake at the engine's next timeout. A timer that is early is left: mostly it is moved
        before it would wake anybody for nothing."""
        due = None if self._closed else self._engine.next_timeout()
        if due is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if self._timer is not None:
            soon = self._clock() + _MOVED_BEFORE
            if self._timer_at <= due and (self._timer_at > soon or due <= soon):
                return
            self._timer.cancel()
        self._timer_at = due
        delay = due - self._clock()
        if delay > 0:
            delay = max(delay, _SHORTEST_SLEEP)
        self._timer = self._loop.call_later(max(delay, 0.0), self._on_timer)
