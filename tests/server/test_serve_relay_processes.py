"""``knothole serve --relay-processes 2`` as a program: one relay that is two processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from knothole.engine.turn.client import Allocated, AllocationFailed, RelayedDataReceived
from knothole.engine.turn.credentials import Credentials
from knothole.server.certificate import own_certificate
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ChangeRequest,
    ConnectionId,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    decode,
    encode,
)

from .conftest import PATIENCE, make_tls_context
from .server_command import server_command
from .tcp_peers import Client, Peer
from .turn_client import TurnClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="relay processes are of Linux")

HOST = "127.0.0.1"
TWO = ("--relay-only", "--no-accelerator", "--relay-processes", "2")
MIDDLE = (49_152 + 65_535) // 2
"""The last port of the first process."""


def credentials(data: Path, name: str) -> Credentials:
    done = server_command("credentials", name, "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    return Credentials(made["username"], made["password"])


def processes_of(data: Path) -> list[str]:
    """Those that ``server status`` shows."""
    done = server_command("status", "--data", str(data), "--json", "--once")
    assert done.returncode == 0, done.stderr
    return [each["process"] for each in json.loads(done.stdout)["processes"]]


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Crew:
    """TURN clients of one server, each with its process."""

    def __init__(self, until: Callable) -> None:
        self.clients: list[TurnClient] = []
        self._until = until

    async def client(
        self, port: int, made: Credentials, transport: Transport = Transport.UDP, **options: object
    ) -> TurnClient:
        client = TurnClient()
        await client.open(port, transport, made, **options)
        self.clients.append(client)
        await self._until(lambda: bool(client.said(Allocated) or client.said(AllocationFailed)))
        return client

    async def of_each(self, port: int, made: Credentials) -> tuple[TurnClient, TurnClient]:
        """A client of either process: which one they come to is the kernel's choice."""
        found: dict[int, TurnClient] = {}
        for _ in range(40):
            client = await self.client(port, made)
            if client.said(Allocated):
                found.setdefault(process_of(client), client)
            if len(found) == 2:
                return found[0], found[1]
        raise AssertionError("all clients come to one process")

    async def talk(self, one: TurnClient, other: TurnClient, *, channel: bool) -> None:
        """The one says something until the other has heard it."""
        peer, here = other.allocation.relayed_address, one.allocation.relayed_address
        if channel:
            one.driver.command(lambda now: one.allocation.bind_channel(peer, now))
        else:
            one.permit(peer)
        other.permit(here)
        before = len(other.said(RelayedDataReceived))
        payload = f"from {here}".encode()

        def heard() -> bool:
            one.driver.command(lambda now: one.allocation.send(peer, payload, 0, now))
            return any(
                event.datagram.source == here and payload in event.datagram.segments()
                for event in other.said(RelayedDataReceived)[before:]
            )

        await self._until(heard)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


def process_of(client: TurnClient) -> int:
    return int(client.allocation.relayed_address.port > MIDDLE)


@pytest.fixture
async def crew(until) -> AsyncIterator[Crew]:
    made = Crew(until)
    yield made
    await made.close()


@pytest.mark.parametrize("opened", [False, True], ids=["inside", "opened"])
async def test_clients_of_both_processes_reach_each_other(
    serve, crew, free_port, tmp_path, opened
) -> None:
    port = free_port()
    allowed = ("--allow-peer", "127.0.0.0/8") if opened else ()
    server = serve(*TWO, *allowed, port=port)
    server.expect("ready ")
    assert len(server.relay_processes()) == 2
    one, other = await crew.of_each(port, credentials(tmp_path / "data", "somebody"))
    for channel in (False, True):
        await crew.talk(one, other, channel=channel)
        await crew.talk(other, one, channel=channel)
    await crew.close()
    crew.clients.clear()
    assert server.stop() == 0
    assert server.noise() == []


async def test_many_clients_spread_over_both_and_each_reaches_its_peer(
    serve, crew, until, free_port, tmp_path
) -> None:
    port = free_port()
    serve(*TWO, "--allow-peer", "127.0.0.2/32", port=port).expect("ready ")
    made = [credentials(tmp_path / "data", f"user-{number}") for number in range(4)]
    clients = [await crew.client(port, made[number % 4]) for number in range(24)]
    relayed = [client for client in clients if client.said(Allocated)]
    assert {process_of(client) for client in relayed} == {0, 1}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.2", 0))
        peer.setblocking(False)
        there = Address(*peer.getsockname())
        for client in relayed:
            client.driver.command(lambda now, a=client.allocation: a.bind_channel(there, now))

        def answered() -> bool:
            for client in relayed:
                client.driver.command(lambda now, a=client.allocation: a.send(there, b"x", 0, now))
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, source = peer.recvfrom(100)
                    peer.sendto(data, source)
            return all(client.said(RelayedDataReceived) for client in relayed)

        await until(answered)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS, Transport.DTLS])
