"""Whatever comes in, neither engine raises, and no stranger ever reaches a client."""

from __future__ import annotations

import random as random_module

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server_events import AllocationCreated, AllocationEnded, RelayReached
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
    encode,
    looks_like_stun,
)
from knothole.wire.turn import decode_channel_data, encode_channel_data

PEER = Address("2.2.2.2", 2000)
SERVER = Address("9.9.9.9", 3478)

relaxed = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def bound(raw):
    raw.relayed = raw.allocate()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    return raw


@relaxed
@given(st.binary(max_size=200), st.integers(0, 50))
def test_the_server_survives_any_bytes(bound, data: bytes, segment_size: int) -> None:
    server, now = bound.world.server, bound.world.now
    server.receive(bound.five_tuple, data, now, segment_size)
    server.receive_from_peer(bound.relayed, PEER, data, now, segment_size)
    for output in server.outputs():
        assert isinstance(output, Transmit | RelayReached)


@relaxed
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(list(Method)))
def test_the_server_survives_any_changed_byte(bound, at: int, value: int, method: int) -> None:
    attributes = (
        RequestedTransport(),
        Lifetime(600),
        ChannelNumber(0x4001),
        XorPeerAddress(Address("3.3.3.3", 3000)),
        Data(b"data"),
    )
    request = bytearray(bound.signed(method, *attributes))
    request[at % len(request)] = value
    bound.send(bytes(request))
    assert bound.world.server.allocations == 1


@relaxed
@given(st.integers(0, 400), st.sampled_from([Method.SEND, Method.DATA]))
def test_the_server_survives_any_truncation(bound, size: int, method: int) -> None:
    content = (XorPeerAddress(PEER), Data(bytes(100)))
    message = encode(Message(MessageClass.INDICATION, method, bytes(12), content))
    bound.send(message[:size])
    bound.send(encode_channel_data(0x4000, bytes(300), True)[:size])


@relaxed
@given(st.binary(max_size=200), st.integers(0, 50))
def test_the_client_survives_any_bytes(world, data: bytes, segment_size: int) -> None:
    if not world.clients:
        client = world.allocated()
        client.allocation.bind_channel(PEER, world.now)
        world.settle()
    (client,) = world.clients
    for message in (data, b"\x40\x00" + data):
        datagram = Datagram(SERVER, client.allocation.local, message, segment_size)
        client.allocation.receive(datagram, world.now)
    world.settle()
    assert client.allocation.relayed_address is not None


@relaxed
@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_a_changed_answer_never_makes_an_allocation(new_world, at: int, value: int, first) -> None:
    """Unless it is the part that nobody signs: FINGERPRINT is not in it."""
    world = new_world()
    changed = []

    def change(datagram: Datagram) -> bool:
        if datagram.source != SERVER:
            return False
        message = bytearray(datagram.payload)
        success = decode(datagram.payload).message_class is MessageClass.SUCCESS
        if success is first:
            return False
        message[at % len(message)] ^= value
        changed.append(bytes(message) != datagram.payload)
        world.clients[0].allocation.receive(
            Datagram(SERVER, datagram.destination, bytes(message)), world.now
        )
        return True

    world.lost = change
    client = world.client()
    world.run(30.0)
    if not first and client.allocation.relayed_address is not None:
        assert not changed[-1]


class Model:
    """What RFC 8656 Section 9 says, in a few lines: hosts, and until when they are permitted."""

    def __init__(self) -> None:
        self.until: dict[tuple[str, str], float] = {}

    def permit(self, name: str, host: str, now: float) -> None:
        self.until[name, host] = now + 300

    def allows(self, name: str, host: str, now: float) -> bool:
        return self.until.get((name, host), 0.0) > now


HOSTS = ["2.2.2.1", "2.2.2.2", "2.2.2.3", "9.9.9.10", "127.0.0.1", "9.9.9.9"]
names = st.sampled_from(["alice", "bob", "carol"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.0, 400.0)),
        st.tuples(st.just("permit"), names, st.sampled_from(HOSTS)),
        st.tuples(st.just("channel"), names, st.sampled_from(HOSTS), st.integers(0x4000, 0x4003)),
        st.tuples(st.just("refresh"), names, st.sampled_from([0, 600, 3600])),
        st.tuples(st.just("arrives"), names, st.sampled_from(HOSTS), st.integers(1, 3)),
        st.tuples(st.just("send"), names, st.sampled_from(HOSTS), st.integers(1, 3)),
        st.tuples(st.just("send_inside"), names, names),
        st.tuples(st.just("channel_data"), names, st.integers(0x4000, 0x4003)),
    ),
    max_size=40,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(steps)
