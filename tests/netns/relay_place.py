"""The relay process in a lab, TURN clients for it that say exactly what they are told, and what the
kernel has counted."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import fcntl
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from knothole.engine.turn.challenge import ChallengeResponder
from knothole.engine.turn.credentials import rest_credentials
from knothole.io.bpf import calls
from knothole.io.bpf.layout import COUNT_SIZE, ENTRY_SIZE, KEY_SIZE, Count, unpack_counts
from knothole.lab.netns.topology import Lab
from knothole.server.certificate import own_certificate
from knothole.server.link import (
    MAX_PACKET,
    Accelerated,
    RelayReady,
    RelaySettings,
    RelayStart,
    link_pair,
)
from knothole.server.link import Message as LinkMessage
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    Attribute,
    ChannelNumber,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
)

PATIENCE = 40.0
SECRET, REALM, PORT = "a secret of the tests", "knothole", 3478
# <linux/bpf.h>: BPF_MAP_GET_NEXT_KEY, BPF_MAP_GET_FD_BY_ID, BPF_PROG_QUERY.
_MAP_GET_NEXT_KEY, _MAP_GET_DESCRIPTOR, _PROG_QUERY = 4, 14, 16
_TCX_INGRESS = 46
_SIOCETHTOOL = 0x8946
# ETHTOOL_SRXCSUM, STXCSUM, SSG, STSO, SGSO, SGRO of <linux/ethtool.h>.
_ETHTOOL_SETS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)


class RelayProgram:
    """The relay process of ``knothole serve`` at a host of a lab."""

    def __init__(
        self,
        lab: Lab,
        host: str,
        folder: Path,
        *,
        allow_peers: list[str] | None = None,
        max_datagrams: int = 200_000,
        prefix: Sequence[str] = (),
        **changes: object,
    ) -> None:
        """``prefix`` is a command that starts it, ``changes`` are other fields of RelayStart."""
        certificate = own_certificate(folder)
        addresses = list(lab.hosts[host].addresses)
        fields: dict[str, object] = {
            "hosts": addresses,
            "port": PORT,
            "discovery_port": 0,
            "partners": {},
            "relay_hosts": {each: each for each in addresses},
            "machine": addresses,
            "realm": REALM,
            "relay_ports": (49152, 65535),
            "settings": RelaySettings(
                secrets=[SECRET],
                allow_peers=allow_peers or [],
                deny_peers=[],
                revoked=[],
                allocations=100,
                allocations_per_user=100,
                chain=str(certificate.chain),
                key=str(certificate.key),
                max_datagrams=max_datagrams,
            ),
            "accelerator": True,
            **changes,
        }
        self.link, theirs = link_pair()
        argv = [
            *prefix,
            sys.executable,
            "-P",
            "-m",
            "knothole.server.relay_process",
            str(theirs.fileno()),
        ]
        with theirs:
            self.process = lab.popen(host, argv, pass_fds=[theirs.fileno()])
        self.link.settimeout(PATIENCE)
        self.link.send(msgspec.msgpack.encode(RelayStart(**fields)))  # type: ignore[arg-type]
        assert isinstance(self.said(), RelayReady)
        self.accelerated = self.said() if fields["accelerator"] else Accelerated(False, "")

    def said(self) -> object:
        return msgspec.msgpack.decode(self.link.recv(MAX_PACKET), type=LinkMessage)

    def counts(self) -> Count:
        """What the kernel has relayed for it."""
        return kernel_counts(self.process.pid)

    def entries(self) -> int:
        """How many entries the program has."""
        count, key = 0, None
        with _map_of(self.process.pid, 1, ENTRY_SIZE) as descriptor:
            while (key := _next_key(descriptor, key)) is not None:
                count += 1
        return count

    def links(self) -> int:
        """How many tcx links it holds."""
        return sum("link_type:\ttcx" in text for text in _descriptors(self.process.pid))

    def stop(self) -> None:
        self.link.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.link.close()


def kernel_counts(process: int) -> Count:
    """What the kernel has relayed for a relay process, by the program's own map."""
    with _map_of(process, 2, COUNT_SIZE) as descriptor:
        counts = unpack_counts(calls.look_up_first(descriptor, 1024, COUNT_SIZE))
    return Count(sum(each.packets for each in counts), sum(each.octets for each in counts))


@contextlib.contextmanager
def _map_of(process: int, kind: int, size: int) -> Iterator[int]:
    """A descriptor of a process's map of that BPF_MAP_TYPE, with values of that size."""
    for text in _descriptors(process):
        number = re.search(r"^map_id:\s*(\d+)$", text, re.MULTILINE)
        wanted = (f"map_type:\t{kind}", f"value_size:\t{size}")
        if number and all(line in text.splitlines() for line in wanted):
            attributes = ctypes.create_string_buffer(struct.pack("=III", int(number[1]), 0, 0), 12)
            descriptor = calls.call(_MAP_GET_DESCRIPTOR, attributes)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            return
    raise AssertionError("it has no such map")


