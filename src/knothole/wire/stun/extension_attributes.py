"""Attributes of extensions to TURN and STUN: mobility (RFC 8016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from knothole.wire.stun.attribute import BytesAttribute


@dataclass(frozen=True, slots=True)
class MobilityTicket(BytesAttribute):
    """MOBILITY-TICKET (RFC 8016): empty to ask for one, else the server's to read."""

    TYPE: ClassVar[int] = 0x8030
