"""The accelerator in the real relay process, on real interfaces, between hosts of a lab."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.topology import Lab
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    Lifetime,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    encode,
)

from .bpf_packets import Packet, may_use_bpf
from .relay_place import (
    PATIENCE,
    Offload,
    RelayProgram,
    Socket,
    TurnEnd,
    attached_programs,
    set_offload,
)

pytestmark = pytest.mark.netns

NUMBER, OTHER_NUMBER = 0x4001, 0x5002
PAYLOAD = bytes(range(256)) * 16
BOTH = pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
RELAYED = pytest.mark.parametrize(
    "relayed_ipv6", [False, True], ids=["relayed-ipv4", "relayed-ipv6"]
)
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    with Lab(ipv6=True) as built:
        for name in ("server", "peer", "alice", "bob"):
            built.add_server(name)
        yield built


@pytest.fixture
def relay(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., RelayProgram]]:
    with contextlib.ExitStack() as stack:

        def start(**changes: object) -> RelayProgram:
            program = RelayProgram(lab, "server", tmp_path, **changes)
            stack.callback(program.stop)
            return program

        yield start


@pytest.fixture
def ends(lab: Lab) -> Iterator[Callable[..., TurnEnd]]:
    with contextlib.ExitStack() as stack:

        def make(kind: type, host: str, *arguments: object, **options: object) -> object:
            made = kind(lab, host, *arguments, **options)
            stack.callback(made.close)
            return made

        yield make


def server_host(lab: Lab, ipv6: bool = False) -> str:
    return next(each for each in lab.hosts["server"].addresses if (":" in each) == ipv6)


@pytest.fixture
def channel(lab, relay, ends) -> Callable[..., tuple[RelayProgram, TurnEnd, Socket]]:
    """A client with a channel to a peer, and the relay."""

    def make(
        ipv6: bool = False, relayed_ipv6: bool | None = None, **changes: object
    ) -> tuple[RelayProgram, TurnEnd, Socket]:
        if relayed_ipv6 is None:
            relayed_ipv6 = ipv6
        started = relay(**changes)
        client = ends(TurnEnd, "alice", server_host(lab, ipv6), ipv6=ipv6)
        peer = ends(Socket, "peer", ipv6=relayed_ipv6)
        client.allocate(ipv6=relayed_ipv6)
        assert client.bind(peer.address, NUMBER) == 0
        return started, client, peer

    return make


def test_it_is_on_where_there_are_the_rights_and_attached_when_it_is_needed(lab, channel) -> None:
    started, client, _ = channel()
    assert started.accelerated.on, started.accelerated.reason
    assert started.links() == 1
    assert attached_programs(lab, "server", "eth0") == 1
    assert attached_programs(lab, "server", "lo") == 0
    assert client.code(Method.REFRESH, Lifetime(0)) == 0


@RELAYED
@BOTH
def test_a_channel_is_relayed_by_the_kernel_in_both_directions(channel, ipv6, relayed_ipv6) -> None:
    started, client, peer = channel(ipv6, relayed_ipv6)
    for size in (1, 160, 161, 1000):
        client.send_channel(NUMBER, PAYLOAD[:size])
        assert peer.receive() == (PAYLOAD[:size], client.relayed)
    assert started.counts() == (4, 1322)
    for size in (4, 160, 161, 1000):
        peer.send(PAYLOAD[:size], client.relayed)
        assert client.receive_channel() == (NUMBER, PAYLOAD[:size])
    assert started.counts() == (8, 1322 + 1325)


@pytest.fixture
def pair(lab, relay, ends) -> Callable[..., tuple[RelayProgram, TurnEnd, TurnEnd]]:
    """Two clients with channels to each other."""

    def make(
        ipv6: bool, other_ipv6: bool, relayed_ipv6: bool = False, **changes: object
    ) -> tuple[RelayProgram, TurnEnd, TurnEnd]:
        started = relay(**changes)
        alice = ends(TurnEnd, "alice", server_host(lab, ipv6), ipv6=ipv6)
        bob = ends(TurnEnd, "bob", server_host(lab, other_ipv6), ipv6=other_ipv6)
        for each in (alice, bob):
            each.allocate(ipv6=relayed_ipv6)
        assert alice.bind(bob.relayed, NUMBER) == 0
        assert bob.bind(alice.relayed, OTHER_NUMBER) == 0
        return started, alice, bob

    return make


@pytest.mark.parametrize("other_ipv6", [False, True], ids=["other-ipv4", "other-ipv6"])
@RELAYED
@BOTH
def test_two_clients_are_relayed_to_each_other_by_the_kernel(
    pair, ipv6, other_ipv6, relayed_ipv6
) -> None:
    started, alice, bob = pair(ipv6, other_ipv6, relayed_ipv6)
    for size in (1, 160, 161, 1400):
        alice.send_channel(NUMBER, PAYLOAD[:size])
        assert bob.receive_channel() == (OTHER_NUMBER, PAYLOAD[:size])
        bob.send_channel(OTHER_NUMBER, PAYLOAD[:size])
        assert alice.receive_channel() == (NUMBER, PAYLOAD[:size])
    assert started.counts().packets == 8


@RELAYED
def test_what_the_kernel_does_not_take_is_relayed_by_user_space(channel, relayed_ipv6) -> None:
    started, client, peer = channel(relayed_ipv6=relayed_ipv6)
    client.send_channel(NUMBER, b"padded!", padding=1)
    assert peer.receive() == (b"padded!", client.relayed)
    client.send_channel(NUMBER, b"")
    assert peer.receive() == (b"", client.relayed)
    client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)  # one router is on the way
    client.send_channel(NUMBER, b"at its last hop")
    assert peer.receive() == (b"at its last hop", client.relayed)
    client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
    client.send_channel(NUMBER, PAYLOAD[:3000])
    assert peer.receive() == (PAYLOAD[:3000], client.relayed), "in fragments"
    client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x00")
    client.send_channel(NUMBER, b"with an option")
    assert peer.receive() == (b"with an option", client.relayed)
    client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
    peer.send(PAYLOAD[:1472], client.relayed)
    assert client.receive_channel() == (NUMBER, PAYLOAD[:1472]), "too long with four bytes more"
    peer.send(b"abc", client.relayed)
    assert client.receive_channel() == (NUMBER, b"abc")
    assert started.counts() == (0, 0)
    client.send_channel(NUMBER, b"and now the kernel")
    assert peer.receive() == (b"and now the kernel", client.relayed)
    assert started.counts().packets == 1


@RELAYED
def test_a_burst_in_one_piece_is_relayed_by_user_space(channel, relayed_ipv6) -> None:
    started, client, peer = channel(relayed_ipv6=relayed_ipv6)
    client.socket.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 104)
    message = bytes.fromhex("40010064") + PAYLOAD[:100]
    client.send(message * 10, client.server)
    for _ in range(10):
        assert peer.receive() == (PAYLOAD[:100], client.relayed)
    assert started.counts() == (0, 0)


@BOTH
def test_an_ipv6_header_must_have_room_too(channel, ipv6) -> None:
    """Of 1500 bytes it takes 20 more; what is a byte too long is relayed in fragments."""
    started, client, peer = channel(ipv6, relayed_ipv6=not ipv6)
    for size, kernel in ((1448 if ipv6 else 1452, 1), (1449 if ipv6 else 1453, 0)):
        before = started.counts().packets
        if ipv6:
            peer.send(PAYLOAD[:size], client.relayed)
            assert client.receive_channel() == (NUMBER, PAYLOAD[:size])
        else:
            client.send_channel(NUMBER, PAYLOAD[:size])
            assert peer.receive() == (PAYLOAD[:size], client.relayed)
        assert started.counts().packets == before + kernel


@BOTH
def test_the_mtu_that_a_router_advertises_for_ipv6_counts(lab, channel, ipv6) -> None:
    """As the kernel keeps it; it is less where the router has a tunnel behind it."""
    mtu = Path("/proc/sys/net/ipv6/conf/eth0/mtu")
    with lab.inside("server"):
        before = mtu.read_text()
        mtu.write_text("1400")
    try:
        started, client, peer = channel(ipv6, relayed_ipv6=True)
        for size in (1352, 1353):
            client.send_channel(NUMBER, PAYLOAD[:size])
            assert peer.receive() == (PAYLOAD[:size], client.relayed)
            assert started.counts().packets == 1, "the second by user space"
    finally:
        with lab.inside("server"):
            mtu.write_text(before)


@pytest.mark.parametrize("here", Offload)
@RELAYED
@BOTH
def test_a_capture_shows_the_packet_that_is_expected_to_the_last_bit(
    lab, channel, ipv6, relayed_ipv6, here
) -> None:
    """With one hop less than a router would leave, and checksums that the server has completed."""
    set_offload(lab, "alice", "eth0", here)
    set_offload(lab, "server", "eth0", Offload.OFF)
    try:
        started, client, peer = channel(ipv6, relayed_ipv6)
        level, hops, mark = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS)
            if ipv6
            else (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS)
        )
        client.socket.setsockopt(level, hops, 40)
        client.socket.setsockopt(level, mark, 0xB8 | 2)  # EF, ECT(0)
        with lab.inside("peer"):
            capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with capture:
            capture.settimeout(PATIENCE)
            for size in SIZES:
                client.send_channel(NUMBER, PAYLOAD[:size])
                assert peer.receive() == (PAYLOAD[:size], client.relayed)
                seen = captured(capture, PAYLOAD[:size])
                label = int.from_bytes(seen[14:18], "big") & 0xFFFFF if relayed_ipv6 else 0
                expected = Packet(
                    *(client.relayed, peer.address, PAYLOAD[:size]),
                    hops=40 - 3,  # a router, the relay, a router
                    traffic_class=0xB8 | 2,
                    identification=int.from_bytes(seen[18:20], "big"),
                    fragment=int.from_bytes(seen[20:22], "big") & 0x4000 if not ipv6 else 0,
                    flow_label=label,
                )
                assert seen[14:] == expected.encode()[14:]
                assert bool(label) == relayed_ipv6
        assert started.counts().packets == len(SIZES)
    finally:
        for host in ("alice", "server"):
            set_offload(lab, host, "eth0", Offload.ON)


def captured(capture: socket.socket, payload: bytes) -> bytes:
    """The next frame that ends with this."""
    while True:
        frame = capture.recv(65536)
        if frame.endswith(payload):
            return frame


@pytest.fixture(params=[(here, there) for here in Offload for there in Offload])
def offloads(request, lab) -> Iterator[None]:
    """Those of clients and peers, so how packets come in, and those of the server, so who completes
    them. What is completed before the last cable the receiver's kernel verifies."""
    here, there = request.param
    for host in ("alice", "peer"):
        set_offload(lab, host, "eth0", here)
    set_offload(lab, "server", "eth0", there)
    yield
    for host in ("alice", "peer", "server"):
        set_offload(lab, host, "eth0", Offload.ON)