async def test_connections_of_every_kind_have_their_process(
    serve, crew, free_port, tmp_path, transport
) -> None:
    port = free_port()
    serve(*TWO, port=port).expect("ready ")
    pin = own_certificate(tmp_path / "data").key_hash
    made = credentials(tmp_path / "data", "somebody")
    clients = [await crew.client(port, made, transport, pin=pin) for _ in range(3)]
    assert all(client.said(Allocated) for client in clients)
    if transport is not Transport.DTLS:
        assert len({process_of(client) for client in clients}) == 1, "one host, one process"
    over_udp = await crew.of_each(port, credentials(tmp_path / "data", "another"))
    for client in over_udp:
        await crew.talk(clients[0], client, channel=True)
        await crew.talk(client, clients[0], channel=True)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_data_connection_finds_its_allocation_at_whichever_process_it_arrives(
    serve, free_port, tmp_path, tls
) -> None:
    """From so many addresses that some of them, but for one case in a billion, come to the other
    process than the control connection."""
    port = free_port()
    serve(*TWO, "--allow-peer", "127.0.0.0/8", port=port).expect("ready ")
    made = credentials(tmp_path / "data", "somebody")
    context = make_tls_context("stun.turn") if tls else None
    clients: list[Client] = []
    peers: list[Peer] = []

    async def client(host: str) -> Client:
        opened = await asyncio.open_connection(HOST, port, ssl=context, local_addr=(host, 0))
        clients.append(Client(made, *opened))
        return clients[-1]

    try:
        async with asyncio.timeout(PATIENCE):
            control = await client(HOST)
            await control.allocate()
            for number in range(30):
                peers.append(peer := Peer())
                address = XorPeerAddress(await peer.listen())
                answer = await control.ask(Method.CONNECT, address)
                assert answer.message_class is MessageClass.SUCCESS, answer
                connection = answer.get(ConnectionId).value
                data = await client(f"127.0.0.{10 + number}")
                bound = await data.bind(connection)
                assert bound.message_class is MessageClass.SUCCESS
                reader, writer = await peer.connections.get()
                data.writer.write(b"there" * 50_000)
                assert await reader.readexactly(250_000) == b"there" * 50_000
                writer.write(b"and back" * 50_000)
                assert await data.reader.readexactly(400_000) == b"and back" * 50_000
                writer.close()
                assert await data.reader.read() == b"", "the end comes through too"
                data.writer.close()
    finally:
        for each in clients:
            each.writer.transport.abort()
        for peer in peers:
            peer.close()


async def test_tcp_allocations_of_two_processes_are_connected_to_each_other(
    serve, free_port, tmp_path
) -> None:
    port = free_port()
    serve(*TWO, port=port).expect("ready ")
    made = credentials(tmp_path / "data", "somebody")
    clients: list[Client] = []

    async def client(host: str) -> Client:
        opened = await asyncio.open_connection(HOST, port, local_addr=(host, 0))
        clients.append(Client(made, *opened))
        return clients[-1]

    try:
        async with asyncio.timeout(PATIENCE):
            alice, there = await client(HOST), Address(HOST, 0)
            here = await alice.allocate()
            for number in range(30):
                bob = await client(f"127.0.0.{10 + number}")
                there = await bob.allocate()
                if (there.port > MIDDLE) != (here.port > MIDDLE):
                    break
                bob.writer.close()
            assert (there.port > MIDDLE) != (here.port > MIDDLE)
            connect = XorPeerAddress(there)
            refused = await alice.ask(Method.CONNECT, connect)
            assert refused.get(ErrorCode).code == 447, "bob has not permitted it"
            permitted = await bob.ask(Method.CREATE_PERMISSION, XorPeerAddress(here))
            assert permitted.message_class is MessageClass.SUCCESS
            nobody = Address(there.host, there.port ^ 2)
            refused = await alice.ask(Method.CONNECT, XorPeerAddress(nobody))
            assert refused.get(ErrorCode).code == 447
            answer = await alice.ask(Method.CONNECT, connect)
            assert answer.message_class is MessageClass.SUCCESS
            attempt = await bob.message()
            assert attempt.get(XorPeerAddress).address == here
            ends = []
            for control, told in ((alice, answer), (bob, attempt)):
                data = await client(control.writer.get_extra_info("sockname")[0])
                bound = await data.bind(told.get(ConnectionId).value)
                assert bound.message_class is MessageClass.SUCCESS
                ends.append(data)
            for one, other in (ends, ends[::-1]):
                one.writer.write(b"over there" * 50_000)
                assert await other.reader.readexactly(500_000) == b"over there" * 50_000
            ends[0].writer.close()
            assert await ends[1].reader.read() == b""
    finally:
        for each in clients:
            each.writer.transport.abort()


