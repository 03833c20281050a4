"""A gateway that speaks PCP and NAT-PMP, or one of them, or lies, in virtual time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.portmap.mapper import PortMapper
from knothole.wire.address import Address

BASE = Address("192.168.1.10", 5000)
GATEWAY = "192.168.1.1"
SERVER = Address(GATEWAY, 5351)
PUBLIC = "1.1.1.1"


def mapped_ip(host: str) -> bytes:
    ip = ip_address(host)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


class Gateway:
    """Answers as it is told to; ``asked`` has every request with its time."""

    def __init__(self) -> None:
        self.born = -100.0
        self.host = PUBLIC
        self.port: int | None = None
        self.lifetime: int | None = None
        self.pcp = self.nat_pmp = True
        self.pcp_result = self.nat_pmp_result = 0
        self.says_unsupported = False
        self.change: Callable[[bytes], bytes] = lambda payload: payload
        self.asked: list[tuple[float, bytes]] = []
        self.mappings: dict[str, int] = {}

    def answer(self, data: bytes, now: float) -> bytes | None:
        self.asked.append((now, data))
        epoch = int(now - self.born)
        if data[0] == 2:
            if not self.pcp:
                return struct.pack("!BBHI", 0, 129, 1, epoch) if self.says_unsupported else None
            lifetime = int.from_bytes(data[4:8])
            if not self.pcp_result:
                self.mappings["pcp"] = lifetime
            granted = 0 if not lifetime else lifetime if self.lifetime is None else self.lifetime
            head = struct.pack("!BBBBII12x", 2, 0x81, 0, self.pcp_result, granted, epoch)
            port = self.port if self.port is not None else int.from_bytes(data[42:44])
            return head + data[24:42] + port.to_bytes(2) + mapped_ip(self.host)
        if not self.nat_pmp:
            return None
        if self.nat_pmp_result:
            return struct.pack("!BBHI", 0, 128 + data[1], self.nat_pmp_result, epoch)
        if data[1] == 0:
            return struct.pack("!BBHI", 0, 128, 0, epoch) + ip_address(self.host).packed
        internal, external, lifetime = struct.unpack("!HHI", data[4:])
        self.mappings["nat-pmp"] = lifetime
        granted = 0 if not lifetime else lifetime if self.lifetime is None else self.lifetime
        port = self.port if self.port is not None else external
        return struct.pack("!BBHIHHI", 0, 129, 0, epoch, internal, port, granted)


class Network:
    """A mapper and its gateway; wakes the mapper exactly when it asked to be woken."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gateway = Gateway()
        self.changes = 0
        numbers = iter(range(1, 1_000_000))
        self.mapper = PortMapper(lambda size: next(numbers).to_bytes(size + 4, "big")[-size:])

    def start(self, base: Address = BASE, gateway: str = GATEWAY) -> None:
        self.mapper.set_routes([(base, gateway)], self.now)
        self.settle()

    def settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for output in tuple(self.mapper.outputs()):
                busy = True
                if not isinstance(output, Transmit):
                    self.changes += 1
                    continue
                sent = output.datagram
                answer = self.gateway.answer(sent.payload, self.now)
                if answer is not None:
                    self.deliver(self.gateway.change(answer), sent.destination, sent.source)

    def deliver(self, payload: bytes, source: Address = SERVER, to: Address = BASE) -> None:
        datagram = Datagram(source, to, payload)
        if self.mapper.knows(datagram):
            self.mapper.receive(datagram, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.mapper.next_timeout()) is not None and due <= end:
            assert due >= self.now
            self.now = due
            self.mapper.handle_timeout(self.now)
            self.settle()
        self.now = end

    def externals(self) -> list[Address]:
        return [mapping.external for mapping in self.mapper.mappings]

    def progress(self) -> dict[str, str]:
        return {each.protocol.value: each.progress.value for each in self.mapper.attempts}

    def requests(self, version: int) -> list[float]:
        return [at for at, data in self.gateway.asked if data[0] == version]


@pytest.fixture
def network() -> Network:
    return Network()
