"""Default gateways, from recorded outputs of three systems, and from this one."""

from __future__ import annotations

import sys

import ifaddr
import pytest

from knothole.io.gateways import (
    Gateway,
    default_gateways,
    gateway_of_each,
    parse_proc_ipv6_route,
    parse_proc_route,
    parse_route_get,
    parse_route_print,
)

PROC_ROUTE = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	FE01A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	50	00000000	0	0	0
eth0	0000000A	0201A8C0	0003	0	0	100	000000FF	0	0	0
"""

ZEROS = "0" * 32
PROC_IPV6_ROUTE = f"""\
20010db8000100000000000000000000 40 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001     eth0
{ZEROS} 00 {ZEROS} 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
{ZEROS} 00 {ZEROS} 00 2a000002000000000000000000000001 00000100 00000002 00000000 00000003     eth1
{ZEROS} 00 {ZEROS} 00 {ZEROS} ffffffff 00000001 00000000 00200200       lo
"""

ROUTE_GET = """\
   route to: default
destination: default
       mask: default
    gateway: 192.168.1.1
  interface: en0
      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>
 recvpipe  sendpipe  ssthresh  rtt,msec    rttvar  hopcount      mtu     expire
       0         0         0         0         0         0      1500         0
"""

ROUTE_GET_IPV6 = """\
   route to: ::
destination: ::
       mask: default
    gateway: fe80::1%en0
  interface: en0
      flags: <UP,GATEWAY,DONE,PRCLONING,GLOBAL>
"""

ROUTE_GET_VPN = """\
   route to: default
destination: default
  interface: utun3
      flags: <UP,DONE,CLONING,STATIC,GLOBAL>
"""

ROUTE_PRINT = """\
===========================================================================
Schnittstellenliste
 15...3c 52 82 aa bb cc ......Intel(R) Ethernet Connection
  1...........................Software Loopback Interface 1
===========================================================================

IPv4-Routentabelle
===========================================================================
Aktive Routen:
     Netzwerkziel    Netzwerkmaske          Gateway    Schnittstelle Metrik
          0.0.0.0          0.0.0.0      192.168.2.1     192.168.2.7     55
          0.0.0.0          0.0.0.0      192.168.1.1    192.168.1.50     25
          0.0.0.0          0.0.0.0   Auf Verbindung        10.8.0.2     35
        127.0.0.0        255.0.0.0   Auf Verbindung       127.0.0.1    331
===========================================================================
St\u00e4ndige Routen:
  Netzwerkadresse          Netzmaske  Gatewayadresse  Metrik
          0.0.0.0          0.0.0.0      192.168.1.1  Standard
===========================================================================

IPv6-Routentabelle
===========================================================================
Aktive Routen:
 If Metrik Netzwerkziel             Gateway
 15    281 ::/0                     fe80::1
 16    300 ::/0
                                    2a00:1234:5678:9abc:def0:1234:5678:9abc
  1    331 ::1/128                  Auf Verbindung
===========================================================================
"""


def test_linux_has_the_preferred_gateway_first_and_no_route_without_one() -> None:
    assert parse_proc_route(PROC_ROUTE) == [
        Gateway("192.168.1.1", "eth0"),
        Gateway("192.168.1.254", "wlan0"),
    ]


def test_linux_ipv6_gateways_of_the_link_get_their_scope() -> None:
    assert parse_proc_ipv6_route(PROC_IPV6_ROUTE) == [
        Gateway("2a00:2::1", "eth1"),
        Gateway("fe80::1%eth0", "eth0"),
    ]


def test_macos_tells_gateway_and_interface() -> None:
    assert parse_route_get(ROUTE_GET) == [Gateway("192.168.1.1", "en0")]
    assert parse_route_get(ROUTE_GET_IPV6) == [Gateway("fe80::1%en0", "en0")]
    assert parse_route_get(ROUTE_GET_VPN) == []


def test_windows_tells_the_interface_by_its_address_or_number_in_any_language() -> None:
    assert parse_route_print(ROUTE_PRINT) == [
        Gateway("192.168.1.1", "192.168.1.50"),
        Gateway("192.168.2.1", "192.168.2.7"),
        Gateway("fe80::1%15", "15"),
        Gateway("2a00:1234:5678:9abc:def0:1234:5678:9abc", "16"),
    ]


@pytest.mark.parametrize(
    "parse", [parse_proc_route, parse_proc_ipv6_route, parse_route_get, parse_route_print]
)
@pytest.mark.parametrize("text", ["", "nonsense", "a b c\n0.0.0.0 0.0.0.0\n1 2 ::/0\n", "0 " * 30])
def test_what_cannot_be_understood_is_no_gateway(parse: object, text: str) -> None:
    assert callable(parse)
    assert parse(text) == []


def adapter(name: str, index: int, *hosts: str) -> ifaddr.Adapter:
    ips = [ifaddr.IP((host, 0, 0) if ":" in host else host, 24, name) for host in hosts]
    return ifaddr.Adapter(name, f"nice {name}", ips, index)


def test_each_address_has_the_gateway_of_its_family_on_its_own_interface() -> None:
    adapters = [
        adapter("eth0", 2, "192.168.1.10", "2a00:1::10"),
        adapter("wlan0", 3, "192.168.2.10"),
        adapter("docker0", 4, "172.17.0.1"),
    ]
    gateways = [
        Gateway("192.168.1.1", "eth0"),
        Gateway("192.168.2.1", "192.168.2.10"),
        Gateway("fe80::1%2", "2"),
    ]
    hosts = ["192.168.1.10", "2a00:1::10", "192.168.2.10", "172.17.0.1", "10.0.0.1"]
    assert gateway_of_each(hosts, gateways, adapters) == {
        "192.168.1.10": "192.168.1.1",
        "2a00:1::10": "fe80::1%2",
        "192.168.2.10": "192.168.2.1",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_has_gateways_that_are_addresses_or_none() -> None:
    for gateway in default_gateways():
        assert gateway.interface
        assert gateway.is_ipv6 == (":" in gateway.host)