@RELAYED
@BOTH
@pytest.mark.usefixtures("offloads")
def test_checksums_are_right_with_offloads_on_and_off(channel, ipv6, relayed_ipv6) -> None:
    started, client, peer = channel(ipv6, relayed_ipv6)
    exchange(client, peer)
    assert started.counts().packets == 2 * len(SIZES)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "user-space"])
@BOTH
@pytest.mark.usefixtures("offloads")
def test_between_clients_of_two_ip_versions_they_are_right_too(pair, ipv6, kernel) -> None:
    started, alice, bob = pair(ipv6, not ipv6, accelerator=kernel)
    for size in SIZES:
        alice.send_channel(NUMBER, PAYLOAD[:size])
        assert bob.receive_channel() == (OTHER_NUMBER, PAYLOAD[:size])
        bob.send_channel(OTHER_NUMBER, PAYLOAD[:size])
        assert alice.receive_channel() == (NUMBER, PAYLOAD[:size])
    if kernel:
        assert started.counts().packets == 2 * len(SIZES)


@RELAYED
@BOTH
@pytest.mark.usefixtures("offloads")
def test_in_user_space_too_checksums_are_right_with_offloads_on_and_off(
    channel, ipv6, relayed_ipv6
) -> None:
    """Singly, and in bursts that offloads cut, or join, or leave alone."""
    _, client, peer = channel(ipv6, relayed_ipv6, accelerator=False)
    exchange(client, peer)
    pieces = [bytes([0x80, number]) + PAYLOAD[:999] for number in range(20)]
    client.socket.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 4 + 1001)
    message = NUMBER.to_bytes(2, "big") + (1001).to_bytes(2, "big")
    client.send(b"".join(message + each for each in pieces), client.server)
    assert [peer.receive() for _ in pieces] == [(each, client.relayed) for each in pieces]
    peer.socket.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1001)
    peer.send(b"".join(pieces), client.relayed)
    assert [client.receive_channel() for _ in pieces] == [(NUMBER, each) for each in pieces]


