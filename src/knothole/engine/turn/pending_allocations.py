"""Allocate requests on the server's side, from arrival to answer (RFC 8656 Section 7.2).

The answer waits for io to have opened the relayed addresses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.allocate_request import AllocateRequest
from knothole.engine.turn.allocations import Allocations, whole_seconds
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.channel import Channels
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.opening import OPEN_ATTEMPTS, Opening, PendingAllocation
from knothole.engine.turn.permission import Permissions
from knothole.engine.turn.quota import Holder, Quota
from knothole.engine.turn.relay_pool import RelayPool, Reservation
from knothole.engine.turn.server_allocation import Mobile, ServerAllocation
from knothole.engine.turn.server_events import CloseRelay, OpenRelay, ServerOutput
from knothole.wire.address import Address, Transport, network_of
from knothole.wire.stun import (
    Attribute,
    Lifetime,
    Message,
    ReservationToken,
    XorMappedAddress,
    XorRelayedAddress,
)


class PendingAllocations:
    """Requests that wait for their relayed addresses, and the ports that are kept for others."""

    def __init__(
        self,
        allocations: Allocations,
        pool: RelayPool,
        quota: Quota,
        outputs: deque[ServerOutput],
    ) -> None:
        self._allocations, self._pool, self._quota = allocations, pool, quota
        self._outputs = outputs
        self._pending: dict[FiveTuple, PendingAllocation] = {}
        self._opening: dict[Address, tuple[PendingAllocation, Opening]] = {}
        self._reservations: Deadlines[Reservation] = Deadlines()

    def is_pending(self, five_tuple: FiveTuple) -> bool:
        return five_tuple in self._pending

    def begin(
        self,
        five_tuple: FiveTuple,
        message: Message,
        requester: Requester,
        request: AllocateRequest,
        now: float,
    ) -> None:
        """Carry out ``request``; its answer comes with the relayed address.

        Raises Refusal: 486 or 508.
        """
        if request.token is not None:
            self._redeem(request.token, five_tuple, message, requester, request, now)
            return
        holder = _holder(requester, five_tuple)
        request = self._within_quota(request, holder)
        openings = tuple(map(Opening, request.families))
        pending = PendingAllocation(five_tuple, message, requester, holder, request, openings)
        self._count(pending, request.count)
        self._pending[five_tuple] = pending
        for opening in openings:
            self._open(pending, opening)
        if all(opening.has_failed for opening in openings):
            self._forget(pending)
            raise Refusal(508)

    def opened(self, relayed: Address, now: float) -> None:
        """io has bound a socket for ``relayed``."""
        found = self._opening.pop(relayed, None)
        if found is None:  # nobody waits any more
            self._outputs.append(CloseRelay(relayed))
            return
        pending, opening = found
        opening.opened.add(relayed)
        self._settle(pending, now)

    def refused(self, relayed: Address, now: float) -> None:
        """io cannot bind ``relayed``: something else on this machine has it."""
        found = self._opening.get(relayed)
        if found is not None:
            pending, opening = found
            self._abandon(opening)
            self._open(pending, opening)
            self._settle(pending, now)

    def disconnected(self, five_tuple: FiveTuple) -> None:
        """The stream of ``five_tuple`` is closed: nobody waits for the answer."""
        pending = self._pending.get(five_tuple)
        if pending is not None:
            for opening in pending.openings:
                self._abandon(opening)
            self._forget(pending)

    def handle_timeout(self, now: float) -> None:
        for reservation in self._reservations.pop_due(now):
            self._pool.redeem(reservation.token)
            self._allocations.release(reservation.relayed, reservation.holder)

    def next_timeout(self) -> float | None:
        return self._reservations.next()

    def _redeem(
        self,
        token: bytes,
        five_tuple: FiveTuple,
        message: Message,
        requester: Requester,
        request: AllocateRequest,
        now: float,
    ) -> None:
        reservation = self._pool.reservation(token)
        if reservation is None:
            raise Refusal(508)
        holder = _holder(requester, five_tuple)
        if self._quota.is_at_limit(holder, given_back=reservation.holder):
            raise Refusal(486)
        self._pool.redeem(token)
        self._reservations.drop(reservation)
        self._quota.give_back(reservation.holder)
        self._quota.take(holder)
        pending = PendingAllocation(five_tuple, message, requester, holder, request)
        self._create(pending, [reservation.relayed], (), now)

    def _within_quota(self, request: AllocateRequest, holder: Holder) -> AllocateRequest:
        """As much of ``request`` as there is room for. Raises Refusal: 486 or 508."""
        wanted, least = request.count, 1 + request.reserve
        for count in (wanted, least) if wanted > least else (wanted,):
            if self._quota.is_at_limit(holder, count):
                code = 486
            elif self._quota.is_full(count):
                code = 508
            elif count < wanted:
                return request.without(request.families[1])
            else:
                return request
        raise Refusal(code)

    def _open(self, pending: PendingAllocation, opening: Opening) -> None:
        """Ask io for an address; it has failed when there is none, or after too many attempts."""
        opening.opened.clear()
        opening.wanted = ()
        if opening.attempts < OPEN_ATTEMPTS:
            opening.attempts += 1
            request, near = pending.request, pending.five_tuple.server.host
            opening.wanted = self._pool.take(
                opening.family, near, even=request.even_port, pair=request.reserve
            )
        opening.has_failed = not opening.wanted
        transport = Transport.TCP if pending.request.is_tcp else Transport.UDP
        for relayed in opening.wanted:
            self._opening[relayed] = (pending, opening)
            self._outputs.append(OpenRelay(relayed, transport))

    def _abandon(self, opening: Opening) -> None:
        """Give back the addresses that it has or waits for; late answers find nobody."""
        for relayed in opening.wanted:
            self._opening.pop(relayed, None)
            self._pool.give_back(relayed)
            if relayed in opening.opened:
                self._outputs.append(CloseRelay(relayed))

    def _settle(self, pending: PendingAllocation, now: float) -> None:
        """Answer the request once io has said all that it was asked."""
        if not all(opening.is_settled for opening in pending.openings):
            return
        request = pending.request
        for opening in pending.openings:
            if opening.has_failed:
                request = request.without(opening.family)
        if not request.families:
            self._forget(pending)
            answer = error_answer(pending.message, pending.requester, Refusal(508))
            self._send(pending.five_tuple, answer, 508)
            return
        del self._pending[pending.five_tuple]
        self._count(pending, request.count)
        extra: tuple[Attribute, ...] = request.missing
        if request.reserve:
            reserved = pending.openings[0].wanted[1]
            reservation = self._pool.reserve(reserved, pending.holder)
            self._reservations.set(reservation, now + self._quota.limits.reservation)
            extra = (ReservationToken(reservation.token),)
        relayed = [opening.wanted[0] for opening in pending.openings if not opening.has_failed]
        self._create(pending, relayed, extra, now)

    def _forget(self, pending: PendingAllocation) -> None:
        del self._pending[pending.five_tuple]
        self._count(pending, 0)

    def _count(self, pending: PendingAllocation, wanted: int) -> None:
        """Have ``pending`` hold so much of its holder's quotas."""
        holder = pending.holder
        for _ in range(wanted - pending.counted):
            self._quota.take(holder)
        for _ in range(pending.counted - wanted):
            self._quota.give_back(holder)
        pending.counted = wanted

    def _create(
        self,
        pending: PendingAllocation,
        addresses: Sequence[Address],
        extra: tuple[Attribute, ...],
        now: float,
    ) -> None:
        five_tuple, requester, request = pending.five_tuple, pending.requester, pending.request
        limits = self._quota.limits
        lifetime_until = now + limits.lifetime(request.lifetime)
        expires_at = min(lifetime_until, requester.valid_until)
        mobile: Mobile | None = None
        mobility = self._allocations.mobility
        if request.is_mobile and mobility is not None:
            mobile, ticket = mobility.begin()
            extra = (*extra, ticket)
        answer = success_answer(
            pending.message,
            requester,
            (
                *map(XorRelayedAddress, addresses),
                Lifetime(whole_seconds(expires_at - now)),
                XorMappedAddress(five_tuple.client),
                *extra,
            ),
        )
        budget = self._allocations.budget(pending.holder, five_tuple, now)
        halves = [
            ServerAllocation(
                five_tuple,
                requester,
                relayed,
                lifetime_until,
                requester.valid_until,
                expires_at,
                Permissions(limits.permissions_per_allocation),
                Channels(limits.channels_per_allocation),
                pending.message.transaction_id,
                answer,
                five_tuple.transport.is_stream,
                pending.holder,
                budget,
                is_tcp=request.is_tcp,
                mobile=mobile,
            )
            for relayed in addresses
        ]
        self._allocations.add(halves)
        self._send(five_tuple, answer)

    def _send(self, five_tuple: FiveTuple, payload: bytes, code: int = 0) -> None:
        self._allocations.tally.answers["allocate", code] += 1
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))


def _holder(requester: Requester, five_tuple: FiveTuple) -> Holder:
    """The network is a /24 or, as one home has it, a /64."""
    return Holder(requester.account, network_of(five_tuple.client.host, 24, 64))
