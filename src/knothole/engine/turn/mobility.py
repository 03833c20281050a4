"""Allocations that follow their client to another address: mobility with TURN (RFC 8016).

A ticket says which allocation it is for, and which one of its tickets it is; only this server can
read or make one. It is good until the client has used the address that it moved to with it, and for
a copy of the request that showed it a little longer.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import MutableMapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from knothole.engine.core import RandomBytes
from knothole.engine.turn.answer import Refusal
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server_allocation import Mobile, ServerAllocation
from knothole.engine.turn.server_events import AllocationMoved, AllocationMoving, ServerOutput
from knothole.engine.turn.shortcut import Shortcuts
from knothole.wire.stun import MobilityTicket

RETAINED: Final = 30.0
"""RFC 8016 Section 3.2.2: "a server must retain the old STUN MOBILITY-TICKET attribute for a period
of at least 30 seconds", to know a retransmission."""

_KEY_SIZE: Final = 64  # AES-256 twice: RFC 5297 Section 2.6
# Ours. A ticket is text of 32 characters: coturn's test client keeps no more than that, and takes
# it for a string that a zero ends. 2^40 allocations, and 2^24 moves of each.
_NUMBER_SIZE: Final = 5
_SERIAL_SIZE: Final = 3
_MOST_MOVES: Final = 256**_SERIAL_SIZE - 1


class Mobility:
    """The tickets of all allocations, and the moves that they are used for.

    One allocation has one state for both halves of it, however many tickets it was given.
    """

    def __init__(
        self,
        random: RandomBytes,
        by_five_tuple: MutableMapping[FiveTuple, ServerAllocation],
        outputs: deque[ServerOutput],
    ) -> None:
        self._by_five_tuple, self._outputs = by_five_tuple, outputs
        self._cipher = AESSIV(random(_KEY_SIZE))
        self._by_number: dict[int, ServerAllocation] = {}
        self._last_number = 0

    def begin(self) -> tuple[Mobile, MobilityTicket]:
        """For an allocation that is about to be made: its state and its first ticket."""
        self._last_number += 1
        mobile = Mobile(self._last_number)
        return mobile, self._ticket(mobile, mobile.newest)

    def made(self, allocation: ServerAllocation) -> None:
        """It is there now, or is what is left of a dual one."""
        if allocation.mobile is not None:
            self._by_number[allocation.mobile.number] = allocation

    def ending(self, allocation: ServerAllocation) -> None:
        """Nothing will be left of it."""
        if allocation.mobile is not None:
            self.give_up(allocation)
            del self._by_number[allocation.mobile.number]

    def find(
        self, ticket: MobilityTicket, five_tuple: FiveTuple, account: str, now: float
    ) -> ServerAllocation:
        """Whose ``ticket`` is shown on ``five_tuple``. Raises Refusal: 400, 437 or 441."""
        try:
            sealed = base64.b64decode(ticket.value, altchars=b"-_", validate=True)
            content = self._cipher.decrypt(sealed, None)
        except (InvalidTag, ValueError):  # the latter for what is no base64, or too short
            raise Refusal(400) from None
        if base64.urlsafe_b64encode(sealed) != ticket.value:  # another spelling of the same bytes
            raise Refusal(400)
        number = int.from_bytes(content[:_NUMBER_SIZE], "big")
        serial = int.from_bytes(content[_NUMBER_SIZE:], "big")
        allocation = self._by_number.get(number)
        if allocation is None or allocation.mobile is None:
            raise Refusal(437)
        mobile, is_there = allocation.mobile, five_tuple == allocation.five_tuple
        is_copy = is_there and mobile.retained_from <= serial < mobile.oldest
        is_copy = is_copy and now < mobile.retained_until
        if not (is_copy or mobile.oldest <= serial <= mobile.newest):
            raise Refusal(437)
        if (is_there and not is_copy) or (
            five_tuple == mobile.moving_to and serial == mobile.newest
        ):
            raise Refusal(400)  # there was no move
        if allocation.requester.account != account:
            raise Refusal(441)
        if self._by_five_tuple.get(five_tuple, allocation) not in allocation.halves:
            raise Refusal(437)
        return allocation

    def prepare(self, allocation: ServerAllocation, five_tuple: FiveTuple) -> MobilityTicket:
        """Requests on ``five_tuple`` are for ``allocation`` too from now on; the next ticket.

        A copy of the request has the same answer: the client keeps the ticket of whichever comes
        first.
        """
        mobile = allocation.mobile
        assert mobile is not None
        if five_tuple == allocation.five_tuple:  # it has arrived already
            return self._ticket(mobile, mobile.oldest)
        if mobile.moving_to != five_tuple:
            if mobile.newest == _MOST_MOVES:
                raise Refusal(437)
            self.give_up(allocation)
            mobile.newest += 1
            mobile.moving_to = five_tuple
            self._by_five_tuple[five_tuple] = allocation
            self._outputs.append(AllocationMoving(five_tuple))
        return self._ticket(mobile, mobile.newest)

    def give_up(self, allocation: ServerAllocation) -> None:
        """The client has not used the address that it was moving to, and will not."""
        mobile = allocation.mobile
        if mobile is not None and mobile.moving_to is not None:
            del self._by_five_tuple[mobile.moving_to]
            self._outputs.append(AllocationMoving(mobile.moving_to, is_over=True))
            mobile.moving_to = None

    def arrive(self, allocation: ServerAllocation, shortcuts: Shortcuts | None, now: float) -> None:
        """The client uses the new address: it knows the new ticket, and the old ones are void."""
        mobile, old = allocation.mobile, allocation.five_tuple
        assert mobile is not None and mobile.moving_to is not None
        new, mobile.moving_to = mobile.moving_to, None
        mobile.retained_from, mobile.retained_until = mobile.oldest, now + RETAINED
        mobile.oldest = mobile.newest
        del self._by_five_tuple[old]
        for half in allocation.halves:
            if shortcuts is not None:
                shortcuts.end(half)
            half.five_tuple, half.padded = new, new.transport.is_stream
            if shortcuts is not None:
                shortcuts.renew(half, now)
        self._outputs.append(AllocationMoved(old, new, allocation.requester.username))

    def _ticket(self, mobile: Mobile, serial: int) -> MobilityTicket:
        # No two have the same content, so that nothing random is needed: AES-SIV, RFC 5297.
        content = mobile.number.to_bytes(_NUMBER_SIZE, "big") + serial.to_bytes(_SERIAL_SIZE, "big")
        return MobilityTicket(base64.urlsafe_b64encode(self._cipher.encrypt(content, None)))
