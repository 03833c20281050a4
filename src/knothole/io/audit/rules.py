"""nftables rules that close ways, for the router between a network and the outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from knothole.io.audit.finding import Group

TABLE: Final = "knothole_audit"

WITHOUT_PEERS: Final = (53, 123, 443, 500, 4500)
"""Ours: UDP ports at which servers are, and peers behind NATs are not: DNS, NTP, HTTP/3, IPsec."""

TCP_WITHOUT_PEERS: Final = (21, 22, 25, 53, 80, 110, 143, 443, 465, 587, 853, 993, 995)
"""Ours: the same for TCP: files, remote shells, mail, DNS, the web."""

_TURN_PORTS: Final = (3478, 5349)  # RFC 8656 Section 5, with and without TLS

_OUT: Final = "oifname $outside ct direction original"  # answers of servers inside may leave


def rules(
    close: Collection[Group], *, outside: str, servers: Sequence[str], allow: Sequence[int] = ()
) -> str:
    """A file for ``nft -f`` that closes these groups of ways and leaves all others as they are.

    ``outside`` is the router's interface that leads out, ``servers`` the addresses of relays,
    ``allow`` ports outside that stay open whatever is closed by port. Loaded again it replaces
    itself.
    """
    lines = [
        "# Made by `knothole audit`, for the router: which ways out and in it closes, and how.",
        "# To try it: nft -c -f FILE; to load it: nft -f FILE; to take it back:",
        f"# nft delete table inet {TABLE}",
        "",
        f'define outside = "{outside}"',
        "",
        f"table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        "    chain forward {",
        "        type filter hook forward priority filter - 5; policy accept;",
    ]
    for group in Group:
        if group in close:
            lines += [f"        {line}" for line in _closing(group, servers, allow)]
    return "\n".join([*lines, "    }", "}", ""])


def _closing(group: Group, servers: Sequence[str], allow: Sequence[int]) -> Iterator[str]:
    match group:
        case Group.UDP:
            yield f"# {group.value}: nothing leaves by UDP" + (" but to these ports" * bool(allow))
            which = f"udp dport != {_set(allow)}" if allow else "meta l4proto udp"
            yield f"{_OUT} {which} counter drop"
        case Group.UNASKED:
            yield f"# {group.value}: what nobody inside has begun stays outside"
            yield "iifname $outside ct state new counter drop"
        case Group.PUNCHING:
            yield f"# {group.value}: UDP leaves only for ports that servers have, not peers"
            ports = _set(sorted({*WITHOUT_PEERS, *allow}))
            yield f"{_OUT} udp dport != {ports} counter drop"
        case Group.RELAY:
            yield f"# {group.value}: the ports of TURN; and these servers, for 443 is the web's"
            yield f"{_OUT} tcp dport {_set(_TURN_PORTS)} counter drop"
            yield f"{_OUT} udp dport {_set(_TURN_PORTS)} counter drop"
            for family, is_ipv6 in (("ip", False), ("ip6", True)):
                addresses = [each for each in servers if (":" in each) is is_ipv6]
                if addresses:
                    yield f"{_OUT} {family} daddr {_set(addresses)} counter drop"
        case Group.TCP_PUNCHING:
            yield f"# {group.value}: no SYN answers a SYN, what fits no connection stays outside;"
            yield "# and TCP leaves only for ports that servers have: a simultaneous open of which"
            yield "# only one SYN has passed looks like any connection that was opened from inside"
            yield "iifname $outside ct direction reply tcp flags & (syn | ack) == syn counter drop"
            yield "iifname $outside meta l4proto tcp ct state invalid counter drop"
            ports = _set(sorted({*TCP_WITHOUT_PEERS, *allow}))
            yield f"{_OUT} tcp dport != {ports} counter drop"
        case Group.PROXY:
            yield f"# {group.value}: is to be closed at the proxy, by the hosts that it connects to"


def _set(elements: Sequence[object]) -> str:
    return f"{{ {', '.join(map(str, elements))} }}"
