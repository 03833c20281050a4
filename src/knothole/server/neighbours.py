"""The other relay processes of this server: who has which ports, and what is handed to them.

Two clients that are relayed to each other may be with two processes. What one of them sends then
goes to the other process by a socket pair between the two, never through the network. By the same
pair goes a data connection of RFC 6062 that came to another process than its allocation is with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import ToNeighbour
from knothole.engine.turn.tcp_peers import process_of
from knothole.server.link import RelayStart
from knothole.wire.address import Address, Transport

LEAST_PORTS: Final = 2  # RFC 8656 Section 7.2: EVEN-PORT wants an even one, whichever comes first
MAX_PACKET: Final = 131_072  # ours: a burst of UDP at its largest, twice
READS_A_TURN: Final = 64  # ours: then clients and peers get their turn


class _Handed(msgspec.Struct, frozen=True):
    """A client's connection, or with no ``transport`` a peer's; the socket with its bytes goes with
    this. It is from the one address to the other."""

    transport: Transport | None
    source: tuple[str, int]
    destination: tuple[str, int]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ToNeighbour)
_handed_decoder = msgspec.msgpack.Decoder(_Handed)


class Given:
    """The sockets that the rendezvous process has made for this process."""

    def __init__(self) -> None:
        self.listening: dict[Address, socket.socket] = {}
        self.neighbours: dict[int, socket.socket] = {}

    def close(self) -> None:
        """Those that nobody has taken. Idempotent."""
        for sock in (*self.listening.values(), *self.neighbours.values()):
            sock.close()
        self.listening.clear()
        self.neighbours.clear()


def neighbour_pair() -> tuple[socket.socket, socket.socket]:
    """Between two processes: packets with their bounds kept, however large, as for a link.

    Of datagrams the kernel keeps ten, of these as many as the buffer holds.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def slices(ports: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """``ports``, first and last, cut up into one range for each process. Raises ValueError."""
    first, last = ports
    size = (last - first + 1) // count
    if size < LEAST_PORTS:
        raise ValueError(f"fewer than {LEAST_PORTS} ports for each of {count} relay processes")
    starts = [first + number * size for number in range(count)]
    return list(zip(starts, [*(start - 1 for start in starts[1:]), last], strict=True))


class Neighbours:
    """What the process that ``start`` is for shares with the others, within a running event loop.

    ``own_ports`` are those of its relayed addresses, first and last; ``ports`` all of the others.
    """

    def __init__(self, start: RelayStart, given: Given) -> None:
        """Takes the sockets that are ``given``. Raises ValueError when there are too few."""
        every = slices(start.relay_ports, start.processes) if start.processes > 1 else []
        self.own_ports = every[start.number] if every else start.relay_ports
        self._owners = {
            port: number
            for number, (first, last) in enumerate(every)
            if number != start.number
            for port in range(first, last + 1)
        }
        if given.neighbours.keys() != set(self._owners.values()):
            raise ValueError("the relay processes cannot be joined: too many files are open")
        self.ports = self._owners.keys()
        self._processes = start.processes
        self._sockets = dict(given.neighbours)
        given.neighbours.clear()
        self._loop = asyncio.get_running_loop()

    def join(
        self,
        turn: TurnServer,
        drain: Callable[[float], object],
        adopt: Callable[[FiveTuple, socket.socket], object],
        welcome: Callable[[Address, Address, socket.socket], object],
    ) -> None:
        """Have what comes go to ``turn``, and ``drain`` called after it; connections of clients to
        ``adopt``, and those of relayed addresses of others, which are peers here, to ``welcome``
        (where to, from where): both take the sockets over."""
        self._turn, self._drain = turn, drain
        self._adopt, self._welcome = adopt, welcome
        for number, sock in self._sockets.items():
            sock.setblocking(False)
            self._loop.add_reader(sock, self._readable, number)

    def send(self, handed: ToNeighbour) -> None:
        """Hand it to its process; when that does not keep up it is lost."""
        sock = self._sockets.get(self._owners[handed.peer.port])
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.send(_encoder.encode(handed))

    def wanted_by(self, connection: int) -> int | None:
        """Which other process has made the connection of this CONNECTION-ID, if one has."""
        owner = process_of(connection, self._processes)
        return owner if owner in self._sockets else None

    def hand_over(self, number: int, five_tuple: FiveTuple, handed: socket.socket) -> bool:
        """Give that process a client's connection, of which ``handed`` is closed here."""
        transport, client, server = five_tuple
        return self._hand(number, transport, client, server, handed)

    def is_with_another(self, relayed: Address) -> bool:
        """Whether a relayed address has a port of another process."""
        return relayed.port in self._owners

    def connect(self, relayed: Address, peer: Address, handed: socket.socket) -> bool:
        """Tell the process of ``peer``, a relayed address, that ``relayed`` connects to it. When it
        lets that in it says so with the first byte."""
        return self._hand(self._owners[peer.port], None, relayed, peer, handed)

    def _hand(
        self,
        number: int,
        transport: Transport | None,
        source: Address,
        destination: Address,
        handed: socket.socket,
    ) -> bool:
        ends = (source.host, source.port), (destination.host, destination.port)
        packet = _encoder.encode(_Handed(transport, *ends))
        sock = self._sockets.get(number)
        with handed:
            try:
                if sock is not None:
                    socket.send_fds(sock, [packet], [handed.fileno()])
            except OSError:
                return False
        return sock is not None

    def close(self) -> None:
        """Idempotent."""
        for number in tuple(self._sockets):
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        sock = self._sockets.pop(number)
        self._loop.remove_reader(sock)
        sock.close()

    def _readable(self, number: int) -> None:
        sock, came = self._sockets[number], []
        for _ in range(READS_A_TURN):
            descriptors: list[int] = []
            flags = 0
            try:
                packet, descriptors, flags, _ = socket.recv_fds(sock, MAX_PACKET, 1)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:  # it has ended, and so will the server
                self._let_go(number)
                break
            if descriptors:
                self._take(packet, socket.socket(fileno=descriptors[0]))
            elif not flags & socket.MSG_CTRUNC:  # else there was no descriptor free for it
                came.append(_decoder.decode(packet))
        if came:
            now = time.monotonic()
            for handed in came:
                self._turn.receive_from_neighbour(handed, now)
            self._drain(now)

    def _take(self, packet: bytes, sock: socket.socket) -> None:
        sock.set_inheritable(False)  # Python 3.11 does not hand recvmsg the flag that says so
        handed = _handed_decoder.decode(packet)
        source, destination = Address(*handed.source), Address(*handed.destination)
        if handed.transport is None:
            self._welcome(destination, source, sock)
        else:
            self._adopt(FiveTuple(handed.transport, source, destination), sock)
