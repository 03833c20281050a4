"""What a client stands behind, in a word: ``linux``, ``sequential@5``, ``range+no-udp+reject``."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from knothole.lab.netns.nat import NatKind, Unsolicited, kind_named
from knothole.lab.netns.port_mapper import Mapping


class Egress(enum.Enum):
    """What a router lets out."""

    ALL = "all"
    NO_UDP = "no-udp"
    TCP_443 = "tcp443"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Box:
    """A kind of NAT and how it is set up.

    ``busy`` is how many new ports a second other hosts behind it take, on average. ``hairpins``
    lets hosts behind it reach each other by its mapped addresses. ``mapping`` is what its router
    can be asked by for port mappings.
    """

    kind: NatKind
    unsolicited: Unsolicited = Unsolicited.DROP
    egress: Egress = Egress.ALL
    hairpins: bool = False
    busy: float = 0.0
    mapping: Mapping = Mapping.NONE


GRAMMAR = (
    "KIND[@RATE][+WORD]...; @5 has neighbours that take 5 ports a second; WORD is no-udp, tcp443 "
    "or proxy (all that gets out), hairpin, reject or accept (what becomes of unsolicited "
    "packets), upnp, natpmp, pcp or portmap for all three (how its router can be asked for port "
    "mappings)"
)


_MAPPINGS: Final = {
    "upnp": Mapping.UPNP,
    "natpmp": Mapping.NAT_PMP,
    "pcp": Mapping.PCP,
    "portmap": Mapping.UPNP | Mapping.NAT_PMP | Mapping.PCP,
}


def box_named(text: str) -> Box:
    """What ``text`` describes (:data:`GRAMMAR`). Raises ValueError with a line for the user."""
    first, *words = text.split("+")
    name, at, rate = first.partition("@")
    box = Box(kind_named(name))
    if at:
        try:
            box = replace(box, busy=float(rate))
        except ValueError:
            box = replace(box, busy=-1.0)
        if not 0 < box.busy <= 1000:
            raise ValueError(f"{text!r}: after @ stands a number of ports a second, up to 1000")
    for word in words:
        box = _with_word(box, word, text)
    if box.busy and not box.kind.translates:
        raise ValueError(f"{text!r}: {name} has one address for one client, so no neighbours")
    if box.egress is Egress.PROXY and not box.kind.translates:
        raise ValueError(f"{text!r}: the proxy needs a router with an address of its own")
    if box.hairpins and not box.kind.translates:
        raise ValueError(f"{text!r}: {name} has no mapped addresses to turn round at")
    return box


def _with_word(box: Box, word: str, text: str) -> Box:
    if word in _MAPPINGS:
        return replace(box, mapping=box.mapping | _MAPPINGS[word])
    if word == "hairpin":
        return replace(box, hairpins=True)
    if word in ("reject", "accept"):
        return replace(box, unsolicited=Unsolicited(word))
    if word in ("no-udp", "tcp443", "proxy"):
        return replace(box, egress=Egress(word))
    raise ValueError(f"{text!r}: {word!r} is no word here: {GRAMMAR}")
