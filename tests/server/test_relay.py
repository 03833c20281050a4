"""The relay in this process, on loopback sockets, with our own TURN client at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from knothole.engine.turn.client import (
    Allocated,
    AllocationFailed,
    AllocationLost,
    PeerRefused,
    PeerUnreachable,
    RelayedDataReceived,
)
from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.io.udp_bind import bind_socket
from knothole.server import relay as relay_module
from knothole.server import wall_clock
from knothole.server.certificate import own_certificate
from knothole.server.link import (
    Commit,
    Done,
    MappedSeen,
    Message,
    Prepare,
    RelaySettings,
    RelayStart,
)
from knothole.server.listener import Listener
from knothole.server.neighbours import Given, Neighbours, neighbour_pair
from knothole.server.relay import Relay
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ConnectionId,
    ErrorCode,
    MessageClass,
    Method,
    decode,
    encode,
)
from knothole.wire.stun import (
    Message as StunMessage,
)

from .conftest import PATIENCE
from .turn_client import TurnClient

HOST, FOREIGN = "127.0.0.1", "8.8.8.8"
SECRET = "secret"
SETTINGS = RelaySettings.__struct_fields__


class Setting:
    """A relay that listens, with a TCP port, and its clients."""

    def __init__(self, start: RelayStart, given: Given | None) -> None:
        self.start = start
        self.told: list[Message] = []
        self.relay = Relay(start, lambda message, _: self.told.append(message), given)
        self._listener = Listener(websocket=lambda sock, _: sock.close(), turn=self.relay.take)
        self._listener.listen([HOST], start.port)
        self.clients: list[TurnClient] = []

    async def client(
        self, transport: Transport = Transport.UDP, name: str = "session", lifetime: float = 600
    ) -> TurnClient:
        client = TurnClient()
        self.clients.append(client)
        credentials = rest_credentials(SECRET, name, lifetime, time.time())
        await client.open(self.start.port, transport, credentials)
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await self._listener.close()
        self.relay.close()
        await asyncio.sleep(0.01)


@pytest.fixture
async def setting(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Callable]:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))
    certificate = own_certificate(tmp_path)
    port = free_port()
    start = RelayStart(
        hosts=[HOST],
        port=port,
        discovery_port=port + 1,
        partners={},
        relay_hosts={HOST: HOST},
        machine=[HOST, FOREIGN],
        realm="knothole",
        relay_ports=(50_000, 65_535),
        settings=RelaySettings(
            secrets=[SECRET],
            revoked=[],
            allow_peers=[],
            deny_peers=["9.9.9.0/24"],
            allocations=5,
            allocations_per_user=2,
            chain=str(certificate.chain),
            key=str(certificate.key),
        ),
    )
    opened: list[Setting] = []

    def make(given: Given | None = None, **changes: object) -> Setting:
        fields = {name: getattr(start, name) for name in start.__struct_fields__}
        settings = {name: changes.pop(name) for name in SETTINGS if name in changes}
        fields["settings"] = msgspec.structs.replace(start.settings, **settings)
        opened.append(Setting(RelayStart(**{**fields, **changes}), given))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()
    assert troubles == []


async def test_an_allocation_over_udp_tells_where_its_session_was_seen(setting, until) -> None:
    here = setting()
    client, other = await here.client(name="bob/session"), await here.client(name="bob")
    await until(lambda: bool(client.said(Allocated) and other.said(Allocated)))
    [seen] = [message for message in here.told if isinstance(message, MappedSeen)]
    assert seen.username.endswith(":bob/session")
    assert (seen.host, seen.port) == client.local


@pytest.mark.skipif(sys.platform != "linux", reason="relay processes are of Linux")
async def test_a_client_that_was_handed_over_is_not_handed_on(setting, until) -> None:
    """Or one that nobody knows would have a descriptor in each process for each of its messages."""
    given, there = Given(), Given()
    given.neighbours[1], there.neighbours[0] = neighbour_pair()
    here = setting(given, processes=2)
    handed_on: list[socket.socket] = []
    other = Neighbours(msgspec.structs.replace(here.start, processes=2, number=1), there)
    take = lambda *handed: handed_on.append(handed[-1])  # noqa: E731
    other.join(SimpleNamespace(), lambda _: None, take, take)
    client, handed = socket.socketpair()
    client.setblocking(False)
    five_tuple = FiveTuple(Transport.TCP, Address(HOST, 4000), Address(HOST, here.start.port))
    assert other.hand_over(0, five_tuple, handed)
    try:
        for number, connection in enumerate((4, 5)):
            identity = bytes([number]) * 12
            bind = StunMessage(
                MessageClass.REQUEST, Method.CONNECTION_BIND, identity, (ConnectionId(connection),)
            )
            client.send(encode(bind))
            async with asyncio.timeout(PATIENCE):
                answer = decode(await asyncio.get_running_loop().sock_recv(client, 2000))
            assert (answer.transaction_id, answer.get(ErrorCode).code) == (identity, 401)
        assert handed_on == []
    finally:
        other.close()
        for each in (client, *handed_on):
            each.close()


async def test_a_user_of_the_configuration_is_served_and_so_are_credentials_that_expire(
    setting, until
) -> None:
    here = setting(users={"bridge": "its password"})
    bridge, guesser = TurnClient(), TurnClient()
    for client, password in ((bridge, "its password"), (guesser, "another one")):
        here.clients.append(client)
        await client.open(here.start.port, Transport.UDP, Credentials("bridge", password))
    other = await here.client()
    await until(lambda: bool(bridge.said(Allocated) and other.said(Allocated)))
    await until(lambda: bool(guesser.said(AllocationFailed)))
    assert guesser.said(AllocationFailed)[0].code == 401


async def test_an_allocation_ends_with_its_credentials(setting, until) -> None:
    here = setting(allocations=1)
    client = await here.client(lifetime=8)
    await until(lambda: bool(client.said(Allocated)))
    assert client.said(Allocated)[0].lifetime_seconds <= 8
    await until(lambda: bool(client.said(AllocationLost)))
    other = await here.client(name="other")
    await until(lambda: bool(other.said(Allocated)))


async def test_an_allocation_over_tcp_says_nothing_of_udp(setting, until) -> None:
    here = setting()
    client = await here.client(Transport.TCP)
    await until(lambda: bool(client.said(Allocated)))
    assert here.told == []


@pytest.mark.parametrize(
    ("one", "other"),
    [(Transport.UDP, Transport.TCP), (Transport.DTLS, Transport.TLS)],
)
async def test_two_clients_are_relayed_to_each_other_whatever_they_come_by(
    setting, until, one: Transport, other: Transport
) -> None:
    here = setting()
    clients = [await here.client(one), await here.client(other)]
    await until(lambda: all(client.said(Allocated) for client in clients))
    relayed = [client.allocation.relayed_address for client in clients]
    for client, peer in zip(clients, reversed(relayed), strict=True):
        client.driver.command(lambda now, c=client, p=peer: c.allocation.bind_channel(p, now))
    sent = 0
    while not all(client.said(RelayedDataReceived) for client in clients):
        for client, peer in zip(clients, reversed(relayed), strict=True):
            client.driver.command(
                lambda now, c=client, p=peer: c.allocation.send(p, b"payload", 0, now)
            )
        sent += 1
        assert sent < 1000
        await asyncio.sleep(0.02)
    for client, peer in zip(clients, reversed(relayed), strict=True):
        received = client.said(RelayedDataReceived)[0].datagram
        assert (received.source, received.payload) == (peer, b"payload")


async def test_a_client_is_told_that_its_peer_is_not_there(setting, until, free_port) -> None:
    client = await setting(allow_peers=["127.0.0.0/8"]).client()
    await until(lambda: bool(client.said(Allocated)))
    peer = Address(HOST, free_port())
    client.driver.command(lambda now: client.allocation.send(peer, b"anybody?", 0, now))
    await until(lambda: bool(client.said(PeerUnreachable)))
    assert client.said(PeerUnreachable)[0].peer == peer


async def test_the_addresses_of_the_machine_are_no_peers_though_it_does_not_listen_there(
    setting, until
) -> None:
    client = await setting().client()
    await until(lambda: bool(client.said(Allocated)))
    for host in (FOREIGN, "9.9.9.9", "10.0.0.1", "8.8.4.4"):
        peer = Address(host, 1)
        client.driver.command(lambda now, peer=peer: client.allocation.permit(peer, now))
    await until(lambda: len(client.said(PeerRefused)) == 3)
    refused = {event.peer.host for event in client.said(PeerRefused)}
    assert refused == {FOREIGN, "9.9.9.9", "10.0.0.1"}


async def test_what_is_granted_is_limited_for_one_user_and_for_all(setting, until) -> None:
    here = setting()
    greedy = [await here.client(name="greedy") for _ in range(3)]
    await until(lambda: all(each.said(Allocated) or each.said(AllocationFailed) for each in greedy))
    others = [await here.client(name=f"other-{number}") for number in range(4)]
    everybody = [*greedy, *others]
    await until(
        lambda: all(each.said(Allocated) or each.said(AllocationFailed) for each in everybody)
    )
    codes = sorted(f.code for each in everybody for f in each.said(AllocationFailed))
    assert codes == [486, 508]
    assert sum(len(each.said(Allocated)) for each in everybody) == 5


async def test_what_is_prepared_counts_when_that_is_said_and_what_is_refused_never(
    setting, until, tmp_path
) -> None:
    here = setting()
    relay, settings = here.relay, here.start.settings
    fewer = msgspec.structs.replace(settings, allocations=0)
    assert relay.obey(Prepare(fewer)) == Done()
    assert await (await here.client()).is_relayed(until), "as before"
    broken = msgspec.structs.replace(fewer, chain=str(tmp_path / "missing.pem"))
    assert relay.obey(Prepare(broken)).refused
    assert relay.obey(Commit()).refused, "what was prepared before is forgotten"
    assert await (await here.client(name="another")).is_relayed(until)
    assert relay.obey(Prepare(fewer)) == Done()
    assert relay.obey(Commit()) == Done()
    assert not await (await here.client(name="third")).is_relayed(until)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.DTLS])
async def test_when_a_connection_ends_its_allocation_does_and_the_quota_is_free_again(
    setting, until, transport: Transport
) -> None:
    here = setting(allocations=1)
    first = await here.client(transport)
    await until(lambda: bool(first.said(Allocated)))
    first.link.close()

    async def succeeds() -> bool:
        second = await here.client(Transport.TCP, name="another")
        await until(lambda: bool(second.said(Allocated) or second.said(AllocationFailed)))
        return bool(second.said(Allocated))

    tries = 0
    while not await succeeds():
        tries += 1
        assert tries < 50


async def test_an_outside_address_is_what_clients_are_told(setting, until) -> None:
    here = setting(relay_hosts={"203.0.113.5": HOST})
    client = await here.client()
    await until(lambda: bool(client.said(Allocated)))
    assert client.allocation.relayed_address.host == "203.0.113.5"


async def test_credentials_that_have_expired_are_refused(setting, until) -> None:
    client = await setting().client(lifetime=-1)
    await until(lambda: bool(client.said(AllocationFailed)))
    assert client.said(AllocationFailed)[0].code == 401


async def test_a_clock_that_is_set_back_does_not_lock_clients_out(
    setting, until, monkeypatch
) -> None:
    """Credentials are made by the wall clock as it is now, so they are judged by it, too."""
    offset = 1e6
    monkeypatch.setattr(wall_clock, "CLOCK_SECONDS", 0.02)
    clock = SimpleNamespace(time=lambda: time.time() + offset, monotonic=time.monotonic)
    for module in (relay_module, wall_clock):
        monkeypatch.setattr(module, "time", clock)
    here = setting()
    early = await here.client()
    await until(lambda: bool(early.said(AllocationFailed)))
    offset = 0.0

    async def is_served() -> bool:
        late = await here.client()
        await until(lambda: bool(late.said(Allocated) or late.said(AllocationFailed)))
        return bool(late.said(Allocated))

    while not await is_served():
        pass  # the relay has not looked at the clock yet


async def test_too_many_sockets_are_refused_and_not_run_out_of(setting, until, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "raise_limit", lambda most: 2)
    here = setting()
    clients = [await here.client(name=f"{number}/session") for number in range(3)]
    await until(
        lambda: all(each.said(Allocated) or each.said(AllocationFailed) for each in clients)
    )
    assert sum(bool(each.said(Allocated)) for each in clients) == 2
    assert here.told
    with socket.create_connection((HOST, here.start.port)) as refused:
        refused.setblocking(False)
        refused.send(b"\x00\x01")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.get_running_loop().sock_recv(refused, 10) == b""


async def bound_to_a_peer(here: Setting, until: Callable) -> tuple[TurnClient, socket.socket]:
    """A client with a channel to a socket that is no address of the relay's."""
    client = await here.client()
    await until(lambda: bool(client.said(Allocated)))
    peer = bind_socket(Address("127.0.0.2", 0))
    there = Address(*peer.getsockname())
    client.driver.command(lambda now: client.allocation.bind_channel(there, now))
    return client, peer


