"""What a client has installed for its peers, and keeps so (RFC 8656 Sections 9, 10 and 12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.channel import CHANNEL_LIFETIME, QUARANTINE
from knothole.engine.turn.client_events import PeerRefused
from knothole.engine.turn.client_requests import Denied, Purpose, Request, Requests
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.permission import PERMISSION_LIFETIME
from knothole.wire.address import Address
from knothole.wire.stun import ChannelNumber, XorPeerAddress
from knothole.wire.turn import FIRST_CHANNEL, LAST_CHANNEL

REFRESH_AFTER: Final = 240.0
"""Ours: permissions and channels are refreshed so often, a minute before a permission expires.

A transaction gives up after 39.5 s, so that there is time for a second one. ChannelBind refreshes
the permission too: a channel alone could wait until 600 s, the permission under it cannot.
"""

REFRESH_AGAIN_AFTER: Final = 1.0  # ours: after a request that was not answered

_LONGEST_FLIGHT = 60.0  # ours: a request that was given up does not arrive later than that
_UNCONFIRMED_PAYLOADS = 32
_UNCONFIRMED_BYTES = 65536


@dataclass(slots=True, eq=False)
class HostPermission:
    """The permission for one host, and who wants it.

    ``expires_at`` is until when the server surely has it, 0 before it has said so. ``requested``
    counts the requests under way that install it. ``unconfirmed`` is what was sent in the hope
    that one of them would arrive first.
    """

    host: str
    wanted_by: set[Address] = field(default_factory=set)
    expires_at: float = 0.0
    requested: int = 0
    refused_until: float = 0.0
    unconfirmed: deque[tuple[Address, bytes]] = field(default_factory=deque)
    unconfirmed_bytes: int = 0

    def remember(self, peer: Address, payload: bytes) -> None:
        """Keep ``payload`` in case the request before it must be repeated; the oldest go."""
        self.unconfirmed.append((peer, payload))
        self.unconfirmed_bytes += len(payload)
        while (
            len(self.unconfirmed) > _UNCONFIRMED_PAYLOADS
            or self.unconfirmed_bytes > _UNCONFIRMED_BYTES
        ):
            self.unconfirmed_bytes -= len(self.unconfirmed.popleft()[1])

    def forget_unconfirmed(self) -> None:
        self.unconfirmed.clear()
        self.unconfirmed_bytes = 0


@dataclass(slots=True, eq=False)
class ClientChannel:
    """A channel that is bound or asked for; ``prefix`` is how its ChannelData messages begin.

    ``bound_until`` is until when the server surely has it, 0 before it has said so, and
    ``reserved_until`` until when it may have it, quarantine included.
    """

    number: int
    peer: Address
    prefix: bytes
    wanted: bool = True
    bound_until: float = 0.0
    reserved_until: float = 0.0
    requested: bool = False


class ClientPeers:
    """Permissions by host, channels by number and by peer, and the requests that refresh them.

    ``permissions``, ``channels`` and ``by_number`` may be read where a datagram must not cost a
    call.
    """

    def __init__(self, requests: Requests) -> None:
        self.permissions: dict[str, HostPermission] = {}
        self.channels: dict[Address, ClientChannel] = {}
        self.by_number: dict[int, ClientChannel] = {}
        self._requests = requests
        self._next_number = FIRST_CHANNEL
        self._deadlines: Deadlines[HostPermission | ClientChannel] = Deadlines()
        self._online = False

    def begin(self, now: float) -> None:
        """There is an allocation: ask for what was wanted already."""
        self._online = True
        for channel in tuple(self.channels.values()):
            self._request_channel(channel, now)
        for permission in tuple(self.permissions.values()):
            if permission.expires_at <= now:
                self._request_permission(permission, now)

    def permit(self, peer: Address, now: float) -> HostPermission:
        """Have a permission for the host of ``peer``, and keep it."""
        permission = self._want(peer)
        if permission.expires_at <= now:
            self._request_permission(permission, now)
        self._plan(permission, now)
        return permission

    def bind(self, peer: Address, now: float) -> None:
        """Have a channel for ``peer``, and keep it; a permission alone when no number is left."""
        channel = self.channels.get(peer) or self._new_channel(peer, now)
        if channel is None:
            self.permit(peer, now)
            return
        self._want(peer)
        channel.wanted = True
        if channel.bound_until <= now:
            self._request_channel(channel, now)
        self._plan(channel, now)

    def release(self, peer: Address, now: float) -> None:
        """Let what ``peer`` has expire."""
        permission = self.permissions.get(peer.host)
        if permission is not None:
            permission.wanted_by.discard(peer)
        channel = self.channels.get(peer)
        if channel is not None:
            channel.wanted = False

    def granted(self, request: Request, now: float) -> None:
        """The server has done what a permission or channel request of ours asked."""
        if request.peer is None:
            return
        permission = self.permissions[request.peer.host]
        permission.expires_at = request.sent_at + PERMISSION_LIFETIME
        permission.requested -= 1
        permission.refused_until = 0.0
        permission.forget_unconfirmed()
        self._deadlines.set(permission, request.sent_at + REFRESH_AFTER)
        if request.purpose is Purpose.CHANNEL:
            channel = self.channels[request.peer]
            channel.bound_until = request.sent_at + CHANNEL_LIFETIME
            channel.requested = False
            self._deadlines.set(channel, request.sent_at + REFRESH_AFTER)

    def denied(self, denied: Denied, now: float) -> Iterator[PeerRefused]:
        """The server has not; yields what is thereby refused."""
        request = denied.request
        if request.peer is None:
            return
        permission = self.permissions[request.peer.host]
        permission.requested -= 1
        channel = None
        if request.purpose is Purpose.CHANNEL:
            channel = self.channels[request.peer]
            channel.requested = False
        if denied.code is None:
            # The next Refresh will tell whether there is a server at all.
            self._deadlines.set(channel or permission, now + REFRESH_AGAIN_AFTER)
        elif channel is not None and denied.code == 508:
            # No room for a channel is no refusal of the peer: Send indications will do.
            channel.wanted = False
            self._request_permission(permission, now)
        else:
            refused = {request.peer} if channel is not None else set(permission.wanted_by)
            for peer in refused:
                self.release(peer, now)
            if permission.wanted_by:  # others, for whom nothing has been asked yet
                self._request_permission(permission, now)
            else:
                permission.refused_until = now + PERMISSION_LIFETIME
                permission.forget_unconfirmed()
            for peer in sorted(refused):
                yield PeerRefused(peer, denied.code, denied.reason)

    def handle_timeout(self, now: float) -> None:
        due = self._deadlines.pop_due(now)
        for each in due:
            if isinstance(each, ClientChannel) and each.wanted:
                self._request_channel(each, now)
        for each in due:
            if isinstance(each, HostPermission) and each.wanted_by:
                self._request_permission(each, now)
        self._forget_expired(now)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def stop(self) -> None:
        """Refresh nothing more."""
        self._online = False
        self._deadlines = Deadlines()

    def _want(self, peer: Address) -> HostPermission:
        permission = self.permissions.get(peer.host)
        if permission is None:
            permission = self.permissions[peer.host] = HostPermission(peer.host)
        permission.wanted_by.add(peer)
        permission.refused_until = 0.0
        return permission

    def _new_channel(self, peer: Address, now: float) -> ClientChannel | None:
        self._forget_expired(now)
        for _ in range(FIRST_CHANNEL, LAST_CHANNEL + 1):
            number = self._next_number
            self._next_number = FIRST_CHANNEL if number == LAST_CHANNEL else number + 1
            if number not in self.by_number:
                channel = ClientChannel(number, peer, number.to_bytes(2, "big"))
                self.by_number[number] = self.channels[peer] = channel
                return channel
        return None

    def _plan(self, each: HostPermission | ClientChannel, now: float) -> None:
        """Refresh what is there already, and whose refreshing a release may have ended."""
        until = (
            each.expires_at - PERMISSION_LIFETIME
            if isinstance(each, HostPermission)
            else each.bound_until - CHANNEL_LIFETIME
        )
        if self._online and not each.requested:
            self._deadlines.set(each, max(until + REFRESH_AFTER, now))

    def _request_permission(self, permission: HostPermission, now: float) -> None:
        if not self._online or permission.requested or not permission.wanted_by:
            return
        permission.requested += 1
        self._deadlines.drop(permission)
        peer = min(permission.wanted_by)
        request = Request(Purpose.PERMISSION, (XorPeerAddress(peer),), peer)
        self._requests.start(request, now)

    def _request_channel(self, channel: ClientChannel, now: float) -> None:
        if not self._online or channel.requested:
            return
        channel.requested = True
        channel.reserved_until = now + _LONGEST_FLIGHT + CHANNEL_LIFETIME + QUARANTINE
        permission = self.permissions[channel.peer.host]
        permission.requested += 1
        self._deadlines.drop(channel)
        self._deadlines.drop(permission)
        attributes = (ChannelNumber(channel.number), XorPeerAddress(channel.peer))
        self._requests.start(Request(Purpose.CHANNEL, attributes, channel.peer), now)

    def _forget_expired(self, now: float) -> None:
        """Drop what nobody wants any more and the server does not have any more either."""
        for channel in tuple(self.channels.values()):
            if not (channel.wanted or channel.requested) and channel.reserved_until <= now:
                del self.channels[channel.peer], self.by_number[channel.number]
        kept = {peer.host for peer in self.channels}
        for permission in tuple(self.permissions.values()):
            wanted = permission.wanted_by or permission.requested or permission.host in kept
            if not wanted and max(permission.expires_at, permission.refused_until) <= now:
                del self.permissions[permission.host]
