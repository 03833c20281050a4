"""An ICE agent without IO (RFC 8445, 8838, 8863, 7675); docs/protocol/ice.md."""

from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.credentials import IceCredentials, generate_credentials
from knothole.engine.ice.events import (
    BestPairChanged,
    ConsentLost,
    IceFailed,
    IceOutput,
    LocalCandidateDiscovered,
    Nominated,
    PairValid,
    RemoteCandidateDiscovered,
    RoleChanged,
)
from knothole.engine.ice.options import BETWEEN_KNOTHOLES, STANDARD, IceOptions
from knothole.engine.ice.pair import Pair

__all__ = [
    "BETWEEN_KNOTHOLES",
    "STANDARD",
    "BestPairChanged",
    "ConsentLost",
    "IceAgent",
    "IceCredentials",
    "IceFailed",
    "IceOptions",
    "IceOutput",
    "LocalCandidateDiscovered",
    "Nominated",
    "Pair",
    "PairValid",
    "RemoteCandidateDiscovered",
    "RoleChanged",
    "generate_credentials",
]
