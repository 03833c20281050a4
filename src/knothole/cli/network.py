"""Options about the network that every command has which opens lines or takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, TypedDict

from cyclopts import Parameter

from knothole.cli.output import WrongUsage
from knothole.engine.predict.budget import Budget
from knothole.peer.budget import parse_budget


class PeerOptions(TypedDict):
    """What of it is for the arguments of Peer."""

    relay_only: bool
    port_mapping: bool
    budget: Budget | None


@dataclass(frozen=True, slots=True)
class Network:
    """How this machine's network is used."""

    relay_only: Annotated[
        bool,
        Parameter(
            help="Go by a relay only, so that the other side learns no address of yours; only "
            "contacts who call you and have the policy direct do."
        ),
    ] = False
    no_port_mapping: Annotated[
        bool,
        Parameter(
            help="Ask no router to let others in (PCP, NAT-PMP, UPnP); also "
            "KNOTHOLE_PORT_MAPPING=off in the environment."
        ),
    ] = False

    budget: Annotated[
        str,
        Parameter(
            help="What looking for a direct path may use, for example probes=500,sockets=64, or "
            "off; also KNOTHOLE_BUDGET in the environment."
        ),
    ] = ""

    def for_peer(self) -> PeerOptions:
        """The arguments of Peer. Raises WrongUsage."""
        try:
            budget = parse_budget(self.budget) if self.budget else None
        except ValueError as error:
            raise WrongUsage(f"--budget: {error}.") from error
        return {
            "relay_only": self.relay_only,
            "port_mapping": not self.no_port_mapping,
            "budget": budget,
        }


ANY_NETWORK: Final = Network()
NetworkOptions: TypeAlias = Annotated[Network, Parameter(name="*")]
