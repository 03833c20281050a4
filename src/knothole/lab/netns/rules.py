"""A router's whole nftables ruleset, from what it is to be.

The router's inner side is every interface but ``wan``: ``lan`` at a home, one for each home at a
carrier.
"""

from __future__ import annotations

from typing import Final

from knothole.lab.netns.box import Box, Egress
from knothole.lab.netns.nat import Unsolicited, WanSide
from knothole.lab.netns.port_mapper import mapping_lines

MAPPING_SECONDS: Final = 30  # as conntrack keeps an unanswered UDP entry
_PIECE: Final = 2000  # map elements that fit into a netlink message of a user without rights
_LARGEST_TABLE: Final = 65535


def router_rules(box: Box, wan: WanSide) -> list[str]:
    """The whole ruleset of a router, old rules replaced.

    In pieces for :meth:`Namespace.nft`: the first makes it whole but for the elements of a long
    map, which the others add.
    """
    lines = [
        "table inet filter",
        "delete table inet filter",
        "table ip translation",
        "delete table ip translation",
        "add table inet filter",
        "add counter inet filter discarded",
    ]
    lines += _filter_lines(box)
    ports = box.kind.port_map(wan)
    if box.kind.translates:
        lines += _translation_lines(box, wan, has_map=bool(ports))
    elements = [f"{old} : {new}" for old, new in ports.items()]
    return ["\n".join(lines) + "\n"] + [
        f"add element ip translation ports {{ {', '.join(piece)} }}\n"
        for piece in (elements[n : n + _PIECE] for n in range(0, len(elements), _PIECE))
    ]


def _filter_lines(box: Box) -> list[str]:
    lines = [
        f"add chain inet filter {hook} {{ type filter hook {hook} priority filter ; "
        "policy accept ; }"
        for hook in ("input", "forward")
    ]
    lines += [f"add rule inet filter forward iifname lan {rule}" for rule in _egress(box.egress)]
    lines += mapping_lines(box.mapping)
    if not box.kind.filters or box.unsolicited is Unsolicited.ACCEPT:
        return lines
    drop = box.unsolicited is Unsolicited.DROP
    verdict = "drop" if drop else "reject with icmpx type port-unreachable"
    for hook in ("input", "forward"):
        lines += [
            f"add rule inet filter {hook} {rule}"
            for rule in (
                "ct state established,related accept",
                "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
                "ct status dnat accept",  # it was sent to a mapped address: see _open_lines
                f"iifname wan counter name discarded {verdict}",
            )
        ]
    return lines


def _egress(egress: Egress) -> list[str]:
    match egress:
        case Egress.ALL:
            return []
        case Egress.NO_UDP:
            return ["meta l4proto udp drop"]
        case Egress.TCP_443:
            return ["tcp dport 443 accept", "drop"]
        case Egress.PROXY:  # the router's own program goes out for its clients
            return ["drop"]


def _translation_lines(box: Box, wan: WanSide, *, has_map: bool) -> list[str]:
    lines = [
        "add table ip translation",
        "add chain ip translation translate",
        "add chain ip translation leaving "
        "{ type nat hook postrouting priority srcnat ; policy accept ; }",
        "add rule ip translation leaving oifname wan jump translate",
    ]
    if has_map:
        lines.append("add map ip translation ports { type inet_service : inet_service ; }")
    statements = box.kind.statements(wan)
    if box.hairpins:
        # Packets that turn round leave by an inner interface, whose address is not the mapped one.
        statements = [_with_address(statement, wan.address) for statement in statements]
        lines.append("add rule ip translation leaving oifname != wan ct status dnat jump translate")
    lines += [f"add rule ip translation translate {statement}" for statement in statements]
    if box.kind.opens or box.hairpins:
        lines += _open_lines(box, wan)
    return lines


def _with_address(statement: str, address: str) -> str:
    return statement.replace("masquerade to ", f"snat to {address}").replace(
        "masquerade", f"snat to {address}"
    )


def _open_lines(box: Box, wan: WanSide) -> list[str]:
    """A table of the mapped ports, refreshed by every packet that leaves from one; and packets to
    them are brought to the socket inside, whoever sends (from outside, from inside, or both)."""
    lines = [
        "add chain ip translation arriving "
        "{ type nat hook prerouting priority dstnat ; policy accept ; }",
        "add chain ip translation left "
        "{ type filter hook postrouting priority srcnat + 10 ; policy accept ; }",
    ]
    for transport in ("udp", "tcp"):
        table = f"{transport}_mapped"
        lines.append(
            f"add map ip translation {table} {{ type inet_service : ipv4_addr . inet_service ; "
            f"flags dynamic,timeout ; timeout {MAPPING_SECONDS}s ; size {_LARGEST_TABLE} ; }}"
        )
        arriving = []
        if box.kind.opens:
            arriving.append("iifname wan")
        if box.hairpins:
            arriving.append(f"iifname != wan ip daddr {wan.address}")
        lines += [
            f"add rule ip translation arriving {sender} dnat ip to {transport} dport map @{table}"
            for sender in arriving
        ]
        # The socket inside is the source of the first packet, or where a stranger's was sent to.
        lines += [
            f"add rule ip translation left oifname wan ct direction {direction} update @{table} "
            f"{{ {transport} sport : ct {direction} ip saddr . ct {direction} proto-src }}"
            for direction in ("original", "reply")
        ]
    return lines
