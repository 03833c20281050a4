"""The DF bit of single datagrams (RFC 8656 Section 14): off for all but those that want it."""

from __future__ import annotations

import socket
import sys
from typing import Final

CAN_SEND_UNFRAGMENTED: Final = sys.platform == "linux"

# <linux/in.h>; the socket module does not name them.
_IP_MTU_DISCOVER: Final = 10
_NEVER_DF: Final = 0  # IP_PMTUDISC_DONT
_ALWAYS_DF: Final = 2  # IP_PMTUDISC_DO
# IP_PMTUDISC_OMIT, since Linux 3.15: as the first, but routers that say "fragmentation needed" are
# heard. Under the first they are not, and their word comes long after the datagram was sent.
_NEVER_DF_BUT_TOLD: Final = 5


def clear_df(sock: socket.socket) -> None:
    """Have no datagram of ``sock`` carry the DF bit, where the system sets it otherwise."""
    if CAN_SEND_UNFRAGMENTED and sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _NEVER_DF)


def send_unfragmented(sock: socket.socket, payload: bytes, destination: tuple[str, int]) -> None:
    """Send one with the bit set, where there is one. Raises OSError like sendto.

    From now on ``sock`` is told, like of other ICMP errors, of routers for which it was too large.
    """
    if not CAN_SEND_UNFRAGMENTED or sock.family != socket.AF_INET:
        sock.sendto(payload, destination)
        return
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _ALWAYS_DF)
    try:
        sock.sendto(payload, destination)
    finally:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _NEVER_DF_BUT_TOLD)
