"""A whole client on a simulated host: the endpoint engine, and what io does for it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from knothole.engine.core import Datagram, Transmit
from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    CloseSockets,
    ConnectSignalling,
    DisconnectSignalling,
    EndpointOutput,
    OpenSockets,
    Resolve,
    SendSignalling,
)
from knothole.engine.endpoint.relays import CloseTurnStream, OpenTurnStream
from knothole.engine.endpoint.tcp_events import ProbeTcp, TcpProbed
from knothole.lab.sim.host import Host, Program
from knothole.lab.sim.stream import StreamClosed
from knothole.lab.sim.switchboard import PIN, UPGRADE, UPGRADED
from knothole.wire.address import Address, Transport

FIRST_STREAM_PORT: Final = 40000  # ours: local ports of stream connections, from here on


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Bind this local address."""

    local: Address


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close it, and the connection that it has."""

    local: Address


PhoneOutput: TypeAlias = EndpointOutput | OpenSocket | CloseSocket


class Phone:
    """One endpoint with its signalling connection to ``server`` (TLS) and streams to relays."""

    def __init__(self, endpoint: Endpoint, server: Address, host: str, now: float) -> None:
        self.endpoint, self._server, self._host = endpoint, server, host
        self._ports = itertools.count(FIRST_STREAM_PORT)
        self._opened: set[Address] = set()
        self._signalling: dict[Address, int] = {}
        self._locals: dict[int, Address] = {}
        self._outputs: deque[PhoneOutput] = deque()

    def start(self, bases: Sequence[Address], now: float) -> None:
        """Go online with these UDP sockets."""
        self.endpoint.set_bases(bases, now)
        self.endpoint.start(now)
        self._drain(now)

    def move(self, host: str, bases: Sequence[Address], now: float) -> None:
        """The network changed: other UDP sockets, and new streams leave from ``host``."""
        self._host = host
        self.endpoint.set_bases(bases, now)
        self._drain(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        number = self._signalling.get(datagram.destination)
        if number is None:
            self.endpoint.receive(datagram, now)
        elif datagram.payload == UPGRADED:
            self.endpoint.signalling_connected(number, self._server.host, PIN, now)
        else:
            self.endpoint.signalling_received(number, datagram.payload, now)
        self._drain(now)

    def stream_closed(self, local: Address, remote: Address, reason: str, now: float) -> None:
        """A stream connection is over."""
        number = self._signalling.pop(local, None)
        if number is not None:
            del self._locals[number]
            self.endpoint.signalling_disconnected(number, reason, now)
        else:
            self.endpoint.turn_stream_closed(local, remote, now)
        self._close(local)
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        self.endpoint.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return self.endpoint.next_timeout()

    def outputs(self) -> Iterator[PhoneOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def command(self, do: Callable[[Endpoint], Any], now: float) -> Any:
        """Give the endpoint a command."""
        result = do(self.endpoint)
        self._drain(now)
        return result

    def _drain(self, now: float) -> None:
        while outputs := list(self.endpoint.outputs()):
            for output in outputs:
                self._carry_out(output, now)

    def _carry_out(self, output: EndpointOutput, now: float) -> None:
        match output:
            case ConnectSignalling(number):
                local = self._open()
                self._signalling[local], self._locals[number] = number, local
                self._say(local, UPGRADE)
            case SendSignalling(number, data):
                if number in self._locals:
                    self._say(self._locals[number], data)
            case DisconnectSignalling(number):
                gone = self._locals.pop(number, None)
                if gone is not None:
                    del self._signalling[gone]
                    self._close(gone)
            case OpenTurnStream(server):
                self.endpoint.turn_stream_opened(self._open(), server, now)
            case CloseTurnStream(local):
                self._close(local)
            case Resolve(host):
                self.endpoint.resolved(host, (), now)
            case OpenSockets(owner, host, count, ports):
                wanted = [*ports[:count], *[0] * (count - len(ports))]
                opened = [self._open(host, port) for port in wanted]
                self.endpoint.sockets_opened(owner, opened, now)
            case ProbeTcp(owner):  # no simultaneous open here: nothing is promised
                self.endpoint.tcp_happened(owner, TcpProbed(()), now)
            case CloseSockets(bases):
                for base in bases:
                    self._close(base)
            case _:
                self._outputs.append(output)

    def _open(self, host: str = "", port: int = 0) -> Address:
        local = Address(host or self._host, port or next(self._ports))
        while local in self._opened:
            local = Address(local.host, next(self._ports))
        self._opened.add(local)
        self._outputs.append(OpenSocket(local))
        return local

    def _close(self, local: Address) -> None:
        if local in self._opened:
            self._opened.remove(local)
            self._outputs.append(CloseSocket(local))

    def _say(self, local: Address, payload: bytes) -> None:
        self._outputs.append(
            Transmit(Datagram(local, self._server, payload, transport=Transport.TLS))
        )


def run_phone(
    host: Host,
    endpoint: Endpoint,
    bases: Sequence[Address],
    server: Address,
    *,
    now: float,
    on_event: Callable[[Program[Phone], object, float], None] | None = None,
) -> Program[Phone]:
    """Start an endpoint with UDP sockets at ``bases``; it goes online at once."""

    def handle(event: object, now: float) -> None:
        match event:
            case OpenSocket(local):
                program.bind(local)
            case CloseSocket(local):
                program.unbind(local)
            case StreamClosed(local, remote, _, reason):
                program.call(lambda engine, now: engine.stream_closed(local, remote, reason, now))
        if on_event is not None:
            on_event(program, event, now)

    phone = Phone(endpoint, server, bases[0].host, now)
    program = host.run(phone, *bases, on_event=handle)
    program.call(lambda engine, now: engine.start(bases, now))
    return program
