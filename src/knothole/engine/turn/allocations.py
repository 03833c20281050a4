"""All allocations of a server, each from its request to its end (RFC 8656 Sections 6 and 7)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.allocate_request import AllocateRequest
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.channel import Channels
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.permission import Permissions
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Limits, Quota
from knothole.engine.turn.relay_pool import RelayPool, Reservation
from knothole.engine.turn.server_allocation import ServerAllocation
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
from knothole.wire.address import Address
from knothole.wire.stun import (
    Attribute,
    Lifetime,
    Message,
    ReservationToken,
    XorMappedAddress,
    XorRelayedAddress,
)

OPEN_ATTEMPTS: Final = 8  # ours: ports tried before a client hears that there is none


@dataclass(slots=True, eq=False)
class _Pending:
    """An Allocate request that waits for io to open ``wanted``."""

    five_tuple: FiveTuple
    message: Message
    requester: Requester
    request: AllocateRequest
    wanted: tuple[Address, ...] = ()
    opened: set[Address] = field(default_factory=set)
    attempts: int = 0


class Allocations:
    """Makes allocations, finds them, ends them. What it has to say goes into ``outputs``.

    ``by_five_tuple`` and ``by_relayed`` may be read where a datagram must not cost a call.
    """

    def __init__(self, pool: RelayPool, limits: Limits, outputs: deque[ServerOutput]) -> None:
        self.by_five_tuple: dict[FiveTuple, ServerAllocation] = {}
        self.by_relayed: dict[Address, ServerAllocation] = {}
        self._pool, self._limits, self._outputs = pool, limits, outputs
        self._quota = Quota(limits)
        self._pending: dict[FiveTuple, _Pending] = {}
        self._opening: dict[Address, _Pending] = {}
        self._deadlines: Deadlines[ServerAllocation | Reservation] = Deadlines()
        self.shortcuts: Shortcuts | None = None
        """What the kernel relays, if it does."""

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
        count = 1 + request.reserve
        if self._quota.user_is_at_limit(requester.owner, count):
            raise Refusal(486)
        if self._quota.is_full(count):
            raise Refusal(508)
        pending = _Pending(five_tuple, message, requester, request)
        if not self._open(pending):
            raise Refusal(508)
        for _ in range(count):
            self._quota.take(requester.owner)
        self._pending[five_tuple] = pending

    def opened(self, relayed: Address, now: float) -> None:
        """io has bound a socket for ``relayed``."""
        pending = self._opening.pop(relayed, None)
        if pending is None:  # nobody waits any more
            self._outputs.append(CloseRelay(relayed))
            return
        pending.opened.add(relayed)
        if len(pending.opened) < len(pending.wanted):
            return
        del self._pending[pending.five_tuple]
        extra: tuple[Attribute, ...] = ()
        if pending.request.reserve:
            reservation = self._pool.reserve(pending.wanted[1], pending.requester.owner)
            self._deadlines.set(reservation, now + self._limits.reservation)
            extra = (ReservationToken(reservation.token),)
        self._create(pending, pending.wanted[0], extra, now)

    def refused(self, relayed: Address, now: float) -> None:
        """io cannot bind ``relayed``: something else on this machine has it."""
        pending = self._opening.get(relayed)
        if pending is None:
            return
        self._abandon(pending)
        if self._open(pending):
            return
        self._forget(pending)
        answer = error_answer(pending.message, pending.requester, Refusal(508))
        self._send(pending.five_tuple, answer)

    def refresh(self, allocation: ServerAllocation, lifetime_seconds: int, now: float) -> int:
        """Have it live for so long, unless the credentials end before; the seconds that it has."""
        allocation.lifetime_until = now + lifetime_seconds
        self._set_expiry(allocation)
        return _whole_seconds(allocation.expires_at - now)

    def vouch(self, allocation: ServerAllocation, credentials_until: float, now: float) -> None:
        """Its credentials are good until then."""
        if credentials_until != allocation.credentials_until:
            allocation.credentials_until = credentials_until
            self._set_expiry(allocation)
            if self.shortcuts is not None:
                self.shortcuts.renew(allocation, now)

    def end(self, allocation: ServerAllocation, reason: EndReason) -> None:
        """Free all that ``allocation`` held."""
        del self.by_five_tuple[allocation.five_tuple]
        del self.by_relayed[allocation.relayed]
        self._deadlines.drop(allocation)
        if self.shortcuts is not None:
            self.shortcuts.end(allocation)
        maker = allocation.requester
        self._release(allocation.relayed, maker.owner)
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

    def disconnected(self, five_tuple: FiveTuple) -> None:
        """The stream of ``five_tuple`` is closed, and so is what came by it."""
        pending = self._pending.get(five_tuple)
        if pending is not None:
            self._abandon(pending)
            self._forget(pending)
        allocation = self.by_five_tuple.get(five_tuple)
        if allocation is not None:
            self.end(allocation, EndReason.DISCONNECTED)

    def handle_timeout(self, now: float) -> None:
        for ended in self._deadlines.pop_due(now):
            if isinstance(ended, ServerAllocation):
                by_lifetime = ended.lifetime_until <= now
                self.end(ended, EndReason.EXPIRED if by_lifetime else EndReason.CREDENTIALS)
            else:
                self._pool.redeem(ended.token)
                self._release(ended.relayed, ended.owner)

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
        moves = reservation.owner != requester.owner
        if moves and self._quota.user_is_at_limit(requester.owner):
            raise Refusal(486)
        self._pool.redeem(token)
        self._deadlines.drop(reservation)
        self._quota.give_back(reservation.owner)
        self._quota.take(requester.owner)
        pending = _Pending(five_tuple, message, requester, request)
        self._create(pending, reservation.relayed, (), now)

    def _open(self, pending: _Pending) -> bool:
        """Ask io for an address; False when there is none, or after too many attempts."""
        if pending.attempts == OPEN_ATTEMPTS:
            return False
        pending.attempts += 1
        request, near = pending.request, pending.five_tuple.server.host
        pending.wanted = self._pool.take(
            request.family, near, even=request.even_port, pair=request.reserve
        )
        pending.opened.clear()
        for relayed in pending.wanted:
            self._opening[relayed] = pending
            self._outputs.append(OpenRelay(relayed))
        return bool(pending.wanted)

    def _abandon(self, pending: _Pending) -> None:
        """Give back the addresses that ``pending`` has or waits for; late answers find nobody."""
        for relayed in pending.wanted:
            self._opening.pop(relayed, None)
            self._pool.give_back(relayed)
            if relayed in pending.opened:
                self._outputs.append(CloseRelay(relayed))

    def _forget(self, pending: _Pending) -> None:
        del self._pending[pending.five_tuple]
        for _ in range(1 + pending.request.reserve):
            self._quota.give_back(pending.requester.owner)

    def _create(
        self, pending: _Pending, relayed: Address, extra: tuple[Attribute, ...], now: float
    ) -> None:
        five_tuple, requester, request = pending.five_tuple, pending.requester, pending.request
        lifetime_until = now + self._limits.lifetime(request.lifetime)
        expires_at = min(lifetime_until, requester.valid_until)
        if request.missing is not None:
            extra = (*extra, request.missing)
        answer = success_answer(
            pending.message,
            requester,
            (
                XorRelayedAddress(relayed),
                Lifetime(_whole_seconds(expires_at - now)),
                XorMappedAddress(five_tuple.client),
                *extra,
            ),
        )
        allocation = ServerAllocation(
            five_tuple,
            requester,
            relayed,
            lifetime_until,
            requester.valid_until,
            expires_at,
            Permissions(self._limits.permissions_per_allocation),
            Channels(self._limits.channels_per_allocation),
            pending.message.transaction_id,
            answer,
            five_tuple.transport.is_stream,
        )
        self.by_five_tuple[five_tuple] = self.by_relayed[relayed] = allocation
        self._deadlines.set(allocation, allocation.expires_at)
        self._outputs.append(
            AllocationCreated(five_tuple, requester.username, requester.owner, relayed)
        )
        self._send(five_tuple, answer)

    def _set_expiry(self, allocation: ServerAllocation) -> None:
        allocation.expires_at = min(allocation.lifetime_until, allocation.credentials_until)
        self._deadlines.set(allocation, allocation.expires_at)

    def _release(self, relayed: Address, owner: str) -> None:
        self._pool.give_back(relayed)
        self._quota.give_back(owner)
        self._outputs.append(CloseRelay(relayed))

    def _send(self, five_tuple: FiveTuple, payload: bytes) -> None:
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))


def _whole_seconds(seconds: float) -> int:
    """For LIFETIME, in which 0 would say that the allocation is gone."""
    return max(int(seconds), 1)
