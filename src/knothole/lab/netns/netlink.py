"""The few rtnetlink and conntrack requests a lab needs, each answered before it returns.

Written out because the usual library takes 0.4 s to import and refuses to work inside a running
event loop; a whole lab is some hundred of these requests, together about ten milliseconds.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address, ip_interface, ip_network
from types import TracebackType
from typing import Final

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_REPLACE: Final = 0x100
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLMSG_ERROR: Final = 2

_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_NEWNEIGH: Final = 28

_IFF_UP: Final = 0x1
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_TXQLEN: Final = 13
_IFLA_OPERSTATE: Final = 16
_IFLA_LINKINFO: Final = 18
_IFLA_NET_NS_FD: Final = 28
_OPERSTATE_UP: Final = 6
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_NODAD: Final = 0x02

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTN_UNICAST: Final = 1
_RTNH_F_ONLINK: Final = 4

_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NUD_PERMANENT: Final = 0x80

_CT_DELETE: Final = 0x0102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE


class Netlink:
    """A netlink socket of the namespace the calling thread is in when it is made.

    Every request raises OSError with the kernel's errno when the kernel refuses.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def add_veth(
        self, name: str, mac: str, *, peer: str, peer_mac: str, peer_namespace: int, mtu: int = 1500
    ) -> None:
        """A virtual cable: ``name`` here, ``peer`` in the namespace open as ``peer_namespace``.

        This end is up at once; the kernel wants the far one set up afterwards, from there.
        """
        far = _link_message(0, up=None) + b"".join(
            (
                _attribute(_IFLA_IFNAME, _text(peer)),
                _attribute(_IFLA_ADDRESS, _mac(peer_mac)),
                _attribute(_IFLA_MTU, struct.pack("=I", mtu)),
                _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace)),
            )
        )
        self._new_link(name, "veth", mac, _attribute(_VETH_INFO_PEER, far), mtu)

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge with a fixed MAC: left to itself it changes it with its ports."""
        self._new_link(name, "bridge", mac, b"", 1500)

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        master: int | None = None,
        transmit_queue: int | None = None,
        mtu: int | None = None,
    ) -> None:
        """Change what is given of the interface ``index`` and leave the rest."""
        attributes = b""
        if master is not None:
            attributes += _attribute(_IFLA_MASTER, struct.pack("=I", master))
        if transmit_queue is not None:
            attributes += _attribute(_IFLA_TXQLEN, struct.pack("=I", transmit_queue))
        if mtu is not None:
            attributes += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
        self._request(_RTM_NEWLINK, 0, _link_message(index, up=up) + attributes)

    def delete_link(self, index: int) -> None:
        self._request(_RTM_DELLINK, 0, _link_message(index, up=None))

    def is_running(self, index: int) -> bool:
        """Whether a cable or bridge is up at both of its ends (TUN interfaces never say so)."""
        answer = self._request(_RTM_GETLINK, 0, _link_message(index, up=None))
        position = 32  # past the netlink header and the link message
        while position + 4 <= len(answer):
            length, kind = struct.unpack_from("=HH", answer, position)
            if kind == _IFLA_OPERSTATE:
                return answer[position + 4] == _OPERSTATE_UP
            position += (length + 3) & ~3
        return False

    def add_address(self, index: int, address: str) -> None:
        """Give interface ``index`` an ``address`` such as ``192.168.1.1/24``."""
        self._request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, _address_message(index, address))

    def delete_address(self, index: int, address: str) -> None:
        self._request(_RTM_DELADDR, 0, _address_message(index, address))

    def add_route(self, destination: str, index: int, gateway: str | None = None) -> None:
        """Send ``destination`` (a host, a prefix, ``default``) out of ``index`` by ``gateway``.

        The gateway is taken to be on the link, whatever the prefix says.
        """
        family = socket.AF_INET6 if ":" in (gateway or destination) else socket.AF_INET
        self._route(
            _RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, family, destination, index, gateway
        )

    def delete_route(self, destination: str, index: int) -> None:
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        self._route(_RTM_DELROUTE, 0, family, destination, index, None)

    def add_neighbour(self, address: str, mac: str, index: int) -> None:
        """A permanent neighbour entry, so that nobody ever waits for ARP."""
        packed = ip_address(address).packed
        family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
        body = struct.pack("=BxxxiHBB", family, index, _NUD_PERMANENT, 0, 0)
        body += _attribute(_NDA_DST, packed) + _attribute(_NDA_LLADDR, _mac(mac))
        self._request(_RTM_NEWNEIGH, _NLM_F_CREATE | _NLM_F_REPLACE, body)

    def flush_conntrack(self) -> None:
        """Forget every connection (needs a socket made with ``NETLINK_NETFILTER``)."""
        self._request(_CT_DELETE, 0, struct.pack(">BBH", socket.AF_UNSPEC, 0, 0))

    def _new_link(self, name: str, kind: str, mac: str, data: bytes, mtu: int) -> None:
        information = _attribute(_IFLA_INFO_KIND, _text(kind))
        if data:
            information += _attribute(_IFLA_INFO_DATA, data)
        body = _link_message(0, up=True) + b"".join(
            (
                _attribute(_IFLA_IFNAME, _text(name)),
                _attribute(_IFLA_ADDRESS, _mac(mac)),
                _attribute(_IFLA_MTU, struct.pack("=I", mtu)),
                _attribute(_IFLA_LINKINFO, information),
            )
        )
        self._request(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body)

    def _route(
        self, kind: int, flags: int, family: int, destination: str, index: int, gateway: str | None
    ) -> None:
        prefix, length = b"", 0
        if destination != "default":
            network = ip_network(destination)
            prefix, length = network.network_address.packed, network.prefixlen
        body = struct.pack(
            "=BBBBBBBBI",
            family,
            length,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_STATIC,
            _RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else _RT_SCOPE_LINK,
            _RTN_UNICAST,
            _RTNH_F_ONLINK if gateway else 0,
        )
        if prefix:
            body += _attribute(_RTA_DST, prefix)
        if gateway:
            body += _attribute(_RTA_GATEWAY, ip_address(gateway).packed)
        body += _attribute(_RTA_OIF, struct.pack("=I", index))
        self._request(kind, flags, body)

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        header = struct.pack(
            "=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, self._sequence, 0
        )
        self._socket.send(header + body)
        answer = b""
        while True:
            message = self._socket.recv(65536)
            _, message_kind, _, sequence, _ = struct.unpack_from("=IHHII", message)
            if sequence != self._sequence:
                continue
            if message_kind != _NLMSG_ERROR:
                answer = message
                continue
            (code,) = struct.unpack_from("=i", message, 16)  # the last message; 0 is success
            if code:
                raise OSError(-code, os.strerror(-code))
            return answer


def _link_message(index: int, *, up: bool | None) -> bytes:
    change = 0 if up is None else _IFF_UP
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, change)


def _address_message(index: int, address: str) -> bytes:
    interface = ip_interface(address)
    packed = interface.ip.packed
    family, flags = (socket.AF_INET6, _IFA_F_NODAD) if len(packed) == 16 else (socket.AF_INET, 0)
    body = struct.pack("=BBBBi", family, interface.network.prefixlen, flags, 0, index)
    return body + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(value: str) -> bytes:
    return value.encode("ascii") + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))
