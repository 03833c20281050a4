"""Attributes of extensions: mobility (RFC 8016) and third-party authorization (RFC 7635)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from knothole.wire.stun.attribute import BytesAttribute, TextAttribute


@dataclass(frozen=True, slots=True)
class MobilityTicket(BytesAttribute):
    """MOBILITY-TICKET (RFC 8016): empty to ask for one, else the server's to read."""

    TYPE: ClassVar[int] = 0x8030


@dataclass(frozen=True, slots=True)
class AccessToken(BytesAttribute):
    """ACCESS-TOKEN (RFC 7635 Section 6.2); what is in it, ``knothole.wire.oauth`` reads."""

    TYPE: ClassVar[int] = 0x001B


@dataclass(frozen=True, slots=True)
class ThirdPartyAuthorization(TextAttribute):
    """THIRD-PARTY-AUTHORIZATION: the name that tokens for this server are made for (RFC 7635
    Section 6.1)."""

    TYPE: ClassVar[int] = 0x802E
