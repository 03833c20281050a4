"""Just enough sockets to put our TURN engines on a line with somebody else's programs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.client import Allocation, Credentials, RelayedDataReceived
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import CloseRelay, OpenRelay
from knothole.io.turn_dtls import TurnDtls
from knothole.server.dtls import DtlsConnection, DtlsServer
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.turn import StreamFramer

from ...ports import free_port

LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
PATIENCE = 40.0
"""Seconds after which something that should have happened has not."""


class Clock:
    """The loop's time, which can be put forward for an engine that waits for minutes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


class UdpLine(asyncio.DatagramProtocol):
    """A UDP socket that hands what it gets to a function."""

    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self.receive = receive
        self.local = Address(LOOPBACK, 0)

    @classmethod
    async def open(
        cls, receive: Callable[[bytes, Address], None], port: int = 0, host: str = LOOPBACK
    ) -> UdpLine:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_datagram_endpoint(lambda: cls(receive), local_addr=(host, port))
        return line

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport
        self.local = parse_address(*transport.get_extra_info("sockname")[:2])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.receive(data, parse_address(*addr[:2]))

    def send(self, payload: bytes, destination: Address) -> None:
        self.transport.sendto(payload, destination)

    def close(self) -> None:
        self.transport.abort()


class LiveClient:
    """An :class:`Allocation` on a real socket or connection."""

    def __init__(self, server: Address, transport: Transport, clock: Clock) -> None:
        self.server, self.transport, self.clock = server, transport, clock
        self.events: list[object] = []
        self.channel_messages = 0
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, credentials: Credentials, **options: object) -> None:
        if self.transport is Transport.UDP:
            self._line = await UdpLine.open(lambda data, source: self._received(source, data))
            self.local = self._line.local
        elif self.transport is Transport.DTLS:
            self._dtls = TurnDtls(
                self.server,
                lambda each: self._received(each.source, each.payload),
                lambda _: self._disconnected(),
            )
            await self._dtls.open(server_name="", pin=None, insecure=True)
            self.local = self._dtls.local
        else:
            context = None
            if self.transport is Transport.TLS:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            reader, self._writer = await asyncio.open_connection(*self.server, ssl=context)
            self.local = parse_address(*self._writer.get_extra_info("sockname")[:2])
            self._tasks.append(asyncio.create_task(self._read(reader)))
        self.allocation = Allocation(
            local=self.local,
            server=self.server,
            transport=self.transport,
            credentials=credentials,
            random=secrets.token_bytes,
            now=self.clock.now(),
            **options,  # type: ignore[arg-type]
        )
        self.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        framer = StreamFramer()
        while data := await reader.read(65536):
            for message in framer.feed(data):
                self._received(self.server, message)
        self._disconnected()

    def _disconnected(self) -> None:
        self.allocation.disconnected(self.clock.now())
        self.drain()

    def _received(self, source: Address, payload: bytes) -> None:
        datagram = Datagram(source, self.local, payload, transport=self.transport)
        self.allocation.receive(datagram, self.clock.now())
        self.drain()
        self._changed.set()

    def drain(self) -> None:
        for output in self.allocation.outputs():
            if not isinstance(output, Transmit):
                self.events.append(output)
                self._changed.set()
                continue
            self.channel_messages += output.datagram.payload[0] >> 4 == 4
            if self.transport is Transport.UDP:
                self._line.send(output.datagram.payload, self.server)
            elif self.transport is Transport.DTLS:
                self._dtls.send(output.datagram)
            else:
                self._writer.write(output.datagram.payload)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        timeout = self.allocation.next_timeout()
        if timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(timeout - self.clock.ahead, self._timed_out)

    def _timed_out(self) -> None:
        self.allocation.handle_timeout(self.clock.now())
        self.drain()

    def skip(self, seconds: float) -> None:
        """Let the engine believe that so much time has passed."""
        self.clock.ahead += seconds
        self._timed_out()

    def do(self, name: str, *arguments: object) -> None:
        """Call a method of the allocation whose last argument is the time."""
        getattr(self.allocation, name)(*arguments, self.clock.now())
        self.drain()

    async def event(self, kind: type, count: int = 1) -> object:
        """The ``count``-th event of that kind, waited for."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [event for event in self.events if isinstance(event, kind)]
                if len(found) >= count:
                    return found[count - 1]
                self._changed.clear()
                await self._changed.wait()

    async def quiet(self) -> None:
        """Wait until nothing is due soon, so that no request is under way."""
        async with asyncio.timeout(PATIENCE):
            while (self.allocation.next_timeout() or 0.0) - self.clock.now() < 45:
                self._changed.clear()
                await self._changed.wait()

    async def data(self, count: int) -> list[tuple[Address, bytes]]:
        """The first ``count`` payloads from peers."""
        await self.event(RelayedDataReceived, count)
        found = [event for event in self.events if isinstance(event, RelayedDataReceived)]
        return [(each.datagram.source, each.datagram.payload) for each in found[:count]]

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.transport is Transport.UDP:
            self._line.close()
        elif self.transport is Transport.DTLS:
            self._dtls.close()
        else:
            self._writer.transport.abort()


class LiveServer:
    """A :class:`TurnServer` on loopback: UDP with DTLS, TCP, and TLS on a port of its own."""

    def __init__(self, certificate: Path, **options: object) -> None:
        self.clock = Clock()
        self.certificate = certificate
        self.options = options
        self.events: list[object] = []
        self._relays: dict[Address, UdpLine] = {}
        self._writers: dict[FiveTuple, asyncio.StreamWriter] = {}
        self._associations: dict[FiveTuple, DtlsConnection] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        self._udp = await UdpLine.open(self._from_udp, free_port())
        self.udp = self._udp.local
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        self._listeners = [
            await asyncio.start_server(
                lambda reader, writer: self._serve(reader, writer, Transport.TCP),
                LOOPBACK,
                self.udp.port,
            ),
            await asyncio.start_server(
                lambda reader, writer: self._serve(reader, writer, Transport.TLS),
                LOOPBACK,
                0,
                ssl=context,
            ),
        ]
        self.tls = parse_address(*self._listeners[1].sockets[0].getsockname()[:2])
        self._dtls = DtlsServer(
            str(self.certificate),
            str(self.certificate),
            send=lambda datagram: self._udp.send(datagram.payload, datagram.destination),
            on_message=self._from_dtls,
            on_closed=self._dtls_closed,
        )
        self.engine = TurnServer(
            random=secrets.token_bytes,
            relay_hosts=[LOOPBACK],
            server_addresses=[self.udp, self.tls],
            policy=PeerPolicy((ip_network("127.0.0.0/8"),)),
            now=self.clock.now(),
            **self.options,  # type: ignore[arg-type]
        )

    def _from_udp(self, payload: bytes, source: Address) -> None:
        if payload and 20 <= payload[0] < 64:
            self._dtls.receive(Datagram(source, self.udp, payload))
            return
        five_tuple = FiveTuple(Transport.UDP, source, self.udp)
        self.engine.receive(five_tuple, payload, self.clock.now())
        self._drain()

    def _from_dtls(self, connection: DtlsConnection, messages: Sequence[bytes]) -> None:
        self._associations[connection.five_tuple] = connection
        for message in messages:
            self.engine.receive(connection.five_tuple, message, self.clock.now())
        self._drain()

    def _dtls_closed(self, connection: DtlsConnection) -> None:
        self._associations.pop(connection.five_tuple, None)
        self.engine.disconnected(connection.five_tuple, self.clock.now())
        self._drain()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: Transport
    ) -> None:
        client = parse_address(*writer.get_extra_info("peername")[:2])
        local = parse_address(*writer.get_extra_info("sockname")[:2])
        five_tuple = FiveTuple(transport, client, local)
        self._writers[five_tuple] = writer
        framer = StreamFramer()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                for message in framer.feed(data):
                    self.engine.receive(five_tuple, message, self.clock.now())
                    self._drain()
        del self._writers[five_tuple]
        self.engine.disconnected(five_tuple, self.clock.now())
        self._drain()
        writer.close()

    def _drain(self) -> None:
        for output in self.engine.outputs():
            match output:
                case Transmit(datagram) if datagram.source in self._relays:
                    self._relays[datagram.source].send(datagram.payload, datagram.destination)
                case Transmit(datagram) if datagram.transport is Transport.UDP:
                    self._udp.send(datagram.payload, datagram.destination)
                case Transmit(datagram):
                    five_tuple = FiveTuple(
                        datagram.transport, datagram.destination, datagram.source
                    )
                    if five_tuple in self._associations:
                        self._associations[five_tuple].send(datagram.payload)
                    elif five_tuple in self._writers:
                        self._writers[five_tuple].write(datagram.payload)
                case OpenRelay(relayed):
                    task = asyncio.create_task(self._open(relayed))
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
                case CloseRelay(relayed):
                    self._relays.pop(relayed).close()
                case _:
                    self.events.append(output)
                    self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        timeout = self.engine.next_timeout()
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_at(timeout, self._timed_out)

    async def _open(self, relayed: Address) -> None:
        def receive(payload: bytes, peer: Address) -> None:
            self.engine.receive_from_peer(relayed, peer, payload, self.clock.now())
            self._drain()

        try:
            self._relays[relayed] = await UdpLine.open(receive, relayed.port)
        except OSError:
            self.engine.relay_refused(relayed, self.clock.now())
        else:
            self.engine.relay_opened(relayed, self.clock.now())
        self._drain()

    async def event(self, kind: type) -> object:
        """The first event of that kind, waited for."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self._changed.clear()
                await self._changed.wait()

    def _timed_out(self) -> None:
        self.engine.handle_timeout(self.clock.now())
        self._drain()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            listener.close()
        self._dtls.close()
        for writer in tuple(self._writers.values()):
            writer.transport.abort()
        for line in (self._udp, *self._relays.values()):
            line.close()
        await asyncio.sleep(0)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for loopback, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "turn.test")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("turn") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def echo() -> AsyncIterator[Address]:
    """A peer that sends back whatever comes, with "echo " in front."""
    line = await UdpLine.open(lambda data, source: line.send(b"echo " + data, source))
    yield line.local
    line.close()