def test_no_packet_from_an_unpermitted_peer_ever_reaches_a_client(new_world_class, steps) -> None:
    """Random histories against the model, by sockets and inside the server, both directions."""
    World, RawClient = new_world_class
    world, model = World(), Model()
    clients = {
        name: RawClient(world, name, client=Address("1.1.1.1", 4000 + n))
        for n, name in enumerate(["alice", "bob", "carol"])
    }
    names_of = {client.five_tuple.client: name for name, client in clients.items()}
    peers_of_channels: dict[tuple[str, int], Address] = {}

    def allocate(name: str) -> None:
        clients[name].relayed = clients[name].allocate(Lifetime(3600))
        for known in [known for known in model.until if known[0] == name]:
            del model.until[known]
        for known in [known for known in peers_of_channels if known[0] == name]:
            del peers_of_channels[known]

    for name in clients:
        allocate(name)

    def check(sender: str | None) -> int:
        """Judge all that leaves the server; returns how much does."""
        count = 0
        for output in world.server.outputs():
            if not isinstance(output, Transmit):
                continue
            count += 1
            datagram = output.datagram
            if datagram.source != SERVER:
                assert model.allows(sender, datagram.destination.host, world.now)
                assert datagram.destination.host.startswith("2.2.2.")
                continue
            name, payload = names_of[datagram.destination], datagram.payload
            if looks_like_stun(payload):
                peer = decode(payload).get(XorPeerAddress).address
            else:
                peer = peers_of_channels[name, decode_channel_data(payload)[0]]
            assert model.allows(name, peer.host, world.now), (name, peer)
            if peer.host == "9.9.9.10":
                assert sender is not None and peer == clients[sender].relayed
        return count

    for step in steps:
        match step:
            case ("wait", seconds):
                world.run(world.now + seconds)
                alive = {}
                for _, event in world.server_events:
                    if isinstance(event, AllocationCreated | AllocationEnded):
                        alive[event.five_tuple] = isinstance(event, AllocationCreated)
                for name, client in clients.items():
                    if not alive[client.five_tuple]:
                        client.nonce = b""
                        allocate(name)
            case ("permit", name, host):
                client = clients[name]
                client.challenge_if_stale()
                if client.code(Method.CREATE_PERMISSION, XorPeerAddress(Address(host, 1))) == 0:
                    assert host in HOSTS[:4]
                    model.permit(name, host, world.now)
            case ("channel", name, host, number):
                client = clients[name]
                client.challenge_if_stale()
                peer = Address(host, 1)
                found = (ChannelNumber(number), XorPeerAddress(peer))
                if client.code(Method.CHANNEL_BIND, *found) == 0:
                    assert host in HOSTS[:4]
                    model.permit(name, host, world.now)
                    peers_of_channels[name, number] = peer
            case ("refresh", name, seconds):
                client = clients[name]
                client.challenge_if_stale()
                assert client.code(Method.REFRESH, Lifetime(seconds)) == 0
                if seconds == 0:
                    allocate(name)
            case ("arrives", name, host, port):
                peer = Address(host, port)
                relayed = clients[name].relayed
                world.server.receive_from_peer(relayed, peer, b"data", world.now)
                permitted = model.allows(name, host, world.now) and host != "9.9.9.10"
                assert check(None) == permitted
            case ("send", name, host, port):
                content = (XorPeerAddress(Address(host, port)), Data(b"data"))
                message = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
                five_tuple = clients[name].five_tuple
                world.server.receive(five_tuple, encode(message), world.now)
                permitted = model.allows(name, host, world.now) and host != "9.9.9.10"
                assert check(name) == permitted
            case ("send_inside", name, other):
                content = (XorPeerAddress(clients[other].relayed), Data(b"data"))
                message = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
                five_tuple = clients[name].five_tuple
                world.server.receive(five_tuple, encode(message), world.now)
                assert check(name) == all(
                    model.allows(each, "9.9.9.10", world.now) for each in (name, other)
                )
            case ("channel_data", name, number):
                message = encode_channel_data(number, b"data", False)
                world.server.receive(clients[name].five_tuple, message, world.now)
                check(name)


def test_a_burst_of_strangers_costs_no_memory(world) -> None:
    """Requests that nobody signed leave nothing behind."""
    random = random_module.Random(1)
    for n in range(2000):
        five_tuple = FiveTuple(Transport.UDP, Address("3.3.3.3", 1024 + n), SERVER)
        request = Message(
            MessageClass.REQUEST, Method.ALLOCATE, random.randbytes(12), (RequestedTransport(),)
        )
        world.server.receive(five_tuple, encode(request), world.now)
        (answer,) = world.server.outputs()
        assert len(answer.datagram.payload) < 200
    assert world.server.allocations == 0 and world.server.next_timeout() is None
