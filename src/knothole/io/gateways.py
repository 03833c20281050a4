"""The default gateways of this machine: from /proc on Linux, from the system's commands elsewhere.

A parser takes the text and gives :class:`Gateway` values; :func:`default_gateways` knows which text
this system has.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

import ifaddr

COMMAND_SECONDS: Final = 5.0  # ours: a routing table is printed at once, or never
_RTF_GATEWAY: Final = 0x0002  # <linux/route.h>


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route's next hop, link-local ones with their scope.

    ``interface`` is what the system calls the way to it: a name, an index, or (Windows, IPv4) the
    interface's own address.
    """

    host: str
    interface: str

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


def default_gateways() -> list[Gateway]:
    """The gateways of all default routes, the preferred first. Blocks for some milliseconds."""
    system = platform.system()
    if system == "Linux":
        return [
            *_read(Path("/proc/net/route"), parse_proc_route),
            *_read(Path("/proc/net/ipv6_route"), parse_proc_ipv6_route),
        ]
    if system == "Windows":
        return parse_route_print(_output(["route", "print"]))
    return [
        *parse_route_get(_output(["route", "-n", "get", "default"])),
        *parse_route_get(_output(["route", "-n", "get", "-inet6", "default"])),
    ]


def gateway_of_each(
    hosts: Iterable[str],
    gateways: Sequence[Gateway],
    adapters: Iterable[ifaddr.Adapter] | None = None,
) -> dict[str, str]:
    """The gateway in front of each local address: one of its family on its own interface.

    Local addresses that have none are left out.
    """
    ways = [(_names(each), _addresses(each)) for each in adapters or ifaddr.get_adapters()]
    found: dict[str, str] = {}
    for host in hosts:
        for gateway in gateways:
            if gateway.is_ipv6 == (":" in host) and any(
                gateway.interface in names and host in addresses for names, addresses in ways
            ):
                found.setdefault(host, gateway.host)
    return found


def parse_proc_route(text: str) -> list[Gateway]:
    """The text of Linux's ``/proc/net/route``: addresses in hexadecimal, as they lie in memory."""
    found: list[tuple[int, Gateway]] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        with contextlib.suppress(ValueError, IndexError):
            interface, destination, gateway, mask = *fields[:3], fields[7]
            flags, metric = int(fields[3], 16), int(fields[6])
            if int(destination, 16) or int(mask, 16) or not flags & _RTF_GATEWAY:
                continue
            packed = int(gateway, 16).to_bytes(4, sys.byteorder)
            found.append((metric, Gateway(str(IPv4Address(packed)), interface)))
    return _preferred(found)


def parse_proc_ipv6_route(text: str) -> list[Gateway]:
    """The text of Linux's ``/proc/net/ipv6_route``."""
    found: list[tuple[int, Gateway]] = []
    for line in text.splitlines():
        fields = line.split()
        with contextlib.suppress(ValueError, IndexError):
            destination, prefix, hop = int(fields[0], 16), int(fields[1], 16), int(fields[4], 16)
            metric, flags, interface = int(fields[5], 16), int(fields[8], 16), fields[9]
            if not destination and not prefix and hop and flags & _RTF_GATEWAY:
                found.append((metric, Gateway(_scoped(IPv6Address(hop), interface), interface)))
    return _preferred(found)


def parse_route_get(text: str) -> list[Gateway]:
    """What ``route -n get default`` prints on macOS and the BSDs."""
    fields = {
        name.strip(): value.strip()
        for name, colon, value in (line.partition(": ") for line in text.splitlines())
        if colon
    }
    with contextlib.suppress(ValueError, KeyError):
        host = fields["gateway"].partition("%")[0]
        return [Gateway(_scoped(ip_address(host), fields["interface"]), fields["interface"])]
    return []


def parse_route_print(text: str) -> list[Gateway]:
    """What ``route print`` prints on Windows, in whatever language its headings are."""
    found: list[tuple[int, Gateway]] = []
    lines = [line.split() for line in text.splitlines()]
    for number, fields in enumerate(lines):
        with contextlib.suppress(ValueError, IndexError):
            if fields[:2] == ["0.0.0.0", "0.0.0.0"]:  # noqa: S104  a route, no socket
                host, interface = IPv4Address(fields[2]), IPv4Address(fields[3])
                found.append((int(fields[4]), Gateway(str(host), str(interface))))
            elif fields[2:3] == ["::/0"]:
                index = int(fields[0])
                # A long address stands in a line of its own.
                hop = IPv6Address(fields[3] if len(fields) > 3 else lines[number + 1][0])
                found.append((int(fields[1]), Gateway(_scoped(hop, str(index)), str(index))))
    return _preferred(found)


def _read(path: Path, parse: Callable[[str], list[Gateway]]) -> list[Gateway]:
    try:
        return parse(path.read_text())
    except OSError:  # no IPv6, or no /proc
        return []


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            [*command], capture_output=True, timeout=COMMAND_SECONDS, check=False
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _preferred(found: list[tuple[int, Gateway]]) -> list[Gateway]:
    """By metric; equal ones as the system has them."""
    return list(dict.fromkeys(gateway for _, gateway in sorted(found, key=lambda each: each[0])))


def _scoped(address: IPv4Address | IPv6Address, interface: str) -> str:
    needs_scope = address.version == 6 and address.is_link_local
    return f"{address}%{interface}" if needs_scope else str(address)


def _names(adapter: ifaddr.Adapter) -> set[str]:
    return {adapter.name, adapter.nice_name, str(adapter.index), *_addresses(adapter)}


def _addresses(adapter: ifaddr.Adapter) -> set[str]:
    return set(_each_address(adapter))


def _each_address(adapter: ifaddr.Adapter) -> Iterator[str]:
    for entry in adapter.ips:
        yield str(ip_address(entry.ip if isinstance(entry.ip, str) else entry.ip[0]))