async def test_payload_passes_both_ways_between_a_client_and_a_peer(setting, until) -> None:
    client, peer = await bound_to_a_peer(setting(allow_peers=["127.0.0.0/8"]), until)
    relayed, there = client.allocation.relayed_address, Address(*peer.getsockname())
    loop = asyncio.get_running_loop()
    with peer:
        for number in range(50):
            payload = b"%d" % number
            client.driver.command(
                lambda now, payload=payload: client.allocation.send(there, payload, 0, now)
            )
            assert await asyncio.wait_for(loop.sock_recv(peer, 100), PATIENCE) == payload
            peer.sendto(payload, relayed)
            await until(lambda: len(client.said(RelayedDataReceived)) > number)  # noqa: B023
        for number, event in enumerate(client.said(RelayedDataReceived)):
            assert (event.datagram.source, event.datagram.payload) == (there, b"%d" % number)


async def test_what_goes_on_at_once_counts_in_the_budget_of_its_allocation(setting, until) -> None:
    here = setting(allow_peers=["127.0.0.0/8"], max_megabits=1)
    client, peer = await bound_to_a_peer(here, until)
    there = Address(*peer.getsockname())
    loop = asyncio.get_running_loop()

    async def passing(count: int) -> int:
        """How many of so many, sent at once, arrive."""
        for _ in range(count):
            client.driver.command(lambda now: client.allocation.send(there, bytes(1000), 0, now))
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while arrived < count:
                await asyncio.wait_for(loop.sock_recv(peer, 2000), 10.0)
                arrived += 1
        return arrived

    with peer:
        sent = passed = await passing(1)
        while passed == sent:
            sent, passed = sent + 20, passed + await passing(20)
            assert sent < 1_000_000
        assert passed > 130, "a second's worth may come at once"
