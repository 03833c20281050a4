"""Kernel parameters of the lab's namespaces (see :meth:`Namespace.sysctl`)."""

from __future__ import annotations

from typing import Final

PLAIN: Final[dict[str, int | str]] = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.ping_group_range": "0 0",
}
ROUTING: Final[dict[str, int | str]] = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.bridge.bridge-nf-call-iptables": 0,
    "net.bridge.bridge-nf-call-ip6tables": 0,
}
IPV6: Final[dict[str, int | str]] = {
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
}
NO_IPV6: Final[dict[str, int | str]] = {
    "net.ipv6.conf.all.disable_ipv6": 1,
    "net.ipv6.conf.default.disable_ipv6": 1,
}


def port_range(first: int, last: int) -> dict[str, int | str]:
    """The ports that a system hands out to programs which ask for no particular one."""
    return {"net.ipv4.ip_local_port_range": f"{first} {last}"}
