"""A TURN server without sockets (RFC 8656): what comes in, what goes out, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence, Set
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.rate import TokenBuckets
from knothole.engine.turn.allocate_request import read_allocate
from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.authentication import Doorkeeper
from knothole.engine.turn.credentials import Authenticator
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.mobility import Mobility
from knothole.engine.turn.nonce import NonceMint
from knothole.engine.turn.peer_requests import channel_bind, create_permission
from knothole.engine.turn.policy import PeerPolicy, PeerRules
from knothole.engine.turn.quota import Holder, Limits
from knothole.engine.turn.refresh_request import by_ticket, refresh
from knothole.engine.turn.relay_pool import DYNAMIC_PORTS, RelayPool
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_data import ServerData
from knothole.engine.turn.server_events import EndReason, ServerOutput, ShortcutKey, ToNeighbour
from knothole.engine.turn.shortcut import Shortcuts
from knothole.engine.turn.tally import Drop
from knothole.engine.turn.tcp_peers import TcpPeers
from knothole.engine.turn.tokens import TokenUsers
from knothole.engine.turn.unproven import UnprovenAnswers
from knothole.wire.address import Address, Transport
from knothole.wire.prohibited import is_tunnelled
from knothole.wire.stun import (
    AccessToken,
    AddressFamily,
    AlternateServer,
    Attribute,
    Icmp,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    SecurityFeature,
    UnknownAttributes,
    decode,
)

_NONCE_KEY_SIZE = 32


class TurnServer:
    """Every allocation of one server process.

    ``relay_hosts`` are the hosts that relayed addresses are given out on, of either family, with
    ports from first to last of ``ports``. ``server_addresses`` are where it listens, and all other
    addresses of this machine: none of them is a peer (:class:`PeerRules`).

    With ``shortcuts`` it says what can be relayed without it (InstallShortcut, RemoveShortcut),
    with ``mobility`` a client may take its allocation to another address (RFC 8016). ``tokens``
    knows users by the word of another server (RFC 7635), beside those of the ``authenticator``.
    ``dont_fragment``: io can set the DF bit of a datagram (SendUnfragmented). ``neighbour_ports``
    are those of the server's other processes, on the same hosts (ToNeighbour).

    ``redirect_to``, when set, is where new allocations of the same address family are sent with
    300 (Try Alternate), while those that exist go on. While it ``is_draining`` all others are
    refused with 508 (Insufficient Capacity): those that exist run out. ``unproven`` is asked before
    an answer goes to a source that may be forged: by io too, for what it answers by itself.
    """

    def __init__(
        self,
        *,
        realm: str,
        authenticator: Authenticator,
        random: RandomBytes,
        relay_hosts: Sequence[str],
        now: float,
        policy: PeerPolicy = PeerPolicy(),  # noqa: B008 - a frozen value
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        ports: tuple[int, int] = DYNAMIC_PORTS,
        server_addresses: Sequence[Address] = (),
        shortcuts: bool = False,
        mobility: bool = False,
        tokens: TokenUsers | None = None,
        dont_fragment: bool = False,
        neighbour_ports: Set[int] = frozenset(),
    ) -> None:
        self.redirect_to: Address | None = None
        self.is_draining = False
        pool = RelayPool(relay_hosts, ports, random)
        features = SecurityFeature.PASSWORD_ALGORITHMS
        if authenticator.knows_hashes:
            features |= SecurityFeature.USERNAME_ANONYMITY
        mint = NonceMint(random(_NONCE_KEY_SIZE), limits.nonce_lifetime, now, features)
        self._doorkeeper = Doorkeeper(realm, authenticator, mint, tokens)
        self._rules = PeerRules(policy, pool.hosts, server_addresses)
        self._families, self._limits, self._dont_fragment = pool.families, limits, dont_fragment
        self._new_peers: TokenBuckets[Holder] = TokenBuckets(limits.new_peers)
        self._outputs: deque[ServerOutput] = deque()
        self._allocations = Allocations(pool, limits, self._outputs)
        self.tally = self._allocations.tally
        self.unproven = UnprovenAnswers(limits.unproven, self.tally)
        self._by_five_tuple = self._allocations.by_five_tuple
        self._by_relayed = self._allocations.by_relayed
        self._data = ServerData(
            self._allocations, self._rules, random, self._outputs, dont_fragment, neighbour_ports
        )
        most = limits.peer_connections_per_allocation
        self._tcp = TcpPeers(self._allocations, self._rules, random, most, self._outputs)
        self._allocations.on_end = self._tcp.end
        self._shortcuts: Shortcuts | None = None
        if shortcuts:
            self._shortcuts = Shortcuts(self._by_relayed, self._rules, self._outputs)
            self._allocations.shortcuts = self._shortcuts
        self._mobility: Mobility | None = None
        if mobility:
            self._mobility = Mobility(random, self._by_five_tuple, self._outputs)
            self._allocations.mobility = self._mobility

    @property
    def allocations(self) -> int:
        """How many there are; a dual one counts twice."""
        return len(self._by_relayed)

    def has_allocation(self, five_tuple: FiveTuple) -> bool:
        """Whether there is one on ``five_tuple``."""
        return five_tuple in self._by_five_tuple

    def receive(
        self, five_tuple: FiveTuple, payload: bytes, now: float, segment_size: int = 0
    ) -> None:
        """A datagram, a burst of them, or one whole message of a stream came from a client.

        Whatever is neither a TURN message nor fits an allocation is dropped.
        """
        is_channel_data = len(payload) > 0 and payload[0] >> 6 == 1  # begins_channel_data
        if segment_size and len(payload) > segment_size:
            if is_channel_data and self._data.channel_burst(five_tuple, payload, segment_size, now):
                return
            for start in range(0, len(payload), segment_size):
                self.receive(five_tuple, payload[start : start + segment_size], now)
        elif is_channel_data:
            self._data.channel_data(five_tuple, payload, now)
        else:
            self._stun(five_tuple, payload, now)

    def receive_from_peer(
        self, relayed: Address, peer: Address, payload: bytes, now: float, segment_size: int = 0
    ) -> None:
        """A datagram, or a burst of them, came from ``peer`` to the socket of ``relayed``."""
        self._data.from_peer(relayed, peer, payload, segment_size, now)

    def receive_from_neighbour(self, handed: ToNeighbour, now: float) -> None:
        """The engine of another process of this server has put that out."""
        self._data.from_neighbour(handed, now)

    def receive_icmp(self, relayed: Address, peer: Address, icmp: Icmp, now: float) -> None:
        """An ICMP error came for a datagram from ``relayed`` to ``peer`` (RFC 8656 Section 11.5).

        The port of ``peer`` is 0 when it is not known.
        """
        self._data.icmp_from_peer(relayed, peer, icmp, now)

    def peer_arrived(self, relayed: Address, peer: Address, now: float) -> int | None:
        """``peer`` has connected to the TCP relayed address ``relayed``.

        Returns the number of the connection, None when io is to close it.
        """
        return self._tcp.arrived(relayed, peer, now)

    def peer_connected(self, connection: int, now: float) -> None:
        """io's answer to ConnectPeer: the peer has accepted."""
        self._tcp.connected(connection, now)

    def peer_passed(self, connection: int, to_peer: int, to_client: int, now: float) -> float:
        """So many bytes went over; for how many seconds io is to read from neither end."""
        return self._tcp.passed(connection, to_peer, to_client, now)

    def peer_closed(self, connection: int, now: float) -> None:
        """A peer connection is over, or could not be opened."""
        self._tcp.closed(connection)

    def relay_opened(self, relayed: Address, now: float) -> None:
        """io's answer to OpenRelay: the socket is there."""
        self._allocations.opened(relayed, now)

    def relay_refused(self, relayed: Address, now: float) -> None:
        """io's answer to OpenRelay: the address cannot be had."""
        self._allocations.refused(relayed, now)

    def disconnected(self, five_tuple: FiveTuple, now: float) -> None:
        """The TCP or TLS connection of ``five_tuple`` is closed."""
        self._allocations.disconnected(five_tuple, now)

    def end_allocations(self, owner: str | None, now: float) -> None:
        """End what ``owner`` has, or everything when that is None."""
        for allocation in tuple(self._by_relayed.values()):
            if owner is None or allocation.requester.owner == owner:
                self._allocations.end(allocation, EndReason.REMOVED)

    def set_policy(self, policy: PeerPolicy, now: float) -> None:
        """Have another ``policy`` count, for what there is already, too.

        Permissions and channels that it forbids are over at once, on every allocation, and said to
        be so with PeersForbidden.
        """
        self._rules = self._rules.under(policy)
        self._data.obey(self._rules)
        self._allocations.forbid(self._rules, now)
        self._tcp.obey(self._rules)
        if self._shortcuts is not None:
            self._shortcuts.obey(self._rules, now)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Have other ``limits`` count: what there is stays, but may relay no more than they say."""
        if limits.new_peers != self._limits.new_peers:
            self._new_peers = TokenBuckets(limits.new_peers)
        self._limits = limits
        self._allocations.set_limits(limits, now)
        if self._shortcuts is not None:
            self._shortcuts.allow_anew(now)

    def shortcut_passed(
        self, key: ShortcutKey, datagrams: int, octets: int, now: float, *, by_kernel: bool = True
    ) -> None:
        """io's report of payload that went by a shortcut since the last one."""
        if self._shortcuts is not None:
            self._shortcuts.passed(key, datagrams, octets, now, self.tally.flows(by_kernel))

    def revoke(self, owner: str, now: float) -> None:
        """Know no credential of ``owner`` any more, and end what they have; until restored."""
        self._doorkeeper.revoked.add(owner)
        self.end_allocations(owner, now)

    def restore(self, owner: str) -> None:
        """Take back :meth:`revoke`."""
        self._doorkeeper.revoked.discard(owner)

    def recheck_credentials(self, now: float) -> None:
        """What the authenticator knows has changed: a user is gone, or the wall clock was set.

        Allocations whose credentials are good no more end at once, the others when theirs end.
        """
        self._doorkeeper.recheck(self._allocations, now)

    def handle_timeout(self, now: float) -> None:
        self._allocations.handle_timeout(now)
        self._tcp.handle_timeout(now)
        if self._shortcuts is not None:
            self._shortcuts.handle_timeout(now)

    def next_timeout(self) -> float | None:
        due = least(self._allocations.next_timeout(), self._tcp.next_timeout())
        return due if self._shortcuts is None else least(due, self._shortcuts.next_timeout())

    def outputs(self) -> Iterator[ServerOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _stun(self, five_tuple: FiveTuple, payload: bytes, now: float) -> None:
        try:
            message = decode(payload)
        except MalformedMessage:
            self.tally.dropped[Drop.MALFORMED] += 1
            return
        if message.message_class == MessageClass.REQUEST:
            if message.method in _REQUESTS:
                self._request(five_tuple, message, len(payload), now)
        elif message.message_class == MessageClass.INDICATION and message.method == Method.SEND:
            self._data.send_indication(five_tuple, message, now)

    def _send(self, five_tuple: FiveTuple, payload: bytes) -> None:
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))

    def _request(self, five_tuple: FiveTuple, message: Message, size: int, now: float) -> None:
        if self._allocations.is_pending(five_tuple):
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
            self.tally.answered(message.method, refusal.code)
            if (
                requester is not None
                or allocation is not None
                or five_tuple.transport is not Transport.UDP
                or self.unproven.allows(five_tuple.client.host, size, len(answer), now)
            ):
                self._send(five_tuple, answer)
        else:
            if attributes is not None:
                self.tally.answered(message.method)
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
        moving = by_ticket(message, five_tuple, requester, self._allocations)
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
            limits = self._limits
            return refresh(message, five_tuple, allocation, self._allocations, limits, now)
        if message.method == Method.CONNECT:
            self._tcp.connect(message, allocation, requester, self._new_peers, now)
            return None
        ask = create_permission if message.method == Method.CREATE_PERMISSION else channel_bind
        for half, hosts in ask(message, allocation, self._rules, self._new_peers, now):
            self._renew_shortcuts(half, now, hosts)
        self._allocations.used(allocation, five_tuple, now)
        return ()

    def _allocate(
        self, five_tuple: FiveTuple, message: Message, requester: Requester, now: float
    ) -> None:
        """RFC 8656 Section 7.2."""
        if is_tunnelled(five_tuple.client.host):
            raise Refusal(403)
        request = read_allocate(
            message,
            self._families,
            by_stream=five_tuple.transport.is_stream,
            mobility=self._mobility is not None,
            dont_fragment=self._dont_fragment,
        )
        elsewhere, family = self.redirect_to, AddressFamily.of(five_tuple.client)
        if elsewhere is not None and AddressFamily.of(elsewhere) is family:
            raise Refusal(300, AlternateServer(elsewhere))
        if self.is_draining or (request.reserve and self._data.has_neighbours):
            raise Refusal(508)
        self._allocations.begin(five_tuple, message, requester, request, now)

    def _refuse_unknown(self, message: Message) -> None:
        """RFC 8489 Section 6.3.1."""
        unknown = message.unknown_required
        if message.get(AccessToken) is not None and not self._doorkeeper.takes_tokens:
            unknown = (*unknown, AccessToken.TYPE)
        if unknown:
            raise Refusal(420, UnknownAttributes(unknown))

    def _renew_shortcuts(
        self, allocation: ServerAllocation, now: float, hosts: Collection[str] | None = None
    ) -> None:
        if self._shortcuts is not None:
            self._shortcuts.renew(allocation, now, hosts)


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
