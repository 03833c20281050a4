"""Payload between a TURN client and its peers (RFC 8656 Sections 11 and 12)."""

from __future__ import annotations

from collections import deque

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.turn.burst import unwrap_burst, wrap_bursts
from knothole.engine.turn.client_events import (
    AllocationOutput,
    PeerUnreachable,
    RelayedDataReceived,
)
from knothole.engine.turn.client_peers import ClientPeers
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Data,
    Icmp,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    encode,
)
from knothole.wire.turn import CHANNEL_HEADER_SIZE, decode_channel_data


class ClientData:
    """Wraps what goes out and unwraps what comes in, while there is a ``relayed`` address.

    What comes of it goes into ``outputs``.
    """

    def __init__(
        self,
        *,
        local: Address,
        server: Address,
        transport: Transport,
        peers: ClientPeers,
        random: RandomBytes,
        outputs: deque[AllocationOutput],
    ) -> None:
        self.relayed: Address | None = None
        self._local, self._server, self._transport = local, server, transport
        self._peers, self._random, self._outputs = peers, random, outputs

    def send(self, peer: Address, payload: bytes, segment_size: int, now: float) -> bool:
        """Send ``payload`` to ``peer``; False when there is not even a request for a permission."""
        channel = self._peers.channels.get(peer)
        if channel is not None and channel.bound_until > now:
            self._send_channel_data(channel.prefix, payload, segment_size)
            return True
        permission = self._peers.permissions.get(peer.host)
        if permission is None:
            return False
        if permission.refused_until <= now:
            for segment in Datagram(self._local, peer, payload, segment_size).segments():
                if permission.expires_at <= now:
                    permission.remember(peer, segment)
                self._send_indication(peer, segment)
        return True

    def send_again(self, host: str) -> None:
        """What was sent to ``host`` in advance was ahead of the request for its permission."""
        for peer, payload in self._peers.permissions[host].unconfirmed:
            self._send_indication(peer, payload)

    def receive(self, datagram: Datagram) -> bool:
        """Deliver what is in a ChannelData message, or a burst of them; False for all else."""
        message, size = datagram.payload, datagram.segment_size
        if not message or message[0] >> 4 != 4:
            return False
        if size and len(message) > size:
            burst = unwrap_burst(message, size)
            if burst is None:
                return False
            self._deliver_channel(*burst)
            return True
        try:
            number, payload = decode_channel_data(message)
        except MalformedMessage:
            return True
        self._deliver_channel(number, payload, 0)
        return True

    def indication(self, message: Message) -> None:
        """RFC 8656 Sections 11.4 and 11.6."""
        found, data, icmp = message.get(XorPeerAddress), message.get(Data), message.get(Icmp)
        if message.method != Method.DATA or found is None or message.unknown_required:
            return
        peer = found.address
        if peer.host not in self._peers.permissions or self.relayed is None:
            return  # "an attacker who somehow manages to trick the server"
        if data is not None:
            self._outputs.append(RelayedDataReceived(Datagram(peer, self.relayed, data.value)))
        elif icmp is not None:
            event = PeerUnreachable(peer, icmp.icmp_type, icmp.code, icmp.error_data)
            self._outputs.append(event)

    def _deliver_channel(self, number: int, payload: bytes, segment_size: int) -> None:
        """RFC 8656 Section 12.6; Section 12: a channel may be used by the server as soon as it was
        asked for."""
        channel = self._peers.by_number.get(number)
        if channel is not None and self.relayed is not None:
            datagram = Datagram(channel.peer, self.relayed, payload, segment_size)
            self._outputs.append(RelayedDataReceived(datagram))

    def _send_channel_data(self, prefix: bytes, payload: bytes, segment_size: int) -> None:
        """RFC 8656 Section 12.5."""
        size = len(payload)
        if segment_size and size > segment_size:
            if not self._transport.is_stream:
                for burst in wrap_bursts(prefix, payload, segment_size):
                    self._transmit(burst, segment_size + CHANNEL_HEADER_SIZE)
                return
            for start in range(0, size, segment_size):
                self._send_channel_data(prefix, payload[start : start + segment_size], 0)
            return
        message = prefix + size.to_bytes(2, "big") + payload
        if self._transport.is_stream:
            message += bytes(-size & 3)
        self._transmit(message)

    def _send_indication(self, peer: Address, payload: bytes) -> None:
        """RFC 8656 Section 11.1."""
        attributes = (XorPeerAddress(peer), Data(payload))
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        message = Message(MessageClass.INDICATION, Method.SEND, transaction_id, attributes)
        self._transmit(encode(message))

    def _transmit(self, payload: bytes, segment_size: int = 0) -> None:
        datagram = Datagram(self._local, self._server, payload, segment_size, self._transport)
        self._outputs.append(Transmit(datagram))
