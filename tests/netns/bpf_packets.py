"""Packets for the shortcut program, whole and with right checksums, and a run of it on one."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from knothole.io.bpf import calls
from knothole.io.bpf.program import ShortcutProgram
from knothole.wire.address import Address
from knothole.wire.segment import encode_udp

ON_WITH_IT = 0xFFFFFFFF  # TCX_NEXT
REDIRECT = 7  # TCX_REDIRECT
_PROG_TEST_RUN = 10


@dataclass(frozen=True)
class Packet:
    """A UDP datagram in an Ethernet frame; every field can be made wrong."""

    source: Address
    destination: Address
    payload: bytes
    hops: int = 64
    traffic_class: int = 0
    fragment: int = 0x4000  # DF
    options: bytes = b""
    mac: bytes = bytes(6)
    kind: int | None = None
    protocol: int = socket.IPPROTO_UDP
    trailer: bytes = b""
    checksum: int | None = None
    udp_length: int | None = None
    identification: int = 7
    flow_label: int = 0
    ip_checksum: int | None = None

    def but(self, **changes: object) -> Packet:
        return replace(self, **changes)  # type: ignore[arg-type]

    def encode(self) -> bytes:
        is_ipv6 = self.source.is_ipv6
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        ends = b"".join(
            socket.inet_pton(family, each.host) for each in (self.source, self.destination)
        )
        udp = bytearray(encode_udp(self.source, self.destination, self.payload))
        if self.udp_length is not None:
            udp[4:6] = self.udp_length.to_bytes(2, "big")
        if self.checksum is not None:
            udp[6:8] = self.checksum.to_bytes(2, "big")
        if is_ipv6:
            kind = 0x86DD
            first = 6 << 28 | self.traffic_class << 20 | self.flow_label
            ip = struct.pack("!IHBB", first, len(udp), self.protocol, self.hops) + ends
        else:
            kind = 0x0800
            size = 20 + len(self.options)
            words = (4 << 12 | size << 6 | self.traffic_class, size + len(udp))
            words += (self.identification, self.fragment)
            fields = struct.pack("!HHHHBB", *words, self.hops, self.protocol)
            sum_ = internet_checksum(fields + bytes(2) + ends + self.options)
            if self.ip_checksum is not None:
                sum_ = self.ip_checksum
            ip = fields + sum_.to_bytes(2, "big") + ends + self.options
        ethernet = self.mac + bytes(6) + (self.kind or kind).to_bytes(2, "big")
        return ethernet + ip + udp + self.trailer


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run_program(
    program: int, packet: bytes, *, gso_size: int = 0, repeat: int = 1, flags: int = 0
) -> tuple[int, bytes, int]:
    """What the program returns for a packet from loopback, what it makes of it, and how long it
    takes (ns)."""
    data = ctypes.create_string_buffer(packet, len(packet))
    out = ctypes.create_string_buffer(len(packet) + 64)
    context = bytearray(192)  # struct __sk_buff
    struct.pack_into("=I", context, 176, gso_size)
    struct.pack_into("=I", context, 164, 1 if gso_size else 0)
    seen = ctypes.create_string_buffer(bytes(context), len(context))
    at = ctypes.addressof
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQI20x",
            *(program, 0, len(packet), len(out), at(data), at(out), repeat, 0),
            *(len(context), 0, at(seen), 0, flags),
        ),
        88,
    )
    calls.call(_PROG_TEST_RUN, attributes)
    _, returned, _, size, _, _, _, took = struct.unpack_from("=IIIIQQII", attributes.raw)
    return returned, out.raw[:size], took


@contextlib.contextmanager
def loaded_program() -> Iterator[ShortcutProgram]:
    """The program by itself; without the rights for it the test is skipped."""
    if (refusal := calls.unsupported()) is not None:
        pytest.skip(refusal)
    try:
        loaded = ShortcutProgram()
    except PermissionError as error:
        if may_use_bpf():
            raise
        pytest.skip(f"no rights to load eBPF programs here: {error}")
    with contextlib.closing(loaded):
        yield loaded


def may_use_bpf() -> bool:
    """Whether this process has CAP_BPF (39), and in the machine's own user namespace."""
    status = Path("/proc/self/status").read_text()
    [granted] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")]
    everybody = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return everybody and bool(int(granted, 16) >> 39 & 1)
