"""What is known of a port mapping: the mapping itself, and how asking for it goes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Address
from knothole.wire.prohibited import peer_prohibited

LIFETIME_SECONDS: Final = 7200
"""RFC 6886 Section 3.3: "The RECOMMENDED Port Mapping Lifetime is 7200 seconds"."""

LONGEST_LIFETIME_SECONDS: Final = 86400
"""RFC 6887 Section 15: after "an absurdly long assigned lifetime" the client behaves as with "a
more sane value (e.g., 24 hours)"."""


class MappingProtocol(enum.Enum):
    """How a gateway is asked."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """The gateway lets everybody in to ``base`` at its ``external`` address.

    Where it does not translate (an IPv6 firewall) both are the same: a pinhole.
    """

    protocol: MappingProtocol
    base: Address
    gateway: str
    external: Address
    lifetime_seconds: int

    @property
    def is_public(self) -> bool:
        """Whether the world can reach ``external``. If not there is another NAT behind the gateway
        (or it lies): that is worth knowing, and is no candidate."""
        return self.external.port != 0 and peer_prohibited(self.external.host) is None


class Progress(enum.Enum):
    """How asking goes."""

    ASKING = "asking"
    GRANTED = "granted"
    REFUSED = "refused"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class MappingAttempt:
    """How asking one gateway for ``base`` by one protocol goes; ``detail`` says why it refused."""

    protocol: MappingProtocol
    base: Address
    gateway: str
    progress: Progress
    detail: str = ""
