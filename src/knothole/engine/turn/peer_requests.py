"""CreatePermission and ChannelBind on the server's side (RFC 8656 Sections 10.2 and 12.2)."""

from __future__ import annotations

from collections.abc import Mapping

from knothole.engine.rate import TokenBuckets
from knothole.engine.turn.answer import Refusal
from knothole.engine.turn.channel import ChannelConflict, is_channel_number
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Holder
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.wire.address import Address
from knothole.wire.stun import ChannelNumber, Message, XorPeerAddress


def create_permission(
    message: Message,
    allocation: ServerAllocation,
    rules: PeerRules,
    new_peers: TokenBuckets[Holder],
    now: float,
) -> tuple[tuple[ServerAllocation, set[str]], ...]:
    """Install or refresh all permissions that ``message`` asks for, or none.

    Returns the hosts, with the half of a dual allocation that they belong to. Raises Refusal.
    """
    hosts = {each.address.host for each in message.get_all(XorPeerAddress)}
    if not hosts:
        raise Refusal(400)
    halves: dict[ServerAllocation, set[str]] = {}
    for host in hosts:
        halves.setdefault(_half(allocation, Address(host, 0)), set()).add(host)
    if any(rules.host_refusal(host) is not None for host in hosts):
        raise Refusal(403)
    for half, its_hosts in halves.items():
        if not half.permissions.has_room(its_hosts, now):
            raise Refusal(508)
    _meet(halves, new_peers, now)
    for half, its_hosts in halves.items():
        for host in its_hosts:
            half.permissions.install(host, now)
    return tuple(halves.items())


def channel_bind(
    message: Message,
    allocation: ServerAllocation,
    rules: PeerRules,
    new_peers: TokenBuckets[Holder],
    now: float,
) -> tuple[tuple[ServerAllocation, set[str]], ...]:
    """Bind or refresh the channel that ``message`` asks for, and the permission with it.

    Returns as :func:`create_permission`. Raises Refusal.
    """
    if allocation.is_tcp:
        raise Refusal(403)  # ours: RFC 6062 says nothing of channels; they are for datagrams
    number, found = message.get(ChannelNumber), message.get(XorPeerAddress)
    if number is None or found is None or not found.address.port:
        raise Refusal(400)
    peer = found.address
    if not is_channel_number(number.value):
        raise Refusal(400)
    try:
        # In both halves of a dual allocation: ChannelData does not say which it means.
        for half in allocation.halves:
            half.channels.check(number.value, peer, now)
    except ChannelConflict:
        raise Refusal(400) from None
    half = _half(allocation, peer)
    if rules.refusal(peer) is not None:
        raise Refusal(403)
    if not half.channels.has_room(number.value, now):
        raise Refusal(508)
    if not half.permissions.has_room({peer.host}, now):
        raise Refusal(508)
    _meet({half: {peer.host}}, new_peers, now)
    for other in allocation.halves:
        if other is not half:
            other.channels.forget(number.value)
    half.channels.bind(number.value, peer, now)
    half.permissions.install(peer.host, now)
    return ((half, {peer.host}),)


def _meet(
    halves: Mapping[ServerAllocation, set[str]], new_peers: TokenBuckets[Holder], now: float
) -> None:
    """Count those hosts that get a permission they do not have. Raises Refusal: 508."""
    strangers = sum(half.permissions.strangers(hosts, now) for half, hosts in halves.items())
    # By user and network, and not by allocation: one that is deleted and made again is cheap.
    if strangers and not new_peers.take(next(iter(halves)).holder, strangers, now):
        raise Refusal(508)


def _half(allocation: ServerAllocation, peer: Address) -> ServerAllocation:
    """The one whose relayed address can reach ``peer``."""
    half = allocation.half_for(peer)
    if half is None:
        raise Refusal(443)
    return half
