"""Payload between the clients of a TURN server and their peers (RFC 8656 Sections 11 and 12).

Every datagram of every call passes here: two or three look-ups each, and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.burst import unwrap_burst, wrap_bursts
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import (
    RelayReached,
    SendUnfragmented,
    ServerOutput,
    ToNeighbour,
)
from knothole.engine.turn.tally import Drop
from knothole.wire.address import Address
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    Data,
    DontFragment,
    Icmp,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    encode,
)
from knothole.wire.turn import CHANNEL_HEADER_SIZE

# Ours: a little less than fits in a UDP datagram (65507 bytes) with a Data indication around it.
MAX_DATA: Final = 65_000

_ICMPV4_TYPES = frozenset((3, 11))  # RFC 8656 Section 11.5
_ICMPV6_TYPES = frozenset((1, 2, 3))


class ServerData:
    """Relays what permissions allow. What comes of it goes into ``outputs``."""

    def __init__(
        self,
        allocations: Allocations,
        rules: PeerRules,
        random: RandomBytes,
        outputs: deque[ServerOutput],
        dont_fragment: bool,
        neighbour_ports: Set[int],
    ) -> None:
        self._dont_fragment = dont_fragment
        self._allocations = allocations
        self._by_five_tuple = allocations.by_five_tuple
        self._by_relayed = allocations.by_relayed
        self._random, self._outputs = random, outputs
        self._flows, self._dropped = allocations.tally.by_us, allocations.tally.dropped
        self._neighbour_ports = neighbour_ports
        self._reached = False
        self.obey(rules)

    def obey(self, rules: PeerRules) -> None:
        """Have ``rules`` count from now on."""
        self._rules, self._inside_only = rules, rules.inside_only

    def channel_data(self, five_tuple: FiveTuple, message: bytes, now: float) -> None:
        """RFC 8656 Section 12.6."""
        allocation = self._by_five_tuple.get(five_tuple)
        if allocation is None or len(message) < CHANNEL_HEADER_SIZE:
            self._dropped[Drop.NO_ALLOCATION if allocation is None else Drop.MALFORMED] += 1
            return
        end = CHANNEL_HEADER_SIZE + (message[2] << 8 | message[3])
        number = message[0] << 8 | message[1]
        channel = allocation.channels.by_number.get(number)
        if channel is None and allocation.twin is not None:
            allocation = allocation.twin
            channel = allocation.channels.by_number.get(number)
        if channel is not None and channel.expires_at > now and len(message) >= end:
            data = message[CHANNEL_HEADER_SIZE:end]
            if allocation.mobile is not None:
                self._allocations.used(allocation, five_tuple, now)
            self._to_peer(allocation, channel.peer, data, 0, now)
        else:
            self._dropped[Drop.NO_CHANNEL if len(message) >= end else Drop.MALFORMED] += 1

    def channel_burst(
        self, five_tuple: FiveTuple, messages: bytes, segment_size: int, now: float
    ) -> bool:
        """Relay a burst of ChannelData messages as one; False when they do not make one."""
        burst = unwrap_burst(messages, segment_size)
        if burst is None:
            return False
        number, data, size = burst
        allocation = self._by_five_tuple.get(five_tuple)
        if allocation is not None:
            channel = allocation.channels.by_number.get(number)
            if channel is None and allocation.twin is not None:
                allocation = allocation.twin
                channel = allocation.channels.by_number.get(number)
            if channel is not None and channel.expires_at > now:
                if allocation.mobile is not None:
                    self._allocations.used(allocation, five_tuple, now)
                self._to_peer(allocation, channel.peer, data, size, now)
                return True
        reason = Drop.NO_ALLOCATION if allocation is None else Drop.NO_CHANNEL
        self._dropped[reason] += -(-len(messages) // segment_size)
        return True

    def send_indication(self, five_tuple: FiveTuple, message: Message, now: float) -> None:
        """RFC 8656 Section 11.2."""
        allocation = self._by_five_tuple.get(five_tuple)
        if allocation is None or message.unknown_required or allocation.is_tcp:
            self._dropped[Drop.NO_ALLOCATION if allocation is None else Drop.MALFORMED] += 1
            return
        peer, data = message.get(XorPeerAddress), message.get(Data)
        unfragmented = message.get(DontFragment) is not None
        if peer is None or data is None or (unfragmented and not self._dont_fragment):
            self._dropped[Drop.MALFORMED] += 1
            return
        if allocation.mobile is not None:
            self._allocations.used(allocation, five_tuple, now)
        for half in allocation.halves:
            if half.relayed.is_ipv6 is peer.address.is_ipv6:
                allocation = half
        # That the host is no forbidden one was found when it got its permission.
        if peer.address.port and not self._rules.is_listener(peer.address):
            if unfragmented:
                # Section 13: ignored where what comes by UDP is translated from or to IPv6.
                transport, client, _ = five_tuple
                unfragmented = not peer.address.is_ipv6 and (
                    transport.is_stream or not client.is_ipv6
                )
            self._to_peer(allocation, peer.address, data.value, 0, now, unfragmented)
        else:
            self._dropped[Drop.FORBIDDEN] += 1

    def from_peer(
        self, relayed: Address, peer: Address, payload: bytes, segment_size: int, now: float
    ) -> None:
        """RFC 8656 Section 11.3."""
        if peer.host in self._inside_only:
            # Relayed addresses of ours never send by a socket: whoever this is, it lies.
            self._dropped[Drop.FORBIDDEN] += 1
            return
        if not self._reached:
            self._reached = True
            self._outputs.append(RelayReached(relayed, peer))
        allocation = self._by_relayed.get(relayed)
        if allocation is not None:
            self._to_client(allocation, peer, payload, segment_size, now)
        else:
            self._dropped[Drop.NO_ALLOCATION] += 1

    def from_neighbour(self, handed: ToNeighbour, now: float) -> None:
        """RFC 8656 Section 11.3: the peer is a relayed address, too, at another process of ours."""
        allocation = self._by_relayed.get(handed.peer)
        size = handed.segment_size
        if not self._is_neighbour(handed.relayed) or (allocation is not None and allocation.is_tcp):
            self._dropped[Drop.FORBIDDEN] += 1
        elif allocation is not None:
            self._to_client(allocation, handed.relayed, handed.payload, size, now)
        else:
            self._dropped[Drop.NO_ALLOCATION] += 1

    def icmp_from_peer(self, relayed: Address, peer: Address, icmp: Icmp, now: float) -> None:
        """RFC 8656 Section 11.5."""
        allocation = self._by_relayed.get(relayed)
        known = _ICMPV6_TYPES if peer.is_ipv6 else _ICMPV4_TYPES
        if allocation is None or icmp.icmp_type not in known:
            return
        if not allocation.permissions.allows(peer.host, now):
            self._dropped[Drop.NO_PERMISSION] += 1
        elif allocation.budget.take(1, 0, now):  # a peer can send as many as it likes
            self._indicate(allocation, peer, icmp)
        else:
            self._dropped[Drop.OVER_LIMIT] += 1

    def _to_peer(
        self,
        allocation: ServerAllocation,
        peer: Address,
        data: bytes,
        segment_size: int,
        now: float,
        unfragmented: bool = False,
    ) -> None:
        # RFC 8656 Section 11.2 asks for a permission of Send indications only. Here it is asked
        # for of ChannelData too: a peer that may not answer is not sent anything either.
        size = len(data)
        datagrams = -(-size // segment_size) if segment_size else 1
        permitted_until = allocation.permissions.expires_at.get(peer.host)
        if permitted_until is None or permitted_until <= now or allocation.expires_at <= now:
            self._dropped[Drop.NO_PERMISSION] += datagrams
            return
        if size > MAX_DATA and not segment_size:
            self._dropped[Drop.TOO_LONG] += 1
            return
        if not allocation.budget.take(datagrams, size, now):
            self._dropped[Drop.OVER_LIMIT] += datagrams
            return
        other = self._by_relayed.get(peer)
        is_inside = other is None and peer.host in self._inside_only
        if other.is_tcp if other is not None else is_inside and not self._is_neighbour(peer):
            self._dropped[Drop.FORBIDDEN] += datagrams
            return
        allocation.to_peers += size
        self._flows.to_peers.add(datagrams, size)
        if other is not None:
            self._to_client(other, allocation.relayed, data, segment_size, now)
        elif is_inside:
            self._outputs.append(ToNeighbour(allocation.relayed, peer, data, segment_size))
        else:
            datagram = Datagram(allocation.relayed, peer, data, segment_size)
            self._outputs.append(SendUnfragmented(datagram) if unfragmented else Transmit(datagram))

    def _is_neighbour(self, peer: Address) -> bool:
        return peer.port in self._neighbour_ports and self._rules.is_relay_host(peer.host)

    def _to_client(
        self,
        allocation: ServerAllocation,
        peer: Address,
        data: bytes,
        segment_size: int,
        now: float,
    ) -> None:
        """RFC 8656 Sections 11.3 and 12.7."""
        size = len(data)
        datagrams = -(-size // segment_size) if segment_size else 1
        permitted_until = allocation.permissions.expires_at.get(peer.host)
        if permitted_until is None or permitted_until <= now or allocation.expires_at <= now:
            self._dropped[Drop.NO_PERMISSION] += datagrams
            return
        channel = allocation.channels.by_peer.get(peer)
        if channel is not None and channel.expires_at <= now:
            channel = None
        if segment_size and size > segment_size:
            if channel is None or allocation.padded:
                for start in range(0, size, segment_size):
                    segment = data[start : start + segment_size]
                    self._to_client(allocation, peer, segment, 0, now)
                return
            if not allocation.budget.take(datagrams, size, now):
                self._dropped[Drop.OVER_LIMIT] += datagrams
                return
            allocation.to_client += size
            self._flows.to_clients.add(datagrams, size)
            for burst in wrap_bursts(channel.prefix, data, segment_size):
                self._send(allocation, burst, segment_size + CHANNEL_HEADER_SIZE)
            return
        if size > MAX_DATA or not allocation.budget.take(1, size, now):
            self._dropped[Drop.TOO_LONG if size > MAX_DATA else Drop.OVER_LIMIT] += 1
            return
        allocation.to_client += size
        self._flows.to_clients.add(1, size)
        if channel is None:
            self._indicate(allocation, peer, Data(data))
            return
        message = channel.prefix + size.to_bytes(2, "big") + data
        if allocation.padded:
            message += bytes(-size & 3)
        self._send(allocation, message)

    def _indicate(self, allocation: ServerAllocation, peer: Address, content: Attribute) -> None:
        attributes = (XorPeerAddress(peer), content)
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        message = Message(MessageClass.INDICATION, Method.DATA, transaction_id, attributes)
        self._send(allocation, encode(message))

    def _send(self, allocation: ServerAllocation, payload: bytes, segment_size: int = 0) -> None:
        transport, client, server = allocation.five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, segment_size, transport)))
