"""A TURN server without sockets (RFC 8656): what comes in, what goes out, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence, Set

from knothole.engine.core import RandomBytes, least
from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.authentication import Doorkeeper
from knothole.engine.turn.credentials import Authenticator
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.mobility import Mobility
from knothole.engine.turn.nonce import NonceMint
from knothole.engine.turn.pending_allocations import PendingAllocations
from knothole.engine.turn.policy import PeerPolicy, PeerRules
from knothole.engine.turn.quota import Limits, Quota
from knothole.engine.turn.relay_pool import DYNAMIC_PORTS, RelayPool
from knothole.engine.turn.server_data import ServerData
from knothole.engine.turn.server_events import EndReason, ServerOutput, ShortcutKey, ToNeighbour
from knothole.engine.turn.server_requests import ServerRequests
from knothole.engine.turn.shortcut import Shortcuts
from knothole.engine.turn.tally import Drop
from knothole.engine.turn.tcp_peers import TcpPeers
from knothole.engine.turn.tokens import TokenUsers
from knothole.engine.turn.unproven import UnprovenAnswers
from knothole.wire.address import Address
from knothole.wire.stun import (
    Icmp,
    MalformedMessage,
    MessageClass,
    Method,
    SecurityFeature,
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
    are those of the server's other processes, on the same hosts (ToNeighbour); ``process`` is which
    one this is, of how many.

    ``redirect_to`` are where new allocations of the same address family are sent with 300 (Try
    Alternate), while those that exist go on. While it ``is_draining`` all others are
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
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self._outputs: deque[ServerOutput] = deque()
        pool, quota = RelayPool(relay_hosts, ports, random), Quota(limits)
        self._rules = PeerRules(policy, pool.hosts, server_addresses)
        self._allocations = Allocations(pool, quota, self._outputs)
        self._pending = PendingAllocations(self._allocations, pool, quota, self._outputs)
        self.tally = self._allocations.tally
        self.unproven = UnprovenAnswers(limits.unproven, self.tally)
        self._by_five_tuple = self._allocations.by_five_tuple
        self._by_relayed = self._allocations.by_relayed
        self._data = ServerData(
            self._allocations, self._rules, random, self._outputs, dont_fragment, neighbour_ports
        )
        most = limits.peer_connections_per_allocation
        self._tcp = TcpPeers(
            self._allocations, self._rules, random, most, self._outputs, process, neighbour_ports
        )
        self._allocations.on_end = self._tcp.end
        self._shortcuts: Shortcuts | None = None
        if shortcuts:
            self._shortcuts = Shortcuts(self._by_relayed, self._rules, self._outputs)
            self._allocations.shortcuts = self._shortcuts
        if mobility:
            self._allocations.mobility = Mobility(random, self._by_five_tuple, self._outputs)
        features = SecurityFeature.PASSWORD_ALGORITHMS
        if authenticator.knows_hashes:
            features |= SecurityFeature.USERNAME_ANONYMITY
        mint = NonceMint(random(_NONCE_KEY_SIZE), limits.nonce_lifetime, now, features)
        self._doorkeeper = Doorkeeper(realm, authenticator, mint, tokens)
        self._requests = ServerRequests(
            self._doorkeeper,
            self._allocations,
            self._pending,
            self._tcp,
            self.unproven,
            self._outputs,
            rules=self._rules,
            limits=limits,
            families=pool.families,
            dont_fragment=dont_fragment,
            has_neighbours=bool(neighbour_ports),
        )

    @property
    def redirect_to(self) -> Sequence[Address]:
        return self._requests.redirect_to

    @redirect_to.setter
    def redirect_to(self, elsewhere: Sequence[Address]) -> None:
        self._requests.redirect_to = elsewhere

    @property
    def is_draining(self) -> bool:
        return self._requests.is_draining

    @is_draining.setter
    def is_draining(self, draining: bool) -> None:
        self._requests.is_draining = draining

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

    def peer_arrived(
        self, relayed: Address, peer: Address, now: float, by_neighbour: bool = False
    ) -> int | None:
        """``peer`` has connected to the TCP relayed address ``relayed``; ``by_neighbour`` when
        another process of the server says so, whose relayed address it is.

        Returns the number of the connection, None when io is to close it.
        """
        return self._tcp.arrived(relayed, peer, now, by_neighbour)

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
        self._pending.opened(relayed, now)

    def relay_refused(self, relayed: Address, now: float) -> None:
        """io's answer to OpenRelay: the address cannot be had."""
        self._pending.refused(relayed, now)

    def disconnected(self, five_tuple: FiveTuple, now: float) -> None:
        """The TCP or TLS connection of ``five_tuple`` is closed."""
        self._pending.disconnected(five_tuple)
        self._allocations.disconnected(five_tuple, now)

    def end_allocations(self, owner: str | None, now: float) -> None:
        """End what ``owner`` has, or everything when that is None."""
        for allocation in tuple(self._by_relayed.values()):
            if owner is None or allocation.requester.owner == owner:
                self._allocations.end(allocation, EndReason.REMOVED, now)

    def set_policy(self, policy: PeerPolicy, now: float) -> None:
        """Have another ``policy`` count, for what there is already, too.

        Permissions and channels that it forbids are over at once, on every allocation, and said to
        be so with PeersForbidden.
        """
        self._rules = self._rules.under(policy)
        self._requests.rules = self._rules
        self._data.obey(self._rules)
        self._allocations.forbid(self._rules, now)
        self._tcp.obey(self._rules)
        if self._shortcuts is not None:
            self._shortcuts.obey(self._rules, now)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Have other ``limits`` count: what there is stays, but may relay no more than they say."""
        self._requests.set_limits(limits)
        self._allocations.set_limits(limits, now)

    def shortcut_passed(
        self, key: ShortcutKey, datagrams: int, octets: int, *, by_kernel: bool = True
    ) -> None:
        """io's report of payload that went by a shortcut since the last one.

        It is for the figures: of the budgets io has taken it already.
        """
        if self._shortcuts is not None:
            self._shortcuts.passed(key, datagrams, octets, self.tally.flows(by_kernel))

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
        self._pending.handle_timeout(now)
        self._tcp.handle_timeout(now)
        if self._shortcuts is not None:
            self._shortcuts.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return least(
            self._allocations.next_timeout(),
            self._pending.next_timeout(),
            self._tcp.next_timeout(),
            None if self._shortcuts is None else self._shortcuts.next_timeout(),
        )

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
            self._requests.receive(five_tuple, message, len(payload), now)
        elif message.message_class == MessageClass.INDICATION and message.method == Method.SEND:
            self._data.send_indication(five_tuple, message, now)
