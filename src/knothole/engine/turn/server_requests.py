"""TURN requests on the server's side: who sent them, and what they get (RFC 8656 Section 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from knothole.engine.core import Datagram, Transmit
from knothole.engine.rate import TokenBuckets
from knothole.engine.turn.allocate_request import read_allocate
from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.authentication import Doorkeeper
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.peer_requests import channel_bind, create_permission
from knothole.engine.turn.pending_allocations import PendingAllocations
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Holder, Limits
from knothole.engine.turn.refresh_request import by_ticket, refresh
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import ServerOutput
from knothole.engine.turn.tcp_peers import TcpPeers
from knothole.engine.turn.unproven import UnprovenAnswers
from knothole.wire.address import Address, Transport
from knothole.wire.prohibited import is_tunnelled
from knothole.wire.stun import (
    AccessToken,
    AddressFamily,
    AlternateServer,
    Attribute,
    Message,
    Method,
    UnknownAttributes,
)


class ServerRequests:
    """Answers them. ``rules`` and ``limits`` are those that count now.

    ``redirect_to`` and ``is_draining`` are as :class:`~knothole.engine.turn.server.TurnServer` has
    them.
    """

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        allocations: Allocations,
        pending: PendingAllocations,
        tcp: TcpPeers,
        unproven: UnprovenAnswers,
        outputs: deque[ServerOutput],
        *,
        rules: PeerRules,
        limits: Limits,
        families: Collection[AddressFamily],
        dont_fragment: bool,
        has_neighbours: bool,
    ) -> None:
        self.redirect_to: Sequence[Address] = ()
        self.is_draining = False
        self.rules, self.limits = rules, limits
        self._doorkeeper, self._allocations, self._pending = doorkeeper, allocations, pending
        self._tcp, self._unproven, self._outputs = tcp, unproven, outputs
        self._by_five_tuple, self._tally = allocations.by_five_tuple, allocations.tally
        self._families, self._dont_fragment = families, dont_fragment
        # A reserved address may be asked for from any 5-tuple, and so of any process.
        self._has_neighbours = has_neighbours
        self._new_peers: TokenBuckets[Holder] = TokenBuckets(limits.new_peers)

    def set_limits(self, limits: Limits) -> None:
        """Have other ``limits`` count from now on."""
        if limits.new_peers != self.limits.new_peers:
            self._new_peers = TokenBuckets(limits.new_peers)
        self.limits = limits

    def receive(self, five_tuple: FiveTuple, message: Message, size: int, now: float) -> None:
        """A request of ``size`` bytes came; one that is none of TURN's is dropped."""
        if message.method not in _REQUESTS:
            return
        if self._pending.is_pending(five_tuple):
            return  # it is sent again, and by then we know
        allocation = self._by_five_tuple.get(five_tuple)
        if (
            allocation is not None
            and message.method == Method.ALLOCATE
            and message.transaction_id == allocation.transaction_id
        ):
            self._send(five_tuple, allocation.answer)
            return
        requester: Requester | None = None
        try:
            control = self._tcp.control_of(five_tuple, message)
            of = allocation if control is None else self._by_five_tuple.get(control)
            maker = None if of is None else of.requester
            requester = self._doorkeeper.admit(message, five_tuple, maker, now, control)
            attributes = self._carry_out(five_tuple, message, allocation, requester, now)
        except Refusal as refusal:
            answer = error_answer(message, requester, refusal)
            self._tally.answered(message.method, refusal.code)
            if (
                requester is not None
                or allocation is not None
                or five_tuple.transport is not Transport.UDP
                or self._unproven.allows(five_tuple.client.host, size, len(answer), now)
            ):
                self._send(five_tuple, answer)
        else:
            if attributes is not None:
                self._tally.answered(message.method)
                self._send(five_tuple, success_answer(message, requester, attributes))
            if message.method == Method.CONNECTION_BIND:
                self._tcp.bound(five_tuple, message)

    def _carry_out(
        self,
        five_tuple: FiveTuple,
        message: Message,
        allocation: ServerAllocation | None,
        requester: Requester,
        now: float,
    ) -> tuple[Attribute, ...] | None:
        """The attributes of the success response, None when that is still to come."""
        if message.method == Method.ALLOCATE:
            if allocation is not None:
                raise Refusal(437)
            self._refuse_unknown(message)
            self._allocate(five_tuple, message, requester, now)
            return None
        if message.method == Method.CONNECTION_BIND:
            self._refuse_unknown(message)
            if allocation is not None:
                raise Refusal(400)
            return self._tcp.bind(five_tuple, message, requester)
        moving = by_ticket(message, five_tuple, requester, self._allocations, now)
        allocation = allocation if moving is None else moving
        if allocation is None:
            raise Refusal(437)
        if requester.owner != allocation.requester.owner:
            raise Refusal(441)
        for half in allocation.halves:
            # Renewed credentials, or the newest token: they are what counts from now on.
            if requester.token_name or requester.valid_until > half.credentials_until:
                half.requester = requester
                self._allocations.vouch(half, requester.valid_until, now)
        self._refuse_unknown(message)
        if message.method == Method.REFRESH:
            limits = self.limits
            return refresh(message, five_tuple, allocation, self._allocations, limits, now)
        if message.method == Method.CONNECT:
            self._tcp.connect(message, allocation, requester, self._new_peers, now)
            return None
        shortcuts = self._allocations.shortcuts
        ask = create_permission if message.method == Method.CREATE_PERMISSION else channel_bind
        for half, hosts in ask(message, allocation, self.rules, self._new_peers, now):
            if shortcuts is not None:
                shortcuts.renew(half, now, hosts)
        self._allocations.used(allocation, five_tuple, now)
        return ()

    def _allocate(
        self, five_tuple: FiveTuple, message: Message, requester: Requester, now: float
    ) -> None:
        """RFC 8656 Section 7.2."""
        if five_tuple.client.is_ipv6 and is_tunnelled(five_tuple.client.host):
            raise Refusal(403)
        request = read_allocate(
            message,
            self._families,
            by_stream=five_tuple.transport.is_stream,
            mobility=self._allocations.mobility is not None,
            dont_fragment=self._dont_fragment,
        )
        for elsewhere in self.redirect_to:
            # RFC 8489 Section 14.15: of the family that the request came by. Section 14.8: only to
            # who has shown credentials, and signed, or anybody could send clients anywhere.
            if elsewhere.is_ipv6 is five_tuple.client.is_ipv6:
                raise Refusal(300, AlternateServer(elsewhere))
        if self.is_draining or (request.reserve and self._has_neighbours):
            raise Refusal(508)
        self._pending.begin(five_tuple, message, requester, request, now)

    def _refuse_unknown(self, message: Message) -> None:
        """RFC 8489 Section 6.3.1."""
        unknown = message.unknown_required
        if message.get(AccessToken) is not None and not self._doorkeeper.takes_tokens:
            unknown = (*unknown, AccessToken.TYPE)
        if unknown:
            raise Refusal(420, UnknownAttributes(unknown))

    def _send(self, five_tuple: FiveTuple, payload: bytes) -> None:
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))


_REQUESTS: Final = frozenset(
    (
        Method.ALLOCATE,
        Method.REFRESH,
        Method.CREATE_PERMISSION,
        Method.CHANNEL_BIND,
        Method.CONNECT,
        Method.CONNECTION_BIND,
    )
)