SIZES = (4, 5, 160, 161, 1200, 1401)


def exchange(client: TurnEnd, peer: Socket) -> None:
    """Each size there and back."""
    for size in SIZES:
        client.send_channel(NUMBER, PAYLOAD[:size])
        assert peer.receive() == (PAYLOAD[:size], client.relayed)
        peer.send(PAYLOAD[:size], client.relayed)
        assert client.receive_channel() == (NUMBER, PAYLOAD[:size])


def test_a_forbidden_peer_gets_no_entry(lab, relay, ends) -> None:
    started = relay()
    client = ends(TurnEnd, "alice", server_host(lab))
    client.allocate()
    forbidden = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "0.0.0.0"]
    for host in (*forbidden, server_host(lab)):
        assert client.bind(Address(host, 3478), NUMBER) == 403
    assert started.links() == 0
    client.send_channel(NUMBER, PAYLOAD)
    assert client.code(Method.REFRESH, Lifetime(600)) == 0
    assert started.counts() == (0, 0)


def test_when_the_allocation_ends_nothing_is_relayed_any_more(channel) -> None:
    started, client, peer = channel()
    client.send_channel(NUMBER, PAYLOAD[:100])
    assert peer.receive()[0] == PAYLOAD[:100]
    assert client.code(Method.REFRESH, Lifetime(0)) == 0
    for _ in range(10):
        client.send_channel(NUMBER, PAYLOAD[:100])
        peer.send(PAYLOAD[:100], client.relayed)
    bind = (ChannelNumber(NUMBER), XorPeerAddress(peer.address))
    assert client.code(Method.CHANNEL_BIND, *bind) == 437, "the server has seen all of it"
    assert started.counts().packets == 1


