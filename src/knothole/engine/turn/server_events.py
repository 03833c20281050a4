"""What a TURN server engine asks of io, and what it tells its parent."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.wire.address import Address, Transport


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Bind a socket for this relayed address, then say ``relay_opened`` or ``relay_refused``.

    A UDP socket, or with ``transport`` TCP one that listens: each connection that it accepts is
    told by ``peer_arrived``.

    Best in the same turn: what the client sends until then is ignored.
    """

    relayed: Address
    transport: Transport = Transport.UDP


@dataclass(frozen=True, slots=True)
class CloseRelay:
    """Close that socket."""

    relayed: Address


@dataclass(frozen=True, slots=True)
class ConnectPeer:
    """Connect from ``relayed`` to ``peer``, then say ``peer_connected`` or ``peer_closed``.

    From here on ``connection`` is its number. Nothing is read from it before BindPeer.
    """

    connection: int
    relayed: Address
    peer: Address


@dataclass(frozen=True, slots=True)
class BindPeer:
    """What the client sends by ``five_tuple`` from now on goes to the peer as it is, and back."""

    connection: int
    five_tuple: FiveTuple


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """Close this peer connection, and the client's data connection that is bound to it."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendUnfragmented:
    """Send this to a peer, as Transmit says, and with the DF bit set."""

    datagram: Datagram


@dataclass(frozen=True, slots=True)
class AllocationCreated:
    """A client has a relayed address. Its mapped address is ``five_tuple.client``."""

    five_tuple: FiveTuple
    username: str
    owner: str
    relayed: Address


@dataclass(frozen=True, slots=True)
class AllocationMoving:
    """A client may go on with its allocation on ``five_tuple`` (RFC 8016); or, when that
    ``is_over``, may not any more."""

    five_tuple: FiveTuple
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class AllocationMoved:
    """It does: what was on ``old`` is on ``new``, and on ``old`` there is nothing."""

    old: FiveTuple
    new: FiveTuple
    username: str


class EndReason(enum.Enum):
    """Why an allocation is no more."""

    EXPIRED = "expired"
    CREDENTIALS = "credentials expired or revoked"
    DELETED = "deleted by its client"
    DISCONNECTED = "connection closed"
    REMOVED = "removed by the operator"


@dataclass(frozen=True, slots=True)
class AllocationEnded:
    """That relayed address is gone; ``to_peers`` and ``to_client`` are payload bytes relayed."""

    five_tuple: FiveTuple
    username: str
    owner: str
    relayed: Address
    reason: EndReason
    to_peers: int
    to_client: int


@dataclass(frozen=True, slots=True)
class PeersForbidden:
    """A new policy has taken from this allocation what it had with ``hosts``: whatever io does for
    them by itself ends now, connections to them and accelerated channels."""

    five_tuple: FiveTuple
    relayed: Address
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True)
class RelayReached:
    """The first datagram of all that came to a relayed address from outside.

    It is evidence, once, that no firewall keeps the outside from the range of relayed addresses.
    """

    relayed: Address
    peer: Address


@dataclass(frozen=True, slots=True)
class ToNeighbour:
    """Hand this to the process of this server that ``peer``, one of its relayed addresses, is with:
    to the engine there, with ``receive_from_neighbour``. As with UDP it may be lost.

    ``relayed`` is whose client sent it; a burst has a ``segment_size``, as in a Datagram.
    """

    relayed: Address
    peer: Address
    payload: bytes
    segment_size: int


class ShortcutKey(NamedTuple):
    """UDP from ``source`` to ``destination``, with a ChannelData message of ``channel`` in it.

    With channel 0 it is plain payload, from a peer to a relayed address.
    """

    source: Address
    destination: Address
    channel: int


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What becomes of such a packet, until ``expires_at``: the payload goes on between these two.

    With a ``channel`` it is a ChannelData message, with 0 it is plain.
    """

    source: Address
    destination: Address
    channel: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class InstallShortcut:
    """Such packets need not come to the engine; replaces what was said of the same key before.

    What passes is to be taken from the ``budgets``, of each of them; what is beyond one of them is
    to come to the engine. Nothing depends on whether io can do all that.
    """

    key: ShortcutKey
    shortcut: Shortcut
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class RemoveShortcut:
    """They are to come to the engine again, from now on."""

    key: ShortcutKey


ServerOutput: TypeAlias = (
    Transmit
    | SendUnfragmented
    | OpenRelay
    | CloseRelay
    | ConnectPeer
    | BindPeer
    | ClosePeer
    | AllocationCreated
    | AllocationMoving
    | AllocationMoved
    | AllocationEnded
    | PeersForbidden
    | RelayReached
    | ToNeighbour
    | InstallShortcut
    | RemoveShortcut
)
