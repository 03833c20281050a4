"""A knock at our own relayed address, by the way that strangers would take.

Only what comes from outside shows the operator of a switchboard whether its firewall lets the
outside through to relayed addresses. Nobody answers a knock, and without a permission for us it
gets no further than the relay's socket.
"""

from __future__ import annotations

from collections.abc import Sequence

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.turn.client import Allocation
from knothole.wire.address import Address, Transport
from knothole.wire.stun import TRANSACTION_ID_SIZE, Message, MessageClass, Method, encode


def knock(
    allocation: Allocation, relayed: Address, switchboards: Sequence[Address], random: RandomBytes
) -> list[Transmit]:
    """The knock at ``relayed``, a new address of ``allocation``: a Binding indication.

    None where the relay is not one of the ``switchboards``, or UDP does not get there.
    """
    if allocation.transport is not Transport.UDP or allocation.server not in switchboards:
        return []
    message = Message(MessageClass.INDICATION, Method.BINDING, random(TRANSACTION_ID_SIZE))
    return [Transmit(Datagram(allocation.local, relayed, encode(message)))]
