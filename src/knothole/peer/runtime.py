"""An endpoint on real sockets: what the sans-IO engine asks for is done here, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from knothole.engine.core import Transmit
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
from knothole.engine.endpoint.relays import CloseTurnStream, OpenTurnStream, TurnServer
from knothole.engine.endpoint.tcp_events import CloseTcp, OpenTcp, ProbeTcp
from knothole.engine.portmap.mapper import GatewayInDoubt
from knothole.engine.secure.rehearsal import rehearse
from knothole.io.driver import Driver
from knothole.io.interfaces import InterfaceWatch
from knothole.io.proxy import Proxy
from knothole.io.signalling import SignallingLink
from knothole.io.sleep import SleepWatch
from knothole.io.tcp_punch import TcpPuncher
from knothole.io.turn_stream import TurnStream
from knothole.io.udp import UdpLink, open_udp
from knothole.peer.port_mapping import PortMapping, may_map
from knothole.wire.address import Address, Transport
from knothole.wire.server_url import ServerUrl

SOCKETS_A_TURN: Final = 32
"""Ours: so many further sockets are bound before the loop's other work gets its turn."""

FAREWELL_SECONDS: Final = 0.05  # what was sent last leaves the socket before it is closed

T = TypeVar("T")
Handler = Callable[[EndpointOutput], None]