@pytest.mark.parametrize("channels", [1, 128])
def test_a_limit_holds_for_all_that_goes_by_the_kernel_and_by_the_server(
    lab, relay, ends, channels: int
) -> None:
    """An attacker with many channels, who sends by Send indications at the same time."""
    limit = 500
    started = relay(max_datagrams=limit)
    client = ends(TurnEnd, "alice", server_host(lab))
    peers = [ends(Socket, "peer") for _ in range(channels)]
    for peer in peers:  # of what is relayed none is lost there
        peer.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    client.allocate()
    for number, peer in enumerate(peers):
        assert client.bind(peer.address, 0x4000 + number) == 0
    begun, passed = time.monotonic(), 0
    while time.monotonic() < begun + 3.0:
        for number, peer in enumerate(peers):
            for _ in range(256 // channels):
                client.send_channel(0x4000 + number, PAYLOAD[:100])
            content = (XorPeerAddress(peer.address), Data(PAYLOAD[:100]))
            indication = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
            client.send(encode(indication), client.server)
            passed += waiting(peer.socket)
    assert client.code(Method.REFRESH, Lifetime(600)) == 0, "the server has seen all of it"
    passed += sum(waiting(peer.socket) for peer in peers)
    # A second's worth at once, and then what time brings.
    assert limit <= passed <= limit * (1 + time.monotonic() - begun)
    assert limit / 4 <= started.counts().packets <= passed, "the kernel has had its part"


def waiting(sock: socket.socket) -> int:
    """How many datagrams have come."""
    sock.setblocking(False)
    found = 0
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65_536):
            found += 1
    return found


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_server_that_is_gone_leaves_nothing_attached(lab, channel, how: str) -> None:
    started, _, _ = channel()
    assert attached_programs(lab, "server", "eth0") == 1
    if how == "killed":
        started.kill()
    else:
        started.stop()
    assert attached_programs(lab, "server", "eth0") == 0