@pytest.fixture
async def echo6() -> AsyncIterator[Address]:
    """The same with IPv6."""
    line = await UdpLine.open(
        lambda data, source: line.send(b"echo " + data, source), host=LOOPBACK6
    )
    yield line.local
    line.close()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[LiveClient]]]:
    """Makes live clients, and stops them."""
    clients: list[LiveClient] = []

    async def connect(
        server: Address, transport: Transport, credentials: Credentials, **options: object
    ) -> LiveClient:
        client = LiveClient(server, transport, Clock())
        clients.append(client)
        await client.start(credentials, **options)
        return client

    yield connect
    for client in clients:
        await client.stop()


@pytest.fixture
async def serve(certificate: Path) -> AsyncIterator[Callable[..., Awaitable[LiveServer]]]:
    """Makes live servers, and stops them."""
    servers: list[LiveServer] = []

    async def serve(**options: object) -> LiveServer:
        server = LiveServer(certificate, **options)
        servers.append(server)
        await server.start()
        return server

    yield serve
    for server in servers:
        await server.stop()


@pytest.fixture
async def coturn(
    certificate: Path, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[tuple[Address, Address]]]]:
    """Starts Debian's ``turnserver``; answers with its plain and its TLS address."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> tuple[Address, Address]:
        plain, tls = free_port(), free_port()
        processes.append(
            await asyncio.create_subprocess_exec(
                "turnserver",
                "-n",
                "--listening-ip=127.0.0.1",
                "--relay-ip=127.0.0.1",
                f"--listening-port={plain}",
                f"--tls-listening-port={tls}",
                f"--cert={certificate}",
                f"--pkey={certificate}",
                f"--userdb={tmp_path / f'db{plain}'}",
                f"--pidfile={tmp_path / f'pid{plain}'}",
                f"--log-file={tmp_path / f'log{plain}'}",
                "--simple-log",
                "--no-cli",
                "--realm=coturn.test",
                "--fingerprint",
                *arguments,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        async with asyncio.timeout(PATIENCE):
            for port in (plain, tls):
                while True:
                    try:
                        _, writer = await asyncio.open_connection(LOOPBACK, port)
                    except ConnectionError:
                        await asyncio.sleep(0.05)
                    else:
                        writer.close()
                        await writer.wait_closed()
                        break
        return Address(LOOPBACK, plain), Address(LOOPBACK, tls)

    yield start
    for process in processes:
        process.terminate()
        try:
            async with asyncio.timeout(40):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
