"""Who sent how much to whom, counted by the kernel in the middle of the internet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from knothole.lab.netns.namespace import Namespace

INTERNET_RULES = """\
add table inet internet
add set inet internet four { typeof ip saddr . ip daddr . meta l4proto ; flags dynamic ; \
size 65535 ; counter ; }
add set inet internet six { typeof ip6 saddr . ip6 daddr . meta l4proto ; flags dynamic ; \
size 65535 ; counter ; }
add chain inet internet forward { type filter hook forward priority filter ; policy accept ; }
add set inet internet unplugged { type ifname ; }
add rule inet internet forward iifname @unplugged drop
add rule inet internet forward oifname @unplugged drop
add rule inet internet forward update @four { ip saddr . ip daddr . meta l4proto }
add rule inet internet forward update @six { ip6 saddr . ip6 daddr . meta l4proto }
"""


# nft names protocols by /etc/protocols, which a minimal Debian does not have.
_PROTOCOLS = {
    number: name
    for n, name in ((1, "icmp"), (6, "tcp"), (17, "udp"), (58, "ipv6-icmp"))
    for number in (n, str(n), name)
}


class Flow(NamedTuple):
    """Packets of one transport protocol (``udp``, ``tcp``, ``icmp``) from one host to another."""

    source: str
    destination: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and their bytes, IP headers included.

    A burst that the kernel segments late passes as one packet; its bytes count in full but for
    the headers of all segments but one.
    """

    packets: int = 0
    size: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.size + other.size)

    def __sub__(self, other: Count) -> Count:
        return Count(self.packets - other.packets, self.size - other.size)


def read_flows(internet: Namespace) -> dict[Flow, Count]:
    """Every flow that has crossed the internet since the lab was built."""
    flows: dict[Flow, Count] = {}
    for entry in json.loads(internet.nft_json("list sets inet"))["nftables"]:
        if entry.get("set", {}).get("name") not in ("four", "six"):
            continue
        for element in entry["set"].get("elem", ()):
            source, destination, protocol = element["elem"]["val"]["concat"]
            counter = element["elem"]["counter"]
            flow = Flow(source, destination, _PROTOCOLS.get(protocol, str(protocol)))
            flows[flow] = Count(counter["packets"], counter["bytes"])
    return flows


def discarded_packets(router: Namespace) -> Count:
    """What the router's filter has discarded (or rejected) of the packets from outside."""
    # The whole table, because for one counter nft 1.0.6 fetches every map of every table first.
    for entry in json.loads(router.nft_json("list table inet filter"))["nftables"]:
        if (counter := entry.get("counter")) and counter["name"] == "discarded":
            return Count(counter["packets"], counter["bytes"])
    return Count()
