"""Hardened, point 2: peers that are nobody's business, in every spelling, at the borders of ranges.

After a reload of the policy: tests/engine/turn/test_turn_policy_reload.py. What of ranges is right:
tests/wire/test_prohibited.py. Malformed ranges in the configuration: tests/server/test_config.py.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Data,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
    encode,
)

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


def spellings(host: str) -> list[str]:
    """The IPv6 addresses that lead to an IPv4 address."""
    value = int(IPv4Address(host))
    numbers = {
        "v4-mapped": 0xFFFF << 32 | value,
        "v4-compatible": value,
        "v4-translated": 0xFFFF << 48 | value,
        "NAT64": 0x64_FF9B << 96 | value,
        "local NAT64": 0x64_FF9B_0001 << 80 | value,
        "6to4": 0x2002 << 112 | value << 80 | 1,
        "Teredo server": 0x2001_0000 << 96 | value << 64,
        "Teredo client": 0x2001_0000 << 96 | 0x0808_0808 << 64 | value ^ 0xFFFF_FFFF,
        "ISATAP": 0x2A00_0001 << 96 | 0x0200_5EFE << 32 | value,
    }
    return [str(IPv6Address(number)) for number in numbers.values()]


def attempts(user, hosts: list[str], family: AddressFamily) -> dict[str, set[int]]:
    """What each of ``hosts`` is answered, by CreatePermission and by ChannelBind."""
    found: dict[str, set[int]] = {}
    with user("alice") as attacker:
        attacker.allocate(RequestedAddressFamily(family))
        for number, host in enumerate(hosts):
            peer = XorPeerAddress(Address(str(ip_address(host)), 7))
            found[host] = {
                attacker.code(Method.CREATE_PERMISSION, peer),
                attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000 + number), peer),
            }
    return found


def test_forbidden_ipv4_peers_are_refused_up_to_the_borders(user) -> None:
    assert attempts(user, IPV4, AddressFamily.IPV4) == {host: {403} for host in IPV4}


def test_forbidden_ipv6_peers_are_refused_up_to_the_borders(user) -> None:
    assert attempts(user, IPV6, AddressFamily.IPV6) == {host: {403} for host in IPV6}


@pytest.mark.parametrize("host", IPV4)
def test_no_spelling_of_a_forbidden_ipv4_peer_helps(user, host) -> None:
    hosts = spellings(host)
    assert attempts(user, hosts, AddressFamily.IPV6) == {each: {403} for each in hosts}


def test_what_lies_next_to_the_ranges_is_allowed(user) -> None:
    assert attempts(user, NEXT_TO_THEM, AddressFamily.IPV4) == {host: {0} for host in NEXT_TO_THEM}


def test_our_own_listeners_are_no_peers(patient, user) -> None:
    """The ports at which clients come, of UDP, TCP and NAT discovery, by the address they use."""
    with user("alice") as attacker:
        attacker.allocate()
        for number, port in enumerate((patient.port, patient.port + 1)):
            peer = XorPeerAddress(Address("127.0.0.1", port))
            assert attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000 + number), peer) == 403


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
        content = (peer, Data(b"give me your secrets"))
        indication = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
        for _ in range(20):
            attacker.socket.send(encode(indication))
            attacker.socket.send(b"\x40\x00\x00\x04data")
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