class Runtime:
    """Sockets, signalling, relay streams and the clock of one endpoint.

    ``handle`` gets every output that is not for io; ``on_signalling_error`` the reason why the
    switchboard could not be reached, each time; ``settled`` is called after every turn.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        server: ServerUrl,
        handle: Handler,
        on_signalling_error: Callable[[Exception], None],
        settled: Callable[[], None],
        *,
        port: int = 0,
        port_mapping: bool = True,
        proxy: Proxy | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._server = server
        self._handle = handle
        self._on_signalling_error = on_signalling_error
        self._port = port
        self._proxy = proxy
        self._driver: Driver[EndpointOutput] = Driver(endpoint, self._output, settled=settled)
        self._udp: dict[str, UdpLink] = {}
        self._spare: dict[Address, UdpLink] = {}
        self._signalling: dict[int, SignallingLink] = {}
        self._turn_streams: dict[tuple[Address, Address], TurnStream] = {}
        self._tcp = TcpPuncher(
            self._spawn,
            self._driver.receive,
            lambda owner, event: self._driver.command(
                lambda now: self.endpoint.tcp_happened(owner, event, now)
            ),
            lambda stream: self._driver.attach(stream, stream.local, Transport.TCP, stream.remote),
            lambda stream: self._driver.detach(stream.local, Transport.TCP, stream.remote),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: InterfaceWatch | None = None
        self._sleep: SleepWatch | None = None
        self._rebinding = asyncio.Lock()
        self._port_mapping: PortMapping | None = None
        self._may_map = port_mapping and may_map(server)

    async def start(self) -> None:
        """Bind the sockets and go online, and meanwhile rehearse a call."""
        self._spawn(_rehearse())
        loopback = self._server.host in ("localhost", "::1") or self._server.host.startswith("127.")
        self._watch = InterfaceWatch(
            lambda hosts: self._spawn(self._rebind(hosts)), loopback=loopback
        )
        self._sleep = SleepWatch(lambda: self._driver.command(self.endpoint.woken))
        if self._may_map:
            self._port_mapping = PortMapping(self.endpoint, self._driver.command)
        await self._rebind(self._watch.hosts)
        self._driver.command(self.endpoint.start)

    async def close(self) -> None:
        """Leave the switchboard, give the relay back, close every socket."""
        for watch in (self._watch, self._sleep):
            if watch is not None:
                watch.close()
        self._driver.command(self.endpoint.close)
        farewell = [asyncio.sleep(FAREWELL_SECONDS)]
        if self._port_mapping is not None:
            farewell.append(self._port_mapping.close())
        try:
            await asyncio.gather(*farewell)
        finally:  # whoever does not wait for the farewell leaves no socket either
            await self._close_all()

    async def _close_all(self) -> None:
        self._driver.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in tuple(self._turn_streams.values()):
            stream.close()
        self._tcp.close()
        for udp in (*self._udp.values(), *self._spare.values()):
            udp.close()
        for link in tuple(self._signalling.values()):
            await link.close()
        await asyncio.sleep(0)

    def command(self, do: Callable[[float], T]) -> T:
        """Give the endpoint a command: ``do(now)``; what follows from it is carried out."""
        return self._driver.command(do)

    # ------------------------------------------------------------------------ outputs

    def _output(self, output: EndpointOutput) -> None:
        match output:
            case SendSignalling(connection, data):
                link = self._signalling.get(connection)
                if link is not None:
                    link.send(data)
            case ConnectSignalling(connection):
                self._spawn(self._connect(connection))
            case DisconnectSignalling(connection):
                closing = self._signalling.pop(connection, None)
                if closing is not None:
                    self._spawn(closing.close())
            case OpenTurnStream(server):
                self._spawn(self._open_turn_stream(server))
            case CloseTurnStream(local, remote):
                stream = self._turn_streams.get((local, remote))
                if stream is not None:
                    stream.close()
            case Resolve(host):
                self._spawn(self._resolve(host))
            case OpenSockets(owner, host, count, ports):
                self._spawn(self._open_sockets(owner, host, count, ports))
            case CloseSockets(bases):
                self._close_sockets(bases)
            case ProbeTcp() | OpenTcp() | CloseTcp():
                self._tcp.carry_out(output)
            case GatewayInDoubt():
                if self._port_mapping is not None:
                    self._port_mapping.ask_again()
            case Transmit():
                pass  # the driver's
            case _:
                self._handle(output)

    # ---------------------------------------------------------------------- signalling

    async def _connect(self, connection: int) -> None:
        def on_message(data: bytes) -> None:
            if connection in self._signalling:
                self._driver.command(
                    lambda now: self.endpoint.signalling_received(connection, data, now)
                )

        def on_closed() -> None:
            self._disconnected(connection, "the connection was closed")

        link = SignallingLink(on_message, on_closed)
        self._signalling[connection] = link
        server = self._server
        try:
            ports = (server.port, *server.tcp_ports)
            await link.open(server.host, ports, server.pin, self._proxy)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._on_signalling_error(error)
            # Not at once: the engine's back-off counts from here.
            self._disconnected(connection, str(error) or type(error).__name__)
        else:
            if connection not in self._signalling:
                await link.close()
                return
            self._driver.command(
                lambda now: self.endpoint.signalling_connected(
                    connection, link.server_host, link.server_key_hash, now
                )
            )

    def _disconnected(self, connection: int, reason: str) -> None:
        link = self._signalling.pop(connection, None)
        if link is not None:
            self._spawn(link.close())
            self._driver.command(
                lambda now: self.endpoint.signalling_disconnected(connection, reason, now)
            )

    # -------------------------------------------------------------------- relay streams

    async def _open_turn_stream(self, server: TurnServer) -> None:
        stream = TurnStream(
            server.address,
            server.transport,
            lambda datagram: self._driver.receive([datagram]),
            self._turn_stream_closed,
        )
        own = not server.server_name
        try:
            await stream.open(
                server_name=server.server_name or self._server.host,
                pin=self._server.pin if own else None,
                proxy=self._proxy,
            )
        except (OSError, TimeoutError):
            self._driver.command(lambda now: self.endpoint.turn_stream_failed(server, now))
            return
        self._turn_streams[stream.local, server.address] = stream
        self._driver.attach(stream, stream.local, server.transport, server.address)
        self._driver.command(
            lambda now: self.endpoint.turn_stream_opened(stream.local, server, now)
        )

    def _turn_stream_closed(self, stream: TurnStream) -> None:
        if self._turn_streams.pop((stream.local, stream.server), None) is not None:
            self._driver.detach(stream.local, stream.transport, stream.server)
            self._driver.command(
                lambda now: self.endpoint.turn_stream_closed(stream.local, stream.server, now)
            )

    # -------------------------------------------------------------------------- sockets

    async def _rebind(self, hosts: list[str]) -> None:
        """One UDP socket for each local address."""
        async with self._rebinding:
            for connection, signalling in tuple(self._signalling.items()):
                if signalling.local_host in self._udp and signalling.local_host not in hosts:
                    self._disconnected(connection, "its local address is gone")
            for host in [host for host in self._udp if host not in hosts]:
                gone = self._udp.pop(host)
                self._driver.detach(gone.address)
                gone.close()
            lost = tuple(base for base in self._spare if base.host not in hosts)
            self._close_sockets(lost)
            self._driver.command(lambda now: self.endpoint.sockets_closed(lost, now))
            for host in hosts:
                if host not in self._udp:
                    link = await self._bind(host, self._port)
                    if link is not None:
                        self._udp[host] = link
                        self._driver.attach(link, link.address)
            bases = [self._udp[host].address for host in hosts if host in self._udp]
            self._driver.command(lambda now: self.endpoint.set_bases(bases, now))
            if self._port_mapping is not None:
                self._spawn(self._port_mapping.set_bases(bases))

    async def _open_sockets(
        self, owner: bytes, host: str, count: int, ports: tuple[int, ...]
    ) -> None:
        for start in range(0, count, SOCKETS_A_TURN):
            opened: list[Address] = []
            for number in range(start, min(start + SOCKETS_A_TURN, count)):
                # None: no descriptors left, or the address is gone.
                link = await self._bind(host, ports[number] if number < len(ports) else 0)
                if link is not None:
                    self._spare[link.address] = link
                    self._driver.attach(link, link.address)
                    opened.append(link.address)
            self._driver.command(functools.partial(self.endpoint.sockets_opened, owner, opened))
            await asyncio.sleep(0)

    def _close_sockets(self, bases: Iterable[Address]) -> None:
        for base in bases:
            link = self._spare.pop(base, None)
            if link is not None:
                self._driver.detach(base)
                link.close()

    async def _bind(self, host: str, wanted: int) -> UdpLink | None:
        for port in dict.fromkeys((wanted, 0)):
            with contextlib.suppress(OSError):  # taken, or the address is gone already
                return await open_udp(Address(host, port), self._driver.receive)
        return None

    async def _resolve(self, host: str) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):  # the latter for labels that no name can have
            found = []
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        self._driver.command(lambda now: self.endpoint.resolved(host, addresses, now))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a task of the peer failed", "exception": error, "task": task}
            )


async def _rehearse() -> None:
    await asyncio.to_thread(rehearse, secrets.token_bytes)
