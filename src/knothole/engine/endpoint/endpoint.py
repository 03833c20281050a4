"""One registered peer, whole: the switchboard, standing candidates, and every call.

The root of the engines: a driver with sockets and a clock runs it in life, the simulator runs two
of them and a server in virtual time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from knothole.engine.connection import Connection
from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.endpoint.call_outputs import CheckMapping, Reach, Say
from knothole.engine.endpoint.call_state import Ourselves
from knothole.engine.endpoint.callbook import CallBook, KnownNames
from knothole.engine.endpoint.discovery import DISCOVERY, NatDiscovery
from knothole.engine.endpoint.events import (
    CloseSockets,
    EndpointOutput,
    NatLearned,
    Online,
    Resolve,
)
from knothole.engine.endpoint.gather import CandidatesChanged, Gatherer, GathererOutput
from knothole.engine.endpoint.guess import guessed_report
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.endpoint.keepalive import keepalive_seconds, payload_keeps_mapping
from knothole.engine.endpoint.privacy import Discretion, Open
from knothole.engine.endpoint.relays import TurnServer
from knothole.engine.endpoint.saying import passed_on, say
from knothole.engine.endpoint.servers import Resolver
from knothole.engine.endpoint.tcp_events import TcpEvent
from knothole.engine.endpoint.tcp_outlet import TcpOutlet, tcp_servers
from knothole.engine.portmap.mapper import PortMapper
from knothole.engine.portmap.mapping import PortMapping
from knothole.engine.predict.budget import Budget
from knothole.engine.punch.way_out import WayOut
from knothole.engine.rendezvous import events as rendezvous
from knothole.engine.rendezvous.client import RendezvousClient
from knothole.engine.secure.identity import Identity
from knothole.engine.turn.client import RelayedDataReceived
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import encode_candidate
from knothole.wire.nat import NatReport
from knothole.wire.signal.values import MAX_CANDIDATES, Audience

DEVICE_ID_BYTES: Final = 16  # docs/protocol/signal.md


class Endpoint:
    """Everything of one peer but its sockets (an :class:`~knothole.engine.core.Engine`).

    ``known`` is what is remembered of other people by name, read at every call. ``disclosure`` says
    to whom the switchboard may show our candidates before we answer, ``callable_`` whether we are
    rung at all, ``budget`` what plans may use, ``discretion`` who is shown a relay's address only.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        known: KnownNames,
        random: RandomBytes,
        disclosure: Audience,
        callable_: bool = True,
        invitation: str | None = None,
        budget: Budget | None = None,
        discretion: Discretion | None = None,
    ) -> None:
        device_id = random(DEVICE_ID_BYTES)
        self._bases: frozenset[Address] = frozenset()
        self._spare: dict[Address, bytes] = {}  # further sockets, by whom they were asked for
        self._resolver = Resolver()
        self._outputs: deque[EndpointOutput] = deque()
        self._gatherer = Gatherer(random)
        self.discovery = NatDiscovery(random)
        self.way_out = WayOut(random, budget)
        self._discretion, self._tcp = discretion or Open(), TcpOutlet()
        ourselves = Ourselves(
            identity, name, device_id, random, self.way_out, self._discretion, self._tcp
        )
        self._calls = CallBook(ourselves, known)
        self._rendezvous = RendezvousClient(
            identity=identity,
            name=name,
            device_id=device_id,
            random=random,
            disclosure=disclosure,
            callable=callable_,
            invitation=invitation,
        )

    @property
    def gatherer(self) -> Gatherer:
        """The standing candidates, to look at."""
        return self._gatherer

    @property
    def nat_report(self) -> NatReport | None:
        """What the NAT in front of us does, None while nothing is known of this network."""
        return self.discovery.report

    @property
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """What the gateways have granted; see :class:`PortMappingsChanged`."""
        return self._gatherer.mapper.mappings

    def connection(self, call_id: bytes) -> Connection | None:
        """The connection of a line, for commands to its channel; :meth:`flush` follows."""
        return self._calls.connection(call_id)

    def history(self, call_id: bytes, now: float) -> CallHistory | None:
        """What a call that is not over has tried so far, and what came of it."""
        return self._calls.history(call_id, now)

    # ------------------------------------------------------------------------ commands

    def start(self, now: float) -> None:
        """Go online."""
        self._rendezvous.start(now)
        self._drain(now)

    def call(self, name: str, kind: str, app: str, now: float) -> bytes:
        """Call ``name``; the call's id. ``kind`` is "line" for a program, "call" for a person."""
        call_id = self._calls.call(name, kind, app, now)
        self._drain(now)
        return call_id

    def watch(self, names: Iterable[str], now: float) -> None:
        """PresenceSeen follows for each of ``names`` that is known, and whenever it changes."""
        self._rendezvous.watch(names, now)
        self._drain(now)

    def ring(self, call_id: bytes, now: float) -> None:
        """Tell the caller that our person is being asked."""
        self._calls.ring(call_id, now)
        self._drain(now)

    def accept(self, call_id: bytes, now: float) -> None:
        """Take an incoming call."""
        self._calls.accept(call_id, now)
        self._drain(now)

    def decline(self, call_id: bytes, reason: str, now: float) -> None:
        """Do not take an incoming call."""
        self._calls.decline(call_id, reason, now)
        self._drain(now)

    def set_disclosure(self, disclosure: Audience, now: float) -> None:
        """To whom the switchboard may show our candidates from now on."""
        self._rendezvous.set_audience(now, disclosure=disclosure)
        self._drain(now)

    def hang_up(self, call_id: bytes, reason: str, now: float) -> None:
        """End a call or line in whatever state."""
        self._calls.close(call_id, reason, now)
        self._drain(now)

    def flush(self, call_id: bytes, now: float) -> None:
        """Carry out what was commanded to the line's channel."""
        self._calls.flush(call_id, now)
        self._drain(now)

    def close(self, now: float) -> None:
        """Hang up everywhere, give the relay back, leave the switchboard."""
        self._calls.close_all("the program ended", now)
        self._drain(now)
        self._gatherer.close(now)
        self.discovery.close()
        self._rendezvous.stop(now)
        self._drain(now)

    # ------------------------------------------------------------------------- from io

    def set_bases(self, bases: Sequence[Address], now: float) -> None:
        """The UDP sockets there are, best first."""
        self._bases = frozenset(bases)
        self._tcp.host = next((base.host for base in bases if not base.is_ipv6), "")
        self._gatherer.set_bases(bases, now)
        self.discovery.set_bases(bases, now)
        self._rendezvous.network_changed(now)
        self._drain(now)

    def woken(self, now: float) -> None:
        """This machine, or program, has slept: what was known of the network may be old."""
        self._gatherer.refresh(now)
        self._gatherer.confirm(now)
        self._rendezvous.network_changed(now)
        self._calls.woken(now)
        self._drain(now)

    def sockets_opened(self, owner: bytes, bases: Sequence[Address], now: float) -> None:
        """Some of the sockets that OpenSockets asked for; what nobody wants any more is closed."""
        self._spare.update((base, owner) for base in bases)
        if owner == DISCOVERY:
            self.discovery.sockets_opened(bases, now)
        elif not self._calls.sockets_opened(owner, bases, now):
            self._close_sockets(bases)
        self._drain(now)

    def sockets_closed(self, bases: Sequence[Address], now: float) -> None:
        """These sockets are gone, with the local address that they had."""
        for base in bases:
            owner = self._spare.pop(base, None)
            if owner == DISCOVERY:
                self.discovery.socket_closed(base, now)
            elif owner is not None:
                self._calls.socket_closed(owner, base, now)
        self._drain(now)

    def signalling_connected(
        self, connection: int, host: str, server_pin: bytes, now: float
    ) -> None:
        """The WebSocket is open, to the IP address ``host`` with this key (SHA-256 of its SPKI)."""
        self._resolver.switchboard = host
        self._rendezvous.connected(connection, server_pin, now)
        self._drain(now)

    def signalling_received(self, connection: int, data: bytes, now: float) -> None:
        self._rendezvous.received(connection, data, now)
        self._drain(now)

    def signalling_disconnected(self, connection: int, reason: str, now: float) -> None:
        """The WebSocket is closed, or could not be opened."""
        self._rendezvous.disconnected(connection, reason, now)
        self._drain(now)

    def resolved(self, host: str, addresses: tuple[str, ...], now: float) -> None:
        """The answer to Resolve; no addresses: it has none."""
        self._resolver.resolved(host, addresses)
        self._find_servers(now)
        self._drain(now)

    def turn_stream_opened(self, local: Address, server: TurnServer, now: float) -> None:
        self._gatherer.stream_opened(local, server, now)
        self._drain(now)

    def turn_stream_failed(self, server: TurnServer, now: float) -> None:
        self._gatherer.stream_failed(server, now)
        self._drain(now)

    def turn_stream_closed(self, local: Address, server: Address, now: float) -> None:
        self._gatherer.stream_closed(local, server, now)
        self._drain(now)

    def tcp_happened(self, owner: bytes, event: TcpEvent, now: float) -> bool:
        """What became of ProbeTcp and OpenTcp; False: nobody wants it any more, close it."""
        wanted = self._calls.tcp_happened(owner, event, now)
        self._drain(now)
        return wanted

    def map_ports(self, do: Callable[[PortMapper, float], None], now: float) -> None:
        """What io has found out about gateways: ``do`` tells the port mapper."""
        self._gatherer.map_ports(do, now)
        self._drain(now)

    # -------------------------------------------------------------------------- engine

    def receive(self, datagram: Datagram, now: float) -> None:
        if datagram.segment_size and not datagram.payload[0] & 0xC0:
            # RFC 7983: STUN. The kernel may glue messages that happen to have the same size.
            for payload in datagram.segments():
                self.receive(datagram._replace(payload=payload, segment_size=0), now)
            return
        if self._gatherer.knows(datagram):
            self._gatherer.receive(datagram, now)
            self._learn_of_nat(now)
        elif self.discovery.knows(datagram):
            self.discovery.receive(datagram, now)
        else:
            self._calls.receive(datagram, now)
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        self._tcp.udp_works = self._gatherer.udp_works
        if payload_keeps_mapping(self.way_out.report):
            self._gatherer.payload_flows(self._calls.flowing_bases(now), now)
        for child in (self._rendezvous, self._gatherer, self.discovery, self._calls):
            timeout = child.next_timeout()
            if timeout is not None and timeout <= now:
                child.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return least(
            self._rendezvous.next_timeout(),
            self._gatherer.next_timeout(),
            self.discovery.next_timeout(),
            self._calls.next_timeout(),
        )

    def outputs(self) -> Iterator[EndpointOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # -------------------------------------------------------------------------- inside

    def _drain(self, now: float) -> None:
        """Children first to last, again while one of them gave another something to do."""
        busy = True
        while busy:
            busy = False
            for event in self._rendezvous.outputs():
                busy = True
                self._from_rendezvous(event, now)
            for output in self._gatherer.outputs():
                busy = busy or not isinstance(output, Transmit)
                self._from_gatherer(output, now)
            for found in self.discovery.outputs():
                busy = True
                match found:
                    case CloseSockets(bases):
                        self._close_sockets(bases)
                    case _:
                        self._outputs.append(found)
                        if isinstance(found, NatLearned):
                            self._learn_of_nat(now)
            for call_output in self._calls.outputs():
                match call_output:
                    case Transmit(datagram) if self._gatherer.is_relayed(datagram.source):
                        busy = True
                        self._gatherer.send(datagram, now)
                    case Transmit(Datagram(source, transport=Transport.UDP)) if (
                        source not in self._bases and source not in self._spare
                    ):
                        pass  # the socket or allocation went in this very turn
                    case Say(message):
                        busy = True
                        say(self._rendezvous, message, now)
                    case Reach(peers):
                        busy = True
                        self._gatherer.set_peers(peers, now)
                    case CheckMapping():
                        busy = True
                        self._gatherer.refresh(now)
                    case CloseSockets(bases):
                        self._close_sockets(bases)
                    case _:
                        self._outputs.append(call_output)

    def _from_gatherer(self, output: GathererOutput, now: float) -> None:
        match output:
            case CandidatesChanged():
                self.discovery.seen(self._gatherer.mapped_addresses(), now)
                candidates = self._gatherer.candidates
                self._calls.candidates_changed(candidates, now)
                if not self._discretion.nothing_on_file:
                    told = tuple(encode_candidate(c.candidate) for c in candidates[:MAX_CANDIDATES])
                    self._rendezvous.set_on_file(told, now)
            case RelayedDataReceived(datagram):
                self._calls.receive(datagram, now)
            case _:
                self._outputs.append(output)

    def _from_rendezvous(self, event: rendezvous.ClientOutput, now: float) -> None:
        if (output := passed_on(event)) is not None:
            self._outputs.append(output)
        match event:
            case rendezvous.RegistrationSucceeded(turn=turn, stun=stun):
                self._resolver.set_services(stun, turn)
                self._find_servers(now)
                self._gatherer.confirm(now)
                self._calls.registered(now)
                self._outputs.append(Online())
            case rendezvous.ServicesChanged(turn, stun):
                self._resolver.set_services(stun, turn)
                self._find_servers(now)
            case rendezvous.PeerFound(keys):
                self._calls.found(keys, now)
            case rendezvous.PeerNotFound(name):
                self._calls.not_found(name, now)
            case rendezvous.SignallingProblem():
                self._calls.problem(event, now)
            case _ if isinstance(event, rendezvous.CallEvent):
                self._calls.signalled(event, now)

    def _close_sockets(self, bases: Iterable[Address]) -> None:
        if known := tuple(base for base in bases if self._spare.pop(base, None) is not None):
            self._outputs.append(CloseSockets(known))

    def _learn_of_nat(self, now: float) -> None:
        report = self.discovery.report or guessed_report(self._gatherer.mapped_addresses())
        if report != self.way_out.report:
            self.way_out.report = report
            self._gatherer.set_keepalive(keepalive_seconds(report), now)
            self._calls.report_changed(now)

    def _find_servers(self, now: float) -> None:
        servers = self._resolver.servers()
        self._outputs.extend(Resolve(host) for host in servers.to_resolve)
        self._gatherer.set_servers(servers.stun, servers.turn, now)
        self.way_out.servers = servers.stun
        self.discovery.set_servers(servers.stun, now)
        self._tcp.servers = tcp_servers(servers.turn)
