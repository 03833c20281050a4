"""Channels: two bytes that stand for a peer's address (RFC 8656 Section 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Address
from knothole.wire.turn import FIRST_CHANNEL, LAST_OLD_CHANNEL

CHANNEL_LIFETIME: Final = 600.0  # RFC 8656 Section 12: "lasts for 10 minutes unless refreshed"
QUARANTINE: Final = 300.0  # RFC 8656 Section 12: "MUST wait 5 minutes after"


@dataclass(slots=True)
class Channel:
    """One binding; ``prefix`` is how its ChannelData messages begin."""

    number: int
    peer: Address
    expires_at: float
    prefix: bytes


class ChannelConflict(ValueError):
    """The number stands for another peer, or the peer has another number."""


class Channels:
    """The channel bindings of one allocation, as the server keeps them.

    A binding that has expired stays in quarantine for five minutes, in which number and peer can
    only be bound to each other again: a message still on its way never reaches a wrong peer.
    ``by_number`` and ``by_peer`` may be read where a datagram must not cost a call; what has
    expired is still in them.
    """

    def __init__(self, limit: int) -> None:
        self.by_number: dict[int, Channel] = {}
        self.by_peer: dict[Address, Channel] = {}
        self._limit = limit

    def check(self, number: int, peer: Address, now: float) -> None:
        """Raises ChannelConflict when ``number`` and ``peer`` cannot be bound to each other."""
        for channel in (self.by_number.get(number), self.by_peer.get(peer)):
            if channel is None or (channel.number == number and channel.peer == peer):
                continue
            if channel.expires_at + QUARANTINE > now:
                raise ChannelConflict(f"{channel.number:#06x} is bound to {channel.peer}")

    def has_room(self, number: int, now: float) -> bool:
        """Whether ``number`` can be bound; makes room by dropping what left quarantine."""
        if number not in self.by_number and len(self.by_number) >= self._limit:
            for channel in tuple(self.by_number.values()):
                if channel.expires_at + QUARANTINE <= now:
                    self._drop(channel)
        return number in self.by_number or len(self.by_number) < self._limit

    def bind(self, number: int, peer: Address, now: float) -> None:
        """Bind or refresh; the caller has asked :meth:`check`."""
        for channel in (self.by_number.get(number), self.by_peer.get(peer)):
            if channel is not None and (channel.number != number or channel.peer != peer):
                self._drop(channel)
        expires_at = now + CHANNEL_LIFETIME
        channel = self.by_number.get(number)
        if channel is None:
            channel = Channel(number, peer, expires_at, number.to_bytes(2, "big"))
            self.by_number[number] = self.by_peer[peer] = channel
        channel.expires_at = expires_at

    def end(self, peer: Address, now: float) -> None:
        """Have the channel of ``peer`` be over now; its quarantine begins."""
        channel = self.by_peer[peer]
        channel.expires_at = min(channel.expires_at, now)

    def forget(self, number: int) -> None:
        """What was bound to ``number`` is out of quarantine; it stands for something else now."""
        channel = self.by_number.get(number)
        if channel is not None:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        self.by_number.pop(channel.number, None)
        self.by_peer.pop(channel.peer, None)


def is_channel_number(number: int) -> bool:
    """Whether a client may choose it: those of RFC 8656, up to 0x4FFF, and those of RFC 5766.

    The range became smaller for the sake of clients that have DTLS-SRTP on the same socket. One
    that chooses a number beyond it has not.
    """
    return FIRST_CHANNEL <= number <= LAST_OLD_CHANNEL