def _descriptors(process: int) -> Iterator[str]:
    """What proc(5) says of each that the process has open, as far as it is still open then."""
    for entry in Path(f"/proc/{process}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield entry.read_text()


def _next_key(descriptor: int, key: bytes | None) -> bytes | None:
    before = ctypes.create_string_buffer(key or b"", KEY_SIZE)
    after = ctypes.create_string_buffer(KEY_SIZE)
    at = 0 if key is None else ctypes.addressof(before)
    attributes = struct.pack("=I4xQQQ", descriptor, at, ctypes.addressof(after), 0)
    try:
        calls.call(_MAP_GET_NEXT_KEY, ctypes.create_string_buffer(attributes, len(attributes)))
    except FileNotFoundError:
        return None
    return after.raw


def attached_programs(lab: Lab, host: str, interface: str) -> int:
    """How many programs are attached to the ingress of an interface by tcx."""
    with lab.inside(host):
        index = socket.if_nametoindex(interface)
        query = ctypes.create_string_buffer(struct.pack("=IIII", index, _TCX_INGRESS, 0, 0), 64)
        calls.call(_PROG_QUERY, query)
    return int(struct.unpack_from("=I", query.raw, 24)[0])


class Offload(enum.Enum):
    """Who completes checksums and cuts packets to size: the device, or the kernel before it."""

    ON = 1
    OFF = 0


def set_offload(lab: Lab, host: str, interface: str, offload: Offload) -> None:
    """All that there are. On loopback nobody computes checksums, and that cannot be changed."""
    commands = _ETHTOOL_SETS if interface != "lo" else _ETHTOOL_SETS[3:]
    with lab.inside(host), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for command in commands:
            value = ctypes.create_string_buffer(struct.pack("=II", command, offload.value))
            name = interface.encode("ascii")
            request = struct.pack("=16sQ16x", name, ctypes.addressof(value))
            fcntl.ioctl(handle, _SIOCETHTOOL, request)


class Socket:
    """A UDP socket at a host of a lab."""

    def __init__(self, lab: Lab, host: str, *, ipv6: bool = False, address: str = "") -> None:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        if not address:
            address = next(a for a in lab.hosts[host].addresses if (":" in a) == ipv6)
        with lab.inside(host):
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
            self.socket.bind((address, 0))
        self.address = Address(address, self.socket.getsockname()[1])

    def send(self, payload: bytes, destination: Address) -> None:
        self.socket.sendto(payload, destination)

    def receive(self, seconds: float = PATIENCE) -> tuple[bytes, Address]:
        self.socket.settimeout(seconds)
        payload, source = self.socket.recvfrom(65536)
        return payload, Address(source[0], source[1])

    def close(self) -> None:
        self.socket.close()


class TurnEnd(Socket):
    """A TURN client: one allocation."""

    relayed: Address

    def __init__(
        self, lab: Lab, host: str, server: str, *, port: int = PORT, **options: object
    ) -> None:
        super().__init__(lab, host, **options)  # type: ignore[arg-type]
        self.server = Address(server, port)
        credentials = rest_credentials(SECRET, host, 3600, time.time())
        self._responder = ChallengeResponder(credentials)

    def allocate(self, *, ipv6: bool = False) -> Address:
        wanted: tuple[Attribute, ...] = (RequestedTransport(),)
        if ipv6:
            wanted += (RequestedAddressFamily(AddressFamily.IPV6),)
        found = self.ask(Method.ALLOCATE, *wanted).get(XorRelayedAddress)
        assert found is not None
        self.relayed = found.address
        return self.relayed

    def bind(self, peer: Address, number: int) -> int:
        return self.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer))

    def code(self, method: int, *attributes: Attribute) -> int:
        """The error code of the answer, 0 for success."""
        error = self.ask(method, *attributes).get(ErrorCode)
        return 0 if error is None else error.code

    def ask(self, method: int, *attributes: Attribute) -> Message:
        while True:
            answer = self._transact(method, attributes)
            error = answer.get(ErrorCode)
            if error is None or error.code not in (401, 438):
                return answer
            self._responder.learn(answer)

    def send_channel(self, number: int, payload: bytes, padding: int = 0) -> None:
        head = struct.pack("!HH", number, len(payload))
        self.send(head + payload + bytes(padding), self.server)

    def receive_indication(self, seconds: float = PATIENCE) -> Message:
        """The next one. Raises TimeoutError when none comes for so long."""
        while True:
            message = decode(self.receive(seconds)[0])
            if message.message_class is MessageClass.INDICATION:
                return message  # and no answer to a request that was sent twice

    def receive_channel(self) -> tuple[int, bytes]:
        payload, source = self.receive()
        while payload[:1] < b"\x40":  # an answer to a request that was sent twice
            payload, source = self.receive()
        assert source == self.server
        number, size = struct.unpack_from("!HH", payload)
        assert len(payload) == 4 + size, payload
        return number, payload[4:]

    def _transact(self, method: int, attributes: tuple[Attribute, ...]) -> Message:
        identity = secrets.token_bytes(12)
        request, _ = self._responder.request(method, identity, attributes)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.send(request, self.server)
            with contextlib.suppress(TimeoutError):
                while True:
                    payload, _ = self.receive(1.0)
                    if payload[:1] >= b"\x40":
                        continue  # ChannelData on its way meanwhile
                    answer = decode(payload)
                    if answer.transaction_id == identity:
                        assert answer.message_class != MessageClass.REQUEST
                        return answer
        raise AssertionError("the server does not answer")
