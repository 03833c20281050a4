"""What two ends of a call tell each other to carry out a plan together (docs/protocol/plans.md).

Sealed like candidates: the server reads none of it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from knothole.wire.nat import NatReport, Port

Round = Annotated[int, Meta(ge=1, le=255)]
Count = Annotated[int, Meta(ge=0, le=65535)]


class PlanTerms(Struct, frozen=True, omit_defaults=True, tag="terms"):
    """What one end brings to a plan: its NAT, and how many probes and sockets it will use. As a
    move it replaces what was said before."""

    nat: NatReport
    probes: Count = 0
    sockets: Count = 0


class Between(Struct, frozen=True, tag="between"):
    """A check of mine to your port ``towards`` left from a port after ``before`` and before
    ``after``: whatever is sent there comes through."""

    round: Round
    before: Port
    after: Port
    towards: Port


class Sampled(Struct, frozen=True, tag="sampled"):
    """My newest mapping has ``port``; ``count`` probes of mine will leave from what follows."""

    round: Round
    port: Port
    count: Count


class Opened(Struct, frozen=True, tag="opened"):
    """``count`` probes of mine go to your port ``towards``, each from another port."""

    round: Round
    count: Count
    towards: Port


Move: TypeAlias = PlanTerms | Between | Sampled | Opened
