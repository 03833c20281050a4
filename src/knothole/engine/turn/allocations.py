"""All allocations of a server, each from its request to its end (RFC 8656 Sections 6 and 7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.allocate_request import AllocateRequest
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.channel import Channels
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.mobility import Mobility
from knothole.engine.turn.opening import OPEN_ATTEMPTS, Opening, PendingAllocation
from knothole.engine.turn.permission import Permissions
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Holder, Limits, Quota
from knothole.engine.turn.relay_pool import RelayPool, Reservation
from knothole.engine.turn.server_allocation import Mobile, ServerAllocation
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    CloseRelay,
    EndReason,
    OpenRelay,
    PeersForbidden,
    ServerOutput,
)
from knothole.engine.turn.shortcut import Shortcuts
from knothole.engine.turn.tally import Tally
from knothole.wire.address import Address, Transport, network_of
from knothole.wire.stun import (
    Attribute,
    Lifetime,
    Message,
    ReservationToken,
    XorMappedAddress,
    XorRelayedAddress,
)


class Allocations:
    """Makes allocations, finds them, ends them. What it has to say goes into ``outputs``.

    ``by_five_tuple`` and ``by_relayed`` may be read where a datagram must not cost a call.
    """

    def __init__(self, pool: RelayPool, limits: Limits, outputs: deque[ServerOutput]) -> None:
        self.by_five_tuple: dict[FiveTuple, ServerAllocation] = {}
        self.by_relayed: dict[Address, ServerAllocation] = {}
        self._pool, self._limits, self._outputs = pool, limits, outputs
        self._quota, self.tally = Quota(limits), Tally(self.by_relayed)
        self._pending: dict[FiveTuple, PendingAllocation] = {}
        self._opening: dict[Address, tuple[PendingAllocation, Opening]] = {}
        self._deadlines: Deadlines[ServerAllocation | Reservation] = Deadlines()
        self.on_end: Callable[[ServerAllocation], None] = lambda _: None
        """What else ends with an allocation."""
        self.shortcuts: Shortcuts | None = None
        """What the kernel relays, if it does."""
        self.mobility: Mobility | None = None
        """How allocations follow their clients, if they may."""

    def set_limits(self, limits: Limits, now: float) -> None:
        """Have other ``limits`` count from now on."""
        self._limits = self._quota.limits = limits
        for allocation in self.by_relayed.values():
            allocation.budget.set_rates(limits.datagrams_per_second, limits.octets_per_second, now)

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

    def refresh(self, allocation: ServerAllocation, lifetime_seconds: int, now: float) -> int:
        """Have it live for so long, unless the credentials end before; the seconds that it has."""
        allocation.lifetime_until = now + lifetime_seconds
        self._set_expiry(allocation)
        if self.shortcuts is not None:
            self.shortcuts.renew(allocation, now)
        return _whole_seconds(allocation.expires_at - now)

    def vouch(self, allocation: ServerAllocation, credentials_until: float, now: float) -> None:
        """Its credentials are good until then."""
        if credentials_until != allocation.credentials_until:
            allocation.credentials_until = credentials_until
            self._set_expiry(allocation)
            if self.shortcuts is not None:
                self.shortcuts.renew(allocation, now)

    def used(self, allocation: ServerAllocation, five_tuple: FiveTuple, now: float) -> None:
        """Its client goes on at ``five_tuple``, with data or a permission: a move is complete."""
        mobile = allocation.mobile
        if self.mobility is not None and mobile is not None and mobile.moving_to == five_tuple:
            self.mobility.arrive(allocation, self.shortcuts, now)

    def end(self, allocation: ServerAllocation, reason: EndReason) -> None:
        """Free all that ``allocation`` held; of a dual one, only that half."""
        twin = allocation.twin
        if twin is None:
            if self.mobility is not None:
                self.mobility.ending(allocation)
            del self.by_five_tuple[allocation.five_tuple]
        else:
            for five_tuple in allocation.five_tuples:
                self.by_five_tuple[five_tuple] = twin
            twin.twin = allocation.twin = None
            if self.mobility is not None:
                self.mobility.made(twin)
        del self.by_relayed[allocation.relayed]
        self._deadlines.drop(allocation)
        if self.shortcuts is not None:
            self.shortcuts.end(allocation)
        self.on_end(allocation)
        maker = allocation.requester
        self._release(allocation.relayed, allocation.holder)
        self._outputs.append(
            AllocationEnded(
                allocation.five_tuple,
                maker.username,
                maker.owner,
                allocation.relayed,
                reason,
                allocation.to_peers,
                allocation.to_client,
            )
        )

    def forbid(self, rules: PeerRules, now: float) -> None:
        """End what ``rules`` do not allow."""
        hosts = {host for each in self.by_relayed.values() for host in each.hosts()}
        forbidden = frozenset(host for host in hosts if rules.host_refusal(host) is not None)
        if not forbidden:
            return
        for allocation in self.by_relayed.values():
            lost = allocation.forbid(forbidden, now)
            if lost:
                five_tuple, relayed = allocation.five_tuple, allocation.relayed
                self._outputs.append(PeersForbidden(five_tuple, relayed, lost))

    def disconnected(self, five_tuple: FiveTuple, now: float) -> None:
        """The stream of ``five_tuple`` is closed, and so is what came by it.

        A client that can come by another one has some time for that.
        """
        pending = self._pending.get(five_tuple)
        if pending is not None:
            for opening in pending.openings:
                self._abandon(opening)
            self._forget(pending)
        allocation = self.by_five_tuple.get(five_tuple)
        if allocation is None:
            return
        if self.mobility is None or allocation.mobile is None:
            for half in allocation.halves:
                self.end(half, EndReason.DISCONNECTED)
        elif allocation.mobile.moving_to == five_tuple:
            self.mobility.give_up(allocation)
        elif allocation.mobile.moving_to is not None:
            self.mobility.arrive(allocation, self.shortcuts, now)
        else:
            for half in allocation.halves:
                half.lifetime_until = min(half.lifetime_until, now + self._limits.detached)
                self._set_expiry(half)

    def handle_timeout(self, now: float) -> None:
        for ended in self._deadlines.pop_due(now):
            if isinstance(ended, ServerAllocation):
                by_lifetime = ended.lifetime_until <= now
                self.end(ended, EndReason.EXPIRED if by_lifetime else EndReason.CREDENTIALS)
            else:
                self._pool.redeem(ended.token)
                self._release(ended.relayed, ended.holder)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

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
        self._deadlines.drop(reservation)
        self._quota.give_back(reservation.holder)
        self._quota.take(holder)
        pending = PendingAllocation(five_tuple, message, requester, holder, request)
        self._create(pending, [reservation.relayed], (), now)

    def _within_quota(self, request: AllocateRequest, holder: Holder) -> AllocateRequest:
        """As much of ``request`` as there is room for. Raises Refusal: 486 or 508."""
        for count in sorted({request.count, 1 + request.reserve}, reverse=True):
            if self._quota.is_at_limit(holder, count):
                code = 486
            elif self._quota.is_full(count):
                code = 508
            elif count < request.count:
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
            self._deadlines.set(reservation, now + self._limits.reservation)
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
        limits = self._limits
        lifetime_until = now + limits.lifetime(request.lifetime)
        expires_at = min(lifetime_until, requester.valid_until)
        mobile: Mobile | None = None
        if request.is_mobile and self.mobility is not None:
            mobile, ticket = self.mobility.begin()
            extra = (*extra, ticket)
        answer = success_answer(
            pending.message,
            requester,
            (
                *map(XorRelayedAddress, addresses),
                Lifetime(_whole_seconds(expires_at - now)),
                XorMappedAddress(five_tuple.client),
                *extra,
            ),
        )
        budget = Budget(limits.datagrams_per_second, limits.octets_per_second, now)
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
        self.by_five_tuple[five_tuple] = halves[0]
        if len(halves) == 2:
            halves[0].twin, halves[1].twin = halves[1], halves[0]
        if self.mobility is not None:
            self.mobility.made(halves[0])
        for half in halves:
            self.by_relayed[half.relayed] = half
            self._deadlines.set(half, half.expires_at)
            self._outputs.append(
                AllocationCreated(five_tuple, requester.username, requester.owner, half.relayed)
            )
        self._send(five_tuple, answer)

    def _set_expiry(self, allocation: ServerAllocation) -> None:
        allocation.expires_at = min(allocation.lifetime_until, allocation.credentials_until)
        self._deadlines.set(allocation, allocation.expires_at)

    def _release(self, relayed: Address, holder: Holder) -> None:
        self._pool.give_back(relayed)
        self._quota.give_back(holder)
        self._outputs.append(CloseRelay(relayed))

    def _send(self, five_tuple: FiveTuple, payload: bytes, code: int = 0) -> None:
        self.tally.answers["allocate", code] += 1
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))


def _whole_seconds(seconds: float) -> int:
    """For LIFETIME, in which 0 would say that the allocation is gone."""
    return max(int(seconds), 1)


def _holder(requester: Requester, five_tuple: FiveTuple) -> Holder:
    """The network is a /24 or, as one home has it, a /64."""
    return Holder(requester.account, network_of(five_tuple.client.host, 24, 64))
