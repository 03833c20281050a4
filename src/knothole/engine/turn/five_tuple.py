"""What names an allocation (RFC 8656 Section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

from knothole.wire.address import Address, Transport


class FiveTuple(NamedTuple):
    """A way between a client and the server, as the server sees it.

    ``client`` is the client's mapped address, ``server`` the address of ours that it talks to. A
    named tuple, because every relayed datagram looks one up.
    """

    transport: Transport
    client: Address
    server: Address
