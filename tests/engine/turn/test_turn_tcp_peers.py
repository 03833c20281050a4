"""TCP allocations (RFC 6062): Connect, ConnectionAttempt, ConnectionBind, and who may."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from knothole.engine.core import Transmit
from knothole.engine.rate import Rate
from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import (
    AllocationEnded,
    BindPeer,
    ClosePeer,
    CloseRelay,
    ConnectPeer,
    OpenRelay,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    ChannelNumber,
    ConnectionId,
    DontFragment,
    ErrorCode,
    EvenPort,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
)

TCP = RequestedTransport(6)
PEER = Address("8.8.8.8", 80)
OTHER_PEER = Address("8.8.8.9", 80)
DATA_CLIENT = Address("1.1.1.1", 4100)


class Tcp:
    """A client with a TCP allocation, the peers, and the sockets that io would have."""

    def __init__(self, world, new_raw, name: str = "alice", port: int = 4000) -> None:
        self.world, self._new_raw, self._name = world, new_raw, name
        self.control = new_raw(name, client=Address("1.1.1.1", port), transport=Transport.TCP)
        self.relayed = None

    def allocate(self) -> Address:
        answer = self.control.ask(Method.ALLOCATE, TCP)
        self.relayed = answer.get(XorRelayedAddress).address
        return self.relayed

    def connect(self, peer: Address = PEER) -> int:
        """Ask; the number that io was told, or fails when it was told none."""
        self.control.send(self.control.signed(Method.CONNECT, XorPeerAddress(peer)))
        assert self.control.replies == []
        return self.last(ConnectPeer).connection

    def connected(self, peer: Address = PEER) -> int:
        number = self.connect(peer)
        self.world.server.peer_connected(number, self.world.now)
        assert self.said() == [Message]
        return number

    def bind(self, number: int, *, name: str = "", **options: object) -> int:
        """From a fresh connection, signed with the nonce of the control connection."""
        data = self.data_client(name=name, **options)
        return data.code(Method.CONNECTION_BIND, ConnectionId(number))

    def data_client(self, *, name: str = "", client=DATA_CLIENT, transport=Transport.TCP):
        data = self._new_raw(name or self._name, client=client, transport=transport)
        data.nonce, data.challenged_at = self.control.nonce, self.control.challenged_at
        return data

    def messages(self) -> list[Message]:
        """What the server has said to the control connection by itself."""
        found = []
        for output in self.world.server.outputs():
            if isinstance(output, Transmit):
                assert output.datagram.destination == self.control.five_tuple.client
                found.append(decode(output.datagram.payload))
            else:
                self.world.server_events.append((self.world.now, output))
        return found

    def said(self) -> list[type]:
        return [type(each) for each in self.messages()]

    def events(self, kind: type) -> list:
        return [event for _, event in self.world.server_events if isinstance(event, kind)]

    def last(self, kind: type):
        return self.events(kind)[-1]

    def permit(self, *hosts: str) -> None:
        peers = [XorPeerAddress(Address(host, 0)) for host in hosts]
        assert self.control.code(Method.CREATE_PERMISSION, *peers) == 0


@pytest.fixture
def tcp(world, new_raw) -> Tcp:
    made = Tcp(world, new_raw)
    made.allocate()
    return made


def test_a_tcp_allocation_is_made_over_tcp_and_listens(world, new_raw) -> None:
    opened = []
    answer_open = world.answer_open
    world.answer_open = lambda relayed: (opened.append(relayed), answer_open(relayed))
    relayed = Tcp(world, new_raw).allocate()
    assert opened == [relayed]


def test_io_is_told_to_listen(world, new_raw) -> None:
    client = new_raw(transport=Transport.TLS)
    client.challenge()
    world.server.receive(client.five_tuple, client.signed(Method.ALLOCATE, TCP), world.now)
    [output] = world.server.outputs()
    assert isinstance(output, OpenRelay)
    assert output.transport is Transport.TCP


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.DTLS])
def test_over_datagrams_there_is_no_tcp_allocation(new_raw, transport) -> None:
    assert new_raw(transport=transport).code(Method.ALLOCATE, TCP) == 400


@pytest.mark.parametrize(
    "attribute", [EvenPort(), EvenPort(True), DontFragment(), ReservationToken(bytes(8))]
)
def test_what_only_udp_has_is_refused(new_raw, attribute) -> None:
    assert new_raw(transport=Transport.TCP).code(Method.ALLOCATE, TCP, attribute) == 400


def test_connect_is_answered_when_the_peer_has_accepted(tcp) -> None:
    number = tcp.connect()
    assert tcp.last(ConnectPeer) == ConnectPeer(number, tcp.relayed, PEER)
    tcp.world.server.peer_connected(number, tcp.world.now)
    [answer] = tcp.messages()
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.method == Method.CONNECT
    assert answer.transaction_id == tcp.control.transaction_id
    assert answer.get(ConnectionId) == ConnectionId(number)
    assert answer.has_integrity_sha256


def test_connect_needs_no_permission(tcp) -> None:
    assert tcp.connected()


def test_a_peer_that_does_not_accept_is_447(tcp) -> None:
    number = tcp.connect()
    tcp.world.server.peer_closed(number, tcp.world.now)
    [answer] = tcp.messages()
    assert answer.get(ErrorCode).code == 447
    assert tcp.connect() != number, "it may be tried again, under another number"


def test_a_peer_that_says_nothing_is_447_after_30_seconds(tcp) -> None:
    number = tcp.connect()
    begun = tcp.world.now
    assert tcp.world.server.next_timeout() == begun + 30.0
    tcp.world.server.handle_timeout(begun + 29.9)
    assert tcp.messages() == []
    tcp.world.server.handle_timeout(begun + 30.0)
    [answer] = tcp.messages()
    assert answer.get(ErrorCode).code == 447
    assert tcp.last(ClosePeer) == ClosePeer(number)
    tcp.world.server.peer_connected(number, begun + 30.0)
    assert tcp.messages() == [], "too late"


def test_one_peer_is_connected_to_once(tcp) -> None:
    number = tcp.connect()
    for _ in range(2):  # while it is being made, and while it is there
        assert tcp.control.code(Method.CONNECT, XorPeerAddress(PEER)) == 446
        tcp.world.server.peer_connected(number, tcp.world.now)
        tcp.messages()
    assert tcp.connected(OTHER_PEER)
    tcp.world.server.peer_closed(number, tcp.world.now)
    assert tcp.connected()


@pytest.mark.parametrize(
    ("peer", "code"),
    [
        (Address("8.8.8.8", 0), 400),
        (Address("2a00::1", 80), 443),
        (Address("10.0.0.1", 80), 403),
        (Address("127.0.0.1", 80), 403),
        (Address("::ffff:10.0.0.1", 80), 443),
        (Address("169.254.169.254", 80), 403),
        (Address("9.9.9.9", 3478), 403),
        (Address("9.9.9.9", 22), 403),
        (Address("9.9.9.10", 50000), 447),
    ],
)
def test_forbidden_peers_are_not_connected_to(tcp, peer: Address, code: int) -> None:
    assert tcp.control.code(Method.CONNECT, XorPeerAddress(peer)) == code
    assert tcp.events(ConnectPeer) == []


def test_connect_without_a_peer_is_400(tcp) -> None:
    assert tcp.control.code(Method.CONNECT) == 400


def test_connect_without_an_allocation_is_437(new_raw) -> None:
    client = new_raw(transport=Transport.TCP)
    assert client.code(Method.CONNECT, XorPeerAddress(PEER)) == 437


def test_connect_on_a_udp_allocation_is_400(new_raw) -> None:
    client = new_raw(transport=Transport.TCP)
    client.allocate()
    assert client.code(Method.CONNECT, XorPeerAddress(PEER)) == 400


def test_a_tcp_allocation_has_no_channels_and_no_indications(tcp) -> None:
    bind = (ChannelNumber(0x4000), XorPeerAddress(PEER))
    assert tcp.control.code(Method.CHANNEL_BIND, *bind) == 403
    tcp.permit(PEER.host)
    tcp.control.indicate(PEER, b"payload")
    assert tcp.world.to_peers == []


def test_a_udp_allocation_relays_nothing_into_a_tcp_one(tcp, new_raw) -> None:
    udp = new_raw("bob", client=Address("1.1.1.2", 4000))
    udp.allocate()
    tcp.permit("9.9.9.10")
    assert udp.code(Method.CREATE_PERMISSION, XorPeerAddress(Address("9.9.9.10", 0))) == 0
    udp.indicate(tcp.relayed, b"payload")
    assert tcp.messages() == []
    assert tcp.world.to_peers == []


def test_a_peer_with_a_permission_is_announced(tcp) -> None:
    tcp.permit(PEER.host)
    number = tcp.world.server.peer_arrived(tcp.relayed, PEER, tcp.world.now)
    [attempt] = tcp.messages()
    assert (attempt.message_class, attempt.method) == (
        MessageClass.INDICATION,
        Method.CONNECTION_ATTEMPT,
    )
    assert attempt.get(XorPeerAddress) == XorPeerAddress(PEER)
    assert attempt.get(ConnectionId) == ConnectionId(number)
    assert tcp.bind(number) == 0
    assert tcp.last(BindPeer).connection == number


def test_a_peer_without_a_permission_is_turned_away(tcp) -> None:
    now = tcp.world.now
    assert tcp.world.server.peer_arrived(tcp.relayed, PEER, now) is None
    tcp.permit(PEER.host)
    assert tcp.world.server.peer_arrived(tcp.relayed, PEER, now + 301) is None, "it has expired"
    assert tcp.world.server.peer_arrived(Address("9.9.9.10", 1), PEER, now) is None
    assert tcp.messages() == []


def test_only_relayed_addresses_of_ours_come_from_our_own_hosts(tcp, world, new_raw) -> None:
    tcp.permit("9.9.9.10")
    stranger = Address("9.9.9.10", 1)
    assert world.server.peer_arrived(tcp.relayed, stranger, world.now) is None
    bob = Tcp(world, new_raw, "bob", 4001)
    relayed = bob.allocate()
    assert world.server.peer_arrived(tcp.relayed, relayed, world.now) is not None


def test_a_relayed_address_of_another_process_is_asked_for_there_and_comes_from_there(
    new_world, new_raw
) -> None:
    """By the network nobody comes from our own hosts, whatever the port."""
    world = new_world(ports=(50_000, 50_009), neighbour_ports={50_010, 50_011}, process=(1, 2))
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    tcp.allocate()
    theirs, nobodys = Address("9.9.9.10", 50_010), Address("9.9.9.10", 50_020)
    assert tcp.connect(theirs) % 2 == 1, "the number says whose it is"
    assert tcp.last(ConnectPeer).peer == theirs
    assert tcp.control.code(Method.CONNECT, XorPeerAddress(nobodys)) == 447
    other = Address("9.9.9.10", 50_011)
    server, now = world.server, world.now
    assert server.peer_arrived(tcp.relayed, other, now, by_neighbour=True) is None, "no permission"
    tcp.permit(other.host)
    assert server.peer_arrived(tcp.relayed, other, now) is None
    assert server.peer_arrived(tcp.relayed, nobodys, now, by_neighbour=True) is None
    assert server.peer_arrived(tcp.relayed, other, now, by_neighbour=True) is not None


def test_two_clients_of_ours_connect_to_each_other(tcp, world, new_raw) -> None:
    bob = Tcp(world, new_raw, "bob", 4001)
    relayed = bob.allocate()
    assert tcp.connect(relayed)
    assert tcp.last(ConnectPeer).peer == relayed


def test_bind_is_answered_before_data_flows(tcp) -> None:
    number = tcp.connected()
    data = tcp.data_client()
    payload = data.signed(Method.CONNECTION_BIND, ConnectionId(number))
    tcp.world.server.receive(data.five_tuple, payload, tcp.world.now)
    answer, bound = tcp.world.server.outputs()
    assert decode(answer.datagram.payload).message_class is MessageClass.SUCCESS
    assert answer.datagram.destination == DATA_CLIENT
    assert bound == BindPeer(number, data.five_tuple)


def test_bind_takes_a_nonce_of_its_own_connection_too(tcp, new_raw) -> None:
    number = tcp.connected()
    data = new_raw(client=DATA_CLIENT, transport=Transport.TLS)
    assert data.code(Method.CONNECTION_BIND, ConnectionId(number)) == 0


def test_bind_from_another_host_needs_a_nonce_of_its_own(tcp) -> None:
    number = tcp.connected()
    elsewhere = Address("1.1.1.2", 4100)
    assert tcp.bind(number, client=elsewhere) == 438
    assert tcp.events(BindPeer) == []


def test_the_control_connections_nonce_is_good_for_nothing_else(tcp) -> None:
    tcp.connected()
    assert tcp.data_client().code(Method.REFRESH) == 438
    assert tcp.data_client().code(Method.CONNECTION_BIND, ConnectionId(1)) == 438


def test_a_connection_is_bound_once_and_by_its_owner(tcp) -> None:
    number = tcp.connected()
    assert tcp.bind(number, name="bob") == 441
    assert tcp.bind(number) == 0
    assert tcp.bind(number, client=Address("1.1.1.1", 4101)) == 400
    assert len(tcp.events(BindPeer)) == 1


def test_bind_needs_a_stream_a_number_and_no_allocation(tcp, new_raw) -> None:
    number = tcp.connected()
    assert tcp.bind(number, transport=Transport.UDP) == 400
    assert tcp.bind(number, transport=Transport.DTLS) == 400
    data = new_raw(client=DATA_CLIENT, transport=Transport.TCP)
    assert data.code(Method.CONNECTION_BIND) == 400
    assert data.code(Method.CONNECTION_BIND, ConnectionId(number ^ 1)) == 400
    assert tcp.control.code(Method.CONNECTION_BIND, ConnectionId(number)) == 400
    assert tcp.bind(number) == 0


def test_a_connection_that_is_still_being_made_is_not_bound(tcp) -> None:
    assert tcp.bind(tcp.connect()) == 400


@pytest.mark.parametrize("incoming", [False, True])
def test_what_is_not_bound_within_30_seconds_is_closed(tcp, incoming: bool) -> None:
    if incoming:
        tcp.permit(PEER.host)
        number = tcp.world.server.peer_arrived(tcp.relayed, PEER, tcp.world.now)
        tcp.messages()
    else:
        number = tcp.connected()
    due = tcp.world.now + 30.0
    tcp.world.server.handle_timeout(due - 0.1)
    assert tcp.messages() == [] and tcp.events(ClosePeer) == []
    tcp.world.server.handle_timeout(due)
    assert tcp.messages() == []
    assert tcp.events(ClosePeer) == [ClosePeer(number)]
    tcp.world.now = due
    assert tcp.bind(number, client=DATA_CLIENT) in (400, 438)


def test_what_is_bound_stays_until_it_is_closed(tcp) -> None:
    number = tcp.connected()
    tcp.bind(number)
    tcp.world.server.handle_timeout(tcp.world.now + 500)
    tcp.messages()
    assert tcp.events(ClosePeer) == []


def test_the_end_of_the_allocation_closes_its_connections(tcp) -> None:
    bound, unbound, connecting = tcp.connected(), tcp.connected(OTHER_PEER), None
    tcp.bind(bound)
    connecting = tcp.connect(Address("8.8.4.4", 80))
    assert tcp.world.server.peer_passed(bound, 100, 200, tcp.world.now) == 0
    tcp.world.server.peer_closed(bound, tcp.world.now)
    another = tcp.connected()
    tcp.world.server.disconnected(tcp.control.five_tuple, tcp.world.now)
    tcp.messages()
    closed = {event.connection for event in tcp.events(ClosePeer)}
    assert closed == {unbound, connecting, another}
    ended = tcp.last(AllocationEnded)
    assert (ended.to_peers, ended.to_client) == (100, 200)
    assert tcp.events(CloseRelay) or tcp.relayed not in tcp.world.sockets
    assert tcp.world.server.next_timeout() is None


def test_connections_are_limited_for_one_allocation(new_world, new_raw) -> None:
    world = new_world(limits=Limits(peer_connections_per_allocation=2))
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    tcp.allocate()
    tcp.connected()
    tcp.connect(OTHER_PEER)
    third = Address("8.8.4.4", 80)
    assert tcp.control.code(Method.CONNECT, XorPeerAddress(third)) == 508
    tcp.permit(third.host)
    assert world.server.peer_arrived(tcp.relayed, third, world.now) is None


def test_ports_of_peers_are_not_tried_one_after_the_other(new_world, new_raw) -> None:
    world = new_world(limits=Limits(new_peers=Rate(3, 0.1)))
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    tcp.allocate()
    for port in range(3):
        world.server.peer_closed(tcp.connect(Address(PEER.host, 80 + port)), world.now)
        tcp.messages()
    assert tcp.control.code(Method.CONNECT, XorPeerAddress(Address(PEER.host, 90))) == 508


def test_a_new_policy_closes_connections_that_it_forbids(tcp) -> None:
    number, kept = tcp.connected(), tcp.connected(OTHER_PEER)
    tcp.bind(number)
    denied = PeerPolicy(denied=(ip_network("8.8.8.8/32"),))
    tcp.world.server.set_policy(denied, tcp.world.now)
    tcp.messages()
    assert tcp.events(ClosePeer) == [ClosePeer(number)]
    assert tcp.bind(kept, client=Address("1.1.1.1", 4101)) == 0


def test_both_families_reach_their_own_peers(new_world, new_raw) -> None:
    world = new_world(relay_hosts=["9.9.9.10", "2a00:9::10"])
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    both = tcp.control.ask(
        Method.ALLOCATE, TCP, AdditionalAddressFamily(AddressFamily.IPV6)
    ).get_all(XorRelayedAddress)
    four, six = (each.address for each in both)
    tcp.connected(PEER)
    assert tcp.last(ConnectPeer).relayed == four
    tcp.connected(Address("2a00::1", 80))
    assert tcp.last(ConnectPeer).relayed == six


def test_an_ipv6_allocation_alone(new_world, new_raw) -> None:
    world = new_world(relay_hosts=["9.9.9.10", "2a00:9::10"])
    client = type(new_raw())(world, transport=Transport.TCP)
    answer = client.ask(Method.ALLOCATE, TCP, RequestedAddressFamily(AddressFamily.IPV6))
    assert answer.get(XorRelayedAddress).address.is_ipv6


def test_what_goes_over_tcp_is_held_to_the_limit_of_the_allocation(new_world, new_raw) -> None:
    world = new_world(limits=Limits(octets_per_second=1_000_000))
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    tcp.allocate()
    number, another = tcp.connected(), tcp.connected(OTHER_PEER)
    server = world.server
    assert server.peer_passed(number, 400_000, 600_000, world.now) == 0
    assert server.peer_passed(number, 500_000, 0, world.now) == pytest.approx(0.5)
    assert server.peer_passed(another, 0, 0, world.now) == pytest.approx(0.5), "they share it"
    assert server.peer_passed(number, 0, 0, world.now + 0.5) == pytest.approx(0)
    server.end_allocations(None, world.now)
    tcp.messages()
    ended = tcp.last(AllocationEnded)
    assert (ended.to_peers, ended.to_client) == (900_000, 600_000)
    flows = server.tally.by_tcp
    assert (flows.to_peers.octets, flows.to_clients.octets) == (900_000, 600_000)
    assert server.peer_passed(number, 1, 1, world.now) == 0, "late, of what is no more"


def test_without_a_limit_nothing_is_waited_for(new_world, new_raw) -> None:
    world = new_world(limits=Limits(octets_per_second=0))
    tcp = Tcp(world, lambda *a, **o: type(new_raw())(world, *a, **o))
    tcp.allocate()
    assert world.server.peer_passed(tcp.connected(), 1 << 50, 1 << 50, world.now) == 0
