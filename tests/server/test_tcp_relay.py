"""TCP allocations (RFC 6062) on real sockets, in both event loops: no byte is lost or left over."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from knothole.engine.turn.credentials import rest_credentials
from knothole.server import tcp_relay
from knothole.server.certificate import own_certificate
from knothole.server.link import Look, RelaySettings, RelayStart
from knothole.server.listener import Listener
from knothole.server.relay import Relay
from knothole.wire.address import Address
from knothole.wire.stun import (
    ConnectionId,
    ErrorCode,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
)

from .conftest import free_port, make_tls_context, until
from .tcp_peers import Client, Peer

HOST = "127.0.0.1"
SECRET = "secret"
PATIENCE = 120.0


class World:
    """A relay, its clients and their peers."""

    def __init__(self, folder: Path, **settings: object) -> None:
        certificate = own_certificate(folder)
        self.port = free_port()
        self.credentials = rest_credentials(SECRET, "alice", 600, time.time())
        self.start = RelayStart(
            hosts=[HOST],
            port=self.port,
            discovery_port=0,
            partners={},
            relay_hosts={HOST: HOST},
            machine=[HOST],
            realm="knothole",
            relay_ports=(50_000, 65_535),
            settings=RelaySettings(
                chain=str(certificate.chain),
                key=str(certificate.key),
                secrets=[SECRET],
                revoked=[],
                allow_peers=["127.0.0.0/8"],
                deny_peers=[],
                allocations=5,
                allocations_per_user=5,
                **settings,
            ),
        )
        self.clients: list[Client] = []
        self.peers: list[Peer] = []

    async def __aenter__(self) -> World:
        self.relay = Relay(self.start, lambda *_: None)
        self._listener = Listener(websocket=lambda sock, _: sock.close(), turn=self.relay.take)
        self._listener.listen([HOST], self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.writer.transport.abort()
        for peer in self.peers:
            peer.close()
        await self._listener.close()
        self.relay.close()
        await asyncio.sleep(0.05)

    async def client(self, like: Client | None = None, *, tls: bool = False) -> Client:
        """A connection; with the nonce of ``like``, if there is one."""
        context: ssl.SSLContext | None = make_tls_context("stun.turn") if tls else None
        made = Client(
            self.credentials, *await asyncio.open_connection(HOST, self.port, ssl=context)
        )
        if like is not None:
            made.responder = like.responder
        self.clients.append(made)
        return made

    async def peer(self) -> tuple[Peer, Address]:
        peer = Peer()
        self.peers.append(peer)
        return peer, await peer.listen()

    async def joined(self, *, tls: bool = False):
        """A client's data connection, and the peer's end of what it is joined to."""
        control = await self.client(tls=tls)
        await control.allocate()
        peer, address = await self.peer()
        answer = await control.ask(Method.CONNECT, XorPeerAddress(address))
        number = answer.get(ConnectionId).value
        data = await self.client(control, tls=tls)
        assert (await data.bind(number)).message_class is MessageClass.SUCCESS
        reader, writer = await peer.connections.get()
        return control, data, reader, writer

    async def is_without_peers(self) -> None:
        await until(lambda: not self.relay._tcp._peers)


Scenario = Callable[[World], Awaitable[None]]


def in_both_loops(scenario: Scenario) -> Callable[..., None]:
    """uvloop is what serves, asyncio what serves elsewhere."""

    @pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
    @functools.wraps(scenario)
    def run(kind: str, tmp_path: Path) -> None:
        troubles: list[object] = []

        async def within() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, each: troubles.append(each))
            async with asyncio.timeout(PATIENCE), World(tmp_path) as world:
                await scenario(world)

        factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(within())
        assert troubles == []

    del run.__wrapped__
    return run


@in_both_loops
async def test_bytes_go_both_ways_and_the_end_of_one_way_is_not_that_of_the_other(
    world: World,
) -> None:
    _, data, reader, writer = await world.joined()
    data.writer.write(b"request")
    data.writer.write_eof()
    assert await reader.read() == b"request"
    writer.write(b"a long answer" * 10_000)
    writer.write_eof()
    assert await data.reader.read() == b"a long answer" * 10_000
    data.writer.close()
    await world.is_without_peers()


@in_both_loops
async def test_the_end_of_tls_is_the_end_of_both_ways(world: World) -> None:
    _, data, reader, _ = await world.joined(tls=True)
    data.writer.write(b"request" * 10_000)
    data.writer.close()
    assert await reader.read() == b"request" * 10_000
    await world.is_without_peers()


@in_both_loops
async def test_the_peers_end_reaches_a_tls_client_behind_all_its_bytes(world: World) -> None:
    _, data, _, writer = await world.joined(tls=True)
    writer.write(b"answer" * 100_000)
    writer.close()
    assert await data.reader.read() == b"answer" * 100_000
    await world.is_without_peers()


@in_both_loops
async def test_the_figures_tell_what_went_to_peers_by_tcp_and_how_clients_came(
    world: World,
) -> None:
    _, data, reader, writer = await world.joined(tls=True)
    data.writer.write(b"x" * 1000)
    assert len(await reader.readexactly(1000)) == 1000
    writer.write(b"y" * 300)
    assert len(await data.reader.readexactly(300)) == 300

    def octets() -> dict[tuple[str, str], int]:
        flows = world.relay.obey(Look(0)).flows
        return {(flow.path, flow.direction): flow.octets for flow in flows}

    await until(lambda: octets()["tcp-peers", "to-clients"] == 300)
    assert octets()["tcp-peers", "to-peers"] == 1000
    assert octets()["user-space", "to-peers"] == 0
    assert world.relay.obey(Look(0)).connected == {"tls": 2}


@in_both_loops
async def test_what_comes_right_behind_the_bind_is_the_first_data(world: World) -> None:
    control = await world.client()
    await control.allocate()
    peer, address = await world.peer()
    number = (await control.ask(Method.CONNECT, XorPeerAddress(address))).get(ConnectionId).value
    data = await world.client(control)
    raw = bytes(range(256)) * 3  # neither STUN nor ChannelData
    data.writer.write(data.request(Method.CONNECTION_BIND, ConnectionId(number)) + raw)
    assert (await data.message()).message_class is MessageClass.SUCCESS
    reader, _ = await peer.connections.get()
    assert await reader.readexactly(len(raw)) == raw


@in_both_loops
async def test_what_the_peer_says_before_the_bind_waits_for_it(world: World) -> None:
    control = await world.client()
    await control.allocate()
    peer, address = await world.peer()
    number = (await control.ask(Method.CONNECT, XorPeerAddress(address))).get(ConnectionId).value
    _, writer = await peer.connections.get()
    banner = secrets.token_bytes(50_000)
    writer.write(banner)
    writer.write_eof()
    await writer.drain()
    data = await world.client(control)
    assert (await data.bind(number)).message_class is MessageClass.SUCCESS
    assert await data.reader.read() == banner


@in_both_loops
async def test_a_bind_that_is_refused_leaves_the_connection_as_it_was(world: World) -> None:
    control = await world.client()
    await control.allocate()
    other = await world.client(control)
    refused = other.request(Method.CONNECTION_BIND, ConnectionId(1))
    other.writer.write(refused + other.request(Method.ALLOCATE, RequestedTransport(6)))
    codes = [(await other.message()).get(ErrorCode).code for _ in range(2)]
    assert codes == [438, 438], "the second message was not taken for data"


@in_both_loops
async def test_a_slow_reader_slows_the_sender_down_and_nothing_is_lost(world: World) -> None:
    _, data, reader, writer = await world.joined()
    sent = secrets.token_bytes(1 << 20) * 24
    written = asyncio.create_task(drained(writer, sent))
    done, _ = await asyncio.wait([written], timeout=1.0)
    assert not done, "24 MiB fit somewhere"
    waiting = sum(each._client.get_write_buffer_size() for each in world.relay._tcp._peers.values())
    assert waiting < 1 << 20
    assert await data.reader.readexactly(len(sent)) == sent
    await written
    back = asyncio.create_task(drained(data.writer, sent))
    assert await reader.readexactly(len(sent)) == sent
    await back


async def drained(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 65536):
        writer.write(data[start : start + 65536])
        await writer.drain()


@in_both_loops
async def test_a_peer_with_a_permission_is_announced_and_joined(world: World) -> None:
    control = await world.client()
    relayed = await control.allocate()
    await control.ask(Method.CREATE_PERMISSION, XorPeerAddress(Address(HOST, 0)))
    reader, writer = await asyncio.open_connection(*relayed)
    writer.write(b"hello from outside")
    attempt = await control.message()
    assert attempt.method == Method.CONNECTION_ATTEMPT
    assert attempt.get(XorPeerAddress).address == Address(*writer.get_extra_info("sockname"))
    data = await world.client(control)
    assert (await data.bind(attempt.get(ConnectionId).value)).message_class is MessageClass.SUCCESS
    assert await data.reader.readexactly(18) == b"hello from outside"
    data.writer.write(b"hello from inside")
    assert await reader.readexactly(17) == b"hello from inside"
    writer.close()


@in_both_loops
async def test_a_peer_without_a_permission_is_closed(world: World) -> None:
    control = await world.client()
    relayed = await control.allocate()
    reader, writer = await asyncio.open_connection(*relayed)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await world.is_without_peers()


@in_both_loops
async def test_two_clients_are_connected_from_one_relayed_address_to_the_other(
    world: World,
) -> None:
    alice, bob = await world.client(), await world.client()
    relayed = [await alice.allocate(), await bob.allocate()]
    await bob.ask(Method.CREATE_PERMISSION, XorPeerAddress(Address(HOST, 0)))
    number = (await alice.ask(Method.CONNECT, XorPeerAddress(relayed[1]))).get(ConnectionId).value
    attempt = await bob.message()
    assert attempt.get(XorPeerAddress).address == relayed[0]
    ends = [await world.client(alice), await world.client(bob)]
    await ends[0].bind(number)
    await ends[1].bind(attempt.get(ConnectionId).value)
    for one, other in (ends, ends[::-1]):
        one.writer.write(b"through two relayed addresses")
        assert await other.reader.readexactly(29) == b"through two relayed addresses"


@in_both_loops
async def test_who_does_not_listen_is_447(world: World) -> None:
    control = await world.client()
    await control.allocate()
    peer, address = await world.peer()
    peer.close()
    await asyncio.sleep(0)
    answer = await control.ask(Method.CONNECT, XorPeerAddress(address))
    assert answer.get(ErrorCode).code == 447


@in_both_loops
async def test_nothing_is_left_when_the_control_connection_ends(world: World) -> None:
    control, data, reader, _ = await world.joined()
    unbound, address = await world.peer()
    await control.ask(Method.CONNECT, XorPeerAddress(address))
    second, _ = await unbound.connections.get()
    control.writer.close()
    for each in (reader, second, data.reader):
        with contextlib.suppress(ConnectionError):
            assert await each.read() == b""
    await until(lambda: len(world.relay._tcp) == 0 and not world.relay._accepted)


@in_both_loops
async def test_a_client_that_resets_does_not_hold_the_peer(world: World) -> None:
    _, data, reader, _ = await world.joined()
    data.reset()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    await world.is_without_peers()


@in_both_loops
async def test_who_reads_nothing_cannot_keep_a_connection_whose_other_end_is_gone(
    world: World,
) -> None:
    _, data, reader, _ = await world.joined()
    reader._transport.pause_reading()
    [peer] = world.relay._tcp._peers.values()
    while not peer._transport.get_write_buffer_size():  # the kernel takes no more
        data.writer.write(bytes(16_384))
        await asyncio.sleep(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp_relay, "LINGER_SECONDS", 0.05)
        data.reset()
        await world.is_without_peers()


class Held(asyncio.Transport):
    """Says whether it would be read from, and keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.written, self.aborted = True, b"", False

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        pass

    def write(self, data) -> None:
        self.written += data


