"""What a call does for a direct way besides ICE itself: plans, further sockets, connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from knothole.engine.connection import Connection
from knothole.engine.core import Transmit
from knothole.engine.endpoint.call_outputs import CallOutput, Say
from knothole.engine.endpoint.call_state import Ourselves
from knothole.engine.endpoint.events import CloseSockets, OpenSockets
from knothole.engine.endpoint.history import History, RelayOnly
from knothole.engine.endpoint.punching import Punching
from knothole.engine.endpoint.tcp_events import TcpEvent
from knothole.engine.endpoint.tcp_outlet import TcpOutlet
from knothole.engine.endpoint.tcp_punch import TcpPunch
from knothole.wire.address import Address
from knothole.wire.signal import messages as signal
from knothole.wire.signal.plans import Move, PlanTerms
from knothole.wire.signal.tcp import TcpWord


class CallWays:
    """One half of a :class:`~knothole.engine.endpoint.call.Call`, which is the other."""

    incoming: bool

    def __init__(self, ourselves: Ourselves, call_id: bytes, name: str, now: float) -> None:
        self.call_id = call_id
        self.connection: Connection | None = None
        self.history = History(now)
        hidden = self.relay_only = ourselves.discretion.relay_only(name, self.incoming)
        if hidden:
            self.history.note(RelayOnly(ours=True), now)
        self._punching = Punching(call_id, ourselves.way_out, self.history, relay_only=hidden)
        outlet = TcpOutlet() if hidden else ourselves.tcp_outlet  # says nothing, opens nothing
        self._tcp = TcpPunch(call_id, self.incoming, outlet, self.history)
        self._outputs: deque[CallOutput] = deque()

    def flush(self, now: float) -> None:
        raise NotImplementedError

    def sockets_opened(self, bases: Sequence[Address], now: float) -> None:
        """Further sockets, which this call asked for by OpenSockets."""
        self._punching.opened(bases, now)
        self._drain_punching()

    def socket_closed(self, base: Address, now: float) -> None:
        """The local address of a further socket is gone, and the socket with it."""
        self._punching.lost(base)
        if self.connection is not None:
            self.connection.ice.remove_local_base(base, now)
            self.flush(now)

    def tcp_happened(self, event: TcpEvent, now: float) -> None:
        """What io tells of the connections that this call asked for."""
        self._tcp.happened(event, now)
        self._drain_tcp(now)

    def _seal_trickle(self, lines: tuple[str, ...], step: Move | TcpWord | None = None) -> bytes:
        raise NotImplementedError

    def _say(self, message: signal.ClientMessage) -> None:
        self._outputs.append(Say(message))

    def _agree(self, theirs: PlanTerms | None, observed: Iterable[str]) -> None:
        """The other end's terms, and where the server sees it: the call is answered."""
        hosts = tuple(observed)
        self._punching.agree(theirs, hosts)
        self._tcp.vouch(hosts)

    def _drain_punching(self) -> None:
        for output in self._punching.outputs():
            match output:
                case Transmit() | OpenSockets() | CloseSockets():
                    self._outputs.append(output)
                case _:
                    self._say(signal.Trickle(self.call_id, self._seal_trickle((), output)))

    def _drain_tcp(self, now: float) -> None:
        if self.connection is None or not self._tcp.has_news:
            return
        for output in self._tcp.settle(self.connection.ice, now):
            if isinstance(output, TcpWord):
                self._say(signal.Trickle(self.call_id, self._seal_trickle((), output)))
            else:
                self._outputs.append(output)
        self.flush(now)
