"""Which addresses a relay refuses as peers, in every spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knothole.wire.prohibited import is_tunnelled, peer_prohibited

PROHIBITED_IPV4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC_IPV4 = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "223.255.255.255",
]
PROHIBITED_IPV6 = [
    "::",
    "::1",
    "100::1",
    "2001:2::1",
    "2001:db8::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


def spellings(ip: IPv4Address) -> dict[str, IPv6Address]:
    """Every IPv6 address that leads to ``ip``."""
    value = int(ip)
    return {
        "v4-mapped": IPv6Address(0xFFFF << 32 | value),
        "v4-compatible": IPv6Address(value),
        "v4-translated": IPv6Address(0xFFFF << 48 | value),
        "6to4": IPv6Address(0x2002 << 112 | value << 80 | 1),
        "Teredo client": IPv6Address(0x20010000_08080808 << 64 | value ^ 0xFFFFFFFF),
        "Teredo server": IPv6Address(0x20010000 << 96 | value << 64 | 0xF7F7F7F7),
        "NAT64": IPv6Address(0x0064FF9B << 96 | value),
        "NAT64 local /96": IPv6Address(0x0064FF9B_0001 << 80 | value),
        "NAT64 local /48": IPv6Address(
            0x0064FF9B_0001 << 80 | value >> 16 << 64 | (value & 0xFFFF) << 40
        ),
        "NAT64 local /56": IPv6Address(
            0x0064FF9B_0001 << 80 | value >> 24 << 64 | (value & 0xFFFFFF) << 32
        ),
        "NAT64 local /64": IPv6Address(0x0064FF9B_0001 << 80 | value << 24),
        "ISATAP": IPv6Address(0x26000000_00000000_00005EFE << 32 | value),
        "ISATAP, universal bit": IPv6Address(0x26000000_00000000_02005EFE << 32 | value),
    }


@pytest.mark.parametrize("ip", PROHIBITED_IPV4 + PROHIBITED_IPV6)
def test_addresses_that_are_not_globally_reachable_are_prohibited(ip: str) -> None:
    assert peer_prohibited(ip)


@pytest.mark.parametrize(
    "ip", [*PUBLIC_IPV4, "2606:4700::1111", "2a00::1", "2000::1", "64:ff9b::8.8.8.8"]
)
def test_public_addresses_are_not(ip: str) -> None:
    assert peer_prohibited(ip) is None


@pytest.mark.parametrize("ip", PROHIBITED_IPV4)
@pytest.mark.parametrize("spelling", spellings(IPv4Address("0.0.0.0")))
def test_no_ipv6_spelling_of_a_prohibited_address_is_let_through(ip: str, spelling: str) -> None:
    assert peer_prohibited(spellings(IPv4Address(ip))[spelling])


@pytest.mark.parametrize("ip", [ip for ip in PROHIBITED_IPV4 if not ip.startswith("0.")])
@pytest.mark.parametrize("spelling", spellings(IPv4Address("0.0.0.0")))
def test_opening_all_of_ipv6_opens_no_prohibited_address_inside_it(ip: str, spelling: str) -> None:
    assert peer_prohibited(spellings(IPv4Address(ip))[spelling], allowed=[ip_network("::/0")])


@settings(derandomize=True)
@given(st.integers(0, 0xFFFFFFFF))
def test_a_nat64_address_is_judged_by_the_ipv4_address_in_it(value: int) -> None:
    inside = peer_prohibited(IPv4Address(value))
    outside = peer_prohibited(spellings(IPv4Address(value))["NAT64"])
    assert (inside is None) == (outside is None)


@settings(derandomize=True)
@given(st.integers(0, (1 << 128) - 1))
def test_every_ipv6_address_outside_the_global_unicast_space_is_prohibited(value: int) -> None:
    if value >> 125 != 1 and value >> 32 != 0x0064FF9B_00000000_00000000:
        assert peer_prohibited(IPv6Address(value))


def test_the_operator_opens_a_range() -> None:
    assert peer_prohibited("10.1.2.3", allowed=[ip_network("10.1.0.0/16")]) is None
    assert peer_prohibited("10.2.2.3", allowed=[ip_network("10.1.0.0/16")])
    assert peer_prohibited("fd00::1", allowed=[ip_network("fd00::/8")]) is None


def test_the_operator_closes_a_range_in_every_spelling() -> None:
    denied = [ip_network("8.8.0.0/16")]
    assert peer_prohibited("8.8.8.8", denied=denied) == "8.8.8.8 is closed by the operator"
    assert peer_prohibited("64:ff9b::8.8.8.8", denied=denied)
    assert peer_prohibited("8.9.8.8", denied=denied) is None


def test_a_closed_range_wins_over_an_opened_one() -> None:
    both = [ip_network("10.0.0.0/8")]
    assert peer_prohibited("10.1.2.3", allowed=both, denied=both)


@pytest.mark.parametrize("ip", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"])
def test_what_is_no_single_peer_cannot_be_opened(ip: str) -> None:
    assert peer_prohibited(ip, allowed=[ip_network("0.0.0.0/0"), ip_network("::/0")])


def test_the_reason_names_the_address_inside_the_address() -> None:
    assert peer_prohibited("127.0.0.1") == "127.0.0.1 is loopback"
    assert peer_prohibited("64:ff9b::7f00:1") == "127.0.0.1 inside 64:ff9b::7f00:1 is loopback"


def test_tunnelled_addresses_are_known_as_such() -> None:
    assert is_tunnelled("2002:808:808::1")
    assert is_tunnelled("2001:0:808:808::1")
    assert not is_tunnelled("2606:4700::1111")
    assert not is_tunnelled("192.88.99.1")


def test_text_that_is_no_address_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="not appear to be"):
        peer_prohibited("example.org")