def test_nat_discovery_answers_from_the_other_port(serve, free_port) -> None:
    port = free_port()
    serve(*TWO, port=port).expect("ready ")
    for _ in range(12):  # of either process, in all likelihood
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(40)
            for change, source in ((False, port), (True, port + 1)):
                wish = (ChangeRequest(change_ip=False, change_port=change),)
                request = Message(MessageClass.REQUEST, Method.BINDING, os.urandom(12), wish)
                sock.sendto(encode(request), (HOST, port))
                payload, where = sock.recvfrom(2048)
                assert decode(payload).message_class is MessageClass.SUCCESS
                assert where == (HOST, source)


async def test_what_is_revoked_or_drained_is_so_in_both(
    serve, crew, until, free_port, tmp_path
) -> None:
    port, data = free_port(), tmp_path / "data"
    serve(*TWO, port=port).expect("ready ")
    made = credentials(data, "somebody")
    await crew.of_each(port, made)
    done = server_command("revoke", "somebody", "--data", str(data))
    assert done.returncode == 0, done.stderr
    for _ in range(12):
        assert (await crew.client(port, made)).said(AllocationFailed)
    another = credentials(data, "another")
    await crew.of_each(port, another)
    deadline = time.monotonic() + PATIENCE
    while processes_of(data) != ["rendezvous", "relay", "relay"]:
        assert time.monotonic() < deadline  # one that is busy for a second is not shown
    assert server_command("drain", "--data", str(data)).returncode == 0
    for _ in range(12):
        assert (await crew.client(port, another)).said(AllocationFailed)
    assert server_command("drain", "--undo", "--data", str(data)).returncode == 0
    assert (await crew.client(port, credentials(data, "third"))).said(Allocated)


async def test_a_user_has_no_more_than_the_quota_in_all(serve, crew, free_port, tmp_path) -> None:
    port, file, data = free_port(), tmp_path / "server.toml", tmp_path / "data"
    file.write_text("[relay]\nallocations-per-user = 5\n")
    serve(*TWO, "--config", str(file), "--data", str(data), port=port).expect("ready ")
    made = credentials(data, "somebody")
    # Of 40 at least two come to each process, but for one case in ten billions.
    clients = [await crew.client(port, made) for _ in range(40)]
    relayed = [process_of(client) for client in clients if client.said(Allocated)]
    assert relayed.count(0) == relayed.count(1) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_the_end_of_one_process_is_the_end_of_the_server(serve, number) -> None:
    server = serve(*TWO)
    server.expect("ready ")
    processes = server.relay_processes()
    os.kill(processes[number], signal.SIGKILL)
    assert server.wait() == 1
    [said] = [line for line in server.lines if line.startswith("knothole: ")]
    assert "the relay process was ended by SIGKILL" in said
    assert "start the server again" in said
    assert all(map(is_gone, processes))
    assert server.noise() == []


def test_a_port_in_use_is_one_clear_line_here_too(serve, free_port) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, port))
        server = serve(*TWO, port=port)
        assert server.wait() == 1
    [said] = [line for line in server.lines if line.startswith("knothole: ")]
    assert f"cannot listen on udp {HOST}:{port}: Address already in use" in said


def test_a_second_server_does_not_get_its_port(serve, free_port, tmp_path) -> None:
    port = free_port()
    first = serve(*TWO, port=port)
    first.expect("ready ")
    second = serve(*TWO, "--data", str(tmp_path / "other"), port=port)
    assert second.wait() == 1
    assert first.stop() == 0


def test_the_switchboard_has_such_a_relay_too(serve) -> None:
    server = serve("--no-accelerator", "--relay-processes", "3").ready()
    assert len(server.relay_processes()) == 3
    assert server.interrupt() == 0
    assert server.noise() == []
