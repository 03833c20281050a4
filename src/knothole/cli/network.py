"""Options about the network that every command has which opens lines or takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, TypedDict

from cyclopts import Parameter


class PeerOptions(TypedDict):
    """What of it is for the arguments of Peer."""

    relay_only: bool
    port_mapping: bool


@dataclass(frozen=True, slots=True)
class Network:
    """How this machine's network is used."""

    relay_only: Annotated[
        bool,
        Parameter(
            help="Go by a relay only, so that the other side learns no address of yours; only "
            "contacts with the policy direct do."
        ),
    ] = False
    no_port_mapping: Annotated[
        bool,
        Parameter(
            help="Ask no router to let others in (PCP, NAT-PMP, UPnP); also "
            "KNOTHOLE_PORT_MAPPING=off in the environment."
        ),
    ] = False

    def for_peer(self) -> PeerOptions:
        """The arguments of Peer."""
        return {"relay_only": self.relay_only, "port_mapping": not self.no_port_mapping}


ANY_NETWORK: Final = Network()
NetworkOptions: TypeAlias = Annotated[Network, Parameter(name="*")]
