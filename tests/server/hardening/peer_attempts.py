"""Every way to a peer, and every spelling of its address."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)

from .attacker import Attacker


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


def attempts(
    user: Callable[..., Attacker],
    stream_user: Callable[..., Attacker],
    hosts: list[str],
    family: AddressFamily,
) -> dict[str, set[int]]:
    """How each of ``hosts`` is answered: CreatePermission and ChannelBind by UDP, CreatePermission
    and Connect by TCP. What is sent there all the same, by Send and on the channel, comes between.
    """
    found: dict[str, set[int]] = {}
    with user("alice") as attacker, stream_user("alice", seed=2) as stream:
        attacker.allocate(RequestedAddressFamily(family))
        stream.allocate(RequestedAddressFamily(family))
        for number, host in enumerate(hosts):
            address = Address(str(ip_address(host)), 7)
            peer = XorPeerAddress(address)
            channel = ChannelNumber(0x4000 + number)
            found[host] = {
                attacker.code(Method.CREATE_PERMISSION, peer),
                attacker.code(Method.CHANNEL_BIND, channel, peer),
                stream.code(Method.CREATE_PERMISSION, peer),
                stream.code(Method.CONNECT, peer),
            }
            attacker.indicate(address, b"let me through")
            attacker.send_channel(channel.value, b"let me through")
        attacker.code(Method.REFRESH)  # it has seen all of it by now
    return found