def test_two_servers_on_one_machine_have_one_each(lab, channel, ends, tmp_path) -> None:
    first, client, peer = channel()
    folder = tmp_path / "second"
    folder.mkdir()
    second = RelayProgram(lab, "server", folder, port=3500)
    try:
        other = ends(TurnEnd, "bob", server_host(lab), port=3500)
        other.allocate()
        assert other.bind(peer.address, NUMBER) == 0
        assert attached_programs(lab, "server", "eth0") == 2
        for each, program in ((client, first), (other, second)):
            each.send_channel(NUMBER, b"to the peer")
            assert peer.receive() == (b"to the peer", each.relayed)
            assert program.counts().packets == 1
    finally:
        second.stop()


def test_on_loopback_it_relays_too(lab, relay, ends) -> None:
    """With everybody on one machine."""
    own = "127.0.0.1"
    started = relay(hosts=[own], relay_hosts={own: own}, machine=[own], allow_peers=["127.0.0.0/8"])
    client = ends(TurnEnd, "server", own, address=own)
    peer = ends(Socket, "server", address="127.0.0.2")
    client.allocate()
    assert client.bind(peer.address, NUMBER) == 0
    assert attached_programs(lab, "server", "lo") == 1
    for size in (4, 160, 1200, 3000):
        client.send_channel(NUMBER, PAYLOAD[:size])
        assert peer.receive() == (PAYLOAD[:size], client.relayed)
        peer.send(PAYLOAD[:size], client.relayed)
        assert client.receive_channel() == (NUMBER, PAYLOAD[:size])
    assert started.counts().packets == 8
    client.send_channel(NUMBER, PAYLOAD + PAYLOAD)
    assert peer.receive()[0] == PAYLOAD + PAYLOAD, "by user space: too long for the program"
    assert started.counts().packets == 8


def test_on_loopback_it_relays_two_clients_over_ipv6(relay, ends) -> None:
    own = "::1"
    started = relay(hosts=[own], relay_hosts={own: own}, machine=[own], allow_peers=["::1/128"])
    first, second = (ends(TurnEnd, "server", own, ipv6=True, address=own) for _ in range(2))
    for each in (first, second):
        each.allocate(ipv6=True)
    assert first.bind(second.relayed, NUMBER) == 0
    assert second.bind(first.relayed, OTHER_NUMBER) == 0
    first.send_channel(NUMBER, PAYLOAD[:100])
    assert second.receive_channel() == (OTHER_NUMBER, PAYLOAD[:100])
    assert started.counts().packets == 1


