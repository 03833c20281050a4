"""What happened to every packet, as values and as text: equal for equal seeds."""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from knothole.lab.sim.packet import Drop, Packet

MAGIC_COOKIE: Final = 0x2112A442  # RFC 8489 Section 5
_CLASSES: Final = ("request", "indication", "success", "error")
_METHODS: Final = {
    0x001: "binding",
    0x003: "allocate",
    0x004: "refresh",
    0x006: "send",
    0x007: "data",
    0x008: "create-permission",
    0x009: "channel-bind",
}


class Action(enum.Enum):
    """What a node did with a packet."""

    SEND = "send"
    OUT = "out"
    IN = "in"
    HAIRPIN = "hairpin"
    DELIVER = "deliver"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """At ``at`` seconds the node did this with the packet; ``translated`` is what a router made of
    it, ``drop`` why it went no further."""

    at: float
    node: str
    action: Action
    packet: Packet
    translated: Packet | None = None
    drop: Drop | None = None

    def __str__(self) -> str:
        packet, after = self.packet, self.translated
        text = f"{self.at:12.6f} {self.node:<12} {self.action.value:<8} "
        text += f"{packet.source} > {packet.destination}"
        if after is not None and after.source != packet.source:
            text += f" as {after.source}"
        if after is not None and after.destination != packet.destination:
            text += f" to {after.destination}"
        text += f" {describe(packet)}"
        return text if self.drop is None else f"{text}: {self.drop.value}"


class Trace:
    """The list of everything that happened; switch it off for worlds that carry much payload."""

    def __init__(self) -> None:
        self.enabled = True
        self.entries: list[TraceEntry] = []
        self.listeners: list[Callable[[TraceEntry], None]] = []

    def add(self, entry: TraceEntry) -> None:
        """Keep an entry and show it to the listeners."""
        for listener in self.listeners:
            listener(entry)
        if self.enabled:
            self.entries.append(entry)

    def drops(self, reason: Drop | None = None) -> list[TraceEntry]:
        """The packets that went no further, for one reason or for any."""
        dropped = (entry for entry in self.entries if entry.drop is not None)
        return [entry for entry in dropped if reason is None or entry.drop is reason]

    def text(self, *nodes: str) -> str:
        """One line per entry, of all nodes or of those named."""
        chosen = (entry for entry in self.entries if not nodes or entry.node in nodes)
        return "\n".join(map(str, chosen))

    def digest(self) -> str:
        """A short name of the whole trace, for comparing two runs."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[TraceEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def describe(packet: Packet) -> str:
    """The kind and size of a packet and a checksum of what it carries, in a few words."""
    text = packet.transport.value
    if packet.segment is not None:
        text += f" {packet.segment.kind.value} {packet.segment.number}"
    if not packet.payload:
        return text
    text += f" {len(packet.payload)} bytes {zlib.crc32(packet.payload):08x}"
    stun = _describe_stun(packet.payload)
    return f"{text} {stun}" if stun else text


def _describe_stun(payload: bytes) -> str:
    if len(payload) < 20:
        return ""
    kind, length, cookie = struct.unpack_from("!HHI", payload)
    if kind > 0x3FFF or cookie != MAGIC_COOKIE or length + 20 != len(payload):
        return ""
    # RFC 8489 Section 5: the two class bits stand between the bits of the method.
    message_class = _CLASSES[(kind >> 7 & 2) | (kind >> 4 & 1)]
    method = (kind >> 2 & 0xF80) | (kind >> 1 & 0x070) | (kind & 0x00F)
    name = _METHODS.get(method, f"method {method:#x}")
    return f"{name} {message_class} {payload[8:12].hex()}"
