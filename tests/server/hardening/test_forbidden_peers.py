"""Hardened, point 2: peers that are nobody's business, in every spelling, at the borders of ranges.

By CreatePermission, ChannelBind, Send, ChannelData and Connect, and by the accelerator. After a
reload of the policy: test_policy_reload.py. What of ranges is right: tests/wire/test_prohibited.py.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)

from .peer_attempts import attempts, spellings

ALSO_ACCELERATED = True

# Each range by its first and last address, or one of it. Without 127.0.0.1 and ::1: they are this
# server's own relay hosts, for which there are permissions, by which nothing leaves the server.
IPV4 = [
    *("0.0.0.0", "0.255.255.255"),
    *("10.0.0.0", "10.255.255.255"),
    *("100.64.0.0", "100.127.255.255"),
    *("127.0.0.0", "127.0.0.2", "127.255.255.255"),
    *("169.254.0.0", "169.254.169.254", "169.254.255.255"),
    *("172.16.0.0", "172.31.255.255"),
    *("192.0.0.0", "192.0.0.255", "192.0.2.1"),
    *("192.168.0.0", "192.168.255.255"),
    *("198.18.0.0", "198.19.255.255"),
    *("224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255"),
]
IPV6 = [
    *("::", "::2", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    *("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::"),
    *("ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    *("100::", "2001:db8::1", "fd00:ec2::254", "4000::1"),
]
NEXT_TO_THEM = [
    *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0"),
    *("172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255"),
]


REFUSED = {403}


@pytest.fixture
def attempted(patient, user, stream_user):
    """``attempted(hosts, family)``: how each is answered; and that nothing is relayed to it."""

    def attempt(hosts: list[str], family: AddressFamily) -> dict[str, set[int]]:
        before = read_figures(patient.metrics_port)
        found = attempts(user, stream_user, hosts, family)
        after = read_figures(patient.metrics_port)
        assert after.entries == 0
        relayed = "knothole_relayed_packets_total"
        assert after.sum(relayed) == before.sum(relayed)
        assert after.sum("knothole_dropped_packets_total") >= (
            before.sum("knothole_dropped_packets_total") + 2 * len(hosts)
        )
        return found

    return attempt


def test_forbidden_ipv4_peers_are_refused_up_to_the_borders(attempted) -> None:
    assert attempted(IPV4, AddressFamily.IPV4) == dict.fromkeys(IPV4, REFUSED)


def test_forbidden_ipv6_peers_are_refused_up_to_the_borders(attempted) -> None:
    assert attempted(IPV6, AddressFamily.IPV6) == dict.fromkeys(IPV6, REFUSED)


@pytest.mark.parametrize("host", IPV4)
def test_no_spelling_of_a_forbidden_ipv4_peer_helps(attempted, host) -> None:
    hosts = spellings(host)
    assert attempted(hosts, AddressFamily.IPV6) == dict.fromkeys(hosts, REFUSED)


def test_a_peer_of_the_other_family_is_no_way_around(user, stream_user) -> None:
    """An IPv4 address as it is, on an IPv6 relayed address, and the other way: 443."""
    for family, host in ((AddressFamily.IPV6, "10.0.0.1"), (AddressFamily.IPV4, "::ffff:10.0.0.1")):
        peer = XorPeerAddress(Address(str(ip_address(host)), 7))
        named = RequestedAddressFamily(family)
        with user("alice") as attacker, stream_user("alice", seed=2) as stream:
            attacker.allocate(named)
            stream.allocate(named)
            codes = {
                attacker.code(Method.CREATE_PERMISSION, peer),
                attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer),
                stream.code(Method.CREATE_PERMISSION, peer),
                stream.code(Method.CONNECT, peer),
            }
            assert codes == {443}


def test_what_lies_next_to_the_ranges_is_allowed(user) -> None:
    """Nothing is sent there: permissions and channels alone are asked for."""
    with user("alice") as attacker:
        attacker.allocate()
        for number, host in enumerate(NEXT_TO_THEM):
            peer = XorPeerAddress(Address(host, 7))
            assert attacker.code(Method.CREATE_PERMISSION, peer) == 0
            assert attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000 + number), peer) == 0


def test_our_own_listeners_are_no_peers(patient, user, stream_user) -> None:
    """The ports at which clients come, of UDP, TCP and NAT discovery, by the address they use, and
    that of the metrics."""
    with user("alice") as attacker, stream_user("alice", seed=2) as stream:
        attacker.allocate()
        stream.allocate()
        for number, port in enumerate((patient.port, patient.port + 1)):
            peer = XorPeerAddress(Address("127.0.0.1", port))
            assert attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000 + number), peer) == 403
            assert stream.code(Method.CONNECT, peer) in (403, 447)


def test_a_service_on_the_servers_machine_is_not_connected_to(stream_user) -> None:
    """447, permission or not, as if nothing were there: only other relayed addresses are."""
    with socket.create_server(("127.0.0.1", 0)) as service, stream_user("alice") as attacker:
        service.setblocking(False)
        peer = XorPeerAddress(Address(*service.getsockname()))
        attacker.allocate()
        assert attacker.code(Method.CONNECT, peer) == 447
        assert attacker.code(Method.CREATE_PERMISSION, peer) == 0
        assert attacker.code(Method.CONNECT, peer) == 447
        with pytest.raises(BlockingIOError):
            service.accept()


@pytest.mark.parametrize("with_permission", [False, True])
def test_send_indications_to_a_service_on_the_servers_machine_go_nowhere(
    user, with_permission
) -> None:
    """Even with the permission that is given for the host, as other relayed addresses are on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service, user("alice") as attacker:
        service.bind(("127.0.0.1", 0))
        service.setblocking(False)
        peer = XorPeerAddress(Address(*service.getsockname()))
        attacker.allocate()
        if with_permission:
            assert attacker.code(Method.CREATE_PERMISSION, peer) == 0
            assert attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        for _ in range(20):
            attacker.indicate(peer.address, b"give me your secrets")
            attacker.send_channel(0x4000, b"data")
        assert attacker.code(Method.REFRESH) == 0  # it has seen all of them by now
        with pytest.raises(BlockingIOError):
            service.recv(100)


def test_what_comes_from_the_servers_machine_is_not_believed(user) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service, user("alice") as attacker:
        service.bind(("127.0.0.1", 0))
        relayed = attacker.allocate()
        peer = XorPeerAddress(Address(*service.getsockname()))
        assert attacker.code(Method.CREATE_PERMISSION, peer) == 0
        for _ in range(20):
            service.sendto(b"I am a relayed address", tuple(relayed))
        assert attacker.heard(0.5) == []
