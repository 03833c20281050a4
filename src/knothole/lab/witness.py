"""Who sends payload to two clients, and since when: seen at their interfaces, not asked of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from knothole.lab.netns.capture import Capture
from knothole.lab.netns.journey import Points
from knothole.lab.netns.packet import Packet
from knothole.lab.netns.topology import Lab
from knothole.wire import demux
from knothole.wire.stun import looks_like_stun

_FRAME_HEADER: Final = 2  # RFC 4571 Section 2: over TCP a datagram has its length before it
_LONG_HEADER: Final = 0x80  # RFC 9000 Section 17.2: packets of a handshake
_POLL_SECONDS: Final = 0.01


class Witness:
    """Watches what arrives at some clients until it is closed."""

    def __init__(self, lab: Lab, clients: Iterable[str], servers: Iterable[str]) -> None:
        """``servers`` are the addresses that relayed payload comes from."""
        self._clients = [*clients]
        self._servers = frozenset(servers)
        hosts = [lab.hosts[name] for name in self._clients]
        interfaces = [(host.name, host.namespace, host.interface) for host in hosts]
        self._capture = Capture(interfaces, Points(frozenset(), frozenset()))

    def close(self) -> None:
        self._capture.stop()

    def wait_direct(self, start: float, seconds: float) -> float | None:
        """Seconds from ``start`` until payload that came from no server had arrived at every
        client; None when that is not so within ``seconds`` from now."""
        deadline = time.monotonic() + seconds
        first: dict[str, float] = {}
        position = 0
        while True:
            new = self._capture.packets_from(position)
            position += len(new)
            for packet in self._arrived(new, start):
                if self._is_direct(packet) and is_payload(packet):
                    first.setdefault(packet.seen.place, packet.seconds)
            if len(first) == len(self._clients):
                return max(first.values()) - start
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)

    def sizes(self, start: float) -> tuple[int, int]:
        """Bytes that have arrived since ``start`` (monotonic seconds), direct and from servers."""
        direct = relayed = 0
        for packet in self._arrived(self._capture.packets(), start):
            if self._is_direct(packet):
                direct += len(packet.payload)
            else:
                relayed += len(packet.payload)
        return direct, relayed

    @staticmethod
    def _arrived(packets: list[Packet], start: float) -> list[Packet]:
        return [
            packet for packet in packets if packet.seconds >= start and not packet.seen.outgoing
        ]

    def _is_direct(self, packet: Packet) -> bool:
        return packet.source.host not in self._servers


def is_payload(packet: Packet) -> bool:
    """Whether a packet between peers carries more than a check, a handshake or nothing."""
    data = packet.payload
    if packet.protocol == "tcp":
        data = data[_FRAME_HEADER:]
    elif packet.protocol != "udp":
        return False
    if not data or looks_like_stun(data) or data[0] & _LONG_HEADER:
        return False
    return demux.classify(data[0], from_turn_server=False) is demux.QUIC
