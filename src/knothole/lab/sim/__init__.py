"""A network in virtual time: hosts, lines, NATs and firewalls, and the strict driver of engines.

docs/lab-simulator.md tells how to build a world and how to read its trace.
"""

from knothole.lab.sim.behaviour import (
    BEHAVIOURS,
    Collision,
    Dependence,
    FilterScope,
    Hairpinning,
    NatBehaviour,
    Pooling,
    Sharing,
)
from knothole.lab.sim.firewall import Firewall
from knothole.lab.sim.host import Host, Program
from knothole.lab.sim.link import Link
from knothole.lab.sim.nat import Nat, Neighbours
from knothole.lab.sim.network import Egress, Realm, Router
from knothole.lab.sim.packet import Drop, Packet
from knothole.lab.sim.ports import (
    Modular,
    Offset,
    PortAssignment,
    Preservation,
    RandomPorts,
    Sequential,
)
from knothole.lab.sim.stream import StreamClosed
from knothole.lab.sim.trace import Trace, TraceEntry
from knothole.lab.sim.world import BrokenPromise, World

__all__ = [
    "BEHAVIOURS",
    "BrokenPromise",
    "Collision",
    "Dependence",
    "Drop",
    "Egress",
    "FilterScope",
    "Firewall",
    "Hairpinning",
    "Host",
    "Link",
    "Modular",
    "Nat",
    "NatBehaviour",
    "Neighbours",
    "Offset",
    "Packet",
    "Pooling",
    "PortAssignment",
    "Preservation",
    "Program",
    "RandomPorts",
    "Realm",
    "Router",
    "Sequential",
    "Sharing",
    "StreamClosed",
    "Trace",
    "TraceEntry",
    "World",
]