@pytest.mark.parametrize("offload", Offload)
@pytest.mark.parametrize("ipv6", [False, True], ids=["from-ipv4", "from-ipv6"])
@pytest.mark.parametrize("which", ["loopback", "own"])
def test_on_loopback_it_relays_between_the_ip_versions(
    lab, relay, ends, which, ipv6, offload
) -> None:
    """Whichever address of this machine it is."""
    own = {False: "127.0.0.1", True: "::1"}
    if which == "own":
        own = {each: server_host(lab, each) for each in (False, True)}
    hosts = list(own.values())
    set_offload(lab, "server", "lo", offload)
    try:
        started = relay(hosts=hosts, relay_hosts={each: each for each in hosts}, machine=hosts)
        first, second = (
            ends(TurnEnd, "server", own[each], ipv6=each, address=own[each])
            for each in (ipv6, not ipv6)
        )
        for each in (first, second):
            each.allocate()
        assert first.bind(second.relayed, NUMBER) == 0
        assert second.bind(first.relayed, OTHER_NUMBER) == 0
        for size in (1, 160, 1201, 3000):
            first.send_channel(NUMBER, PAYLOAD[:size])
            assert second.receive_channel() == (OTHER_NUMBER, PAYLOAD[:size])
            second.send_channel(OTHER_NUMBER, PAYLOAD[:size])
            assert first.receive_channel() == (NUMBER, PAYLOAD[:size])
        assert started.counts().packets == 8
    finally:
        set_offload(lab, "server", "lo", Offload.ON)


def test_on_loopback_it_relays_from_ipv6_to_a_peer_of_ipv4_and_back(relay, ends) -> None:
    hosts = ["127.0.0.1", "::1"]
    places = {each: each for each in hosts}
    started = relay(hosts=hosts, relay_hosts=places, machine=hosts, allow_peers=["127.0.0.0/8"])
    client = ends(TurnEnd, "server", "::1", ipv6=True, address="::1")
    peer = ends(Socket, "server", address="127.0.0.2")
    client.allocate()
    assert client.bind(peer.address, NUMBER) == 0
    for size in (4, 161, 3000):
        client.send_channel(NUMBER, PAYLOAD[:size])
        assert peer.receive() == (PAYLOAD[:size], client.relayed)
        peer.send(PAYLOAD[:size], client.relayed)
        assert client.receive_channel() == (NUMBER, PAYLOAD[:size])
    assert started.counts().packets == 6


def test_a_client_on_the_servers_machine_reaches_a_peer_outside(lab, relay, ends) -> None:
    """In by loopback, out by the cable, and back."""
    started = relay()
    client = ends(TurnEnd, "server", server_host(lab))
    peer = ends(Socket, "peer")
    client.allocate()
    assert client.bind(peer.address, NUMBER) == 0
    client.send_channel(NUMBER, PAYLOAD[:100])
    assert peer.receive() == (PAYLOAD[:100], client.relayed)
    assert started.counts().packets == 1
    peer.send(PAYLOAD[:100], client.relayed)
    assert client.receive_channel() == (NUMBER, PAYLOAD[:100])
    assert started.counts().packets == 1, "what comes in by a cable for this machine is not sent on"


def test_behind_a_one_to_one_nat_packets_have_the_inner_address(lab, relay, ends) -> None:
    inner, outer = server_host(lab), "9.9.9.99"
    started = relay(relay_hosts={outer: inner})
    client = ends(TurnEnd, "alice", inner)
    peer = ends(Socket, "peer")
    assert client.allocate().host == outer
    assert client.bind(peer.address, NUMBER) == 0
    client.send_channel(NUMBER, PAYLOAD[:100])
    behind = Address(inner, client.relayed.port)
    assert peer.receive() == (PAYLOAD[:100], behind), "the NAT makes of it what the client knows"
    peer.send(PAYLOAD[:100], behind)
    assert client.receive_channel() == (NUMBER, PAYLOAD[:100])
    assert started.counts().packets == 2


