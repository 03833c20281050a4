"""What two clients are tried under, and how they are placed in a lab for it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from knothole.lab.netns.box import Box, box_named
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.nat import Unsolicited
from knothole.lab.netns.topology import Lab


class Together(enum.Enum):
    """What the two clients have in common."""

    NOTHING = "nothing"
    NAT = "one NAT, and the LAN behind it"
    CARRIER = "the NAT of their carrier"
    ADDRESSES = "the addresses in their LANs, which are two"


class Ipv6(enum.Enum):
    """Who has IPv6 besides IPv4, not translated but behind the same filters."""

    NONE = "none"
    BOTH = "both"
    ONE = "one"


@dataclass(frozen=True, slots=True)
class Setting:
    """Lines, routers and their neighbours. Times in seconds, ``loss`` from 0 to 1, per client and
    way.

    ``unsolicited`` and ``busy`` are for every NAT whose word does not say it; ``carrier`` is the
    kind of the NAT that both are behind with ``Together.CARRIER``. ``settle_seconds`` is how long
    a run waits for a direct path before it judges.
    """

    line: LineSettings = field(default_factory=LineSettings)
    unsolicited: Unsolicited | None = None
    busy: float = 0.0
    together: Together = Together.NOTHING
    carrier: str = "eim-apdf"
    ipv6: Ipv6 = Ipv6.NONE
    timeout_seconds: float = 15.0
    settle_seconds: float = 8.0

    def box(self, word: str) -> Box:
        """What a client stands behind that is said to be behind ``word``. Raises ValueError."""
        box = box_named(word)
        if self.unsolicited is not None and box.unsolicited is Unsolicited.DROP:
            box = replace(box, unsolicited=self.unsolicited)
        if self.busy and not box.busy and box.kind.translates:
            box = replace(box, busy=self.busy)
        return box


def place_pair(lab: Lab, nats: Mapping[str, str], setting: Setting) -> None:
    """Two clients by name, each behind what is said, with ``setting.line`` in front of each.

    Behind one NAT it is the first one's. Raises ValueError where the setting makes no sense.
    """
    (first, first_nat), (second, second_nat) = nats.items()
    if setting.together is Together.NAT:
        lab.add_client(first, nat=setting.box(first_nat), line=setting.line)
        lab.add_client_behind(second, lab.router(first).name)
        return
    carrier = None
    if setting.together is Together.CARRIER:
        carrier = lab.add_carrier("isp", nat=setting.box(setting.carrier)).name
    for name, nat in ((first, first_nat), (second, second_nat)):
        lab.add_client(
            name,
            nat=setting.box(nat),
            line=setting.line,
            carrier=carrier,
            lan="192.168.1" if setting.together is Together.ADDRESSES else None,
            ipv6=setting.ipv6 is Ipv6.BOTH or (setting.ipv6 is Ipv6.ONE and name == first),
        )
