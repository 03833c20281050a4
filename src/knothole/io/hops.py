"""The first routers on the way to somewhere: packets that do not live long, and who says so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from knothole.io.error_queue import keep_errors, next_error
from knothole.wire.address import Address
from knothole.wire.icmp import TIME_EXCEEDED

HOPS: Final = 4  # ours: a home's NAT, a carrier's, and a router more at each
ANSWER_SECONDS: Final = 0.6  # ours: who has not said anything by then is taken for silent
LOOK_SECONDS: Final = 0.05


async def first_routers(host: str, server: Address) -> list[str | None]:
    """The addresses of the first routers from ``host`` towards ``server``, over IPv4.

    None for those that are silent, and for all where the system does not tell ICMP errors. Sends
    one empty datagram for each, which the server gets if it is nearer than that.
    """
    sockets: list[socket.socket] = []
    found: list[str | None] = [None] * HOPS
    try:
        for hops in range(1, HOPS + 1):
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(probe)
            probe.setblocking(False)
            probe.bind((host, 0))
            keep_errors(probe)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
            with contextlib.suppress(OSError):
                probe.sendto(b"", (server.host, server.port))
        for _ in range(round(ANSWER_SECONDS / LOOK_SECONDS)):
            await asyncio.sleep(LOOK_SECONDS)
            for number, probe in enumerate(sockets):
                said = next_error(probe)
                if said is not None and said.type == TIME_EXCEEDED:
                    found[number] = said.origin
        return found
    except OSError:
        return []
    finally:
        for probe in sockets:
            probe.close()