def test_a_machine_that_translates_its_own_addresses_goes_without(lab, relay) -> None:
    inner, outer = server_host(lab), server_host(lab, ipv6=True)
    started = relay(relay_hosts={outer: inner}, machine=[inner, outer])
    assert not started.accelerated.on
    assert "translates" in started.accelerated.reason


def test_it_can_be_switched_off(lab, channel) -> None:
    started, client, peer = channel(accelerator=False)
    client.send_channel(NUMBER, b"by user space")
    assert peer.receive() == (b"by user space", client.relayed)
    assert started.links() == 0
    assert attached_programs(lab, "server", "eth0") == 0


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_rights_user_space_relays(channel) -> None:
    started, client, peer = channel(prefix=["setpriv", "--bounding-set=-all"])
    assert not started.accelerated.on
    assert started.accelerated.reason.startswith("no rights")
    client.send_channel(NUMBER, b"by user space")
    assert peer.receive() == (b"by user space", client.relayed)
    peer.send(b"and back", client.relayed)
    assert client.receive_channel() == (NUMBER, b"and back")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_three_capabilities_are_enough(channel) -> None:
    started, client, peer = channel(
        prefix=["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon"]
    )
    assert started.accelerated.on, started.accelerated.reason
    client.send_channel(NUMBER, b"by the kernel")
    assert peer.receive() == (b"by the kernel", client.relayed)
    assert started.counts().packets == 1


def test_when_routes_change_packets_take_the_new_way(lab, channel) -> None:
    """The way to the peer is cut, and user space finds none either; then it is there again."""
    started, client, peer = channel()
    client.send_channel(NUMBER, PAYLOAD[:100])
    assert peer.receive()[0] == PAYLOAD[:100]
    own = ["ip", "route", "add", "unreachable", f"{peer.address.host}/32"]
    lab.run("server", own, check=True)
    until(lambda: (client.send_channel(NUMBER, b"lost"), started.entries() == 0)[1])
    own[2] = "del"
    lab.run("server", own, check=True)
    until(lambda: started.entries() == 2)
    before = started.counts().packets
    client.send_channel(NUMBER, b"the last one")
    while peer.receive()[0] != b"the last one":
        pass
    assert started.counts().packets > before


def test_when_the_gateway_changes_the_kernel_sends_to_the_new_one(lab, channel) -> None:
    """To one that is not there, and back."""
    started, client, peer = channel()
    client.send_channel(NUMBER, PAYLOAD[:100])
    assert peer.receive()[0] == PAYLOAD[:100]
    nobody = server_host(lab).rpartition(".")[0] + ".77"
    other = ["ip", "route", "add", f"{peer.address.host}/32", "via", nobody, "dev", "eth0"]
    other.append("onlink")

    def arrives() -> bool:
        before = started.counts().packets
        client.send_channel(NUMBER, b"?")
        until(lambda: started.counts().packets > before)
        with contextlib.suppress(TimeoutError):
            return bool(peer.receive(0.5))
        return False

    lab.run("server", other, check=True)
    until(lambda: not arrives())
    other[2] = "del"
    lab.run("server", other, check=True)
    until(arrives)


def test_a_gateway_of_another_ip_version_is_sent_to(lab, channel) -> None:
    peer_host = next(each for each in lab.hosts["peer"].addresses if ":" not in each)
    shown = lab.run("server", ["ip", "-6", "route", "show", "default"], capture_output=True)
    words = shown.stdout.decode().split()
    gateway = words[words.index("via") + 1]
    route = ["ip", "route", "add", f"{peer_host}/32", "via", "inet6", gateway, "dev", "eth0"]
    lab.run("server", route, check=True)
    try:
        started, client, peer = channel()
        client.send_channel(NUMBER, PAYLOAD[:100])
        assert peer.receive() == (PAYLOAD[:100], client.relayed)
        assert started.counts().packets == 1
    finally:
        route[2] = "del"
        lab.run("server", route, check=True)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)