async def test_neither_end_is_read_while_the_allocation_is_over_its_limit() -> None:
    waits = [0.0, 0.01, 0.01, 0.0]
    told: list[tuple[int, int]] = []

    def passed(_: object, to_peer: int, to_client: int) -> float:
        told.append((to_peer, to_client))
        return waits[len(told) - 1]

    peer, client = Held(), Held()
    connection = tcp_relay.PeerConnection(passed, lambda _: None)
    connection.connection_made(peer)
    assert not peer.reads
    connection.join(client)
    connection.send(b"four")
    assert (peer.reads, client.reads) == (True, True)
    connection.data_received(b"answer")
    assert (peer.reads, client.reads) == (False, False)
    connection.pause()  # the client takes no more: that the limit is over must not undo it
    connection.resume_writing()
    assert (peer.reads, client.reads) == (False, False)
    await until(lambda: client.reads)
    assert told == [(4, 0), (0, 6), (0, 0), (0, 0)]
    assert not peer.reads
    connection.resume()
    assert peer.reads
    assert (peer.written, client.written) == (b"four", b"answer")


async def test_a_connection_that_is_given_up_just_when_it_is_there_is_not_left_open(
    monkeypatch,
) -> None:
    held = Held()
    is_there = asyncio.Event()

    async def make(factory, sock, **_: object) -> None:
        factory().connection_made(held)
        is_there.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", make)
    with socket.create_server((HOST, 0)) as server:
        relay = tcp_relay.TcpRelay({HOST: HOST}, None, lambda _: None)
        relay.connect(1, Address(HOST, 0), Address(*server.getsockname()))
        async with asyncio.timeout(PATIENCE):
            await is_there.wait()
        relay.close_peer(1)
        await until(lambda: held.aborted)
        assert len(relay) == 0
