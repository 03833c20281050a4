"""What the TURN engine wants done, carried out on sockets; and its timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.credentials import DEVICE_SEPARATOR
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    AllocationMoved,
    AllocationMoving,
    BindPeer,
    ClosePeer,
    CloseRelay,
    ConnectPeer,
    InstallShortcut,
    OpenRelay,
    RelayReached,
    RemoveShortcut,
    SendUnfragmented,
    ToNeighbour,
)
from knothole.server.accelerator import Accelerator, NoAccelerator
from knothole.server.link import MappedSeen, Tell
from knothole.server.neighbours import Neighbours
from knothole.server.relay_inputs import Connection
from knothole.server.relay_report import Reporter
from knothole.server.relay_sockets import RelaySockets
from knothole.server.tcp_relay import TcpRelay
from knothole.wire.address import Address, Transport


class RelayOutputs:
    """Carries them out in their order, and wakes the engine when it wants to be woken.

    ``open_relay`` opens a relayed address, and tells the engine how that went.
    """

    def __init__(
        self,
        turn: TurnServer,
        sockets: RelaySockets,
        tcp: TcpRelay,
        accelerator: Accelerator | NoAccelerator,
        neighbours: Neighbours,
        connections: Mapping[FiveTuple, Connection],
        reporter: Reporter,
        *,
        open_relay: Callable[[Address, Transport], None],
        tell: Tell,
    ) -> None:
        self._turn, self._sockets, self._tcp = turn, sockets, tcp
        self._accelerator, self._neighbours = accelerator, neighbours
        self._connections, self._reporter = connections, reporter
        self._open_relay, self._tell = open_relay, tell
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._is_draining = False

    def drain(self, now: float) -> None:
        """Do all that is wanted so far.

        Some of it tells the engine something, as an entry that is taken out says what has passed by
        it: what comes of that has its turn here, behind what was there before.
        """
        if not self._is_draining:
            self._is_draining = True
            try:
                self._carry_out()
            finally:
                self._is_draining = False
            self._rearm(now)

    def _carry_out(self) -> None:
        for output in self._turn.outputs():
            if isinstance(output, Transmit):
                self.transmit(output.datagram)
            else:
                match output:
                    case SendUnfragmented(datagram):
                        self._sockets.send_unfragmented(datagram)
                    case OpenRelay(relayed, transport):
                        self._open_relay(relayed, transport)
                    case CloseRelay(relayed):
                        self._sockets.close(relayed)
                        self._tcp.close(relayed)
                    case ConnectPeer(number, relayed, peer):
                        self._tcp.connect(number, relayed, peer)
                    case BindPeer(number, five_tuple):
                        self._tcp.bind(number, self._connections.get(five_tuple))
                    case ClosePeer(number):
                        self._tcp.close_peer(number)
                    case AllocationCreated(five_tuple, username):
                        self._allocated(five_tuple, username)
                    case AllocationMoving(five_tuple, is_over):
                        self._keep(five_tuple, not is_over)
                    case AllocationMoved(old, new, username):
                        self._keep(old, False)
                        self._allocated(new, username)
                    case AllocationEnded(five_tuple, _, _, _, reason):
                        self._reporter.ended(reason)
                        self._keep(five_tuple, self._turn.has_allocation(five_tuple))
                    case InstallShortcut(key, shortcut, budgets) if self._accelerator.is_on:
                        self._accelerator.install(key, shortcut, budgets)
                    case InstallShortcut(key, shortcut, budgets):
                        self._sockets.routes.install(key, shortcut, budgets)
                    case RemoveShortcut(key):
                        self._accelerator.remove(key)
                        self._sockets.routes.remove(key)
                    case ToNeighbour():
                        self._neighbours.send(output)
                    case RelayReached():
                        pass  # what it is evidence of, from_peers has seen more exactly

    def transmit(self, datagram: Datagram) -> None:
        """Send ``datagram`` by a socket of ours, or by the connection of its 5-tuple."""
        if datagram.transport is Transport.UDP:
            self._sockets.send(datagram)
            return
        five_tuple = FiveTuple(datagram.transport, datagram.destination, datagram.source)
        connection = self._connections.get(five_tuple)
        if connection is not None:
            connection.send(datagram.payload)

    def stop(self) -> None:
        """Wake the engine no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _allocated(self, five_tuple: FiveTuple, username: str) -> None:
        if five_tuple.transport is Transport.UDP:
            if DEVICE_SEPARATOR in username:  # or no session at the switchboard has that name
                client = five_tuple.client
                self._tell(MappedSeen(username, client.host, client.port), None)
        else:
            self._keep(five_tuple, True)

    def _keep(self, five_tuple: FiveTuple, kept: bool) -> None:
        connection = self._connections.get(five_tuple)
        if connection is not None:
            connection.is_kept = kept

    def _rearm(self, now: float) -> None:
        due = self._turn.next_timeout()
        if due == self._timer_at and self._timer is not None:
            return
        self.stop()
        self._timer_at = due
        if due is not None:
            self._timer = self._loop.call_later(max(0.001, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._sockets.routes.report()
        self._turn.handle_timeout(now)
        self.drain(now)
