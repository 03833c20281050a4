"""Other computers of the LAN: one that uses the ports already, one that takes ever new ones."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

from knothole.lab.netns.namespace import Namespace

PORTS: Final = range(50000, 50256)
"""The ports that collide; the client's own ephemeral range is set to them."""

SERVER_PORTS: Final = (3478, 3479)
"""Where the servers are asked for mapped addresses: by collision a NAT means these."""

_REPEAT_SECONDS: Final = 10.0  # a third of the 30 s that Linux keeps an unanswered UDP entry
_NOWHERE: Final = IPv4Address("198.18.0.1")  # RFC 2544: nobody on the internet has it
_HOPS: Final = 2  # the NAT is the first router, the internet the second: no packet arrives


class Neighbour:
    """Keeps a mapping from every one of its ports to every destination, with short-lived packets.

    The packets pass the NAT and end in the middle of the internet, so servers see none of them.
    """

    def __init__(self, namespace: Namespace, address: str, ports: Iterable[int] = PORTS) -> None:
        self._source = IPv4Address(address).packed
        self._ports = tuple(ports)
        self._destinations: list[tuple[str, int]] = []
        self._stopped = threading.Event()
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._thread = threading.Thread(target=self._repeat, name="neighbour", daemon=True)
        self._thread.start()

    def occupy(self, host: str, ports: Iterable[int] = SERVER_PORTS) -> None:
        """Take every own port towards ``host`` and these ports, before this returns."""
        new = [(host, port) for port in ports]
        self._send(new)
        self._destinations = self._destinations + new

    def occupy_again(self) -> None:
        """Take them all anew: the router has forgotten."""
        self._send(self._destinations)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def _repeat(self) -> None:
        while not self._stopped.wait(_REPEAT_SECONDS):
            self._send(self._destinations)

    def _send(self, destinations: list[tuple[str, int]]) -> None:
        for host, port in destinations:
            target = IPv4Address(host).packed
            for own in self._ports:
                with contextlib.suppress(OSError):  # the cable may be out just now
                    self._socket.sendto(_packet(self._source, own, target, port), (host, 0))


class BusyNeighbour:
    """Takes ``per_second`` new mappings of the NAT, at random moments, towards the internet.

    Its packets go to an address that nobody has.
    """

    def __init__(
        self, namespace: Namespace, address: str, per_second: float, chance: random.Random
    ) -> None:
        self._source = IPv4Address(address).packed
        self._per_second = per_second
        self._chance = chance
        self._stopped = threading.Event()
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._thread = threading.Thread(target=self._run, name="busy neighbour", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += self._chance.expovariate(self._per_second)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            ports = (self._chance.randint(1024, 65535) for _ in range(2))
            packet = _packet(self._source, next(ports), _NOWHERE.packed, next(ports), 64)
            with contextlib.suppress(OSError):
                self._socket.sendto(packet, (str(_NOWHERE), 0))


def _packet(
    source: bytes, source_port: int, target: bytes, target_port: int, hops: int = _HOPS
) -> bytes:
    """An empty UDP datagram; the kernel fills in length, identification and header checksum."""
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, hops, socket.IPPROTO_UDP, 0, source, target
    )
    return header + struct.pack(">HHHH", source_port, target_port, 8, 0)
